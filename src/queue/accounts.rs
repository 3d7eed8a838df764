//! How much is owed: by each endpoint, and in all, in bytes of the journal's records; how many pushes; and who is over a
//! bound.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;

use super::batch::Settled;
use crate::{locked::Locked as _, push::EndpointId};

/// How much may be owed, and lent. By default, anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// By one endpoint, bytes.
    pub endpoint_bytes_max: u64,
    /// In all, bytes; a push that several endpoints owe counts once.
    pub bytes_max: u64,
    /// Pushes in all, as far as endpoints in trouble make them more.
    pub pushes_max: usize,
    /// Lanes of one endpoint that are lent from at once; the others wait in line. At least 1.
    pub lanes_at_once_max: usize,
    /// Endpoints in trouble that are lent from at once; the others wait until one of those is through. At least 1.
    pub narrow_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            endpoint_bytes_max: u64::MAX,
            bytes_max: u64::MAX,
            pushes_max: usize::MAX,
            lanes_at_once_max: usize::MAX,
            narrow_max: usize::MAX,
        }
    }
}

/// A bound that is passed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Excess {
    /// This endpoint owes too much.
    Endpoint(Arc<EndpointId>),
    /// All together do.
    Overall,
    /// There are too many pushes, whoever owes them. Those of healthy endpoints are not to be given up for that.
    Pushes,
}

/// What is put down to an account.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Load {
    pub(super) pushes: usize,
    pub(super) bytes: u64,
}

/// The accounts of all endpoints that owe something.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    bounds: Bounds,
    sheet: Mutex<Sheet>,
    /// How many pushes are owed. Changes with the sheet alone.
    pushes: AtomicUsize,
    /// Wakes who is to act on a bound that was passed.
    passed: Notify,
}

#[derive(Debug, Default)]
struct Sheet {
    /// Bytes by endpoint; none is zero.
    owed: HashMap<Arc<EndpointId>, u64>,
    /// Those of them that are over their bound.
    over: HashSet<Arc<EndpointId>>,
    bytes: u64,
}

impl Accounts {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            ..Self::default()
        }
    }

    /// How many pushes are owed by at least one endpoint. Waits for nobody.
    pub(super) fn pushes(&self) -> usize {
        self.pushes.load(Ordering::Relaxed)
    }

    /// Adds pushes that these endpoints owe, and gives back the endpoints by the one value that
    /// stands for each in memory.
    pub(super) fn add<'a>(
        &self,
        Load { pushes, bytes }: Load,
        endpoints: impl ExactSizeIterator<Item = &'a EndpointId>,
    ) -> Vec<Arc<EndpointId>> {
        let mut sheet = self.sheet();
        let mut known = Vec::with_capacity(endpoints.len());
        for id in endpoints {
            let known_id = match sheet.owed.get_key_value(id) {
                Some((known, _)) => Arc::clone(known),
                None => Arc::new(id.clone()),
            };
            let owed = sheet.owed.entry(Arc::clone(&known_id)).or_default();
            *owed += bytes;
            if *owed > self.bounds.endpoint_bytes_max {
                sheet.over.insert(Arc::clone(&known_id));
            }
            known.push(known_id);
        }
        if !known.is_empty() {
            sheet.bytes += bytes;
            self.pushes.fetch_add(pushes, Ordering::Relaxed);
        }
        if self.is_any_over(&sheet) {
            self.passed.notify_one();
        }
        known
    }

    /// Takes off what has ended.
    pub(super) fn settle<'a>(&self, settled: impl Iterator<Item = &'a Settled>) {
        let mut settled = settled.peekable();
        if settled.peek().is_none() {
            return;
        }
        let mut sheet = self.sheet();
        for settled in settled {
            let bytes = u64::from(settled.bytes);
            if settled.last {
                sheet.bytes -= bytes;
                self.pushes.fetch_sub(1, Ordering::Relaxed);
            }
            let Some(owed) = sheet.owed.get_mut(&settled.endpoint) else {
                debug_assert!(false, "what is settled was owed");
                continue;
            };
            *owed -= bytes;
            let owed = *owed;
            if owed <= self.bounds.endpoint_bytes_max {
                sheet.over.remove(&settled.endpoint);
            }
            if owed == 0 {
                sheet.owed.remove(&settled.endpoint);
            }
        }
    }

    /// Whether the endpoint owes anything.
    pub(super) fn owes(&self, endpoint: &EndpointId) -> bool {
        self.sheet().owed.contains_key(endpoint)
    }

    /// Every bound that is passed now.
    pub(super) fn excesses(&self) -> Vec<Excess> {
        let sheet = self.sheet();
        let overall = self
            .is_sheet_over(&sheet, &Excess::Overall)
            .then_some(Excess::Overall);
        let pushes = self
            .is_sheet_over(&sheet, &Excess::Pushes)
            .then_some(Excess::Pushes);
        let endpoints = sheet.over.iter().cloned().map(Excess::Endpoint);
        endpoints.chain(overall).chain(pushes).collect()
    }

    pub(super) fn is_over(&self, excess: &Excess) -> bool {
        self.is_sheet_over(&self.sheet(), excess)
    }

    fn is_sheet_over(&self, sheet: &Sheet, excess: &Excess) -> bool {
        match excess {
            Excess::Endpoint(id) => sheet.over.contains(id),
            Excess::Overall => sheet.bytes > self.bounds.bytes_max,
            Excess::Pushes => self.pushes() > self.bounds.pushes_max,
        }
    }

    fn is_any_over(&self, sheet: &Sheet) -> bool {
        let in_all = [Excess::Overall, Excess::Pushes];
        !sheet.over.is_empty() || in_all.iter().any(|excess| self.is_sheet_over(sheet, excess))
    }

    /// Waits until a bound is passed. Cancel-safe.
    pub(super) async fn passed(&self) -> Vec<Excess> {
        loop {
            // Registered before the look, so that no wake-up falls between the two.
            let passed = self.passed.notified();
            let excesses = self.excesses();
            if !excesses.is_empty() {
                return excesses;
            }
            passed.await;
        }
    }

    /// Each change of the sheet is whole before anything can panic.
    fn sheet(&self) -> MutexGuard<'_, Sheet> {
        self.sheet.locked()
    }
}
