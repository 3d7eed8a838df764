//! A storage in memory that fails when told to, and forgets what was not synced: a disk's worst days.

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
};

use super::storage::{Storage, StorageFile};

/// Which kind of call a fault is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Any,
    Create,
    Write,
    Sync,
    Rename,
    Remove,
    SyncDir,
}

#[derive(Clone, Copy, Debug)]
struct Fault {
    call: Call,
    kind: io::ErrorKind,
    skip: u64,
    times: u64,
}

#[derive(Debug, Default)]
struct Node {
    now: Vec<u8>,
    synced: Vec<u8>,
}

#[derive(Debug, Default)]
struct State {
    nodes: Vec<Node>,
    names: BTreeMap<String, usize>,
    synced_names: BTreeMap<String, usize>,
    faults: Vec<Fault>,
    calls: u64,
    syncs: u64,
}

impl State {
    fn call(&mut self, call: Call) -> io::Result<()> {
        self.calls += 1;
        for fault in &mut self.faults {
            if fault.call != Call::Any && fault.call != call {
                continue;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
            } else if fault.times > 0 {
                fault.times -= 1;
                return Err(fault.kind.into());
            }
        }
        Ok(())
    }

    fn node(&self, name: &str) -> io::Result<usize> {
        self.names
            .get(name)
            .copied()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
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
        self.0.lock().unwrap()
    }

    /// Lets the next `times` calls of that kind fail, after `skip` of them went well.
    pub(super) fn fail(&self, call: Call, kind: io::ErrorKind, skip: u64, times: u64) {
        self.state().faults.push(Fault {
            call,
            kind,
            skip,
            times,
        });
    }

    /// From here on nothing fails.
    pub(super) fn heal(&self) {
        self.state().faults.clear();
    }

    /// Lets the `n`-th call from now fail, once.
    pub(super) fn fail_nth(&self, n: u64, kind: io::ErrorKind) {
        self.fail(Call::Any, kind, n, 1);
    }

    /// Calls that could have failed so far.
    pub(super) fn calls(&self) -> u64 {
        self.state().calls
    }

    /// Files synced so far.
    pub(super) fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// What would be found after the power went: only what was synced.
    pub(super) fn after_power_loss(&self) -> Arc<Self> {
        let state = self.state();
        let copy = Self::default();
        {
            let mut lost = copy.state();
            for (name, node) in &state.synced_names {
                let bytes = state.nodes[*node].synced.clone();
                let index = lost.nodes.len();
                lost.nodes.push(Node {
                    now: bytes.clone(),
                    synced: bytes,
                });
                lost.names.insert(name.clone(), index);
            }
            lost.synced_names = lost.names.clone();
        }
        Arc::new(copy)
    }

    /// What would be found after the process was killed: all that was written.
    pub(super) fn after_kill(&self) -> Arc<Self> {
        let copy = Self::default();
        for (name, bytes) in self.files() {
            copy.put(&name, &bytes);
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
        state.nodes.push(Node {
            now: bytes.to_vec(),
            synced: bytes.to_vec(),
        });
        state.names.insert(name.to_owned(), index);
        state.synced_names.insert(name.to_owned(), index);
    }
}

impl Storage for Faulty {
    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state().names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let mut state = self.state();
        state.call(Call::Create)?;
        let node = if let Some(node) = state.names.get(name).copied() {
            state.nodes[node].now.clear();
            node
        } else {
            let node = state.nodes.len();
            state.nodes.push(Node::default());
            state.names.insert(name.to_owned(), node);
            node
        };
        Ok(Arc::new(FaultyFile {
            storage: self.clone(),
            node,
        }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let node = self.state().node(name)?;
        Ok(Arc::new(FaultyFile {
            storage: self.clone(),
            node,
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.call(Call::Rename)?;
        let node = state.node(from)?;
        state.names.remove(from);
        state.names.insert(to.to_owned(), node);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.call(Call::Remove)?;
        state.node(name)?;
        state.names.remove(name);
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.state();
        state.call(Call::SyncDir)?;
        state.synced_names = state.names.clone();
        Ok(())
    }
}

impl StorageFile for FaultyFile {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.storage.state();
        let result = state.call(Call::Write);
        // A write that fails may have done half its work.
        let bytes = if result.is_ok() {
            bytes
        } else {
            &bytes[..bytes.len() / 2]
        };
        let start = usize::try_from(offset).unwrap();
        let now = &mut state.nodes[self.node].now;
        if now.len() < start + bytes.len() {
            now.resize(start + bytes.len(), 0);
        }
        now[start..start + bytes.len()].copy_from_slice(bytes);
        result
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.storage.state();
        let now = &state.nodes[self.node].now;
        let from = usize::try_from(offset).unwrap().min(now.len());
        let count = buffer.len().min(now.len() - from);
        buffer[..count].copy_from_slice(&now[from..from + count]);
        Ok(count)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.storage.state();
        state.call(Call::Sync)?;
        state.syncs += 1;
        let node = &mut state.nodes[self.node];
        node.synced.clone_from(&node.now);
        Ok(())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.storage.state();
        state.nodes[self.node]
            .now
            .resize(usize::try_from(bytes).unwrap(), 0);
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.storage.state().nodes[self.node].now.len() as u64)
    }
}
