//! `shipbell journal repair`.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal, Write as _},
};

use clap::Args;
use serde_json::{Value, json};

use super::{
    super::{Exit, Failure, Output, print},
    Place, counted,
    verify::{finding_json, finding_text, torn_text, verified},
};
use crate::{
    clock::Clock,
    config::{Config, Problems},
    journal::{Holder, Identity, Plan, Purpose, Repair, Repaired},
};

/// Bytes of a segment, where no configuration says otherwise: as built in.
const SEGMENT_SIZE: u32 = 16 * 1024 * 1024;

/// Arguments of `shipbell journal repair`.
#[derive(Debug, Args)]
pub struct RepairArgs {
    #[command(flatten)]
    place: Place,
    /// Say what would be done, and change nothing
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Don't ask; needed where there is no terminal to ask on
    #[arg(long)]
    yes: bool,
    /// If no segment's header is intact: give the journal a new identity. Webhooks sent again have new ids then
    #[arg(long)]
    new_identity: bool,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// Runs the command.
pub(super) fn run(
    arguments: &RepairArgs,
    load: impl FnOnce() -> Result<Config, Problems>,
    clock: Clock,
) -> Result<(), Failure> {
    let can_ask = io::stdin().is_terminal() && io::stderr().is_terminal();
    if !arguments.dry_run && !arguments.yes && !can_ask {
        let error =
            anyhow::anyhow!("there is no terminal to ask on: add --yes to repair, or --dry-run to look");
        return Err(Failure::new(Exit::Usage, error));
    }
    let mut segment_size = SEGMENT_SIZE;
    let directory = arguments.place.directory(|| {
        let config = load()?;
        segment_size = u32::try_from(config.journal.segment_size).unwrap_or(u32::MAX);
        Ok(config)
    })?;
    let purpose = if arguments.dry_run {
        Purpose::DryRun
    } else {
        Purpose::Repair
    };
    let identity = if arguments.new_identity {
        Identity::Renew
    } else {
        Identity::Keep
    };
    let repair =
        verified(|progress| Repair::open(&directory, (purpose, identity), segment_size, clock, progress))?;
    let plan = repair.plan();
    let is_done = arguments.dry_run || plan.findings.is_empty();
    if arguments.output == Output::Text {
        print(&plan_text(plan, purpose))?;
    } else if !is_done && !arguments.yes {
        // What it is that is asked about; stdout is for JSON.
        io::stderr().write_all(plan_text(plan, purpose).as_bytes())?;
    }
    let repaired = if is_done {
        None
    } else if arguments.yes || confirmed()? {
        repair.run()?
    } else {
        let error = anyhow::anyhow!("not repaired; nothing was changed");
        return Err(Failure::new(Exit::Failure, error));
    };
    print(&match (arguments.output, &repaired) {
        (Output::Json, _) => format!("{:#}\n", plan_json(plan, repaired.as_ref())),
        (Output::Text, Some(repaired)) => repaired_text(plan, repaired),
        (Output::Text, None) => String::new(),
    })?;
    Ok(())
}

/// Asks on the terminal.
fn confirmed() -> io::Result<bool> {
    let mut stderr = io::stderr();
    write!(stderr, "\nRepair it? [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

fn plan_text(plan: &Plan, purpose: Purpose) -> String {
    let mut text = String::new();
    let mut line = |line: String| {
        // Writing to a String doesn't fail.
        let _ = writeln!(text, "{line}");
    };
    for finding in &plan.findings {
        line(finding_text(finding));
    }
    if let Some(torn) = plan.torn.as_ref().filter(|_| plan.findings.is_empty()) {
        line(torn_text(torn, Holder::Nobody));
    }
    if plan.findings.is_empty() {
        let owed = counted(plan.owed, "push", "pushes");
        line(format!(
            "nothing is damaged, nothing was changed; {owed} still owed"
        ));
        return text;
    }
    line(String::new());
    for lost in lost(plan) {
        line(format!("lost: {lost}"));
    }
    let kept = plan.kept.map_or(String::new(), |(first, last)| {
        format!(", sequence numbers {first} to {last}")
    });
    line(format!(
        "kept: {} that {} still owed{kept}; {}",
        counted(plan.owed, "push", "pushes"),
        if plan.owed == 1 { "is" } else { "are" },
        counted(plan.remembered, "event id", "event ids"),
    ));
    if plan.settling > 0 {
        let settling = counted(plan.settling, "settlement", "settlements");
        line(format!("kept: {settling} that were told but not committed"));
    }
    line(format!("next: sequence number {}", plan.next));
    if plan.renews_identity {
        line("identity: a new one; what is sent again looks new to receivers".to_owned());
    }
    let (verb, count) = match purpose {
        Purpose::DryRun => ("would be moved", plan.moves.len()),
        Purpose::Repair => ("to be moved", plan.moves.len()),
    };
    line(format!(
        "{} {verb} aside, whole:",
        counted(count as u64, "file", "files")
    ));
    for (from, to) in &plan.moves {
        line(format!("  {from} -> {to}"));
    }
    text
}

/// What can't be had back, one sentence each.
fn lost(plan: &Plan) -> Vec<String> {
    let mut lost = Vec::new();
    let bytes: u64 = plan.findings.iter().map(|finding| finding.bytes).sum::<u64>()
        + plan.torn.as_ref().map_or(0, |torn| torn.bytes);
    if bytes > 0 {
        lost.push(format!("{} that can't be read", counted(bytes, "byte", "bytes")));
    }
    if !plan.commits_lost.is_empty() {
        lost.push(format!("commits {}", ranges(&plan.commits_lost)));
    }
    if !plan.pushes_lost.is_empty() {
        let settled = match plan.settled_of_lost {
            0 => String::new(),
            count => format!(", {count} of them settled for an endpoint at least"),
        };
        lost.push(format!(
            "pushes with the sequence numbers {}{settled}; what was still owed of them is not sent",
            ranges(&plan.pushes_lost)
        ));
    }
    if plan.skipped > 0 {
        let end = plan.next.get();
        let skipped = ranges(&[(end.saturating_sub(plan.skipped), end.saturating_sub(1))]);
        lost.push(format!(
            "perhaps pushes at the end: the sequence numbers {skipped} are not given again"
        ));
    }
    if bytes > 0 || !plan.commits_lost.is_empty() {
        lost.push(
            "perhaps settlements: webhooks that were delivered may be sent again, with the same webhook-id"
                .to_owned(),
        );
    }
    lost
}

/// `3, 7-9`.
fn ranges(ranges: &[(u64, u64)]) -> String {
    let shown = ranges.iter().map(|(first, last)| {
        if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        }
    });
    shown.collect::<Vec<_>>().join(", ")
}

fn repaired_text(plan: &Plan, repaired: &Repaired) -> String {
    format!(
        "repaired: {} in {} ({}); the old files are in {}\n",
        counted(plan.owed, "push", "pushes"),
        repaired.segments.join(", "),
        counted(repaired.bytes, "byte", "bytes"),
        plan.directory.display(),
    )
}

fn plan_json(plan: &Plan, repaired: Option<&Repaired>) -> Value {
    let ranges = |ranges: &[(u64, u64)]| {
        let ranges = ranges.iter();
        ranges
            .map(|(first, last)| json!({ "first": first, "last": last }))
            .collect::<Vec<_>>()
    };
    json!({
        "damaged": !plan.findings.is_empty(),
        "repaired": repaired.is_some(),
        "directory": plan.directory,
        "findings": plan.findings.iter().map(finding_json).collect::<Vec<_>>(),
        "torn": plan.torn.as_ref().map(|torn| json!({
            "file": torn.file, "offset": torn.offset, "bytes": torn.bytes,
        })),
        "commits_lost": ranges(&plan.commits_lost),
        "pushes_lost": ranges(&plan.pushes_lost),
        "settled_of_lost": plan.settled_of_lost,
        "sequences_skipped": plan.skipped,
        "next_sequence": plan.next.get(),
        "owed": plan.owed,
        "pairs": plan.pairs,
        "remembered": plan.remembered,
        "settling": plan.settling,
        "renews_identity": plan.renews_identity,
        "moves": plan.moves.iter().map(|(from, to)| json!({ "from": from, "to": to })).collect::<Vec<_>>(),
        "written": repaired.map(|repaired| json!({
            "identity": repaired.identity.to_string(),
            "segments": repaired.segments,
            "bytes": repaired.bytes,
        })),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_read_as_people_write_them() {
        assert_eq!(ranges(&[(3, 3), (7, 9)]), "3, 7-9");
    }

    #[test]
    fn without_a_terminal_nothing_is_repaired_unasked() {
        let arguments = RepairArgs {
            place: Place {
                data_dir: Some("/nonexistent".into()),
            },
            dry_run: false,
            yes: false,
            new_identity: false,
            output: Output::Text,
        };
        if !io::stdin().is_terminal() {
            let failure = run(&arguments, || unreachable!(), Clock::system()).unwrap_err();
            assert_eq!(failure.exit(), Exit::Usage);
        }
    }
}
