//! Endpoints that hang hold up nobody else (CONTRACT 4 and 5).

use std::{
    fs,
    io::Write,
    iter,
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    SOON, envelope, eventually, folder,
    privilege::{self, Capability},
    raw::{RawReceiver, read_request, wait_for_close},
    receiver::{Answer, Receiver},
    shipbell::{Config, Shipbell},
    story,
};

/// Attempts that may be under way in the fast pool, and half as many again may move out of it.
const CONCURRENCY: usize = 8;
const HANGING: usize = 8;
const TRICKLING: usize = 2;
const SILENT: usize = 2;

fn push(repository: &str) -> String {
    envelope::of(&[envelope::push(repository, "1", repository)])
}

/// The endpoint of one repository.
fn endpoint(config: Config, repository: &str, url: &str) -> Config {
    let name = repository.replace('/', "-");
    config.with(&format!(
        "[[endpoints]]\nname = '{name}'\nrepositories = ['{repository}']\nurl = '{url}'"
    ))
}

/// An answer that never ends, a byte of it every now and then.
fn trickling(stopped: &Arc<AtomicBool>) -> RawReceiver {
    let stopped = Arc::clone(stopped);
    RawReceiver::start(move |stream| {
        read_request(stream)?;
        stream.write_all(b"HTTP/1.1 200 OK\r\nX-Slow: ")?;
        while !stopped.load(Ordering::Acquire) {
            stream.write_all(b"z")?;
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    })
}

/// No answer.
fn silent() -> RawReceiver {
    RawReceiver::start(|stream| {
        read_request(stream)?;
        wait_for_close(stream)
    })
}

#[test]
fn more_endpoints_that_hang_than_attempts_at_once_delay_nobody_and_each_has_its_one_attempt() {
    let stopped = Arc::new(AtomicBool::new(false));
    let hanging: Vec<Receiver> = (0..HANGING)
        .map(|_| Receiver::scripted(|_| Answer::Hold))
        .collect();
    let raw: Vec<RawReceiver> = (0..TRICKLING)
        .map(|_| trickling(&stopped))
        .chain((0..SILENT).map(|_| silent()))
        .collect();
    let healthy = Receiver::start();
    // Longer than the test may take: nothing that hangs ends by itself.
    let mut config = Config::without_registry().with(&format!(
        "batch.window = '0s'\n[delivery]\nconcurrency = {CONCURRENCY}\ntimeout = '2m'"
    ));
    let urls = (hanging.iter().map(|receiver| receiver.url("/")))
        .chain(raw.iter().map(|receiver| receiver.url("/")));
    let dead: Vec<String> = (0..HANGING + TRICKLING + SILENT)
        .map(|number| format!("dead/{number}"))
        .collect();
    for (repository, url) in dead.iter().zip(urls) {
        config = endpoint(config, repository, &url);
    }
    let well: Vec<String> = (0..2 * CONCURRENCY)
        .map(|number| format!("well/{number}"))
        .collect();
    for repository in &well {
        config = endpoint(config, repository, &healthy.url("/"));
    }
    let shipbell = Shipbell::start(config);

    let asked = || {
        let hanging = hanging.iter().map(|receiver| receiver.requests().len());
        hanging
            .chain(raw.iter().map(RawReceiver::accepted))
            .sum::<usize>()
    };
    for repository in &dead {
        shipbell.take(push(repository));
    }
    eventually("they hold as many places as there are", SOON, || {
        (asked() >= CONCURRENCY).then_some(())
    });
    for repository in &well {
        shipbell.take(push(repository));
    }
    healthy.wait_for(well.len(), SOON);
    eventually("all that hang were asked", SOON, || {
        (asked() == dead.len()).then_some(())
    });
    eventually("they hang in the slow pool", SOON, || {
        let slow = shipbell.metric("shipbell_attempts_under_way{pool=\"slow\"}");
        let fast = shipbell.metric("shipbell_attempts_under_way{pool=\"fast\"}");
        (slow == dead.len() as u64 && fast == 0).then_some(())
    });

    // They were moved and not cut: what is answered at last is delivered, by the first attempt.
    for receiver in &hanging {
        receiver.release();
    }
    for repository in dead.iter().take(HANGING) {
        let attempt = story::attempt(&shipbell, &format!("{repository}:1"), 0, SOON);
        assert_eq!(attempt["status"], 200, "{attempt}");
    }
    assert_eq!(asked(), dead.len(), "nobody was asked twice");
    stopped.store(true, Ordering::Release);
}

/// A name server that is asked and says nothing.
struct DeafNames {
    socket: UdpSocket,
    folder: TempDir,
}

impl DeafNames {
    /// `None` where `test` may not have one.
    fn start<T: Copy>(test: T) -> Option<Self> {
        if !privilege::has(test, &[Capability::SysAdmin]) {
            return None;
        }
        // A resolver asks at this port and no other; the loopback network has addresses enough.
        let socket = (1..=254).find_map(|last| UdpSocket::bind((format!("127.77.53.{last}"), 53)).ok());
        let Some(socket) = socket else {
            privilege::skipped(test, "a name server's port can't be had");
            return None;
        };
        socket.set_nonblocking(true).unwrap();
        let folder = folder();
        let address = socket.local_addr().unwrap().ip();
        let resolver = format!("nameserver {address}\noptions timeout:30 attempts:2\n");
        fs::write(folder.path().join("resolv.conf"), resolver).unwrap();
        Some(Self { socket, folder })
    }

    /// Has a command that is run by it ask this one: among mounts of its own the resolver's file is another.
    fn command(&self) -> [String; 5] {
        let file = self.folder.path().join("resolv.conf");
        let script = format!(
            "mount --bind '{}' /etc/resolv.conf && exec \"$0\" \"$@\"",
            file.display()
        );
        ["unshare", "--mount", "sh", "-c", &script].map(str::to_owned)
    }

    /// Questions since the last look.
    fn asked(&self) -> usize {
        let mut question = [0; 512];
        iter::from_fn(|| self.socket.recv(&mut question).ok()).count()
    }
}

#[test]
fn names_that_a_resolver_never_answers_for_delay_nobody_and_stop_no_shutdown() {
    let test = names_that_a_resolver_never_answers_for_delay_nobody_and_stop_no_shutdown;
    let Some(names) = DeafNames::start(test) else {
        return;
    };
    let healthy = Receiver::start();
    let mut config = Config::without_registry().under(&names.command()).with(&format!(
        "batch.window = '0s'\n[delivery]\nconcurrency = {CONCURRENCY}\ntimeout = '15s'\nretry_schedule = ['1h']"
    ));
    let lost: Vec<String> = (0..CONCURRENCY + CONCURRENCY / 2)
        .map(|number| format!("lost/{number}"))
        .collect();
    for (number, repository) in lost.iter().enumerate() {
        config = endpoint(config, repository, &format!("http://hook{number}.example/"));
    }
    let well: Vec<String> = (0..2 * CONCURRENCY)
        .map(|number| format!("well/{number}"))
        .collect();
    for repository in &well {
        config = endpoint(config, repository, &healthy.url("/"));
    }
    let mut shipbell = Shipbell::start(config);
    for repository in &lost {
        shipbell.take(push(repository));
    }
    let mut asked = 0;
    eventually("names are asked for", SOON, || {
        asked += names.asked();
        (asked >= CONCURRENCY).then_some(())
    });
    for repository in &well {
        shipbell.take(push(repository));
    }
    healthy.wait_for(well.len(), SOON);
    eventually("none of them has ended: nobody waited for that", SOON, || {
        let slow = shipbell.metric("shipbell_attempts_under_way{pool=\"slow\"}");
        (slow == lost.len() as u64).then_some(())
    });
    for repository in &lost {
        let attempt = story::attempt(&shipbell, &format!("{repository}:1"), 0, SOON);
        let number = repository.trim_start_matches("lost/");
        let reason = format!("the name hook{number}.example can't be resolved: no answer came in time");
        assert_eq!(attempt["reason"], reason, "{attempt}");
        assert_eq!(attempt["status"], Value::Null, "no request was made");
    }
    // The threads that ask wait on for a minute.
    let began = Instant::now();
    shipbell.stop();
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}
