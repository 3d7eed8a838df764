//! A backlog against a list that is looked through from end to end.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Push { tag: u8 },
    Seal { in_flight: bool },
    Remove { which: u16 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    (1..150u8, 1..30u32).prop_flat_map(|(tags, pushes)| {
        let step = prop_oneof![
            pushes => (0..tags).prop_map(|tag| Step::Push { tag }),
            1 => any::<bool>().prop_map(|in_flight| Step::Seal { in_flight }),
            3 => any::<u16>().prop_map(|which| Step::Remove { which }),
        ];
        proptest::collection::vec(step, 1..400)
    })
}

#[derive(Clone, Debug)]
struct Known {
    sequence: Sequence,
    tag: String,
    window: u32,
}

/// What is owed, and the number of the open window.
#[derive(Default)]
struct Model {
    known: Vec<Known>,
    window: u32,
}

impl Model {
    fn first(&self) -> Option<&Known> {
        self.known.first().filter(|known| known.window < self.window)
    }

    fn sequences(&self, of: impl Fn(&Known) -> bool) -> Vec<Sequence> {
        let known = self.known.iter().filter(|known| of(known));
        known.map(|known| known.sequence).collect()
    }

    fn seal(&mut self, in_flight: bool) -> (Vec<Sequence>, Vec<Sequence>) {
        let first = self.first().filter(|_| in_flight).map(|known| known.sequence);
        let known = self.known.clone();
        let is_superseded = |index: usize, known: &Known, all: &[Known]| {
            let mut newer = all[index + 1..].iter().filter(|newer| newer.tag == known.tag);
            !known.tag.is_empty() && newer.next().is_some() && first != Some(known.sequence)
        };
        let superseded: Vec<_> = (known.iter().enumerate())
            .filter(|(index, one)| is_superseded(*index, one, &known))
            .map(|(_, known)| known.sequence)
            .collect();
        self.known.retain(|known| !superseded.contains(&known.sequence));
        let window = self.window;
        self.window += 1;
        (superseded, self.sequences(|known| known.window == window))
    }
}

fn tag(number: u8) -> String {
    match number {
        0 => String::new(),
        number => format!("t{number}{}", "-x".repeat(usize::from(number) % 20)),
    }
}

proptest! {
    #[test]
    fn a_backlog_is_what_a_plain_list_would_be(steps in steps(), gap in 1..10_000u64) {
        let (mut backlog, mut model, mut last) = (Backlog::default(), Model::default(), 0);
        for step in steps {
            match step {
                Step::Push { tag: number } => {
                    last += gap;
                    let (sequence, tag) = (Sequence::new(last).unwrap(), tag(number));
                    backlog.push(Record { sequence, bytes: 400, place: 3, tag: tag.as_bytes(), marks: 0 });
                    model.known.push(Known { sequence, tag, window: model.window });
                }
                Step::Seal { in_flight } => {
                    let in_flight = in_flight && model.first().is_some();
                    // What comes back undelivered is superseded by its lane.
                    if let Some(first) = model.first().filter(|first| !in_flight && backlog.is_outdated(first.sequence)) {
                        backlog.remove(first.sequence);
                        model.known.remove(0);
                    }
                    let sealed = backlog.seal(Coalesce::Tag, in_flight);
                    let mut superseded: Vec<_> = sealed.superseded.iter().map(|ended| ended.sequence).collect();
                    superseded.sort_unstable();
                    prop_assert_eq!((superseded, sealed.members), model.seal(in_flight));
                }
                Step::Remove { which } if !model.known.is_empty() => {
                    // Mostly near the front, as in life.
                    let index = usize::from(which) % model.known.len() / (1 + usize::from(which % 7));
                    let known = model.known.remove(index);
                    let ended = backlog.remove(known.sequence).unwrap();
                    prop_assert_eq!((ended.bytes, ended.place), (400, 3));
                    prop_assert_eq!(ended.tag.map(|tag| tag.to_string()).unwrap_or_default(), known.tag);
                    prop_assert!(backlog.remove(known.sequence).is_none());
                }
                Step::Remove { .. } => {}
            }
            prop_assert_eq!(backlog.is_empty(), model.known.is_empty());
            let first = model.first();
            prop_assert_eq!(backlog.first().map(|first| first.sequence), first.map(|first| first.sequence));
            let batch = model.sequences(|known| first.is_some_and(|first| known.window == first.window));
            prop_assert_eq!(backlog.first_batch(), batch.clone());
            prop_assert!(first.is_none() || backlog.is_first_batch(&batch));
            if let Some(first) = first {
                let newer = model.known.iter().skip(1).filter(|known| known.window < model.window);
                let is_outdated = !first.tag.is_empty() && newer.clone().any(|newer| newer.tag == first.tag);
                prop_assert_eq!(backlog.is_outdated(first.sequence), is_outdated);
            }
        }
        // Each push there was, and the numbers beside it.
        let asked = (0..=last + gap).step_by(usize::try_from(gap).unwrap());
        let asked = asked.flat_map(|number| [number, number + 1]).filter_map(Sequence::new);
        let mut owed: Vec<_> = asked.filter(|sequence| backlog.owes(*sequence)).collect();
        owed.dedup();
        prop_assert_eq!(owed, model.sequences(|_| true));
    }
}

#[test]
fn what_is_expected_takes_no_more_room_than_it_needs() {
    let tags: Vec<_> = (1..=60).map(tag).collect();
    let records = (1..).zip(&tags).map(|(number, tag)| Record {
        sequence: Sequence::new(number * 1_000).unwrap(),
        bytes: 600,
        place: 200,
        tag: tag.as_bytes(),
        marks: 0,
    });
    let mut backlog = Backlog::default();
    let records: Vec<_> = records.collect();
    backlog.expect(records.iter().copied());
    let room = backlog.records.capacity();
    for record in &records {
        backlog.push(*record);
    }
    assert_eq!((backlog.records.len(), backlog.records.capacity()), (room, room));
    assert_eq!(backlog.len(), 60);
}
