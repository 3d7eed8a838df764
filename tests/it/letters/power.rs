//! A power loss while pushes are given up (CONTRACT 6.1 and 6.2): afterwards each is owed or a letter.

use std::{collections::BTreeSet, path::PathBuf};

use super::*;
use crate::support::strace;

/// A copy of what a power loss would leave, and what had been taken by then.
struct Left {
    data: tempfile::TempDir,
    taken: BTreeSet<String>,
}

/// What would be left now. All that was synced is; and what only the system has, in one file: settlements that wait for
/// their commit. The others may have more than would be left, which is what a kill leaves.
fn left(shipbell: &Shipbell, taken: &BTreeSet<String>) -> Left {
    let data = folder();
    let (from, to) = (shipbell.data(), data.path());
    shipbell.while_still(|| {
        copy(&from.join("journal"), &to.join("journal"));
        for file in ["settings.db", "settings.db-journal"] {
            if from.join(file).exists() {
                fs::copy(from.join(file), to.join(file)).unwrap();
            }
        }
    });
    let settling = to.join("journal/settling");
    if settling.exists() {
        fs::remove_file(settling).unwrap();
    }
    let taken = taken.clone();
    Left { data, taken }
}

#[test]
fn after_a_power_loss_at_any_moment_each_push_is_owed_or_a_letter() {
    const ROUNDS: u64 = 6;
    const PUSHES: u64 = 40;
    let hook = Receiver::scripted(|_| Answer::Status(404));
    let settings = "delivery.retry_schedule = ['1ms']\nbatch.window = '0s'\nbatch.coalesce = 'none'";
    let config = |hook: &Receiver| {
        let config = Config::without_registry().with(settings);
        config.endpoint("hook", &hook.url("/"))
    };
    let shipbell = Shipbell::start(config(&hook));
    let data = shipbell.data();
    let (mut taken, mut losses) = (BTreeSet::new(), Vec::new());
    for round in 0..ROUNDS {
        let events: Vec<_> = (0..PUSHES)
            .map(|number| {
                let (repository, tag) = (format!("acme/app{}", number % 7), format!("v{round}-{number}"));
                taken.insert(format!("{repository}:{tag}"));
                envelope::push(&repository, &tag, &tag)
            })
            .collect();
        shipbell.take(envelope::of(&events));
        // In the middle of giving up, each time elsewhere.
        let some = usize::try_from(round * PUSHES + 1 + round * 6).unwrap();
        eventually("some are letters", SOON, || {
            (rows(&data).len() >= some).then_some(())
        });
        losses.push(left(&shipbell, &taken));
    }
    let ids = |requests: &[Request]| -> BTreeSet<(String, String)> {
        let ids = requests
            .iter()
            .map(|request| (request.image(), request.id().to_owned()));
        ids.collect()
    };
    let sent_before = ids(&hook.requests());
    let (mut owed, mut letters) = (0, 0);
    for Left { data, taken } in losses {
        let hook = Receiver::start();
        let mut shipbell = Shipbell::start(config(&hook).data_in(data.path()));
        wait_for_metric(&shipbell, "shipbell_journal_live", 0);
        shipbell.stop();
        let kept: BTreeSet<_> = rows(data.path()).into_iter().map(|row| row.image).collect();
        assert_eq!(kept.len(), rows(data.path()).len(), "each once");
        let requests = hook.requests();
        let delivered: BTreeSet<_> = images(&requests).into_iter().collect();
        assert_eq!(delivered.len(), requests.len(), "each once");
        let both: Vec<_> = kept.intersection(&delivered).collect();
        assert!(both.is_empty(), "letters of what was owed: {both:?}");
        let all: BTreeSet<_> = kept.union(&delivered).cloned().collect();
        assert_eq!(all, taken, "neither owed nor a letter, or out of nowhere");
        // Whoever was sent one before can tell.
        for (image, id) in ids(&requests) {
            let known = sent_before.iter().find(|(sent, _)| *sent == image);
            assert!(known.is_none_or(|(_, known)| *known == id), "{image}");
        }
        owed += delivered.len();
        letters += kept.len();
    }
    assert!(owed > 0 && letters > 0, "{owed} were owed, and {letters} letters");
}

/// What a thread did to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Did {
    /// Settings were written.
    Write,
    /// They were synced.
    Sync,
    /// What takes their last transaction back was emptied, which commits it.
    Commit,
    /// That was synced.
    SyncCommit,
    /// A settlement was told to the journal.
    Settle,
}

/// What was done, in order; a sync when it had ended, all else when it began.
fn done(trace: &str) -> Vec<Did> {
    let mut begun: Vec<(&str, Did)> = Vec::new();
    let mut done = Vec::new();
    for line in trace.lines() {
        let Some((thread, call)) = line.split_once(' ') else {
            continue;
        };
        let call = call.trim_start();
        if call.starts_with("<... f") && call.contains("sync resumed>") {
            let index = begun.iter().position(|(by, _)| *by == thread);
            assert!(call.ends_with("= 0"), "{line}");
            done.extend(index.map(|index| begun.remove(index).1));
            continue;
        }
        let is_sync = call.starts_with("fsync(") || call.starts_with("fdatasync(");
        let is_write = call.starts_with("pwrite64(") || call.starts_with("write(");
        let did = match () {
            () if call.contains("/settings.db>") && is_sync => Did::Sync,
            () if call.contains("/settings.db>") && is_write => Did::Write,
            () if call.contains("/settings.db-journal>") && is_sync => Did::SyncCommit,
            () if call.contains("/settings.db-journal>") && call.starts_with("ftruncate(") => Did::Commit,
            () if call.contains("/journal/") && call.contains("settling>") && is_write => Did::Settle,
            () => continue,
        };
        if is_sync && call.ends_with("<unfinished ...>") {
            begun.push((thread, did));
        } else {
            done.push(did);
        }
    }
    done
}

#[test]
fn a_letter_is_synced_before_its_push_is_settled() {
    let test = a_letter_is_synced_before_its_push_is_settled;
    if !strace::is_allowed(test) {
        return;
    }
    let (_hook, mut shipbell) = refused_twice();
    let folder = folder();
    let output: PathBuf = folder.path().join("trace");
    let calls = "pwrite64,write,fsync,fdatasync,ftruncate";
    let strace = strace::watch(shipbell.id(), calls, &output);
    shipbell.push("acme/app", "1");
    wait_for_rows(1, &shipbell.data());
    wait_for_metric(&shipbell, "shipbell_journal_live", 0);
    shipbell.stop();
    drop(strace);
    let done = done(&fs::read_to_string(&output).unwrap());
    let settled = done.iter().position(|did| *did == Did::Settle);
    let before = &done[..settled.unwrap_or_else(|| panic!("{done:?}"))];
    // The letter's transaction, from its last write on.
    let written = before.iter().rposition(|did| *did == Did::Write);
    let since = &before[written.unwrap_or_else(|| panic!("settled before the letter: {done:?}"))..];
    assert_eq!(
        since,
        [Did::Write, Did::Sync, Did::Commit, Did::SyncCommit],
        "{done:?}"
    );
}
