//! Journals without headers, of a newer version, and repairs that are cut off.

use super::*;

#[test]
fn more_than_one_bad_commit_at_the_end_is_no_torn_one() {
    let newest = numbers().pop().unwrap();
    let without_last = |count: usize| {
        let mut files = SOUND.0.clone();
        for known in &SOUND.1[SOUND.1.len() - count..] {
            let start = known.bytes.start + FRAME_HEADER_BYTES;
            spoil(&mut files, newest, start..known.bytes.end, |_, byte| {
                *byte ^= 0x55;
            });
        }
        examined(&put(&files))
    };
    let torn = without_last(1);
    assert!(torn.findings.is_empty() && torn.torn.is_some());
    let lost = without_last(2);
    assert!(!lost.findings.is_empty() && lost.torn.is_none());
}

#[test]
fn numbers_that_lost_pushes_may_have_had_are_not_given_again() {
    let newest = numbers().pop().unwrap();
    let first = SOUND.1.iter().position(|known| known.segment == newest).unwrap();
    // Nothing but damage, or settlements of older pushes behind the damage.
    for spared in [0, 1] {
        let mut files = SOUND.0.clone();
        files.retain(|(name, _)| name != SETTLING);
        let lost = SOUND.1.len() - spared;
        for known in &SOUND.1[first..lost] {
            spoil(&mut files, newest, known.bytes.clone(), |_, byte| *byte ^= 0x55);
        }
        spoil(&mut files, newest, 0..1, |_, byte| *byte ^= 1);
        let repair = look(&put(&files)).unwrap();
        assert!(repair.plan().next.get() > 600, "{}", repair.plan().next);
        assert_eq!(repair.plan().skipped > 0, spared == 0);
    }
}

#[test]
fn without_any_header_the_identity_is_lost_and_the_pushes_are_not() {
    let mut files = SOUND.0.clone();
    for number in numbers() {
        file_of(&mut files, number)[30] ^= 1;
    }
    let storage = put(&files);
    assert!(matches!(look(&storage), Err(ToolError::NoIdentity { .. })));
    assert_eq!(storage.files(), files);
    look_as(&storage, Identity::Renew)
        .unwrap()
        .run()
        .unwrap()
        .unwrap();
    assert_eq!(owed_at_start(&storage).unwrap(), debts(|_| true));
}

#[test]
fn a_newer_version_is_left_to_it() {
    let mut files = SOUND.0.clone();
    let file = file_of(&mut files, numbers()[1]);
    file[8] = 2;
    let sum = crc32c::crc32c(&file[..124]).to_le_bytes();
    file[124..128].copy_from_slice(&sum);
    let storage = put(&files);
    assert!(matches!(
        look(&storage),
        Err(ToolError::Open(OpenError::Newer { .. }))
    ));
    assert_eq!(storage.files(), files);
}

#[test]
fn a_repair_that_is_interrupted_anywhere_can_be_run_again() {
    let numbers = numbers();
    let mut files = SOUND.0.clone();
    let commits = SOUND.1.iter().filter(|known| known.segment == numbers[1]);
    let lost = &commits.clone().nth(2).unwrap().bytes;
    file_of(&mut files, numbers[1])[lost.start + 30] ^= 1;
    let is_left = |known: &Known| known.segment != numbers[1] || known.bytes != *lost;
    let expected = debts(is_left);
    let mut interrupted = 0;
    for nth in 0.. {
        let storage = put(&files);
        let repair = look(&storage).unwrap();
        storage.fail(Call::Any, ErrorKind::Other, nth, 1);
        if repair.run().is_ok() {
            break;
        }
        interrupted += 1;
        for left in [storage.after_kill(), storage.after_power_loss()] {
            // Neither is it opened as something that it is not.
            match owed_at_start(&left.after_kill()) {
                Ok(owed) => assert_eq!(owed, expected, "call {nth}"),
                Err(OpenError::Damaged { .. }) => {}
                Err(error) => panic!("call {nth}: {error}"),
            }
            let again = look(&left).unwrap();
            again.run().unwrap();
            let left = left.after_power_loss();
            assert_eq!(examined(&left).findings, [], "call {nth}");
            assert_eq!(again.plan().next, repair.plan().next, "call {nth}");
            assert_eq!(owed_at_start(&left).unwrap(), expected, "call {nth}");
            let saved = left.files();
            for (name, bytes) in &files {
                let is_saved = |(known, kept): &(String, Vec<u8>)| {
                    known.starts_with("repair-") && known.ends_with(name.as_str()) && kept == bytes
                };
                assert!(saved.iter().any(is_saved), "call {nth}: {name} was not saved");
            }
        }
    }
    assert!(interrupted > 20, "{interrupted} calls");
}
