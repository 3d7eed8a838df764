//! How long the lists and pages of the admin listener take when there is a lot to list: `cargo bench --bench lists`.
//!
//! A history of 1,000,000 deliveries and attempts, half of them of one repository, the others of 100,000 that have each a
//! webhook of its own, and 214,000 dead letters, written into the files as the program itself would have; the real process
//! on top, and in its queue pushes of 20,000 repositories for an endpoint that is on hold. Each path is asked for by a new
//! connection, 20 times; the table has the median and the longest, in ms: first by an admin, then by those who may see some
//! of the repositories. Then every combination of filters of deliveries, for what finds nothing, the oldest alone, or
//! everything, from the newest on and from the middle. Wanted: none above 100 ms. `QUICK=1` does a tenth, `BRIEF=1` leaves
//! the combinations out.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use chrono::DateTime;

mod fill;
mod paths;
mod server;

use server::{Server, ask, free_port, get};

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

/// Who sees everything, and who sees one repository, those of a team, which are a hundredth, and ten by a pattern that says
/// nothing of how their names begin.
const ADMIN: &str = "admin-token-0123456789";
const VIEWER: &str = "viewer-token-0123456789";
const TEAM: &str = "team-token-0123456789";
const FEW: &str = "few-token-0123456789";
const SEEN: &str = "team7/app7";

/// Between two pushes, milliseconds.
const EACH_MS: i64 = 100;

fn main() -> anyhow::Result<()> {
    let scale = if is_quick() { 10 } else { 1 };
    let (deliveries, repositories, letters) = (1_000_000 / scale, 100_000 / scale, 214_000 / scale);
    let folder = tempfile::tempdir()?;
    let ports = [free_port()?, free_port()?, free_port()?];
    let [ingest, ops, admin] = ports;
    let file = folder.path().join("shipbell.toml");
    let data = folder.path().join("data");
    fs::write(
        &file,
        format!(
            "data_dir = '{}'\n[ingest]\nlisten = '127.0.0.1:{ingest}'\n[ops]\nlisten = '127.0.0.1:{ops}'\n\
             [admin]\nlisten = '127.0.0.1:{admin}'\nauth = 'token'\ntokens = [\n\
             {{ name = 'all', token = '{ADMIN}', role = 'admin' }},\n\
             {{ name = 'one', token = '{VIEWER}', role = 'viewer', repositories = ['{SEEN}'] }},\n\
             {{ name = 'team', token = '{TEAM}', role = 'viewer', repositories = ['team7/**'] }},\n\
             {{ name = 'few', token = '{FEW}', role = 'viewer', repositories = ['**/app?'] }},\n]\n\
             [log]\nlevel = 'error'\n[batch]\nwindow = '0s'\n\
             [delivery]\nhistory = '365d'\nhistory_max = '16GiB'\n\
             [[endpoints]]\nname = 'ci'\nrepositories = ['**']\nurl = 'https://93.184.216.34/'\n",
            data.display()
        ),
    )?;
    Server::start(&file, ops)?.stop()?;
    let began = Instant::now();
    let now = i64::try_from(std::time::SystemTime::UNIX_EPOCH.elapsed()?.as_millis())?;
    fill::history(&data.join("catalog.db"), now, deliveries, repositories)?;
    fill::settings(&data.join("settings.db"), repositories)?;
    fill::letters(&data.join("settings.db"), now, letters, repositories)?;
    let bytes = fs::metadata(data.join("catalog.db"))?.len();
    println!(
        "{deliveries} deliveries, {letters} dead letters, {repositories} repositories: {} MiB, written in {:.0} s",
        bytes / 1024 / 1024,
        began.elapsed().as_secs_f64()
    );
    let began = Instant::now();
    let server = Server::start(&file, ops)?;
    println!("ready after {:.2} s", began.elapsed().as_secs_f64());
    let measured = fill::queue(ingest, admin, repositories / 5).and_then(|()| {
        let mut is_short = paths::admins(admin, repositories, &newest(now)?)?;
        is_short |= paths::dead_letters(admin, repositories)?;
        is_short |= paths::viewers(admin)?;
        if is_brief() {
            return Ok(is_short);
        }
        is_short |= combined(admin, now, deliveries)?;
        Ok(is_short | counted(admin, now, deliveries)?)
    });
    server.stop()?;
    let is_short = measured?;
    if is_short {
        println!("SHORT: some took longer than {} ms", WANTED.as_millis());
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the bench's own settings")]
fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some()
}

fn is_quick() -> bool {
    is_set("QUICK")
}

/// Whether the combinations of filters are left out, which take minutes.
fn is_brief() -> bool {
    is_set("BRIEF")
}

/// A path that is asked for, in each round another one, and what it is called.
type Asked<'a> = (&'a str, &'a dyn Fn(usize) -> String);

/// Asks for every path, prints the table; whether any took too long.
fn measure(port: u16, token: &str, paths: &[Asked<'_>]) -> anyhow::Result<bool> {
    println!("{:<40} {:>10} {:>10}", "", "median ms", "max ms");
    let mut is_short = false;
    for (what, path) in paths {
        let mut took = Vec::new();
        for round in 0..ROUNDS {
            let path = path(round);
            let began = Instant::now();
            let status = get(port, token, &path)?;
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
                query.push(format!("{name}={}", time(at)?));
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

/// What finds nearly as many deliveries as may be sent again at once, and none of those that came since.
fn newest(now: i64) -> anyhow::Result<String> {
    Ok(format!(
        "since={}&until={}",
        time(now - 9_990 * EACH_MS)?,
        time(now)?
    ))
}

/// As queries have it.
fn time(at_ms: i64) -> anyhow::Result<String> {
    let at = DateTime::from_timestamp_millis(at_ms).context("no such time")?;
    Ok(at.format("%FT%T%.3fZ").to_string())
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
                let status = get(port, ADMIN, &path)?;
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
        ADMIN,
        "GET",
        &format!("/api/v1/deliveries?limit=1&{}", before.query()?),
        "",
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
            let (status, _) = ask(port, ADMIN, "POST", &path, "")?;
            longest = longest.max(began.elapsed());
            ensure!(matches!(status, 200 | 422), "{path} answered {status}");
        }
        println!("{what:<40} {:>10.1}", longest.as_secs_f64() * 1e3);
    }
    Ok(false)
}
