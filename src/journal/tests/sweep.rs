//! Every call of a representative run fails once, in every way.

use super::*;

/// What a run was told.
#[derive(Default)]
struct Story {
    acknowledged: Vec<String>,
    settled: Vec<String>,
}

impl Story {
    fn take(&mut self, hand: &mut Hand, pushes: Vec<Push>) {
        if hand.writer.is_none() {
            return;
        }
        let ids: Vec<_> = pushes.iter().map(|push| push.event_id.clone()).collect();
        if hand.append(pushes.into_iter().map(Item::Push).collect()).is_ok() {
            self.acknowledged.extend(ids);
        }
    }

    fn settle(&mut self, hand: &Hand, is_settled: impl Fn(u64) -> bool) {
        for durable in hand.durable() {
            let id = &durable.push.event_id;
            if is_settled(durable.sequence.get()) && !self.settled.contains(id) {
                self.settled.push(id.clone());
                hand.settle(&durable);
            }
        }
    }
}

/// Passes through every kind of step: several segments, a large one, settlements with and without a commit to
/// ride with, carrying forward, deletions, a close, a second start.
fn representative(storage: &Arc<Faulty>) -> Story {
    let mut story = Story::default();
    let Some(mut hand) = start(storage) else {
        return story;
    };
    for number in 1..=24 {
        let owed = match number % 8 {
            0 => (0..40)
                .map(|place| EndpointId::Named(format!("e{place}").into()))
                .collect(),
            1 => vec![EndpointId::Named("a".into()), EndpointId::Named("b".into())],
            _ => vec![EndpointId::Named("ci".into())],
        };
        story.take(&mut hand, vec![Push { owed, ..push(number) }]);
        story.settle(&hand, |sequence| sequence % 4 != 1);
    }
    story.take(&mut hand, (100..125).map(push).collect());
    story.settle(&hand, |sequence| sequence != 9);
    if hand.writer.is_some() {
        time::pass(settling::SYNC_WITHIN);
        hand.calm_down();
    }
    if hand.writer.is_some() {
        let closed = hand.journal.close();
        hand.turn();
        closed.now_or_never().unwrap();
    }
    drop(hand);
    let Some(mut hand) = start(storage) else {
        return story;
    };
    story.take(&mut hand, vec![push(200)]);
    if hand.writer.is_some() {
        hand.calm_down();
    }
    story
}

fn start(storage: &Arc<Faulty>) -> Option<Hand> {
    match try_open(storage, OPTIONS) {
        Ok(hand) => Some(hand),
        Err(OpenError::Io { .. }) => None,
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn whichever_call_fails_and_however_nothing_acknowledged_is_lost() {
    let clean = Faulty::new();
    let story = representative(&clean);
    assert_eq!(story.acknowledged.len(), 50);
    let ways = [
        Trouble::Fail(ErrorKind::Other),
        Trouble::Fail(ErrorKind::StorageFull),
        Trouble::Short(ErrorKind::Other),
        Trouble::Short(ErrorKind::StorageFull),
    ];
    println!("{} calls, each failing in {} ways", clean.calls(), ways.len());
    for trouble in ways {
        for nth in 0..clean.calls() {
            let storage = Faulty::new();
            storage.trouble(Call::Any, trouble, nth, 1);
            let story = representative(&storage);
            storage.heal();
            for storage in [storage.after_power_loss(), storage.after_kill()] {
                let mut again = open(&storage);
                let pending = again.pending_ids();
                for id in &story.acknowledged {
                    let is_kept = pending.contains(id) || story.settled.contains(id);
                    assert!(is_kept, "{trouble:?} at call {nth}, and {id} is lost");
                }
                assert!(
                    again.pending.is_sorted_by(|a, b| a.sequence < b.sequence),
                    "{trouble:?} at call {nth}"
                );
                again.take(999).unwrap();
                again.close();
                assert!(open(&storage).pending_ids().contains(&"event-999".to_owned()));
            }
        }
    }
}

#[test]
fn a_disk_that_lies_about_one_sync_costs_no_more_than_what_it_lied_about() {
    let clean = Faulty::new();
    representative(&clean);
    for nth in 0..clean.calls() {
        let storage = Faulty::new();
        storage.trouble(Call::Sync, Trouble::Lie, nth, 1);
        representative(&storage);
        // What it swore to have kept may be gone, and then the start says so or goes on without it.
        match try_open(&storage.after_power_loss(), OPTIONS) {
            Ok(mut hand) => hand.take(999).unwrap(),
            Err(OpenError::Damaged { .. }) => {}
            Err(other) => panic!("call {nth}: {other}"),
        }
    }
}

#[test]
fn appends_that_come_while_the_disk_is_slow_share_the_next_commit() {
    let storage = Faulty::new();
    let opened = {
        let storage: Arc<dyn Storage> = Arc::<Faulty>::clone(&storage);
        recovery::open(&storage, OPTIONS, clock(), Filling::OnDemand).unwrap()
    };
    let journal = opened.journal;
    let slow = std::time::Duration::from_millis(50);
    storage.trouble(Call::Sync, Trouble::Delay(slow), 0, 1);
    let thread = opened.writer.start(Box::new(|_| {})).unwrap();
    let answers: Vec<_> = (1..=12)
        .map(|number| {
            if number == 2 {
                // The first is on its way to the disk, and nobody hurries it.
                while journal.stats().waiting > 0 {
                    std::thread::yield_now();
                }
            }
            journal.append(vec![Item::Push(push(number))])
        })
        .collect();
    for answer in answers {
        futures_executor(answer).unwrap();
    }
    futures_executor(journal.close());
    thread.join().unwrap();
    assert_eq!(journal.stats().commits, 2);
}
