//! The tools on journals that were damaged in every way a disk may think of.

use std::{
    collections::BTreeMap,
    ops::{ControlFlow, Range},
    path::Path,
    sync::LazyLock,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

mod odd;

use super::{
    super::{
        examine::{Examined, examine},
        record::{RawRecord, Record},
        repair::{Identity, Repair},
        scan::for_each_record,
        settling::SETTLING,
        survey::{Seen, Survey},
    },
    *,
};

const TOOL_OPTIONS: Options = Options {
    segment_size: 16 * 1024,
    max_size: 1024 * 1024,
};

type Files = Vec<(String, Vec<u8>)>;

/// Who owes what: the places that are unsettled, by sequence number.
type Debts = BTreeMap<u64, Vec<u16>>;

/// A commit of the sound journal: where it stands, and what its records say.
struct Known {
    segment: u64,
    bytes: Range<usize>,
    records: Vec<Said>,
}

enum Said {
    Owes(u64, Vec<u16>),
    Settled(u64, u16),
    Ids,
}

/// A journal of several segments with settled and carried pushes, remembered ids, and settlements that are not
/// committed: as a kill leaves it. With what stands in it.
static SOUND: LazyLock<(Files, Vec<Known>)> = LazyLock::new(|| {
    let storage = Faulty::new();
    let mut hand = try_open(&storage, TOOL_OPTIONS).unwrap();
    for number in 1..=600 {
        let mut push = push(number);
        push.owed.push(EndpointId::Named("archive".into()));
        hand.append(vec![Item::Push(push)]).unwrap();
        let durable = hand.durable().pop().unwrap();
        let stays = if number <= 250 {
            number % 7 == 0
        } else {
            number % 3 != 0
        };
        if !stays {
            hand.settle(&durable);
        } else if number % 2 == 0 {
            let sequence = durable.sequence;
            hand.journal
                .shared
                .settle([(Pair { sequence, place: 1 }, Settlement::Delivered)]);
        }
    }
    let files = storage.after_kill().files();
    let known = known(&put(&files));
    assert!(segments(&put(&files)).len() >= 5, "several segments");
    let carried = known.iter().flat_map(|commit| &commit.records);
    assert!(
        carried.clone().any(|said| matches!(said, Said::Ids)),
        "ids were written again"
    );
    assert!(files.iter().any(|(name, _)| name == SETTLING));
    (files, known)
});

fn put(files: &Files) -> Arc<Faulty> {
    let storage = Faulty::new();
    for (name, bytes) in files {
        storage.put(name, bytes);
    }
    storage
}

fn shared(storage: &Arc<Faulty>) -> Arc<dyn Storage> {
    Arc::<Faulty>::clone(storage)
}

fn examined(storage: &Arc<Faulty>) -> Examined {
    examine(&Survey::open(&shared(storage)).unwrap(), &mut |_, _| {}).unwrap()
}

fn known(storage: &Arc<Faulty>) -> Vec<Known> {
    let survey = Survey::open(&shared(storage)).unwrap();
    let mut known = Vec::new();
    for (index, file) in survey.files.iter().enumerate() {
        let mut see = |seen: Seen<'_>| {
            let Seen::Commit(commit) = seen else { panic!("bad") };
            let mut records = Vec::new();
            for_each_record(&commit, |_, raw| {
                records.push(said(&raw));
                Ok(())
            })
            .unwrap();
            let payload_at = usize::try_from(commit.payload_at).unwrap();
            known.push(Known {
                segment: file.number,
                bytes: payload_at - FRAME_HEADER_BYTES..payload_at + commit.payload.len(),
                records,
            });
            ControlFlow::Continue(())
        };
        survey.read(index, survey.seed.unwrap(), &mut see).unwrap();
    }
    known
}

fn said(raw: &RawRecord<'_>) -> Said {
    match raw.decode().unwrap() {
        Record::Push(head) => {
            let owes = |place: &u16| {
                let carried = head.carried.as_ref();
                carried.is_none_or(|unsettled| unsettled.contains(*place))
            };
            Said::Owes(head.sequence.get(), (0..head.owed).filter(owes).collect())
        }
        Record::Settled(pair, _) => Said::Settled(pair.sequence.get(), pair.place),
        Record::EventIds(_) => Said::Ids,
    }
}

/// What the commits that `is_left` amount to, with the settlements in `settling`.
fn debts(is_left: impl Fn(&Known) -> bool) -> Debts {
    let mut debts = Debts::new();
    let settle = |debts: &mut Debts, sequence, place| {
        if let Some(places) = debts.get_mut(&sequence) {
            places.retain(|owed| *owed != place);
        }
    };
    for said in SOUND
        .1
        .iter()
        .filter(|known| is_left(known))
        .flat_map(|known| &known.records)
    {
        match said {
            Said::Owes(sequence, places) => {
                debts.insert(*sequence, places.clone());
            }
            Said::Settled(sequence, place) => settle(&mut debts, *sequence, *place),
            Said::Ids => {}
        }
    }
    for (pair, _) in examined(&put(&SOUND.0)).settling {
        settle(&mut debts, pair.sequence.get(), pair.place);
    }
    debts.retain(|_, places| !places.is_empty());
    debts
}

/// What a start finds.
fn owed_at_start(storage: &Arc<Faulty>) -> Result<Debts, OpenError> {
    let hand = try_open(storage, TOOL_OPTIONS)?;
    for push in hand.pushes() {
        let number = push.event_id.strip_prefix("event-").unwrap().parse().unwrap();
        let mut sound = super::push(number);
        sound.owed.push(EndpointId::Named("archive".into()));
        assert_eq!(push, sound);
    }
    let places = |owed: &Owed| owed.owed.iter().map(|(place, _)| *place).collect();
    let pending = hand.pending.iter();
    Ok(pending.map(|owed| (owed.sequence.get(), places(owed))).collect())
}

fn look(storage: &Arc<Faulty>) -> Result<Repair, ToolError> {
    look_as(storage, Identity::Keep)
}

fn look_as(storage: &Arc<Faulty>, identity: Identity) -> Result<Repair, ToolError> {
    let storage = shared(storage);
    Repair::of(
        &storage,
        Path::new(""),
        identity,
        16 * 1024,
        clock(),
        &mut |_, _| {},
    )
}

fn file_of(files: &mut Files, segment: u64) -> &mut Vec<u8> {
    let name = segment::file_name(segment);
    &mut files.iter_mut().find(|(known, _)| *known == name).unwrap().1
}

/// Damages `bytes` of a segment's file with `change`, and holds the repair to what it promises.
fn damage(segment: u64, bytes: Range<usize>, change: impl Fn(usize, &mut u8)) {
    let mut files = SOUND.0.clone();
    let what = format!("segment {segment}, bytes {bytes:?}");
    spoil(&mut files, segment, bytes, change);
    hold(&files, &debts(|known| is_unchanged(known, &files)), &what);
}

fn spoil(files: &mut Files, segment: u64, bytes: Range<usize>, change: impl Fn(usize, &mut u8)) {
    let file = file_of(files, segment);
    for index in bytes.start.min(file.len())..bytes.end.min(file.len()) {
        change(index, &mut file[index]);
    }
}

fn is_unchanged(known: &Known, files: &Files) -> bool {
    let bytes = |files: &Files| {
        let name = segment::file_name(known.segment);
        let (_, bytes) = files.iter().find(|(file, _)| *file == name)?;
        bytes.get(known.bytes.clone()).map(<[u8]>::to_vec)
    };
    bytes(files) == bytes(&SOUND.0)
}

/// A repair of these files leaves a journal that owes `debts`, and the files beside it.
fn hold(files: &Files, debts: &Debts, what: &str) {
    let storage = put(files);
    let is_damaged = !examined(&storage).findings.is_empty();
    if try_open(&put(files), TOOL_OPTIONS).is_err() {
        assert!(is_damaged, "{what}: a start refuses it, and nothing was found");
    }
    let id = Survey::open(&shared(&storage)).unwrap().journal;
    let repair = look(&storage).unwrap();
    assert_eq!(repair.run().unwrap().is_some(), is_damaged, "{what}");
    if !is_damaged {
        assert_eq!(storage.files(), *files, "{what}: changed although sound");
        assert_eq!(&owed_at_start(&storage).unwrap(), debts, "{what}: sound");
        return;
    }
    let storage = storage.after_power_loss();
    let again = examined(&storage);
    assert_eq!(again.findings, [], "{what}");
    assert_eq!(Survey::open(&shared(&storage)).unwrap().journal, id, "{what}");
    let saved = storage.files();
    for (name, bytes) in files {
        let kept = saved.iter().find(|(known, _)| {
            known.starts_with("repair-19700101T001640.000Z-") && known.ends_with(name.as_str())
        });
        assert_eq!(&kept.expect(what).1, bytes, "{what}: {name} was not saved");
    }
    assert_eq!(&owed_at_start(&storage).unwrap(), debts, "{what}");
    let last = SOUND
        .1
        .iter()
        .flat_map(|known| &known.records)
        .map(|said| match said {
            Said::Owes(sequence, _) | Said::Settled(sequence, _) => *sequence,
            Said::Ids => 0,
        });
    let hand = try_open(&storage, TOOL_OPTIONS).unwrap();
    assert_eq!(hand.journal.stats().event_ids, repair.plan().remembered, "{what}");
    assert!(repair.plan().remembered > 0, "{what}");
    drop(hand);
    assert!(
        repair.plan().next.get() > last.max().unwrap(),
        "{what}: a number would be given twice"
    );
}

/// The oldest segment, one in the middle, and the newest.
fn some_numbers() -> [u64; 3] {
    let numbers = numbers();
    [numbers[0], numbers[numbers.len() / 2], numbers[numbers.len() - 1]]
}

fn numbers() -> Vec<u64> {
    segments(&put(&SOUND.0))
}

#[test]
fn a_sound_journal_is_found_sound_and_left_as_it_is() {
    let storage = put(&SOUND.0);
    let examined = examined(&storage);
    assert_eq!((examined.findings, examined.torn), (Vec::new(), None));
    hold(&SOUND.0, &debts(|_| true), "sound");
    assert_eq!(look(&storage).unwrap().plan().remembered, 600);
    let live: u64 = examined.segments.iter().map(|segment| segment.live).sum();
    assert_eq!(live, examined.ledger.owed.len() as u64);
    assert!(examined.segments.iter().any(|segment| segment.carried > 0));
}

#[test]
fn numbers_that_what_is_cut_may_have_given_are_nobodys_and_not_missed() {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    for number in 1..=3 {
        hand.take(number).unwrap();
    }
    let first = segment::file_name(1);
    let end = hand.writer.as_ref().unwrap().segments.active_end();
    let mut storage = storage.after_kill();
    let file = storage.open(&first).unwrap();
    // The last bytes of the last commit, of one push.
    file.write_all_at(b"spoilt", end - 6).unwrap();
    file.sync_data().unwrap();
    // Once more at a start that finds nothing in the segment begun before.
    for _ in 0..2 {
        let hand = open(&storage);
        assert_eq!(hand.pending_ids(), ["event-1", "event-2"]);
        storage = storage.after_power_loss();
        let examined = examined(&storage);
        assert_eq!((examined.findings, examined.torn), (Vec::new(), None));
        assert_eq!(segments(&storage), [1, 2]);
        assert!(look(&storage).unwrap().plan().pushes_lost.is_empty());
    }
    let mut hand = open(&storage);
    hand.take(4).unwrap();
    let given = hand.durable()[0].sequence.get();
    assert!(given > 3, "{given}");
    hand.take(5).unwrap();
    assert_eq!(hand.durable()[1].sequence.get(), given + 1);
    let storage = storage.after_power_loss();
    assert_eq!(
        open(&storage).pending_ids(),
        ["event-1", "event-2", "event-4", "event-5"]
    );
    let examined = examined(&storage);
    assert_eq!((examined.findings, examined.torn), (Vec::new(), None));
    let repair = look(&storage).unwrap();
    assert_eq!(
        (&repair.plan().pushes_lost, repair.plan().next.get()),
        (&Vec::new(), given + 2)
    );
}

#[test]
fn numbers_are_passed_over_for_all_that_a_bad_commit_can_have_had_however_little_is_left() {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    hand.take(1).unwrap();
    let at = hand.writer.as_ref().unwrap().segments.active_end();
    hand.append((2..=9).map(|number| Item::Push(push(number))).collect())
        .unwrap();
    let end = hand.writer.as_ref().unwrap().segments.active_end();
    let storage = storage.after_kill();
    let file = storage.open(&segment::file_name(1)).unwrap();
    let left = 40;
    file.write_all_at(&vec![0; usize::try_from(end - at - left).unwrap()], at + left)
        .unwrap();
    file.sync_data().unwrap();
    let mut again = open(&storage);
    assert_eq!(again.pending_ids(), ["event-1"]);
    assert!(again.report.cut.as_ref().is_some_and(|cut| cut.bytes <= left));
    again.take(10).unwrap();
    let given = again.durable()[0].sequence.get();
    assert!(given > 9, "{given}");
}

#[test]
fn a_flipped_bit_anywhere_costs_no_more_than_its_commit() {
    for segment in some_numbers() {
        for at in [0, 9, 20, 30, 50, 60, 70, 126] {
            damage(segment, at..at + 1, |_, byte| *byte ^= 4);
        }
        let commits: Vec<_> = SOUND.1.iter().filter(|known| known.segment == segment).collect();
        let last = commits.len() - 1;
        for commit in [0, last / 2, last] {
            let Range { start, end } = commits[commit].bytes;
            for at in [start, start + 5, start + 10, start + 18, start + 25, end - 1] {
                damage(segment, at..at + 1, |_, byte| *byte ^= 32);
            }
        }
    }
}

#[test]
fn a_lost_block_costs_no_more_than_the_commits_in_it() {
    for segment in some_numbers() {
        for start in (0..16 * 1024).step_by(4096) {
            damage(segment, start..start + 4096, |_, byte| *byte = 0);
        }
        for start in [0, 100, 5000, 12_000] {
            damage(segment, start..start + 64 * 1024, |index, byte| {
                *byte = u8::try_from(index * 37 % 251).unwrap();
            });
        }
    }
}

#[test]
fn several_damages_at_once_cost_no_more_than_the_commits_in_them() {
    let numbers = numbers();
    for seed in 0..40 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut files = SOUND.0.clone();
        for _ in 0..random.random_range(2..6) {
            let segment = numbers[random.random_range(0..numbers.len())];
            let start = random.random_range(0..16 * 1024);
            let length = [1, 8, 300, 4096][random.random_range(0..4)];
            let mask: u8 = random.random();
            spoil(&mut files, segment, start..start + length, |_, byte| {
                *byte ^= mask;
            });
        }
        let expected = debts(|known| is_unchanged(known, &files));
        hold(&files, &expected, &format!("seed {seed}"));
    }
}

#[test]
fn a_file_that_was_cut_lost_or_swapped_costs_no_more_than_it_held() {
    let numbers = numbers();
    for number in &some_numbers() {
        for left in [0, 60, 128, 9001] {
            let mut files = SOUND.0.clone();
            file_of(&mut files, *number).truncate(left);
            let is_left = |known: &Known| known.segment != *number || known.bytes.end <= left;
            hold(
                &files,
                &debts(is_left),
                &format!("segment {number} cut to {left}"),
            );
        }
        let is_middle = Some(number) != numbers.first() && Some(number) != numbers.last();
        if is_middle {
            let mut files = SOUND.0.clone();
            files.retain(|(name, _)| *name != segment::file_name(*number));
            hold(
                &files,
                &debts(|known| known.segment != *number),
                &format!("segment {number} deleted"),
            );
        }
    }
    for pair in numbers.windows(2) {
        let mut files = SOUND.0.clone();
        let first = std::mem::take(file_of(&mut files, pair[0]));
        let second = std::mem::replace(file_of(&mut files, pair[1]), first);
        *file_of(&mut files, pair[0]) = second;
        hold(&files, &debts(|_| true), &format!("segments {pair:?} swapped"));
    }
}

#[test]
fn what_is_lost_is_told() {
    let numbers = numbers();
    let mut files = SOUND.0.clone();
    let lost = &SOUND
        .1
        .iter()
        .filter(|known| known.segment == numbers[2])
        .nth(3)
        .unwrap();
    let sequence = lost.records.iter().find_map(|said| match said {
        Said::Owes(sequence, _) => Some(*sequence),
        _ => None,
    });
    file_of(&mut files, numbers[2])[lost.bytes.start + 40] ^= 1;
    let repair = look(&put(&files)).unwrap();
    let plan = repair.plan();
    assert_eq!(plan.pushes_lost, [(sequence.unwrap(), sequence.unwrap())]);
    assert_eq!(plan.commits_lost.len(), 1);
    assert_eq!(plan.findings.len(), 1);
    assert_eq!(plan.findings[0].offset, lost.bytes.start as u64);
    assert_eq!(plan.findings[0].bytes, lost.bytes.len() as u64);
    assert_eq!(plan.skipped, 0);
}
