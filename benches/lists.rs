//! How long the lists and pages of the admin listener take when there is a lot to list: `cargo bench --bench lists`.
//!
//! A history of 1,000,000 deliveries and attempts, half of them of one repository, the others of 100,000 that have each a
//! webhook of its own, written into the files as the program itself would have, and the real process on top. Each path is
//! asked for by a new connection, 20 times; the table has the median and the longest, in ms. Then every combination of
//! filters of deliveries, for what finds nothing, the oldest alone, or everything, from the newest on and from the
//! middle. Wanted: none above 100 ms. `QUICK=1` does a tenth.

use std::{
    fs,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use chrono::DateTime;
use rusqlite::{Connection, params};

/// So often each path is asked for.
const ROUNDS: usize = 20;

/// So often each path of the combinations of filters: there are some thousand.
const ROUNDS_EACH: usize = 3;

const WANTED: Duration = Duration::from_millis(100);

/// The identity of a journal that is not the process's own: nothing of it is pending.
const JOURNAL: &str = "00000000000000000000000000000001";
const JOURNAL_NUMBER: i64 = 1000;

/// The repository that half of all deliveries are of, and its oldest ones: they alone went to the endpoint `old`, and are
/// in the state `unknown`.
const MONO: &str = "mono/app";
const OLDEST: u32 = 100;

/// Between two pushes, milliseconds.
const EACH_MS: i64 = 100;

fn main() -> anyhow::Result<()> {
    let scale = if is_quick() { 10 } else { 1 };
    let (deliveries, repositories) = (1_000_000 / scale, 100_000 / scale);
    let folder = tempfile::tempdir()?;
    let ports = [free_port()?, free_port()?, free_port()?];
    let [ingest, ops, admin] = ports;
    let file = folder.path().join("shipbell.toml");
    let data = folder.path().join("data");
    fs::write(
        &file,
        format!(
            "data_dir = '{}'\n[ingest]\nlisten = '127.0.0.1:{ingest}'\n[ops]\nlisten = '127.0.0.1:{ops}'\n\
             [admin]\nlisten = '127.0.0.1:{admin}'\n[log]\nlevel = 'warn'\n\
             [delivery]\nhistory = '365d'\nhistory_max = '16GiB'\n",
            data.display()
        ),
    )?;
    Server::start(&file, ops)?.stop()?;
    let began = Instant::now();
    let now = i64::try_from(std::time::SystemTime::UNIX_EPOCH.elapsed()?.as_millis())?;
    fill_history(&data.join("catalog.db"), now, deliveries, repositories)?;
    fill_settings(&data.join("settings.db"), repositories)?;
    let bytes = fs::metadata(data.join("catalog.db"))?.len();
    println!(
        "{deliveries} deliveries, {repositories} repositories: {} MiB, written in {:.0} s",
        bytes / 1024 / 1024,
        began.elapsed().as_secs_f64()
    );
    let began = Instant::now();
    let server = Server::start(&file, ops)?;
    println!("ready after {:.2} s", began.elapsed().as_secs_f64());
    let measured = measure(admin, repositories).and_then(|is_short| {
        let combined = combined(admin, now, deliveries)?;
        Ok(is_short | combined | counted(admin, now, deliveries)?)
    });
    server.stop()?;
    let is_short = measured?;
    if is_short {
        println!("SHORT: some took longer than {} ms", WANTED.as_millis());
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the bench's own setting")]
fn is_quick() -> bool {
    std::env::var_os("QUICK").is_some()
}

/// Asks for every path, prints the table; whether any took too long.
fn measure(port: u16, repositories: u32) -> anyhow::Result<bool> {
    let image = |round: usize| {
        let number = round * 7919 % repositories as usize;
        format!("team{}/app{number}", number % 100)
    };
    let name = |round| image(round).replace('/', "%2F");
    let paths: &[(&str, &dyn Fn(usize) -> String)] = &[
        ("API repositories", &|_| {
            "/api/v1/repositories?limit=50".to_owned()
        }),
        ("API repositories by size", &|_| {
            "/api/v1/repositories?sort=size".to_owned()
        }),
        ("API repositories by last push", &|_| {
            "/api/v1/repositories?sort=last_push".to_owned()
        }),
        ("API repositories, search", &|round| {
            format!("/api/v1/repositories?q=app{}", round * 997)
        }),
        ("API repositories, search in vain", &|_| {
            "/api/v1/repositories?q=nothing-like-it".to_owned()
        }),
        ("API repositories, by size, in vain", &|_| {
            "/api/v1/repositories?sort=size&q=nothing-like-it".to_owned()
        }),
        ("API repositories, by last push, in vain", &|_| {
            "/api/v1/repositories?sort=last_push&q=nothing-like-it".to_owned()
        }),
        ("API repository", &|round| {
            format!("/api/v1/repositories/{}", name(round))
        }),
        ("API webhook", &|round| {
            format!("/api/v1/repositories/{}/webhook", name(round))
        }),
        ("API deliveries", &|_| "/api/v1/deliveries".to_owned()),
        ("API deliveries of a repository", &|round| {
            format!("/api/v1/deliveries?repository={}", name(round))
        }),
        ("API deliveries of an endpoint", &|_| {
            "/api/v1/deliveries?endpoint=ci".to_owned()
        }),
        ("API dead deliveries", &|_| {
            "/api/v1/deliveries?state=dead_letter".to_owned()
        }),
        ("API pending deliveries (none)", &|_| {
            "/api/v1/deliveries?state=pending".to_owned()
        }),
        ("API dead deliveries of a repository", &|round| {
            format!("/api/v1/deliveries?state=dead_letter&repository={}", name(round))
        }),
        ("API endpoints", &|_| "/api/v1/endpoints".to_owned()),
        ("API endpoints, failing (none)", &|_| {
            "/api/v1/endpoints?state=failing".to_owned()
        }),
        ("API dead letters", &|_| "/api/v1/dead-letters".to_owned()),
        ("API queue", &|_| "/api/v1/queue".to_owned()),
        ("API why", &|round| format!("/api/v1/why?image={}", image(round))),
        ("API overview", &|_| "/api/v1/overview".to_owned()),
        ("page overview", &|_| "/overview".to_owned()),
        ("page repositories", &|_| "/repositories".to_owned()),
        ("page repositories, search", &|round| {
            format!("/repositories?q=app{}", round * 997)
        }),
        ("page repository", &|round| {
            format!("/repositories/{}", name(round))
        }),
        ("page deliveries", &|_| "/deliveries".to_owned()),
        ("page deliveries, dead", &|_| {
            "/deliveries?state=dead_letter".to_owned()
        }),
        ("page endpoints", &|_| "/endpoints".to_owned()),
        ("page dead letters", &|_| "/dead-letters".to_owned()),
    ];
    println!("{:<40} {:>10} {:>10}", "", "median ms", "max ms");
    let mut is_short = false;
    for (what, path) in paths {
        let mut took = Vec::new();
        for round in 0..ROUNDS {
            let path = path(round);
            let began = Instant::now();
            let status = get(port, &path)?;
            took.push(began.elapsed());
            ensure!(
                matches!(status, 200 | 303 | 307 | 308),
                "{path} answered {status}"
            );
        }
        took.sort_unstable();
        let at = |place: usize| took.get(place).copied().unwrap_or_default();
        let (median, longest) = (at(ROUNDS / 2), at(ROUNDS - 1));
        let is_long = longest > WANTED;
        is_short |= is_long;
        println!(
            "{what:<40} {:>10.1} {:>10.1} {}",
            median.as_secs_f64() * 1e3,
            longest.as_secs_f64() * 1e3,
            if is_long { "SHORT" } else { "ok" }
        );
    }
    Ok(is_short)
}

/// What deliveries are filtered by.
struct Filter {
    repository: Option<&'static str>,
    endpoint: Option<&'static str>,
    state: Option<&'static str>,
    between: Option<(i64, i64)>,
}

impl Filter {
    fn query(&self) -> anyhow::Result<String> {
        let mut query = Vec::new();
        let given = [
            ("repository", self.repository),
            ("endpoint", self.endpoint),
            ("state", self.state),
        ];
        for (name, value) in given {
            query.extend(value.map(|value| format!("{name}={}", value.replace('/', "%2F"))));
        }
        if let Some((since, until)) = self.between {
            for (name, at) in [("since", since), ("until", until)] {
                let at = DateTime::from_timestamp_millis(at).context("no such time")?;
                query.push(format!("{name}={}", at.format("%FT%T%.3fZ")));
            }
        }
        Ok(query.join("&"))
    }

    fn name(&self) -> String {
        let given = [
            ("repository", self.repository.is_some()),
            ("endpoint", self.endpoint.is_some()),
            ("state", self.state.is_some()),
            ("time", self.between.is_some()),
        ];
        let names: Vec<_> = given
            .iter()
            .filter(|(_, given)| *given)
            .map(|(name, _)| *name)
            .collect();
        if names.is_empty() {
            "nothing".to_owned()
        } else {
            names.join(", ")
        }
    }
}

/// Every combination of what finds everything, the oldest alone, some, or nothing.
fn filters(now: i64, deliveries: u32) -> Vec<Filter> {
    let began = now - i64::from(deliveries) * EACH_MS;
    let half = began + i64::from(deliveries / 2) * EACH_MS;
    let times = [
        None,
        Some((began - 1_000, now + 1_000)),
        Some((began - 1_000, began + i64::from(2 * OLDEST) * EACH_MS)),
        Some((half, half + 600_000)),
        Some((now - 60_000, now)),
        Some((began - 7_200_000, began - 3_600_000)),
    ];
    let mut filters = Vec::new();
    for repository in [None, Some(MONO), Some("no/such")] {
        for endpoint in [None, Some("ci"), Some("old"), Some("none")] {
            for state in [
                None,
                Some("delivered"),
                Some("superseded"),
                Some("unknown"),
                Some("pending"),
            ] {
                filters.extend(times.map(|between| Filter {
                    repository,
                    endpoint,
                    state,
                    between,
                }));
            }
        }
    }
    filters
}

/// Asks by every combination of filters, by the API and for the page, prints a row for each set of them; whether any took
/// too long.
fn combined(port: u16, now: i64, deliveries: u32) -> anyhow::Result<bool> {
    let cursor = middle(port, now, deliveries)?;
    let mut rows: Vec<(String, Vec<(Duration, String)>)> = Vec::new();
    for filter in filters(now, deliveries) {
        let query = filter.query()?;
        let row = match rows.iter_mut().find(|(name, _)| *name == filter.name()) {
            Some((_, row)) => row,
            None => &mut rows.push_mut((filter.name(), Vec::new())).1,
        };
        for path in [
            format!("/api/v1/deliveries?{query}"),
            format!("/api/v1/deliveries?{query}&cursor={cursor}"),
            format!("/api/v1/deliveries?{query}&limit=1000"),
            format!("/deliveries?{query}"),
            format!("/deliveries?{query}&cursor={cursor}"),
        ] {
            for _ in 0..ROUNDS_EACH {
                let began = Instant::now();
                let status = get(port, &path)?;
                row.push((began.elapsed(), path.clone()));
                ensure!(status == 200, "{path} answered {status}");
            }
        }
    }
    println!(
        "\n{:<40} {:>10} {:>10} {:>10}",
        "deliveries by", "paths", "median ms", "max ms"
    );
    let mut is_short = false;
    for (name, mut took) in rows {
        took.sort_unstable();
        let median = took.get(took.len() / 2).context("nothing was asked")?.0;
        let (longest, path) = took.last().context("nothing was asked")?;
        let is_long = *longest > WANTED;
        is_short |= is_long;
        println!(
            "{name:<40} {:>10} {:>10.1} {:>10.1} {}",
            took.len() / ROUNDS_EACH,
            median.as_secs_f64() * 1e3,
            longest.as_secs_f64() * 1e3,
            if is_long {
                format!("SHORT: {path}")
            } else {
                "ok".to_owned()
            }
        );
    }
    Ok(is_short)
}

/// A cursor of deliveries, from the middle of them.
fn middle(port: u16, now: i64, deliveries: u32) -> anyhow::Result<String> {
    let before = Filter {
        repository: None,
        endpoint: None,
        state: None,
        between: Some((0, now - i64::from(deliveries / 2) * EACH_MS)),
    };
    let (_, page) = ask(
        port,
        "GET",
        &format!("/api/v1/deliveries?limit=1&{}", before.query()?),
    )?;
    let page: serde_json::Value = serde_json::from_slice(&page)?;
    let next = page.get("next").and_then(serde_json::Value::as_str);
    Ok(next.context("there is no page behind the middle")?.to_owned())
}

/// How long it takes to count what would be sent again; not a list, so it is only told.
fn counted(port: u16, now: i64, deliveries: u32) -> anyhow::Result<bool> {
    println!("\n{:<40} {:>10}", "counted, to be sent again", "max ms");
    let oldest = now - i64::from(deliveries - 2 * OLDEST) * EACH_MS;
    let of_ten_thousand = now - 9_990 * EACH_MS;
    for (what, filter) in [
        ("nothing found", (Some(MONO), Some("ci"), Some("pending"), None)),
        (
            "the oldest",
            (Some(MONO), Some("old"), Some("unknown"), Some((0, oldest))),
        ),
        ("9,990", (None, None, None, Some((of_ten_thousand, now + 1_000)))),
        ("too many", (None, None, None, None)),
    ] {
        let (repository, endpoint, state, between) = filter;
        let filter = Filter {
            repository,
            endpoint,
            state,
            between,
        };
        let path = format!("/api/v1/deliveries/redeliver?dry_run=true&{}", filter.query()?);
        let mut longest = Duration::ZERO;
        for _ in 0..3 {
            let began = Instant::now();
            let (status, _) = ask(port, "POST", &path)?;
            longest = longest.max(began.elapsed());
            ensure!(matches!(status, 200 | 422), "{path} answered {status}");
        }
        println!("{what:<40} {:>10.1}", longest.as_secs_f64() * 1e3);
    }
    Ok(false)
}

fn fill_history(path: &Path, now: i64, deliveries: u32, repositories: u32) -> anyhow::Result<()> {
    let mut database = Connection::open(path)?;
    let transaction = database.transaction()?;
    transaction.execute(
        "INSERT INTO journals VALUES (?1, ?2)",
        params![JOURNAL_NUMBER, JOURNAL],
    )?;
    let base = JOURNAL_NUMBER << 44;
    transaction.execute_batch(&format!(
        "CREATE TEMP TABLE n AS WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {deliveries}),
           own(n, name) AS (SELECT n, 'team' || (n / 2 % {repositories} % 100) || '/app' || (n / 2 % {repositories}) FROM c)
           SELECT n, CASE WHEN n % 2 = 0 THEN '{MONO}' ELSE name END AS repository,
             CASE WHEN n <= {OLDEST} AND n % 2 = 0 THEN 'old' WHEN n % 3 > 0 THEN 'ci'
               WHEN n % 2 = 0 THEN 'repository:{MONO}' ELSE 'repository:' || name END AS endpoint,
             CASE WHEN n <= {OLDEST} AND n % 2 = 0 THEN 'unknown' WHEN n % 50 = 1 THEN 'dead_letter'
               WHEN n % 77 = 0 THEN 'superseded' ELSE 'delivered' END AS state,
             {now} - ({deliveries} - n) * {EACH_MS} AS taken_at FROM own;
         INSERT INTO repositories VALUES ('{MONO}', {now}, 'v1', {deliveries} / 2, 1000000, {now});
         WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {repositories})
         INSERT INTO repositories
           SELECT 'team' || (n % {repositories} % 100) || '/app' || (n % {repositories}), {now} - 60000, 'v1', 5,
             1000000 + n * 37 % 900000000, {now} - 60000 FROM c;
         INSERT INTO pushes
           SELECT {base} + n, n, repository, 'v' || (n % 50), 'sha256:' || hex(zeroblob(32)),
             'application/vnd.oci.image.manifest.v1+json', 1024, 3, taken_at, 'event-' || n, 'ci' FROM n;
         INSERT INTO spans SELECT id >> 10, min(taken_at), max(taken_at) FROM pushes GROUP BY id >> 10;
         INSERT INTO deliveries (push, endpoint, repository, webhook_id, state, ended_at, attempts, image_size, layers,
             repository_size)
           SELECT {base} + n, endpoint, repository, 'msg_' || n, state, taken_at + 2000, 1, 5000000, 5, 100000000 FROM n;
         INSERT INTO attempts (push, endpoint, number, at, elapsed_us, status, fault, reason, url, headers, body,
             body_bytes, answer, answer_bytes)
           SELECT {base} + n, endpoint, 1, taken_at + 1000, 12000, CASE WHEN n % 50 = 1 THEN 404 ELSE 200 END,
             CASE WHEN n % 50 = 1 THEN 'push' END, CASE WHEN n % 50 = 1 THEN 'answered 404 Not Found' END,
             'https://ci.example.com/hook?…', 'User-Agent: WebHook Handler', CAST(zeroblob(300) AS BLOB), 300,
             CAST('ok' AS BLOB), 2 FROM n;
         DROP TABLE n;"
    ))?;
    transaction.commit()?;
    database.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")?;
    Ok(())
}

fn fill_settings(path: &Path, repositories: u32) -> anyhow::Result<()> {
    let database = Connection::open(path)?;
    database.execute_batch(&format!(
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {repositories})
         INSERT INTO repository_webhooks
           SELECT 'team' || (n % {repositories} % 100) || '/app' || (n % {repositories}),
             'https://ci.example.com/hook?token=' || n, NULL, NULL, NULL, 'native', '[]', '[\"**\"]', n, 0, 'bench'
           FROM c"
    ))?;
    Ok(())
}

/// The status that a path is answered with, once all of the answer is there.
fn get(port: u16, path: &str) -> anyhow::Result<u16> {
    Ok(ask(port, "GET", path)?.0)
}

/// The status that a path is answered with, and the body.
fn ask(port: u16, method: &str, path: &str) -> anyhow::Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_mins(1)))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: text/html, application/json\r\n\
         Content-Length: 0\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let body = answer.split_off(end.context("no answer")? + 4);
    let head = String::from_utf8_lossy(&answer);
    let status = head.split(' ').nth(1).context("no status")?;
    Ok((status.parse()?, body))
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

struct Server(Child);

impl Server {
    /// Starts it and waits until it is ready.
    fn start(file: &Path, ops: u16) -> anyhow::Result<Self> {
        let child = Command::new(env!("CARGO_BIN_EXE_shipbell"))
            .args(["serve", "--config"])
            .arg(file)
            .stdin(Stdio::null())
            .spawn()?;
        let server = Self(child);
        let deadline = Instant::now() + Duration::from_mins(2);
        while !get(ops, "/readyz").is_ok_and(|status| status == 200) {
            if Instant::now() > deadline {
                bail!("it is not ready within two minutes");
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    fn stop(mut self) -> anyhow::Result<()> {
        let id = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(id, rustix::process::Signal::TERM)?;
        let status = self.0.wait()?;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ended already, unless something went wrong before.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
