//! `shipbell journal verify`.

use std::{
    fmt::Write,
    io::{self, IsTerminal},
};

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use super::{
    super::{Exit, Failure, Output, print},
    Place, counted, holder_json,
};
use crate::{
    config::{Config, Problems},
    journal::{self, Finding, Holder, Torn, Verification},
};

/// Arguments of `shipbell journal verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    place: Place,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// Runs the command.
pub(super) fn run(
    arguments: &VerifyArgs,
    load: impl FnOnce() -> Result<Config, Problems>,
) -> Result<(), Failure> {
    let directory = arguments.place.directory(load)?;
    let verification = verified(|progress| journal::verify(&directory, progress))?;
    print(&match arguments.output {
        Output::Text => text(&verification),
        Output::Json => format!("{:#}\n", verification_json(&verification)),
    })?;
    if verification.findings.is_empty() {
        return Ok(());
    }
    let error = anyhow::anyhow!(
        "the journal is damaged; `{}` saves what can be saved",
        journal::repair_command(&directory)
    );
    Err(Failure::new(Exit::Damaged, error))
}

/// Shows how far the reading is, on a terminal.
pub(super) fn verified<T>(read: impl FnOnce(journal::Progress<'_>) -> T) -> T {
    let target = if io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style = ProgressStyle::with_template("{bytes} of {total_bytes} {wide_bar} {eta}");
    let bar = ProgressBar::with_draw_target(None, target)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let result = read(&mut |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    result
}

fn text(verification: &Verification) -> String {
    let mut text = String::new();
    let mut line = |line: String| {
        // Writing to a String doesn't fail.
        let _ = writeln!(text, "{line}");
    };
    for finding in &verification.findings {
        line(finding_text(finding));
    }
    if let Some(torn) = &verification.torn {
        line(torn_text(torn, verification.holder));
    }
    let verdict = match verification.findings.len() as u64 {
        0 => "ok".to_owned(),
        count => counted(count, "finding", "findings"),
    };
    let owed = counted(verification.owed, "push", "pushes");
    let settling = match verification.settling {
        0 => String::new(),
        count => format!(
            ", {} not yet committed",
            counted(count, "settlement", "settlements")
        ),
    };
    line(format!(
        "{verdict}: {}, {}, {}, {}; {owed} still owed{settling}",
        counted(verification.segments, "segment", "segments"),
        counted(verification.bytes, "byte", "bytes"),
        counted(verification.commits, "commit", "commits"),
        counted(verification.records, "record", "records"),
    ));
    text
}

/// One finding on one line.
pub(super) fn finding_text(finding: &Finding) -> String {
    let bytes = match finding.bytes {
        0 => String::new(),
        count => format!(" ({})", counted(count, "byte", "bytes")),
    };
    format!(
        "{}: offset {}{bytes}: {}",
        finding.file.display(),
        finding.offset,
        finding.problem
    )
}

pub(super) fn torn_text(torn: &Torn, holder: Holder) -> String {
    let (file, offset) = (torn.file.display(), torn.offset);
    let bytes = counted(torn.bytes, "byte", "bytes");
    match holder {
        Holder::Process(_) => {
            format!("{file}: offset {offset} ({bytes}): the newest segment is being written to; no damage")
        }
        _ => format!(
            "{file}: offset {offset} ({bytes}): the last commit is not whole; no damage: the next start cuts it off and saves it beside"
        ),
    }
}

fn verification_json(verification: &Verification) -> Value {
    let repair = journal::repair_command(&verification.directory);
    json!({
        "ok": verification.findings.is_empty(),
        "directory": verification.directory,
        "identity": verification.identity.map(|identity| identity.to_string()),
        "held_by": holder_json(verification.holder),
        "segments": verification.segments,
        "bytes": verification.bytes,
        "commits": verification.commits,
        "records": verification.records,
        "owed": verification.owed,
        "settling": verification.settling,
        "torn": verification.torn.as_ref().map(|torn| json!({
            "file": torn.file, "offset": torn.offset, "bytes": torn.bytes,
        })),
        "findings": verification.findings.iter().map(|finding| {
            let mut value = finding_json(finding);
            if let Value::Object(value) = &mut value {
                value.insert("command".to_owned(), json!(repair));
            }
            value
        }).collect::<Vec<_>>(),
    })
}

pub(super) fn finding_json(finding: &Finding) -> Value {
    json!({
        "file": finding.file,
        "offset": finding.offset,
        "bytes": finding.bytes,
        "problem": finding.problem,
    })
}
