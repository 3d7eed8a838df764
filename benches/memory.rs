//! What the queue takes of memory and time: a million pushes over a hundred thousand repositories, owed by
//! one endpoint.
//!
//! Each state is built in a process of its own, and told as the growth of its resident memory from
//! before the first push, so the allocator's overhead is in it. `PUSHES` and `REPOSITORIES` in the
//! environment change the numbers.

use std::{fs, process::Command, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use shipbell::{
    clock::Timestamp,
    glob::Patterns,
    image::{Digest, MediaType, RepositoryName, Tag},
    journal::{Durable, OwedPush, OwedRun},
    push::{EndpointId, Push, Sequence},
    queue::{Completion, Passage, Queue},
    secret::Secret,
    webhook::{Batching, Coalesce, Endpoint, Endpoints, Format, Rate, guard::Author},
};
use tokio::time::Instant;

const WINDOW: Duration = Duration::from_secs(2);

/// Pushes that are made at once, or repositories whose pushes are: the making is not measured.
const AT_ONCE: usize = 4096;

/// What a push takes on disk, bytes.
const RECORD_BYTES: u32 = 400;

const STATES: [&str; 3] = ["gathering", "failing", "restored"];

fn main() -> anyhow::Result<()> {
    let state = std::env::args().find(|argument| STATES.contains(&argument.as_str()));
    if let Some(state) = state {
        return measure(&state);
    }
    for state in STATES {
        let status = Command::new(std::env::current_exe()?).arg(state).status()?;
        ensure!(status.success(), "{state}: {status}");
    }
    Ok(())
}

fn measure(state: &str) -> anyhow::Result<()> {
    let pushes = number_from_environment("PUSHES", 1_000_000)?;
    let repositories = number_from_environment("REPOSITORIES", 100_000)?;
    let endpoints = endpoints();
    let (queue, now) = (Queue::new(), Instant::now());
    let by_repository = if state == "restored" {
        by_repository(pushes, repositories)?
    } else {
        Vec::new()
    };
    let before = resident_bytes()?;
    let mut busy_ns = 0;
    if state == "restored" {
        let owed = Arc::from([(0, EndpointId::Named("ci".into()))]);
        let mut restoring = queue.restoring(&endpoints, now);
        for (numbers, first) in by_repository.chunks(AT_ONCE).zip((0..).step_by(AT_ONCE)) {
            let tags = |numbers: &Vec<u64>| numbers.iter().map(|number| tag(*number, repositories)).collect();
            let tags: anyhow::Result<Vec<Vec<Tag>>> = numbers.iter().map(tags).collect();
            let tags = tags?;
            let names: anyhow::Result<Vec<_>> = (first..).take(numbers.len()).map(repository).collect();
            let names = names?;
            let begun_ns = busy_ns_until_now()?;
            for ((numbers, tags), repository) in numbers.iter().zip(&tags).zip(&names) {
                let pushes = numbers.iter().zip(tags).map(|(number, tag)| OwedPush {
                    sequence: Sequence::new(*number).unwrap_or(Sequence::FIRST),
                    bytes: RECORD_BYTES,
                    tag: tag.as_str(),
                });
                let pushes: Vec<_> = pushes.collect();
                let run = OwedRun {
                    repository,
                    owed: &owed,
                    pushes: &pushes,
                    is_overtaken: false,
                    is_last: true,
                };
                let orphans = restoring.take(&run);
                ensure!(orphans.is_empty(), "the endpoint is known");
            }
            busy_ns += busy_ns_until_now()? - begun_ns;
        }
        let begun_ns = busy_ns_until_now()?;
        restoring.finish();
        busy_ns += busy_ns_until_now()? - begun_ns;
    } else {
        for from in (1..=pushes).step_by(AT_ONCE) {
            let to = pushes.min(from + AT_ONCE as u64 - 1);
            let chunk: anyhow::Result<Vec<_>> =
                (from..=to).map(|number| durable(number, repositories)).collect();
            let chunk = chunk?;
            let begun_ns = busy_ns_until_now()?;
            for push in &chunk {
                assert_eq!(queue.apply(push, &endpoints, now), []);
            }
            busy_ns += busy_ns_until_now()? - begun_ns;
        }
    }
    if state == "failing" {
        fail_all(&queue, repositories, now + WINDOW)?;
    }
    let grown = resident_bytes()?.saturating_sub(before);
    ensure!(queue.pending() as u64 == pushes, "nothing was superseded");
    println!(
        "{state:>10}: {} MiB, {} bytes a push, {} bytes a repository; {} ns a push to insert",
        grown >> 20,
        grown / pushes,
        grown / repositories,
        busy_ns / pushes,
    );
    Ok(())
}

/// Closes every window, and has each lane's first attempt fail by the endpoint's fault: all wait in its line.
fn fail_all(queue: &Queue, repositories: u64, now: Instant) -> anyhow::Result<()> {
    for number in 0..repositories {
        let name = repository(number)?;
        for lease in queue.advance(&name, now).leases {
            let from = now + Duration::from_hours(1);
            let _ = queue.set_passage(&lease.endpoint, Passage::Narrow { from }, now);
            queue.complete(&name, &lease, Completion::Returned, now);
        }
    }
    Ok(())
}

fn repository(number: u64) -> anyhow::Result<RepositoryName> {
    let name = format!("team-{}/service-{}", number % 1_000, number);
    Ok(name.parse()?)
}

/// The repository of a push, by number.
fn place(push: u64, repositories: u64) -> u64 {
    scrambled(push) % repositories
}

fn scrambled(push: u64) -> u64 {
    push.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The pushes of each repository.
fn by_repository(pushes: u64, repositories: u64) -> anyhow::Result<Vec<Vec<u64>>> {
    let mut all = vec![Vec::new(); usize::try_from(repositories)?];
    for push in 1..=pushes {
        let numbers = all.get_mut(usize::try_from(place(push, repositories))?);
        numbers.context("a repository")?.push(push);
    }
    Ok(all)
}

/// Tags as a build's pipeline makes them.
fn tag(number: u64, repositories: u64) -> anyhow::Result<Tag> {
    let scrambled = scrambled(number);
    let round = number / repositories;
    let tag = match number % 3 {
        0 => format!("1.{round}.{}", scrambled >> 58),
        1 => format!("sha-{:07x}", scrambled >> 36),
        _ => format!("main-202611{:02}-{:07x}", 1 + round % 30, scrambled >> 36),
    };
    Ok(tag.parse()?)
}

fn durable(number: u64, repositories: u64) -> anyhow::Result<Durable> {
    let repository = repository(place(number, repositories))?;
    let tag = tag(number, repositories)?;
    Ok(Durable {
        sequence: Sequence::new(number).context("from 1")?,
        bytes: RECORD_BYTES,
        push: Push {
            event_id: String::new(),
            repository,
            tag: Some(tag),
            digest: Digest::sha256(&number.to_be_bytes()),
            media_type: MediaType::OciManifest,
            manifest_size: 0,
            references: Vec::new(),
            actor: String::new(),
            taken_at: Timestamp::default(),
            owed: vec![EndpointId::Named("ci".into())],
        },
    })
}

fn endpoints() -> Endpoints {
    let all = Arc::new(Patterns::everything());
    Endpoints::new(vec![Endpoint {
        id: EndpointId::Named("ci".into()),
        author: Author::Operator,
        url: Secret::inline("http://127.0.0.1:1/"),
        secret: None,
        previous_secret: None,
        format: Format::Native,
        headers: Vec::new(),
        repositories: Arc::clone(&all),
        tags: all.into(),
        exclude_tags: Arc::default(),
        batching: Arc::new(Batching {
            window: WINDOW,
            pushes_max: 100,
            coalesce: Coalesce::Tag,
        }),
        rate: Rate { per_second: None },
        way: None,
    }])
}

/// How long this thread has had a processor: what others do on the machine is not in it.
fn busy_ns_until_now() -> anyhow::Result<u64> {
    let status = fs::read_to_string("/proc/thread-self/schedstat")?;
    let ns = status
        .split_whitespace()
        .next()
        .context("schedstat's first number")?;
    Ok(ns.parse()?)
}

fn resident_bytes() -> anyhow::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line
        .and_then(|line| line.split_whitespace().nth(1))
        .context("VmRSS in kB")?;
    Ok(kib.parse::<u64>()? * 1024)
}

#[expect(clippy::disallowed_methods, reason = "the benchmark's own two settings")]
fn number_from_environment(name: &str, default: u64) -> anyhow::Result<u64> {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("{name} is a number, not {text:?}")),
        Err(_) => Ok(default),
    }
}
