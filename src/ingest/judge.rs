//! From a body to what is to be taken, counted and quarantined of it.

use super::{
    Intake,
    envelope::{Envelope, Event, Unreadable},
    filter::{Arrival, Filter, Ignored, Verdict, bounded_id, cut, doubted},
};
use crate::{
    clock::Timestamp,
    push::{Dropped, Item, NOBODY_OWES, Notice},
    telemetry::labels::EventVerdict,
};

/// The most pushes of one envelope that are written down as dropped. A registry sends one event at a time.
const DROPPED_MAX: usize = 1000;

/// What a body amounts to.
#[derive(Debug, Default)]
pub(super) struct Judged {
    /// To be taken, in the events' order.
    pub(super) items: Vec<Item>,
    /// To be counted: verdict, its reason, how many.
    pub(super) tally: Vec<(EventVerdict, &'static str, u64)>,
    /// To be written down: pushes that no webhook is owed for.
    pub(super) dropped: Vec<Dropped>,
    /// To be quarantined.
    pub(super) bad: Option<Bad>,
}

/// The events of an envelope that can't be taken.
#[derive(Debug)]
pub(super) struct Bad {
    /// What is wrong with the first.
    pub(super) why: Refused,
    /// The events as they stand in the body, one after another, a line break between.
    pub(super) text: String,
}

/// What is wrong with a body or an event.
#[derive(Debug)]
pub(super) struct Refused {
    /// In a word.
    pub(super) reason: &'static str,
    /// In words.
    pub(super) detail: String,
}

impl Refused {
    pub(super) fn too_large(bytes: u64) -> Self {
        Self {
            reason: "too_large",
            detail: format!("the body has {bytes} bytes, more than ingest.max_body"),
        }
    }

    fn unreadable(error: &Unreadable) -> Self {
        Self {
            reason: "unreadable",
            detail: error.to_string(),
        }
    }
}

/// Reads and judges a body whose events came at `now`.
///
/// # Errors
/// It is no envelope.
pub(super) fn judge(
    body: &[u8],
    filter: &Filter,
    intake: &impl Intake,
    now: Timestamp,
) -> Result<Judged, Refused> {
    if let Some(judged) = judge_sound(body, filter, intake, now) {
        return Ok(judged);
    }
    let envelope = Envelope::parse(body).map_err(|error| Refused::unreadable(&error))?;
    let mut judged = Judged::default();
    for (raw, event) in envelope.events() {
        match event {
            Ok(event) => judged.add(&event, filter.judge(&event), raw, intake, now),
            Err(error) => judged.refuse(Refused::unreadable(&error), raw),
        }
    }
    Ok(judged)
}

/// The same of a body with nothing in it that would go to the quarantine, which is nearly every one.
fn judge_sound(body: &[u8], filter: &Filter, intake: &impl Intake, now: Timestamp) -> Option<Judged> {
    let judge = |event| {
        let verdict = filter.judge(&event);
        let is_valid = !matches!(verdict, Verdict::Invalid(_));
        is_valid.then_some((event, verdict))
    };
    let events = Envelope::sound(body)?.map(judge).collect::<Option<Vec<_>>>()?;
    let mut judged = Judged::default();
    for (event, verdict) in events {
        judged.add(&event, verdict, "", intake, now);
    }
    Some(judged)
}

impl Judged {
    fn add(&mut self, event: &Event<'_>, verdict: Verdict, raw: &str, intake: &impl Intake, now: Timestamp) {
        let mut drop_by = |rule| {
            if self.dropped.len() < DROPPED_MAX {
                self.dropped.push(dropped(event, rule, now));
            }
        };
        // Another registry's process says nothing of this one.
        let is_ours = !matches!(verdict, Verdict::Ignore(Ignored::OtherHost));
        if is_ours && !event.source.instance_id.is_empty() {
            intake.heard_from(&event.source.instance_id);
        }
        match verdict {
            Verdict::Push(arrival) => {
                let owed = intake.owing(&arrival.repository, arrival.tag.as_ref());
                if owed.is_empty() {
                    drop_by(NOBODY_OWES);
                    self.add_quiet(arrival, NOBODY_OWES, intake);
                } else {
                    self.count(EventVerdict::Accepted, "");
                    self.items.push(Item::Push(arrival.into_push(now, owed)));
                }
            }
            Verdict::SizesOnly(arrival, rule) => {
                drop_by(rule.as_str());
                self.add_quiet(arrival, rule.as_str(), intake);
            }
            Verdict::Change(change) => {
                self.count(EventVerdict::Change, "");
                let event_id = bounded_id(&event.id);
                self.items.push(Item::Change(Notice { event_id, change }));
            }
            Verdict::Ignore(why) => {
                // Pulls, mounts and blobs are many, and nobody expects a webhook for them.
                if event.action == "push" && !event.target.tag.is_empty() {
                    drop_by(why.as_str());
                }
                if let Some(change) = doubted(event).filter(|_| !is_ours) {
                    // To doubt it again does no harm: the id would take the place of another's.
                    let event_id = String::new();
                    self.items.push(Item::Change(Notice { event_id, change }));
                }
                self.count(EventVerdict::Ignored, why.as_str());
            }
            Verdict::Invalid(invalid) => {
                let reason = invalid.as_str();
                drop_by(reason);
                let detail = invalid.to_string();
                self.refuse(Refused { reason, detail }, raw);
            }
        }
    }

    fn add_quiet(&mut self, arrival: Arrival, rule: &'static str, intake: &impl Intake) {
        self.count(EventVerdict::SizesOnly, rule);
        intake.learn(
            &arrival.digest,
            arrival.media_type,
            arrival.manifest_size,
            &arrival.references,
        );
        self.items.push(Item::Change(arrival.into_change()));
    }

    fn refuse(&mut self, why: Refused, raw: &str) {
        self.count(EventVerdict::Quarantined, why.reason);
        match &mut self.bad {
            None => {
                self.bad = Some(Bad {
                    why,
                    text: raw.to_owned(),
                });
            }
            Some(bad) => {
                bad.text.push('\n');
                bad.text.push_str(raw);
            }
        }
    }

    fn count(&mut self, verdict: EventVerdict, reason: &'static str) {
        let known = self
            .tally
            .iter_mut()
            .find(|(v, r, _)| (*v, *r) == (verdict, reason));
        match known {
            Some((.., count)) => *count += 1,
            None => self.tally.push((verdict, reason, 1)),
        }
    }
}

fn dropped(event: &Event<'_>, rule: &'static str, at: Timestamp) -> Dropped {
    let target = &event.target;
    Dropped {
        at,
        rule,
        repository: cut(&target.repository),
        tag: cut(&target.tag),
        digest: cut(&target.digest),
        event_id: bounded_id(&event.id),
        actor: cut(&event.actor.name),
    }
}
