//! The journal against a plain model of what it promises, over generated sequences of everything that can
//! happen to it. `SEED=n` replays one sequence; `CASES=n` runs as many.

use std::collections::{BTreeMap, HashMap, HashSet};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;

/// What became of one endpoint's share in a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Owed,
    /// Settled, and perhaps not durably.
    Told,
    /// Settled for good.
    Settled,
}

#[derive(Debug)]
struct Known {
    push: Push,
    fates: Vec<Fate>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Crash {
    Kill,
    PowerLoss,
    TornPowerLoss,
}

struct Model {
    rng: StdRng,
    storage: Arc<Faulty>,
    hand: Hand,
    /// Pushes that were acknowledged, or found at a start.
    known: BTreeMap<Sequence, Known>,
    /// Pushes that were refused: a crash may show that they were kept all the same.
    refused: Vec<Push>,
    event_ids: HashSet<String>,
    next_number: u32,
    /// Who waits for a settlement to be written down: it survives a kill once he is answered.
    waiting: HashMap<Pair, oneshot::Receiver<()>>,
    /// Nothing failed since the start.
    is_sound: bool,
    /// How large a commit gets, and when the next group is put together while it is on its way.
    pace: Pace,
}

impl Model {
    fn new(seed: u64) -> Self {
        let storage = Faulty::new();
        let mut rng = StdRng::seed_from_u64(seed);
        let pace = match rng.random_range(0..4) {
            0 => Pace::default(),
            _ => Pace {
                commit_bytes_max: rng.random_range(1..2_000),
                handed_over_bytes: rng.random_range(0..1_000),
            },
        };
        let mut hand = open(&storage);
        hand.set_pace(pace);
        Self {
            rng,
            hand,
            storage,
            pace,
            known: BTreeMap::new(),
            refused: Vec::new(),
            event_ids: HashSet::new(),
            next_number: 0,
            waiting: HashMap::new(),
            is_sound: true,
        }
    }

    fn below(&mut self, count: usize) -> usize {
        self.rng.random_range(0..count)
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn step(&mut self) {
        if self.hand.writer.is_none() {
            return self.crash();
        }
        match self.below(100) {
            0..40 => self.append(),
            40..65 => self.settle(),
            65..72 => self.hand.poke(),
            72..78 => {
                let times = [1, 100, 600, 11_000];
                let index = self.below(times.len());
                time::pass(std::time::Duration::from_millis(times[index]));
                self.hand.poke();
            }
            78..84 => self.trouble(),
            84..88 => self.calm_down(),
            88..92 => self.close(),
            92..95 => self.read(),
            _ => self.crash(),
        }
    }

    fn push(&mut self) -> Push {
        self.next_number += 1;
        let number = self.next_number;
        let owed = match self.below(20) {
            0 => 40,
            1..5 => 2,
            _ => 1,
        };
        let actor = match self.below(10) {
            0 => 700,
            _ => self.below(60),
        };
        Push {
            repository: format!("acme/app{}", self.below(3)).parse().unwrap(),
            actor: "x".repeat(actor),
            owed: (0..owed)
                .map(|place| EndpointId::Named(format!("e{place}").into()))
                .collect(),
            ..push(number)
        }
    }

    fn append(&mut self) {
        let appends: Vec<_> = (0..=self.below(4)).map(|_| self.pushes()).collect();
        let answers = self.hand.append_all(appends.clone());
        self.see_applied();
        for (pushes, answer) in appends.into_iter().zip(answers) {
            for push in pushes {
                let is_known = self.event_ids.contains(&push.event_id);
                match &answer {
                    Ok(()) => assert!(is_known, "{} was acknowledged and not applied", push.event_id),
                    Err(_) if is_known || self.refused.contains(&push) => {}
                    Err(_) => self.refused.push(push),
                }
            }
        }
    }

    /// What one append holds.
    fn pushes(&mut self) -> Vec<Push> {
        let count = match self.below(12) {
            0 => 30,
            _ => 1 + self.below(3),
        };
        let mut pushes: Vec<Push> = (0..count).map(|_| self.push()).collect();
        if self.chance(10) && !self.known.is_empty() {
            // The registry sends an event again that was taken long ago, or refused just now.
            let index = self.below(self.known.len());
            let known = self.known.values().nth(index).unwrap();
            pushes.push(known.push.clone());
        }
        if self.chance(30)
            && let Some(refused) = self.refused.last()
        {
            pushes.push(refused.clone());
        }
        pushes
    }

    /// Takes over what was applied meanwhile.
    fn see_applied(&mut self) {
        let applied = std::mem::take(&mut *self.hand.applied.lock().unwrap());
        for applied in applied {
            let Applied::Push(durable) = applied else { continue };
            let newest = self.known.last_key_value().map(|(sequence, _)| *sequence);
            assert!(newest < Some(durable.sequence), "applied out of order");
            self.know(durable.sequence, durable.push);
        }
    }

    fn know(&mut self, sequence: Sequence, push: Push) {
        let id = &push.event_id;
        assert!(self.event_ids.insert(id.clone()), "{id} was taken twice");
        self.refused.retain(|refused| refused.event_id != *id);
        let fates = vec![Fate::Owed; push.owed.len()];
        self.known.insert(sequence, Known { push, fates });
    }

    fn settle(&mut self) {
        let owed: Vec<Pair> = self
            .known
            .iter()
            .flat_map(|(sequence, known)| {
                (0..)
                    .zip(&known.fates)
                    .filter(|(_, fate)| **fate == Fate::Owed)
                    .map(|(place, _)| Pair {
                        sequence: *sequence,
                        place,
                    })
            })
            .collect();
        if owed.is_empty() {
            return;
        }
        // Some pushes are never settled by anybody: these are what is carried forward.
        let some = owed
            .into_iter()
            .filter(|pair| pair.sequence.get() % 7 != 3 || self.rng.random_range(0..40) == 0);
        let some: Vec<Pair> = some.collect();
        let count = (1 + self.below(12)).min(some.len());
        for _ in 0..count {
            let pair = some[self.below(some.len())];
            let known = self.known.get_mut(&pair.sequence).unwrap();
            known.fates[usize::from(pair.place)] = Fate::Told;
            let (caller, answer) = oneshot::channel();
            let shared = &self.hand.journal.shared;
            shared.settle_for([(pair, Settlement::Delivered)], vec![caller]);
            self.waiting.entry(pair).or_insert(answer);
        }
    }

    fn trouble(&mut self) {
        if self.chance(40) {
            self.storage.heal();
            return;
        }
        let calls = [
            Call::Any,
            Call::Create,
            Call::Open,
            Call::Write,
            Call::Sync,
            Call::SetLen,
            Call::Rename,
            Call::Remove,
            Call::SyncDir,
        ];
        let call = calls[self.below(calls.len())];
        let kind = [ErrorKind::Other, ErrorKind::StorageFull][self.below(2)];
        let trouble = [Trouble::Fail(kind), Trouble::Short(kind)][self.below(2)];
        let times = [1, 1, 2, u64::MAX][self.below(4)];
        self.is_sound = false;
        self.storage
            .trouble(call, trouble, self.rng.random_range(0..12), times);
    }

    /// Lets everything come to rest, and holds the disk to its bound.
    fn calm_down(&mut self) {
        self.storage.heal();
        for _ in 0..3 {
            time::pass(std::time::Duration::from_secs(11));
            self.hand.calm_down();
            if self.hand.writer.is_none() {
                return;
            }
        }
        if !self.is_sound {
            // A file that could not be cut to its content keeps its size until the next start.
            return;
        }
        let active = segments(&self.storage).into_iter().max().unwrap_or_default();
        let sealed: usize = self
            .storage
            .files()
            .iter()
            .filter(|(name, _)| segment::parse_file_name(name).is_some_and(|number| number != active))
            .map(|(_, bytes)| bytes.len())
            .sum();
        let live = self.hand.journal.stats().live_bytes;
        assert!(
            sealed as u64 <= 2 * live,
            "{sealed} bytes are sealed, {live} live"
        );
    }

    fn read(&mut self) {
        let owed: Vec<Sequence> = self
            .known
            .iter()
            .filter(|(_, known)| known.fates.contains(&Fate::Owed))
            .map(|(sequence, _)| *sequence)
            .collect();
        if owed.is_empty() {
            return;
        }
        let sequence = owed[self.below(owed.len())];
        // A file that can't be opened is one of the troubles.
        if let Ok(read) = self.hand.read(&[sequence]) {
            assert_eq!(read, [self.known[&sequence].push.clone()]);
        } else {
            assert!(!self.is_sound, "{sequence} can't be read");
        }
    }

    fn close(&mut self) {
        let closed = self.hand.journal.close();
        self.hand.turn();
        closed.now_or_never().expect("closed within the turn");
        self.see_applied();
        if self.is_sound {
            for known in self.known.values_mut() {
                for fate in &mut known.fates {
                    if *fate == Fate::Told {
                        *fate = Fate::Settled;
                    }
                }
            }
        }
        self.crash();
    }

    /// The end, and a new start; sometimes on a disk that still makes trouble.
    fn crash(&mut self) {
        let crash = [Crash::Kill, Crash::PowerLoss, Crash::TornPowerLoss][self.below(3)];
        let left = match crash {
            Crash::Kill => self.storage.after_kill(),
            Crash::PowerLoss => self.storage.after_power_loss(),
            Crash::TornPowerLoss => {
                let rng = &mut self.rng;
                self.storage
                    .after_torn_power_loss(|count| rng.random_range(0..count))
            }
        };
        self.storage = left;
        self.is_sound = true;
        let mut is_kill = crash == Crash::Kill;
        if self.chance(15) {
            let skip = self.rng.random_range(0..20);
            let kind = [ErrorKind::Other, ErrorKind::StorageFull][self.below(2)];
            self.storage.trouble(Call::Any, Trouble::Fail(kind), skip, 1);
            self.is_sound = false;
        }
        self.hand = loop {
            match try_open(&self.storage, OPTIONS) {
                Ok(hand) => break hand,
                Err(OpenError::Io { .. }) if !self.is_sound => self.storage.heal(),
                Err(error) => panic!("after {crash:?}: {error}"),
            }
            if self.chance(50) {
                is_kill = false;
                self.storage = self.storage.after_power_loss();
            }
        };
        self.storage.heal();
        self.hand.set_pace(self.pace);
        self.compare(is_kill);
    }

    /// Holds what the start found to what is known.
    fn compare(&mut self, is_kill: bool) {
        let mut waiting = std::mem::take(&mut self.waiting);
        assert!(self.hand.pending.is_sorted_by(|a, b| a.sequence < b.sequence));
        let pushes = self.hand.pushes();
        let found: Vec<(Owed, Push)> = self.hand.pending.iter().cloned().zip(pushes).collect();
        for (owed, push) in &found {
            if !self.known.contains_key(&owed.sequence) {
                assert!(self.refused.contains(push), "{} is nobody's", push.event_id);
                self.know(owed.sequence, push.clone());
            }
        }
        let mut found: BTreeMap<Sequence, (Owed, Push)> = found
            .into_iter()
            .map(|(owed, push)| (owed.sequence, (owed, push)))
            .collect();
        for (sequence, known) in &mut self.known {
            let places: HashSet<u16> = match found.remove(sequence) {
                None => HashSet::new(),
                Some((owed, push)) => {
                    assert_eq!(push, known.push);
                    owed.owed.iter().map(|(place, _)| *place).collect()
                }
            };
            for (place, fate) in (0..).zip(&mut known.fates) {
                let is_owed = places.contains(&place);
                match fate {
                    Fate::Owed => assert!(is_owed, "{sequence} is lost for endpoint {place}"),
                    Fate::Settled => assert!(!is_owed, "{sequence} is owed again by endpoint {place}"),
                    Fate::Told if is_owed => {
                        let sequence = *sequence;
                        let answer = waiting.get_mut(&Pair { sequence, place });
                        let is_certain = is_kill && answer.is_some_and(|answer| answer.try_recv().is_ok());
                        assert!(!is_certain, "{sequence} is owed again after a kill");
                        *fate = Fate::Owed;
                    }
                    Fate::Told => *fate = Fate::Settled,
                }
            }
        }
    }
}

fn run(seed: u64) {
    let mut model = Model::new(seed);
    for _ in 0..60 {
        model.step();
    }
    model.crash();
}

#[expect(clippy::disallowed_methods, reason = "the test's own two settings")]
fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")),
    )
}

#[test]
fn whatever_happens_the_journal_is_what_a_plain_model_says() {
    if let Some(seed) = setting("SEED") {
        return run(seed);
    }
    let (first, cases) = (rand::random::<u32>(), setting("CASES").unwrap_or(2_000));
    for case in 0..cases {
        let seed = u64::from(first) + case;
        let ended = std::panic::catch_unwind(|| run(seed));
        if let Err(panic) = ended {
            println!("SEED={seed} replays this");
            std::panic::resume_unwind(panic);
        }
    }
    println!("{cases} cases from SEED={first} on");
}
