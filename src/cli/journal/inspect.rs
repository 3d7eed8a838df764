//! `shipbell journal inspect`.

use std::{
    fmt::{self, Write as _},
    io::{self, Write as _},
    ops::ControlFlow,
};

use clap::Args;
use serde_json::{Value, json};

use super::{
    super::{Failure, Output, print},
    Place, counted, holder_json,
};
use crate::{
    cli::table::table,
    clock::Clock,
    config::{Config, Problems},
    image::{RepositoryName, Tag},
    journal::{self, Content, Filter, Holder, Inspection, RecordView, SegmentFigures},
    push::{Push, Sequence},
};

/// Arguments of `shipbell journal inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    #[command(flatten)]
    place: Place,
    /// Print the records instead, one a line, in the order in which they stand
    #[arg(long)]
    records: bool,
    /// Of the records, only those in this segment
    #[arg(long, value_name = "NUMBER", requires = "records")]
    segment: Option<u64>,
    /// Of the records, only the pushes to this repository
    #[arg(long, value_name = "NAME", requires = "records")]
    repository: Option<RepositoryName>,
    /// Of the records, only the push with this sequence number, its copies and settlements
    #[arg(long, value_name = "NUMBER", requires = "records", value_parser = sequence)]
    sequence: Option<Sequence>,
    /// How to print it; of records, JSON is one object a line
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

fn sequence(text: &str) -> Result<Sequence, String> {
    let number = text.parse().map_err(|_| "not a number".to_owned())?;
    Sequence::new(number).ok_or_else(|| "sequence numbers begin with 1".to_owned())
}

/// Runs the command.
pub(super) fn run(
    arguments: &InspectArgs,
    load: impl FnOnce() -> Result<Config, Problems>,
    clock: &Clock,
) -> Result<(), Failure> {
    let directory = arguments.place.directory(load)?;
    if !arguments.records {
        let inspection = journal::inspect(&directory, clock)?;
        print(&match arguments.output {
            Output::Text => text(&inspection),
            Output::Json => format!("{:#}\n", summary_json(&inspection)),
        })?;
        return Ok(());
    }
    let filter = Filter {
        segment: arguments.segment,
        repository: arguments.repository.clone(),
        sequence: arguments.sequence,
    };
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut written = Ok(());
    journal::records(&directory, &filter, &mut |record| {
        written = match arguments.output {
            Output::Text => writeln!(out, "{}", Line(&record)),
            Output::Json => writeln!(out, "{}", record_json(&record)),
        };
        match written {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    match written.and_then(|()| out.flush()) {
        // Nobody reads on.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

fn text(inspection: &Inspection) -> String {
    let mut text = String::new();
    let mut line = |word: &str, what: String| {
        // Writing to a String doesn't fail.
        let _ = writeln!(text, "{word:<12}{what}");
    };
    line("journal", inspection.directory.display().to_string());
    line(
        "identity",
        inspection.identity.map_or_else(
            || "not known: no segment's header is intact".to_owned(),
            |identity| identity.to_string(),
        ),
    );
    line("format", format!("version {}", inspection.format));
    line("open", open(inspection.holder));
    let oldest = inspection
        .oldest
        .map_or(String::new(), |oldest| format!(", the oldest is {oldest}"));
    line(
        "owed",
        format!(
            "{}, {} with an endpoint{oldest}",
            counted(inspection.owed, "push", "pushes"),
            counted(inspection.pairs, "pair", "pairs"),
        ),
    );
    line(
        "next",
        inspection
            .next
            .map_or("not known".to_owned(), |next| format!("sequence number {next}")),
    );
    line(
        "remembered",
        counted(inspection.remembered, "event id", "event ids"),
    );
    if inspection.torn_bytes > 0 {
        let bytes = counted(inspection.torn_bytes, "byte", "bytes");
        line(
            "last commit",
            match inspection.holder {
                Holder::Process(_) => format!("being written: {bytes} so far"),
                _ => format!("not whole: {bytes}, which the next start cuts off and saves"),
            },
        );
    }
    if !inspection.is_sound {
        line(
            "damage",
            "yes: `shipbell journal verify` says where and what".to_owned(),
        );
    }
    text.push('\n');
    text.push_str(&segments(&inspection.segments));
    if !inspection.others.is_empty() {
        text.push_str("\nother files\n");
        for file in &inspection.others {
            let _ = writeln!(
                text,
                "  {:<28} {:>10} bytes  {}",
                file.name,
                file.bytes,
                purpose(&file.name, inspection.settling)
            );
        }
    }
    text
}

fn open(holder: Holder) -> String {
    match holder {
        Holder::Nobody => "by no process".to_owned(),
        Holder::Process(Some(process)) => {
            format!("by process {process}: the newest segment is being written to")
        }
        Holder::Process(None) => "by a process: the newest segment is being written to".to_owned(),
        Holder::Unknown => "not known whether by a process".to_owned(),
    }
}

const COLUMNS: [&str; 12] = [
    "segment",
    "created at",
    "bytes",
    "valid end",
    "commits",
    "sequences",
    "pushes",
    "carried",
    "live",
    "dead",
    "settled",
    "ids",
];

fn segments(segments: &[SegmentFigures]) -> String {
    let mut lines = vec![COLUMNS.map(str::to_owned).to_vec()];
    lines.extend(segments.iter().map(|segment| {
        let created = segment.created_at.map_or("?".to_owned(), |at| at.to_string());
        let mut line = vec![segment.number.to_string(), created];
        line.extend(figures(segment));
        line
    }));
    let mut line = vec!["total".to_owned(), String::new()];
    line.extend(figures(&total(segments)));
    lines.push(line);
    table(&lines)
}

fn figures(segment: &SegmentFigures) -> [String; 10] {
    let sequences = segment
        .sequences
        .map_or("-".to_owned(), |(first, last)| format!("{first}-{last}"));
    [
        segment.bytes.to_string(),
        segment.valid_end.to_string(),
        segment.commits.to_string(),
        sequences,
        segment.pushes.to_string(),
        segment.carried.to_string(),
        segment.live.to_string(),
        segment.dead().to_string(),
        segment.settlements.to_string(),
        segment.remembered.to_string(),
    ]
}

fn total(segments: &[SegmentFigures]) -> SegmentFigures {
    let mut total = SegmentFigures::default();
    for segment in segments {
        total.bytes += segment.bytes;
        total.valid_end += segment.valid_end;
        total.commits += segment.commits;
        total.pushes += segment.pushes;
        total.carried += segment.carried;
        total.settlements += segment.settlements;
        total.live += segment.live;
        total.remembered += segment.remembered;
        total.sequences = match (total.sequences, segment.sequences) {
            (Some((first, _)), Some((_, last))) => Some((first, last)),
            (one, other) => one.or(other),
        };
    }
    total
}

fn purpose(name: &str, settling: u64) -> String {
    match name {
        "settling" => format!(
            "{} told, not yet committed",
            counted(settling, "settlement", "settlements")
        ),
        "spare" | "large" => "a segment in the making".to_owned(),
        name if name.starts_with("cut-") => "a last commit that was not whole, cut off and kept".to_owned(),
        name if name.starts_with("repair-") => "saved by a repair".to_owned(),
        _ => "not the journal's".to_owned(),
    }
}

fn summary_json(inspection: &Inspection) -> Value {
    let segment = |segment: &SegmentFigures| {
        json!({
            "number": segment.number,
            "file": segment.file,
            "created_at": segment.created_at.map(|at| at.to_string()),
            "bytes": segment.bytes,
            "valid_end": segment.valid_end,
            "bad_bytes": segment.bad_bytes,
            "commits": segment.commits,
            "first_sequence": segment.sequences.map(|(first, _)| first.get()),
            "last_sequence": segment.sequences.map(|(_, last)| last.get()),
            "pushes": segment.pushes,
            "carried": segment.carried,
            "live": segment.live,
            "dead": segment.dead(),
            "settlements": segment.settlements,
            "event_ids": segment.event_ids,
            "remembered": segment.remembered,
        })
    };
    let others = inspection.others.iter();
    json!({
        "directory": inspection.directory,
        "identity": inspection.identity.map(|identity| identity.to_string()),
        "format": inspection.format,
        "held_by": holder_json(inspection.holder),
        "owed": inspection.owed,
        "pairs": inspection.pairs,
        "oldest_sequence": inspection.oldest.map(Sequence::get),
        "next_sequence": inspection.next.map(Sequence::get),
        "remembered": inspection.remembered,
        "settling": inspection.settling,
        "torn_bytes": inspection.torn_bytes,
        "is_sound": inspection.is_sound,
        "segments": inspection.segments.iter().map(segment).collect::<Vec<_>>(),
        "other_files": others.map(|file| json!({ "name": file.name, "bytes": file.bytes })).collect::<Vec<_>>(),
    })
}

/// A record on one line.
struct Line<'a>(&'a RecordView);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = self.0;
        write!(
            f,
            "segment={} offset={} commit={} ",
            record.segment, record.offset, record.commit
        )?;
        match &record.content {
            Content::Push(sequence, push, still) => {
                let kind = if still.is_some() { "carried" } else { "push" };
                // What a registry's clients may say is quoted, so that it stays on its line.
                write!(
                    f,
                    "{kind} sequence={sequence} image={} digest={} media_type={} references={} taken_at={} event_id={:?} actor={:?} endpoints={}",
                    image(push),
                    push.digest,
                    push.media_type,
                    push.references.len(),
                    push.taken_at,
                    push.event_id,
                    push.actor,
                    all(push).join(","),
                )?;
                match still {
                    Some(places) => write!(f, " owed_by={}", named(push, places).join(",")),
                    None => Ok(()),
                }
            }
            Content::Settled(pair, how) => write!(
                f,
                "settled sequence={} place={} how={}",
                pair.sequence,
                pair.place,
                how.as_str()
            ),
            Content::EventIds(count) => write!(f, "event_ids count={count}"),
            Content::Malformed(reason) => write!(f, "malformed reason={reason:?}"),
        }
    }
}

fn record_json(record: &RecordView) -> Value {
    let mut value = json!({
        "segment": record.segment,
        "offset": record.offset,
        "bytes": record.bytes,
        "commit": record.commit,
    });
    let content = match &record.content {
        Content::Push(sequence, push, still) => json!({
            "kind": if still.is_some() { "carried" } else { "push" },
            "sequence": sequence.get(),
            "image": image(push),
            "repository": push.repository.as_str(),
            "tag": push.tag.as_ref().map(Tag::as_str),
            "digest": push.digest.to_string(),
            "media_type": push.media_type.to_string(),
            "manifest_size": push.manifest_size,
            "references": push.references.len(),
            "taken_at": push.taken_at.to_string(),
            "event_id": push.event_id,
            "actor": push.actor,
            "endpoints": all(push),
            "owed_by": still.as_ref().map(|places| named(push, places)),
        }),
        Content::Settled(pair, how) => json!({
            "kind": "settled",
            "sequence": pair.sequence.get(),
            "place": pair.place,
            "how": how.as_str(),
        }),
        Content::EventIds(count) => json!({ "kind": "event_ids", "count": count }),
        Content::Malformed(reason) => json!({ "kind": "malformed", "reason": reason }),
    };
    if let (Value::Object(value), Value::Object(content)) = (&mut value, content) {
        value.extend(content);
    }
    value
}

fn image(push: &Push) -> String {
    match &push.tag {
        Some(tag) => format!("{}:{tag}", push.repository),
        None => format!("{}@{}", push.repository, push.digest),
    }
}

fn all(push: &Push) -> Vec<String> {
    push.owed.iter().map(ToString::to_string).collect()
}

fn named(push: &Push, places: &[u16]) -> Vec<String> {
    let owed = places
        .iter()
        .filter_map(|place| push.owed.get(usize::from(*place)));
    owed.map(ToString::to_string).collect()
}
