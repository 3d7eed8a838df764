//! The tools over any directory: they look at it and leave it as it is, whatever the numbers in it say; and what
//! they repaired is sound.

use std::{path::Path, sync::Arc};

use super::hand::{Hand, OPTIONS, clock};
use crate::journal::{Identity, OpenError, Repair, Storage, ToolError, faulty::Faulty, inspect, verify};

/// Looks with each tool, and repairs a copy.
pub(super) fn check(storage: &Arc<Faulty>) {
    let files = storage.files();
    look(storage);
    assert!(storage.files() == files, "looking at it has changed something");
    let copy = storage.after_kill();
    if is_repaired(&copy) {
        let (verified, opened) = (look(&copy), Hand::open(&copy));
        assert!(opened.is_ok(), "repaired, it does not open: {:?}", opened.err());
        assert_eq!(verified, Some(true), "repaired, it is damaged");
    }
}

/// Whether it is sound; none if there is no journal of a known version.
fn look(storage: &Arc<Faulty>) -> Option<bool> {
    let storage: Arc<dyn Storage> = Arc::<Faulty>::clone(storage);
    let nowhere = Path::new("");
    let inspected = inspect::of(&storage, nowhere, &clock());
    let verified = verify::of(&storage, nowhere, &mut |_, _| {});
    match (inspected, verified) {
        (Ok(inspected), Ok(verified)) => {
            assert_eq!(inspected.is_sound, verified.findings.is_empty());
            assert_eq!(inspected.owed, verified.owed);
            Some(verified.findings.is_empty())
        }
        (Err(one), Err(other)) => {
            assert_eq!(one.to_string(), other.to_string());
            assert_known(&one);
            None
        }
        (inspected, verified) => panic!("{inspected:?}, but {verified:?}"),
    }
}

fn is_repaired(storage: &Arc<Faulty>) -> bool {
    let storage: Arc<dyn Storage> = Arc::<Faulty>::clone(storage);
    let size = OPTIONS.segment_size;
    let repair = Repair::of(
        &storage,
        Path::new(""),
        Identity::Renew,
        size,
        clock(),
        &mut |_, _| {},
    );
    match repair.and_then(|repair| repair.run()) {
        Ok(repaired) => repaired.is_some(),
        Err(error) => {
            assert_known(&error);
            false
        }
    }
}

/// Numbers past what a journal comes to can't be gone on from.
fn assert_known(error: &ToolError) {
    let is_known = matches!(
        error,
        ToolError::Absent { .. } | ToolError::NotRepaired { .. } | ToolError::Open(OpenError::Newer { .. })
    );
    assert!(is_known, "{error}");
}
