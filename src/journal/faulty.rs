//! A storage in memory that fails, shortens, delays or lies when told to, and forgets what was not synced: a
//! disk's worst days.

use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
    thread,
    time::Duration,
};

use rustix::io::Errno;

use super::storage::{Storage, StorageFile, not_opened};

use crate::locked::Locked as _;

/// What a power loss leaves whole or not at all, bytes.
const SECTOR_BYTES: usize = 512;

/// Which kind of call a fault is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Any,
    List,
    Create,
    Open,
    Read,
    Write,
    Sync,
    Allocate,
    SetLen,
    Rename,
    Remove,
    SyncDir,
}

/// What happens to a call.
#[derive(Clone, Copy, Debug)]
pub(super) enum Trouble {
    /// It fails. A write has done half its work, nothing else has done any.
    Fail(io::ErrorKind),
    /// The same, as the system says it.
    Refuse(Errno),
    /// It fails, and a write has done all its work but for the last byte.
    Short(io::ErrorKind),
    /// It fails, and a write has done its first five pages: a kill in its middle leaves so much of it.
    Pages(io::ErrorKind),
    /// It takes this long.
    Delay(Duration),
    /// It says that it has synced, and hasn't.
    Lie,
    /// It panics.
    Panic,
}

#[derive(Clone, Copy, Debug)]
struct Fault {
    call: Call,
    trouble: Trouble,
    skip: u64,
    times: u64,
}

#[derive(Clone, Debug, Default)]
struct Node {
    now: Vec<u8>,
    synced: Vec<u8>,
    /// What the next sync makes durable. A sync that fails forgets it, as Linux does: the pages count as clean,
    /// and the sync after that says nothing of them.
    dirty: Vec<Range<usize>>,
}

impl Node {
    fn of(bytes: &[u8]) -> Self {
        Self {
            now: bytes.to_vec(),
            synced: bytes.to_vec(),
            dirty: Vec::new(),
        }
    }

    /// Or cuts it.
    fn lengthen(&mut self, bytes: u64) {
        self.now.resize(usize::try_from(bytes).unwrap(), 0);
    }

    fn write(&mut self, bytes: &[u8], start: usize) {
        let end = start + bytes.len();
        if self.now.len() < end {
            self.now.resize(end, 0);
        }
        self.now[start..end].copy_from_slice(bytes);
        match self.dirty.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => self.dirty.push(start..end),
        }
    }

    fn sync(&mut self) {
        self.synced.resize(self.now.len(), 0);
        for range in self.dirty.drain(..) {
            let end = range.end.min(self.now.len());
            if range.start < end {
                self.synced[range.start..end].copy_from_slice(&self.now[range.start..end]);
            }
        }
    }
}

type Names = BTreeMap<String, usize>;

#[derive(Debug, Default)]
struct State {
    nodes: Vec<Node>,
    names: Names,
    /// What a power loss may leave of the names: as they were synced last, and as they were after each change
    /// since.
    names_since: Vec<Names>,
    faults: Vec<Fault>,
    calls: u64,
    syncs: u64,
}

/// How a call goes.
enum Going {
    Well,
    /// It fails, with this many bytes of a write done.
    Wrong(io::Error, fn(usize) -> usize),
    Lying,
}

impl State {
    fn call(&mut self, call: Call) -> Going {
        self.calls += 1;
        for fault in &mut self.faults {
            if fault.call != Call::Any && fault.call != call {
                continue;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
            } else if fault.times > 0 {
                fault.times -= 1;
                match fault.trouble {
                    Trouble::Fail(kind) => return Going::Wrong(kind.into(), |bytes| bytes / 2),
                    Trouble::Refuse(errno) => return Going::Wrong(errno.into(), |bytes| bytes / 2),
                    Trouble::Short(kind) => {
                        return Going::Wrong(kind.into(), |bytes| bytes.saturating_sub(1));
                    }
                    Trouble::Pages(kind) => return Going::Wrong(kind.into(), |bytes| bytes.min(5 * 4096)),
                    Trouble::Delay(time) => thread::sleep(time),
                    Trouble::Lie => return Going::Lying,
                    Trouble::Panic => panic!("on purpose"),
                }
            }
        }
        Going::Well
    }

    /// A call that does all of its work or none.
    fn whole(&mut self, call: Call) -> io::Result<()> {
        match self.call(call) {
            Going::Wrong(error, _) => Err(error),
            Going::Well | Going::Lying => Ok(()),
        }
    }

    fn node(&self, name: &str) -> io::Result<usize> {
        self.names
            .get(name)
            .copied()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Changes the names; durable at the next sync of the directory.
    fn rename(&mut self, change: impl FnOnce(&mut Names)) {
        if self.names_since.is_empty() {
            self.names_since.push(self.names.clone());
        }
        change(&mut self.names);
        self.names_since.push(self.names.clone());
    }

    fn synced_names(&self) -> &Names {
        self.names_since.first().unwrap_or(&self.names)
    }
}

/// The storage.
#[derive(Clone, Debug, Default)]
pub(super) struct Faulty(Arc<Mutex<State>>);

#[derive(Debug)]
struct FaultyFile {
    storage: Faulty,
    node: usize,
}

impl Faulty {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.locked()
    }

    /// Has `trouble` happen to the next `times` calls of that kind, after `skip` of them went well.
    pub(super) fn trouble(&self, call: Call, trouble: Trouble, skip: u64, times: u64) {
        self.state().faults.push(Fault {
            call,
            trouble,
            skip,
            times,
        });
    }

    /// Lets the next `times` calls of that kind fail, after `skip` of them went well.
    pub(super) fn fail(&self, call: Call, kind: io::ErrorKind, skip: u64, times: u64) {
        self.trouble(call, Trouble::Fail(kind), skip, times);
    }

    /// The disk stands still until this is dropped.
    pub(super) fn hold(&self) -> impl Drop + use<'_> {
        self.state()
    }

    /// From here on nothing fails.
    pub(super) fn heal(&self) {
        self.state().faults.clear();
    }

    /// How many calls there were that can fail.
    pub(super) fn calls(&self) -> u64 {
        self.state().calls
    }

    /// How many of them were successful syncs of a file.
    pub(super) fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// What would be found after a power loss: no more than what was synced, under synced names.
    pub(super) fn after_power_loss(&self) -> Arc<Self> {
        let state = self.state();
        let content = |node: &Node| node.synced.clone();
        Self::of(state.synced_names(), &state.nodes, content)
    }

    /// What would be found after the process was killed: all that was written.
    pub(super) fn after_kill(&self) -> Arc<Self> {
        let state = self.state();
        Self::of(&state.names, &state.nodes, |node| node.now.clone())
    }

    /// What may be found after a power loss: of what was not synced some sectors are there and some are not,
    /// and of the changed names the first few. `pick` chooses a number below its argument.
    pub(super) fn after_torn_power_loss(&self, mut pick: impl FnMut(usize) -> usize) -> Arc<Self> {
        let state = self.state();
        let names = match state.names_since.len() {
            0 => &state.names,
            count => &state.names_since[pick(count)],
        };
        Self::of(names, &state.nodes, |node| torn(node, &mut pick))
    }

    fn of(names: &Names, nodes: &[Node], mut content: impl FnMut(&Node) -> Vec<u8>) -> Arc<Self> {
        let copy = Self::default();
        for (name, node) in names {
            copy.put(name, &content(&nodes[*node]));
        }
        Arc::new(copy)
    }

    /// All files and their content.
    pub(super) fn files(&self) -> Vec<(String, Vec<u8>)> {
        let state = self.state();
        state
            .names
            .iter()
            .map(|(name, node)| (name.clone(), state.nodes[*node].now.clone()))
            .collect()
    }

    /// Sets a file's content, durably.
    pub(super) fn put(&self, name: &str, bytes: &[u8]) {
        let mut state = self.state();
        let index = state.nodes.len();
        state.nodes.push(Node::of(bytes));
        let State {
            names, names_since, ..
        } = &mut *state;
        for names in names_since.iter_mut().chain([names]) {
            names.insert(name.to_owned(), index);
        }
    }
}

/// A mixture of what was written and what was synced.
fn torn(node: &Node, mut pick: impl FnMut(usize) -> usize) -> Vec<u8> {
    if node.now == node.synced {
        return node.now.clone();
    }
    let is_long = pick(2) == 1;
    let bytes = if is_long {
        node.now.len().max(node.synced.len())
    } else {
        node.now.len().min(node.synced.len())
    };
    let mut mixture = vec![0; bytes];
    for (index, sector) in mixture.chunks_mut(SECTOR_BYTES).enumerate() {
        let source = if pick(2) == 1 { &node.now } else { &node.synced };
        let start = index * SECTOR_BYTES;
        let from = source.get(start..).unwrap_or_default();
        let count = from.len().min(sector.len());
        sector[..count].copy_from_slice(&from[..count]);
    }
    mixture
}

impl Storage for Faulty {
    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut state = self.state();
        state.whole(Call::List)?;
        Ok(state.names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let mut state = self.state();
        state.whole(Call::Create).map_err(not_opened)?;
        let node = if let Some(node) = state.names.get(name).copied() {
            state.nodes[node].now.clear();
            state.nodes[node].dirty.clear();
            node
        } else {
            let node = state.nodes.len();
            state.nodes.push(Node::default());
            state.rename(|names| {
                names.insert(name.to_owned(), node);
            });
            node
        };
        Ok(Arc::new(FaultyFile {
            storage: self.clone(),
            node,
        }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let mut state = self.state();
        state.whole(Call::Open).map_err(not_opened)?;
        let node = state.node(name)?;
        Ok(Arc::new(FaultyFile {
            storage: self.clone(),
            node,
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.whole(Call::Rename)?;
        let node = state.node(from)?;
        state.rename(|names| {
            names.remove(from);
            names.insert(to.to_owned(), node);
        });
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.whole(Call::Remove)?;
        state.node(name)?;
        state.rename(|names| {
            names.remove(name);
        });
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.state();
        match state.call(Call::SyncDir) {
            Going::Well => state.names_since.clear(),
            Going::Wrong(error, _) => return Err(error),
            Going::Lying => {}
        }
        Ok(())
    }
}

impl StorageFile for FaultyFile {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.storage.state();
        let (result, done) = match state.call(Call::Write) {
            Going::Well | Going::Lying => (Ok(()), bytes.len()),
            Going::Wrong(error, done) => (Err(error), done(bytes.len())),
        };
        state.nodes[self.node].write(&bytes[..done], usize::try_from(offset).unwrap());
        result
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.storage.state();
        state.whole(Call::Read)?;
        let now = &state.nodes[self.node].now;
        let from = usize::try_from(offset).unwrap().min(now.len());
        let count = buffer.len().min(now.len() - from);
        buffer[..count].copy_from_slice(&now[from..from + count]);
        Ok(count)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.storage.state();
        state.whole(Call::Allocate)?;
        let node = &mut state.nodes[self.node];
        node.lengthen(bytes.max(node.now.len() as u64));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.storage.state();
        match state.call(Call::Sync) {
            Going::Well => {}
            Going::Wrong(error, _) => {
                state.nodes[self.node].dirty.clear();
                return Err(error);
            }
            Going::Lying => return Ok(()),
        }
        state.syncs += 1;
        state.nodes[self.node].sync();
        if state.names.values().any(|node| *node == self.node) {
            Ok(())
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.storage.state();
        state.whole(Call::SetLen)?;
        state.nodes[self.node].lengthen(bytes);
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.storage.state().nodes[self.node].now.len() as u64)
    }
}
