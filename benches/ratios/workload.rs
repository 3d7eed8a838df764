//! The records that every contestant of the journal's rows keeps, and the index that each rebuilds of them.
//! Nothing but the standard library: the peers' package takes this file as it is.

use std::{collections::HashMap, fs, io};

/// Records that one fsync makes durable.
pub(crate) const PER_COMMIT: u64 = 1_000;

/// Repositories that the records are spread over.
pub(crate) const REPOSITORIES: u64 = 10_000;

/// A record's length in bytes.
pub(crate) const RECORD_BYTES: usize = 600;

/// A record: its repository's name, its length first; the rest is noise, as digests are.
pub(crate) type Record = [u8; RECORD_BYTES];

/// The repository of record `number`.
pub(crate) fn repository(number: u64) -> String {
    format!("team-{:02}/service-{:05}", number % 100, number % REPOSITORIES)
}

/// Record `number`.
pub(crate) fn record(number: u64) -> Record {
    let repository = repository(number);
    let length = u8::try_from(repository.len()).unwrap_or(u8::MAX);
    let mut noise = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut record = [0; RECORD_BYTES];
    let name = [length].into_iter().chain(repository.bytes());
    let bytes = name.map(Some).chain(std::iter::repeat(None));
    for (place, byte) in record.iter_mut().zip(bytes) {
        *place = byte.unwrap_or_else(|| {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            noise.to_le_bytes()[0]
        });
    }
    record
}

/// The records of the commit that begins with record `first`.
pub(crate) fn commit(first: u64) -> Vec<Record> {
    (first..first + PER_COMMIT).map(record).collect()
}

/// Where each repository's records stand: the least that a queue is rebuilt to.
#[derive(Debug, Default)]
pub(crate) struct Index(HashMap<Box<str>, Vec<u64>>);

impl Index {
    /// Adds a record that stands at `position`.
    pub(crate) fn add(&mut self, record: &[u8], position: u64) -> io::Result<()> {
        let name = record
            .split_first()
            .and_then(|(length, rest)| rest.get(..usize::from(*length)))
            .and_then(|name| std::str::from_utf8(name).ok())
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no record"))?;
        match self.0.get_mut(name) {
            Some(positions) => positions.push(position),
            None => drop(self.0.insert(name.into(), vec![position])),
        }
        Ok(())
    }

    /// How many records it has.
    pub(crate) fn records(&self) -> u64 {
        self.0.values().map(|positions| positions.len() as u64).sum()
    }
}

/// The most memory that this process has held so far, in bytes.
pub(crate) fn peak_bytes() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    status
        .lines()
        .find_map(|line| {
            line.strip_prefix("VmHWM:")?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .map(|kib: u64| kib * 1024)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "VmHWM in /proc/self/status"))
}
