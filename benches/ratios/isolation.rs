//! The row `isolation`: what endpoints that hang cost those that answer.
//!
//! A thousand endpoints of a repository each, pushed to in turn at a steady rate, from the first push of a fresh
//! process on, without a window. Of ten none, one or nine take connections and never answer. What is compared is the
//! 99th percentile, from posting a push to its webhook, of those endpoints which answer in both runs of a round.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};

use super::{
    settings::Settings,
    sinks::{Manner, Sinks, Told},
    support::{
        envelope,
        shipbell::{Config, Shipbell, post},
        wait,
    },
    table::{Row, Unit, Wanted},
};

/// The names of the rows.
pub(crate) const ROWS: [&str; 1] = ["isolation"];

const ENDPOINTS: u32 = 1_000;
const PER_SECOND: u32 = 400;
const POSTERS: u32 = 4;

/// Of ten endpoints, how many hang.
const DEAD: [u32; 3] = [0, 1, 9];

/// How long the last webhooks are waited for.
const LATE: Duration = Duration::from_secs(30);

type Moments = HashMap<String, Instant>;

/// Measures, and makes rows of it.
pub(crate) fn rows(settings: &Settings) -> anyhow::Result<Vec<Row>> {
    let pushes = PER_SECOND * if settings.is_quick { 6 } else { 20 };
    let mut rounds = Vec::new();
    for round in 0..settings.rounds(5) {
        let mut order = DEAD;
        order.rotate_left(round % DEAD.len());
        let mut latencies = HashMap::new();
        for dead in order {
            latencies.insert(dead, run(dead, pushes)?);
        }
        rounds.push(latencies);
    }
    let rows = DEAD.iter().filter(|dead| **dead > 0).map(|&dead| {
        let of = |hung: u32| -> anyhow::Result<Vec<f64>> {
            let p99 = |round: &HashMap<u32, Latencies>| p99_micros(round.get(&hung)?, dead);
            let values = rounds.iter().map(|round| p99(round).context("no latencies"));
            values.collect()
        };
        Ok(Row::of_ratios(
            format!("isolation, {ENDPOINTS} endpoints of which {dead}0 % hang: p99 from push to webhook of the others"),
            "shipbell",
            Unit::Micros,
            &of(dead)?,
            &of(0)?,
            Wanted::AtMost(1.5),
        ))
    });
    rows.collect()
}

/// From posting to arriving, by endpoint.
type Latencies = Vec<(u32, Duration)>;

fn hangs(endpoint: u32, dead: u32) -> bool {
    endpoint % 10 < dead
}

fn p99_micros(latencies: &Latencies, dead: u32) -> Option<f64> {
    let others = latencies.iter().filter(|(endpoint, _)| !hangs(*endpoint, dead));
    let mut micros: Vec<u128> = others.map(|(_, latency)| latency.as_micros()).collect();
    micros.sort_unstable();
    let micros = *micros.get(micros.len().saturating_sub(1) * 99 / 100)?;
    Some(f64::from(u32::try_from(micros).unwrap_or(u32::MAX)))
}

fn repository(endpoint: u32) -> String {
    format!("team/service-{endpoint}")
}

fn run(dead: u32, pushes: u32) -> anyhow::Result<Latencies> {
    let came: Arc<Mutex<Moments>> = Arc::default();
    let told: Told = {
        let came = Arc::clone(&came);
        Arc::new(move |image| {
            let now = Instant::now();
            let mut came = came.lock().unwrap_or_else(PoisonError::into_inner);
            came.entry(image.to_owned()).or_insert(now);
        })
    };
    let manners: Vec<Manner> = (0..ENDPOINTS)
        .map(|endpoint| {
            if hangs(endpoint, dead) {
                Manner::Hangs
            } else {
                Manner::Answers
            }
        })
        .collect();
    let sinks = Sinks::start(&manners, &told)?;
    let nothing = Sinks::start(&[Manner::KnowsNothing], &told)?;
    let endpoints = (0..).zip(&sinks.ports).map(|(endpoint, port): (u32, _)| {
        let repository = repository(endpoint);
        let url = format!("http://127.0.0.1:{port}/hook");
        format!("[[endpoints]]\nname = 'e{endpoint}'\nrepositories = ['{repository}']\nurl = '{url}'\n")
    });
    let text: String = ["batch.window = '0s'\nlog.level = 'error'\n".to_owned()]
        .into_iter()
        .chain(endpoints)
        .collect();
    let [registry] = nothing.ports[..] else {
        bail!("one port");
    };
    let registry = format!("http://127.0.0.1:{registry}");
    let shipbell = Shipbell::start(Config::with_defaults(&registry).with(&text));
    let posted = post_all(shipbell.ingest(), pushes)?;

    let expected = (0..pushes)
        .filter(|number| !hangs(number % ENDPOINTS, dead))
        .count();
    let count = || came.lock().unwrap_or_else(PoisonError::into_inner).len();
    let all_came = wait::poll(LATE, || (count() >= expected).then_some(()));
    ensure!(all_came.is_some(), "{} of {expected} webhooks came", count());
    let came = came.lock().unwrap_or_else(PoisonError::into_inner);
    let latency = |(image, (endpoint, at)): (&String, &(u32, Instant))| {
        let came = came.get(image)?;
        Some((*endpoint, came.saturating_duration_since(*at)))
    };
    Ok(posted.iter().filter_map(latency).collect())
}

/// Posts so many pushes, evenly; the endpoint and the moment of each image.
fn post_all(ingest: u16, pushes: u32) -> anyhow::Result<HashMap<String, (u32, Instant)>> {
    let begun = Instant::now();
    let post_some = |poster: u32| {
        let mut posted = Vec::new();
        for number in (poster..pushes).step_by(POSTERS as usize) {
            let due = begun + Duration::from_secs(1) * number / PER_SECOND;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let (endpoint, tag) = (number % ENDPOINTS, format!("v{}", number / ENDPOINTS));
            let repository = repository(endpoint);
            let event = envelope::numbered(&repository, &tag, u64::from(number) + 1);
            let at = Instant::now();
            let status = post(ingest, envelope::of(&[event]))?.status;
            ensure!(status == 202, "a push was answered {status}");
            posted.push((format!("{repository}:{tag}"), (endpoint, at)));
        }
        Ok(posted)
    };
    let posted: anyhow::Result<Vec<_>> = thread::scope(|scope| {
        let posters: Vec<_> = (0..POSTERS)
            .map(|poster| scope.spawn(move || post_some(poster)))
            .collect();
        let join = |poster: thread::ScopedJoinHandle<'_, _>| poster.join().ok().context("a poster failed")?;
        posters.into_iter().map(join).collect()
    });
    Ok(posted?.into_iter().flatten().collect())
}
