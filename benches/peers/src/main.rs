//! What SQLite, fjall and okaywal make of the appends and the replay that shipbell's journal is measured by.
//!
//! `peers PEER append|replay FOLDER RECORDS` prints, on one line, the seconds that the work took and the most
//! bytes of memory that the process held. The benchmark `ratios` of the main package starts it.

use std::{path::Path, time::Duration};

use anyhow::{bail, ensure};

mod fjall_peer;
mod okaywal_peer;
mod sqlite_peer;
#[path = "../../ratios/workload.rs"]
mod workload;

use workload::Index;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [peer, work, folder, records] = arguments.as_slice() else {
        bail!("usage: peers sqlite|fjall|okaywal append|replay FOLDER RECORDS");
    };
    let (folder, records) = (Path::new(folder), records.parse()?);
    let took = match (peer.as_str(), work.as_str()) {
        ("sqlite", "append") => sqlite_peer::append(folder, records)?,
        ("fjall", "append") => fjall_peer::append(folder, records)?,
        ("okaywal", "append") => okaywal_peer::append(folder, records)?,
        ("sqlite", "replay") => rebuilt(records, sqlite_peer::replay(folder)?)?,
        ("fjall", "replay") => rebuilt(records, fjall_peer::replay(folder)?)?,
        ("okaywal", "replay") => rebuilt(records, okaywal_peer::replay(folder)?)?,
        _ => bail!("no such peer, or no such work: {peer} {work}"),
    };
    println!("{} {}", took.as_secs_f64(), workload::peak_bytes()?);
    Ok(())
}

fn rebuilt(records: u64, (took, index): (Duration, Index)) -> anyhow::Result<Duration> {
    let found = index.records();
    ensure!(found == records, "{found} of {records} records were found again");
    Ok(took)
}
