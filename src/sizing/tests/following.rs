//! Repositories that change without a webhook are sized, as far as anybody sees them, until the process stops.

use std::future::{pending, ready};

use tokio::{sync::mpsc, time::timeout};

use super::{super::following::WAIT, *};
use crate::lifecycle::Tasks;

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn what_is_shown_is_sized_and_told_and_what_is_not_is_not_asked_for() {
    let bench = Bench::start().await;
    let (following, tasks) = (Following::default(), Tasks::new());
    let (told, mut tellings) = mpsc::unbounded_channel();
    let tell = move |repository: &RepositoryName, size| told.send((repository.clone(), size)).unwrap();
    let is_shown = |name| ready(name == repository());
    let sizing = bench.sizing.clone();
    let run = following
        .clone()
        .run(sizing, PATIENCE, is_shown, tell, tasks.soft().clone());
    tasks.spawn("following", run);

    let image = Made::image(("config", 10), &[("layer", 300)]);
    let hidden = Change::Tagged {
        repository: other(),
        tag: "1".parse().unwrap(),
        digest: image.digest.clone(),
    };
    bench.sizing.apply(&hidden);
    following.note(&hidden);
    bench.push("1", &image);
    following.note(&tagged("1", &image.digest));
    pass(WAIT).await;
    let first = timeout(PATIENCE, tellings.recv()).await.unwrap();
    assert_eq!(first, Some((repository(), 310 + image.bytes())));
    let asked = bench.fake.take_asked();
    assert!(!asked.is_empty());
    assert!(asked.iter().all(|asked| !asked.line().contains("acme/other")));

    // As a webhook tells it of what comes next.
    let second = Made::image(("other", 20), &[("layer", 300), ("more", 4000)]);
    bench.push("2", &second);
    following.note(&tagged("2", &second.digest));
    pass(WAIT).await;
    let told = timeout(PATIENCE, tellings.recv()).await.unwrap();
    let webhook = bench.size(pushed(&second)).await;
    assert_eq!(told.map(|(_, size)| size), webhook.repository_size);

    tasks.soft().cancel();
    timeout(PATIENCE, tasks.ended()).await.unwrap();
}

#[tokio::test]
async fn it_stops_at_once_whatever_it_waits_for() {
    let bench = Bench::start().await;
    bench.fake.silent(true);
    let stops = async |is_stuck_looking: bool| {
        let (following, tasks) = (Following::default(), Tasks::new());
        let (looked, mut looks) = mpsc::unbounded_channel();
        let is_shown = move |_| {
            looked.send(()).unwrap();
            async move {
                if is_stuck_looking {
                    pending::<()>().await;
                }
                true
            }
        };
        let sizing = bench.sizing.clone();
        let hour = Duration::from_hours(1);
        let run = following
            .clone()
            .run(sizing, hour, is_shown, |_, _| {}, tasks.soft().clone());
        tasks.spawn("following", run);
        following.note(&tagged("1", &digest_of("image")));
        pass(WAIT).await;
        timeout(PATIENCE, looks.recv()).await.unwrap();
        if !is_stuck_looking {
            bench.asked(1).await;
        }
        tasks.soft().cancel();
        timeout(PATIENCE, tasks.ended()).await.unwrap();
    };
    stops(true).await;
    stops(false).await;
}
