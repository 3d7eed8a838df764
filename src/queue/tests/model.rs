//! Whatever happens, every push ends once and in order.

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Push { tag: u8, both: bool },
    Wait(u16),
    Complete { which: u8, how: u8 },
    GiveUp { which: u16 },
}

fn steps(tags: u8) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..tags, any::<bool>()).prop_map(|(tag, both)| Step::Push { tag, both }),
        2 => (0..3_000u16).prop_map(Step::Wait),
        3 => (any::<u8>(), 0..6u8).prop_map(|(which, how)| Step::Complete { which, how }),
        1 => any::<u16>().prop_map(|which| Step::GiveUp { which }),
    ];
    proptest::collection::vec(step, 1..200)
}

proptest! {
    /// Whatever happens: each (push, endpoint) ends exactly once, deliveries reach an endpoint in order,
    /// tells how often it was sent, a superseded push always has a newer one of its tag, and the queue drains to nothing.
    #[test]
    fn every_push_ends_once_and_in_order(steps in (1..50u8).prop_flat_map(steps), coalesce in any::<bool>()) {
        let coalesce = if coalesce { Coalesce::Tag } else { Coalesce::None };
        let batching = Batching { window: Duration::from_secs(1), pushes_max: 5, coalesce };
        let (mut queue, mut now) = (Repository::default(), Instant::now());
        let (mut taken, mut open) = (Vec::new(), Vec::<Lease>::new());
        let mut ended: HashMap<(String, u64), Settlement> = HashMap::new();
        let mut delivered: HashMap<String, u64> = HashMap::new();
        let mut sent = HashMap::<(String, u64), u32>::new();
        let mut follow = |effects: Effects, open: &mut Vec<Lease>, sent: &HashMap<(String, u64), u32>| {
            for settled in effects.settled {
                let key = (settled.endpoint.to_string(), settled.sequence.get());
                prop_assert_eq!(settled.attempts, Some(sent.get(&key).copied().unwrap_or_default()));
                if settled.how == Settlement::Delivered {
                    let last = delivered.insert(key.0.clone(), key.1);
                    prop_assert!(last.is_none_or(|last| last < key.1), "out of order");
                }
                prop_assert!(ended.insert(key, settled.how).is_none(), "ended twice");
            }
            open.extend(effects.leases);
            Ok(())
        };
        let rest = std::iter::repeat_n([Step::Wait(60_000), Step::Complete { which: 0, how: 0 }], 400).flatten();
        for step in steps.into_iter().chain(rest) {
            match step {
                Step::Push { tag, both } => {
                    let number = taken.len() as u64 + 1;
                    let endpoints: &[&str] = if both { &["a", "b"] } else { &["a"] };
                    taken.push((format!("t{tag}"), endpoints));
                    push(&mut queue, number, &format!("t{tag}"), endpoints, batching, now);
                }
                Step::Wait(ms) => {
                    now += Duration::from_millis(ms.into());
                    follow(queue.advance(now), &mut open, &sent)?;
                }
                Step::Complete { which, how } if !open.is_empty() => {
                    let lease = open.remove(usize::from(which) % open.len());
                    let at = now + Duration::from_millis(500);
                    let (completion, was_sent) = match how {
                        0 => (DELIVERED, true),
                        1 => (Completion::Settled(Settlement::DeadLetter), true),
                        2 => (Completion::Returned, false),
                        3 => (Completion::Failed, true),
                        4 => (Completion::GivenUp, false),
                        _ => (Completion::Retry { at }, true),
                    };
                    *sent.entry((lease.endpoint.to_string(), lease.sequence.get())).or_default() += u32::from(was_sent);
                    follow(queue.complete(&lease, completion, now), &mut open, &sent)?;
                }
                Step::GiveUp { which } if !taken.is_empty() => {
                    let number = u64::from(which) % taken.len() as u64 + 1;
                    let is_open = open.iter().any(|lease| (&*lease.endpoint, lease.sequence) == (&named("a"), sequence(number)));
                    let given_up = queue.give_up(number, "a");
                    prop_assert_eq!(matches!(given_up, GivenUp::InFlight), is_open);
                    if let GivenUp::Settled(settled) = given_up {
                        prop_assert_eq!(settled.sequence, sequence(number));
                        follow(Effects { settled: vec![settled], ..Effects::default() }, &mut open, &sent)?;
                    }
                }
                Step::Complete { .. } | Step::GiveUp { .. } => {}
            }
            for (index, lease) in open.iter().enumerate() {
                prop_assert!(open[..index].iter().all(|other| other.endpoint != lease.endpoint), "two at a time");
            }
        }
        prop_assert!(queue.is_empty() && open.is_empty());
        for (index, (tag, endpoints)) in taken.iter().enumerate() {
            for endpoint in *endpoints {
                let how = ended.get(&((*endpoint).to_string(), index as u64 + 1)).copied();
                prop_assert!(how.is_some(), "lost");
                if how == Some(Settlement::Superseded) {
                    let newer = taken[index + 1..].iter().any(|(other, to)| other == tag && to.contains(endpoint));
                    prop_assert!(newer && coalesce == Coalesce::Tag);
                }
            }
        }
    }
}
