//! `shipbell endpoints export` and `import`: the repositories' own webhooks as a file.
//!
//! # Specification
//! JSON: `{"version": 1, "webhooks": [{"repository", "url", "secret", "format", "headers", "tags", "enabled"}]}`.
//! Without secrets, `secret` is left out, queries of URLs and the values of headers are masked (`…`); read in again,
//! what is masked or left out stays as it is there. Secrets that were rotated out are in neither.

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, OpenOptions},
    io::{self, IsTerminal, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow};
use bytes::Bytes;
use clap::Args;
use http::{Method, StatusCode, header};
use indicatif::{ProgressBar, ProgressDrawTarget};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Asked, Client, Server, path_of};
use crate::{
    admin::draft::MASK,
    cli::{Exit, Failure, Output, complain, print},
    config::{Config, Problems},
    json,
    push::EndpointId,
    settings::{self, OpenError, SavedWebhook, Settings},
    webhook::target::Target,
};

/// The form of the file that this version writes and reads.
const VERSION: u32 = 1;

/// Far above a million webhooks; a bound so that `import /dev/zero` ends.
const FILE_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// Arguments of `shipbell endpoints export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Write the secrets too: of signatures, in queries, in headers. Needs --out
    #[arg(long, requires = "out")]
    with_secrets: bool,
    /// Write to this file, which only its owner may read; it must not be there yet
    #[arg(long, value_name = "PATH")]
    out: Option<PathBuf>,
    #[command(flatten)]
    server: Server,
}

/// Arguments of `shipbell endpoints import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// What `export` wrote; `-` is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Only say what would come of it
    #[arg(long)]
    dry_run: bool,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    server: Server,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct Document {
    version: u32,
    webhooks: Vec<Item>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct Item {
    repository: String,
    url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    format: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    headers: Option<BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tags: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    enabled: Option<bool>,
}

impl Item {
    fn of(saved: SavedWebhook, enabled: bool, with_secrets: bool) -> Self {
        let shown =
            |url: &str| Target::parse(url).map_or_else(|_| MASK.to_owned(), |target| target.to_string());
        let headers = saved.headers.into_iter();
        Self {
            repository: saved.repository.to_string(),
            url: if with_secrets {
                saved.url
            } else {
                shown(&saved.url)
            },
            secret: saved.secret.filter(|_| with_secrets),
            format: Some(saved.format),
            headers: Some(if with_secrets {
                headers.collect()
            } else {
                headers.map(|(name, _)| (name, MASK.to_owned())).collect()
            }),
            tags: Some(saved.tags),
            enabled: Some(enabled),
        }
    }

    /// As the API takes it.
    fn body(&self) -> Bytes {
        let mut body = json!(self);
        if let Some(body) = body.as_object_mut() {
            body.remove("repository");
        }
        Bytes::from(body.to_string())
    }
}

/// Runs `shipbell endpoints export`.
///
/// # Errors
/// The settings can't be read, or the file can't be written.
pub(super) fn export(
    arguments: &ExportArgs,
    load: impl FnOnce() -> Result<Config, Problems>,
) -> Result<(), Failure> {
    let file = arguments.server.data_dir(load)?.join(settings::FILE);
    if let Err(error) = fs::metadata(&file)
        && error.kind() == io::ErrorKind::NotFound
    {
        let error = anyhow!(
            "there is no {}: no server has run on this data directory",
            file.display()
        );
        return Err(Failure::new(Exit::Failure, error));
    }
    let exported =
        Settings::export(&file).map_err(|error: OpenError| Failure::new((&error).into(), error))?;
    let disabled = exported.disabled;
    let items = exported.webhooks.into_iter().map(|saved| {
        let enabled = !disabled.contains(&EndpointId::Repository(saved.repository.clone()));
        Item::of(saved, enabled, arguments.with_secrets)
    });
    let document = Document {
        version: VERSION,
        webhooks: items.collect(),
    };
    let text = serde_json::to_string_pretty(&document).map_err(anyhow::Error::from)? + "\n";
    match &arguments.out {
        None => print(&text)?,
        Some(out) => {
            write_new(out, &text).with_context(|| format!("{} can't be written", out.display()))?;
            let count = document.webhooks.len();
            complain("note", &format!("{count} webhooks written to {}", out.display()));
        }
    }
    Ok(())
}

/// A file that nobody else may read, whatever the umask, all of it or nothing.
fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let written = (|| {
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    })();
    written.inspect_err(|_| {
        // It would be half an export; the error that is told is the first one.
        let _ = fs::remove_file(path);
    })
}

/// What came of one webhook, or would.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Done {
    Added,
    Changed,
}

/// Runs `shipbell endpoints import`: everything is checked by the server before anything is changed. One that is cut off,
/// because the server is gone or somebody interrupts it, tells how far it came.
///
/// # Errors
/// The file is not what `export` writes, the server can't be asked, or it refuses some of it.
pub(super) fn import(
    arguments: &ImportArgs,
    load: impl FnOnce() -> Result<Config, Problems>,
) -> Result<(), Failure> {
    let document = read(&arguments.file)?;
    let mut client = Client::of(&arguments.server, load)?;
    client.heed_interrupts()?;
    let bar = bar(document.webhooks.len() * if arguments.dry_run { 1 } else { 2 });
    let mut report = walk(&client, &document.webhooks, true, &bar);
    if report.refused.is_empty() && report.cut.is_none() && !arguments.dry_run {
        report = walk(&client, &document.webhooks, false, &bar);
    }
    bar.finish_and_clear();
    let cut = report.cut.take();
    if report.left.len() == document.webhooks.len()
        && report.is_dry
        && let Some(failure) = cut
    {
        // It has not begun.
        return Err(failure);
    }
    print(&match arguments.output {
        Output::Text => report.text(),
        Output::Json => report.json(),
    })?;
    if let Some(failure) = cut {
        let words = report.cut_words(arguments.dry_run);
        return Err(Failure::new(failure.exit, failure.error.context(words)));
    }
    match report.refused.len() {
        0 => Ok(()),
        count if !report.is_dry => Err(refusal(format!(
            "{count} of the webhooks could not be set any more; import again, which sets the others to the same"
        ))),
        count if arguments.dry_run => Err(refusal(format!("{count} of the webhooks can't be used"))),
        count => Err(refusal(format!(
            "{count} of the webhooks can't be used; none was imported"
        ))),
    }
}

fn refusal(words: String) -> Failure {
    Failure::new(Exit::Failure, anyhow!(words))
}

/// Has the server take the webhooks one after another, or only check them, until it can't be asked.
fn walk<'a>(client: &Client, items: &'a [Item], is_dry: bool, bar: &ProgressBar) -> Report<'a> {
    let mut report = Report::new(is_dry);
    for (index, item) in items.iter().enumerate() {
        match put(client, item, is_dry) {
            Ok(Ok((how, warning))) => {
                report.done.push((item, how));
                if let Some(warning) = warning {
                    let warning = json!({"repository": item.repository, "warning": warning});
                    report.warnings.push(warning);
                }
            }
            Ok(Err(problem)) => {
                let refusal = json!({"repository": item.repository, "problem": problem});
                report.refused.push(refusal);
            }
            Err(failure) => {
                report.left = items.iter().skip(index).collect();
                report.cut = Some(failure);
                break;
            }
        }
        bar.inc(1);
    }
    report
}

struct Report<'a> {
    /// Whether it only would be done.
    is_dry: bool,
    done: Vec<(&'a Item, Done)>,
    refused: Vec<Value>,
    /// What should be known of those that can be set.
    warnings: Vec<Value>,
    /// Those that it did not come to, because it was cut off; of the first it is not known.
    left: Vec<&'a Item>,
    /// Why it was cut off.
    cut: Option<Failure>,
}

impl Report<'_> {
    fn new(is_dry: bool) -> Self {
        Self {
            is_dry,
            done: Vec::new(),
            refused: Vec::new(),
            warnings: Vec::new(),
            left: Vec::new(),
            cut: None,
        }
    }

    /// How far it came that was cut off; `only_checks` when nothing else was asked for.
    fn cut_words(&self, only_checks: bool) -> String {
        let left = self.left.len();
        match (self.is_dry, only_checks) {
            (true, true) => format!("cut off: {left} webhooks were not checked"),
            (true, false) => "cut off while they were checked: none was imported".to_owned(),
            (false, _) => format!(
                "cut off: of {left} webhooks it is not known for the first, and the others were not imported; import \
                 again, which sets those that were to the same"
            ),
        }
    }

    fn those(&self, how: Done) -> Vec<&str> {
        let those = self.done.iter().filter(|(_, done)| *done == how);
        those.map(|(item, _)| item.repository.as_str()).collect()
    }

    fn json(&self) -> String {
        let told = json!({
            "imported": !self.is_dry && self.left.is_empty() && self.refused.is_empty(),
            "added": self.those(Done::Added),
            "changed": self.those(Done::Changed),
            "refused": self.refused,
            "warnings": self.warnings,
            "left": self.left.iter().map(|item| &item.repository).collect::<Vec<_>>(),
        });
        format!("{told:#}\n")
    }

    fn text(&self) -> String {
        let would = if self.is_dry { "would be " } else { "" };
        let [added, changed] = [Done::Added, Done::Changed].map(|how| self.those(how).len());
        let mut lines = vec![format!("{added} {would}added, {changed} {would}changed")];
        for (told, of) in [(&self.refused, "problem"), (&self.warnings, "warning")] {
            lines.extend(told.iter().map(|one| {
                let text = |key: &str| one.get(key).and_then(Value::as_str).unwrap_or_default();
                let mark = if of == "warning" { "warning: " } else { "" };
                format!("{}: {mark}{}", text("repository"), text(of))
            }));
        }
        let left = self.left.iter();
        lines.extend(left.map(|item| format!("{}: not come to", item.repository)));
        lines.join("\n") + "\n"
    }
}

/// Has the server take one webhook in the place of the one that is there now; or only check it. Told is what came of it,
/// and what should be known of it; or why it can't be.
fn put(
    client: &Client,
    item: &Item,
    is_dry: bool,
) -> Result<Result<(Done, Option<String>), String>, Failure> {
    let path = path_of("/api/v1/repositories/", &item.repository, "/webhook");
    let there = client.send(Method::GET, &path, &[], Bytes::new())?;
    let (condition, done) = match (there.status, &there.etag) {
        (StatusCode::OK, Some(etag)) => ((header::IF_MATCH, etag.clone()), Done::Changed),
        (StatusCode::NOT_FOUND, _) => ((header::IF_NONE_MATCH, "*".to_owned()), Done::Added),
        _ => return why_not(&there).map(Err),
    };
    let query = if is_dry { "?dry_run=true" } else { "" };
    let answered = client.send(Method::PUT, &format!("{path}{query}"), &[condition], item.body())?;
    if answered.status.is_success() {
        return Ok(Ok((done, sentences(&answered.body, "warnings"))));
    }
    why_not(&answered).map(Err)
}

/// Why the server does not take a webhook.
///
/// # Errors
/// It can't say so now: later it may take it.
fn why_not(answered: &Asked) -> Result<String, Failure> {
    if answered.is_not_now() {
        return Err(answered.failure());
    }
    Ok(detail(&answered.body, answered.status))
}

/// What a problem document says: each field's sentence, or the whole's.
fn detail(problem: &Value, status: StatusCode) -> String {
    if let Some(told) = sentences(problem, "errors") {
        return told;
    }
    let detail = problem.get("detail").and_then(Value::as_str);
    detail.unwrap_or(status.as_str()).to_owned()
}

/// What an answer says of single fields under that key.
fn sentences(answer: &Value, key: &str) -> Option<String> {
    let told: Vec<String> = answer
        .get(key)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|error| {
            let (pointer, detail) = (error.get("pointer")?.as_str()?, error.get("detail")?.as_str()?);
            Some(format!("{}: {detail}", pointer.trim_start_matches('/')))
        })
        .collect();
    (!told.is_empty()).then(|| told.join("; "))
}

fn read(path: &Path) -> Result<Document, Failure> {
    let shown = if path == Path::new("-") {
        "standard input".to_owned()
    } else {
        path.display().to_string()
    };
    let read = || -> io::Result<String> {
        let mut text = String::new();
        let source: Box<dyn Read> = if path == Path::new("-") {
            Box::new(io::stdin())
        } else {
            Box::new(fs::File::open(path)?)
        };
        source.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(io::Error::other("it is larger than 1 GiB"));
        }
        Ok(text)
    };
    let text = read().with_context(|| format!("{shown} can't be read"))?;
    let wrong = |error: anyhow::Error| Failure::new(Exit::Failure, error);
    let document: Document = json::read(text.as_bytes()).map_err(|error| {
        wrong(anyhow!(
            "{shown} is not what `shipbell endpoints export` writes: {error}"
        ))
    })?;
    if document.version != VERSION {
        let version = document.version;
        return Err(wrong(anyhow!(
            "{shown} has version {version}, and this shipbell reads version {VERSION} only"
        )));
    }
    let mut seen = HashSet::new();
    for item in &document.webhooks {
        if !seen.insert(&item.repository) {
            return Err(wrong(anyhow!("{shown} has {} twice", item.repository)));
        }
    }
    Ok(document)
}

/// Shows how far it is, on a terminal.
fn bar(length: usize) -> ProgressBar {
    let target = if io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    ProgressBar::with_draw_target(Some(length as u64), target)
}
