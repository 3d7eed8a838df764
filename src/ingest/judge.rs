//! From a body to what is to be taken, counted and quarantined of it.

use super::{
    Intake,
    envelope::{Envelope, Unreadable},
    filter::{Arrival, Filter, Verdict},
};
use crate::{clock::Timestamp, push::Item, telemetry::labels::EventVerdict};

/// What a body amounts to.
#[derive(Debug, Default)]
pub(super) struct Judged {
    /// To be taken, in the events' order.
    pub(super) items: Vec<Item>,
    /// To be counted: verdict, its reason, how many.
    pub(super) tally: Vec<(EventVerdict, &'static str, u64)>,
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
    let envelope = Envelope::parse(body).map_err(|error| Refused::unreadable(&error))?;
    let mut judged = Judged::default();
    for (raw, event) in envelope.events() {
        match event {
            Ok(event) => judged.add(filter.judge(&event), raw, intake, now),
            Err(error) => judged.refuse(Refused::unreadable(&error), raw),
        }
    }
    Ok(judged)
}

impl Judged {
    fn add(&mut self, verdict: Verdict, raw: &str, intake: &impl Intake, now: Timestamp) {
        match verdict {
            Verdict::Push(arrival) => {
                let owed = intake.owing(&arrival.repository, arrival.tag.as_ref());
                if owed.is_empty() {
                    self.add_quiet(arrival, "nobody_owes", intake);
                } else {
                    self.count(EventVerdict::Accepted, "");
                    self.items.push(Item::Push(arrival.into_push(now, owed)));
                }
            }
            Verdict::SizesOnly(arrival, rule) => self.add_quiet(arrival, rule.as_str(), intake),
            Verdict::Change(change) => {
                self.count(EventVerdict::Change, "");
                self.items.push(Item::Change(change));
            }
            Verdict::Ignore(why) => self.count(EventVerdict::Ignored, why.as_str()),
            Verdict::Invalid(invalid) => {
                let reason = invalid.as_str();
                let detail = invalid.to_string();
                self.refuse(Refused { reason, detail }, raw);
            }
        }
    }

    fn add_quiet(&mut self, arrival: Arrival, rule: &'static str, intake: &impl Intake) {
        self.count(EventVerdict::SizesOnly, rule);
        if !arrival.references.is_empty() {
            intake.learn(
                &arrival.repository,
                &arrival.digest,
                arrival.media_type,
                arrival.manifest_size,
                &arrival.references,
            );
        }
        self.items.extend(arrival.into_change().map(Item::Change));
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
