//! The story for people.

use std::{
    fmt::{self, Write},
    time::Duration,
};

use super::super::colour::{Colour, Tone};
use crate::{
    catalog::{AttemptStory, DeliveryStory, DroppedStory, EndpointHealth, PushStory, Stories},
    clock::Timestamp,
};

pub(super) fn all(found: &Stories, note: Option<&str>, colour: Colour, now: Timestamp) -> String {
    let mut page = Page {
        text: String::new(),
        colour,
        now,
    };
    for push in &found.pushes {
        page.push(push);
    }
    for dropped in &found.dropped {
        page.dropped(dropped);
    }
    if !page.text.is_empty()
        && let Some(note) = note
    {
        page.line("", colour.paint(Tone::Quiet, format!("({note})")));
    }
    page.text
}

struct Page {
    text: String,
    colour: Colour,
    now: Timestamp,
}

impl Page {
    /// A line whose word stands before a column of texts.
    fn line(&mut self, word: &str, what: impl fmt::Display) {
        // Writing to a String doesn't fail.
        let _ = if word.is_empty() {
            writeln!(self.text, "{what}")
        } else {
            writeln!(self.text, "  {word:<9} {what}")
        };
    }

    fn push(&mut self, push: &PushStory) {
        let image = image(&push.repository, &push.tag, push.digest.as_deref().unwrap_or("?"));
        self.line("", self.colour.paint(Tone::Loud, image));
        if !push.tag.is_empty() {
            self.line("digest", push.digest.as_deref().unwrap_or("not written down"));
        }
        let at = push
            .taken_at
            .map_or("at a time that was not written down".to_owned(), |at| {
                at.to_string()
            });
        self.line(
            "taken",
            format!(
                "{at}, sequence {}{}",
                push.sequence,
                by(&push.event_id, &push.actor)
            ),
        );
        if push.deliveries.is_empty() {
            self.line("goes to", "nobody that was written down");
        } else {
            let endpoints: Vec<&str> = push.deliveries.iter().map(|one| one.endpoint.as_str()).collect();
            self.line("goes to", endpoints.join(", "));
        }
        for delivery in &push.deliveries {
            self.delivery(delivery, push.listed);
        }
        self.text.push('\n');
    }

    fn delivery(&mut self, delivery: &DeliveryStory, listed: Option<u64>) {
        let state = self.state(delivery);
        let _ = writeln!(
            self.text,
            "\n  {}: {state}",
            self.colour.paint(Tone::Loud, &delivery.endpoint)
        );
        self.line("  id", &delivery.webhook_id);
        if delivery.attempts_made > 0 {
            self.line("  sizes", sizes(delivery, listed));
        }
        let kept = delivery.attempts.len() as u64;
        for (index, attempt) in delivery.attempts.iter().enumerate() {
            let before = index
                .checked_sub(1)
                .and_then(|before| delivery.attempts.get(before));
            let gap = attempt.number - before.map_or(0, |before| before.number).min(attempt.number);
            if gap > 1 {
                let told = format!("… {} attempts that are not kept", gap - 1);
                self.line("", format!("    {}", self.colour.paint(Tone::Quiet, told)));
            }
            self.attempt(attempt);
        }
        if kept == 0 && delivery.attempts_made == 0 && delivery.state == "pending" {
            self.line("  tried", "not yet");
        }
    }

    fn state(&self, delivery: &DeliveryStory) -> String {
        let at = delivery
            .ended_at
            .map(|at| format!(" at {at}"))
            .unwrap_or_default();
        let attempts = match delivery.attempts_made {
            1 => "1 attempt".to_owned(),
            made => format!("{made} attempts"),
        };
        let made = match (delivery.attempts_made, delivery.may_have_had_more()) {
            (0, false) => "without an attempt".to_owned(),
            (0, true) => "after how many attempts was not written down".to_owned(),
            (_, false) => format!("after {attempts}"),
            (_, true) => format!("after at least {attempts}"),
        };
        match delivery.state.as_str() {
            "delivered" => format!("{}{at}, {made}", self.colour.paint(Tone::Good, "delivered")),
            "superseded" => format!("superseded{at} by a newer push of the same tag, {made}"),
            "dead_letter" => {
                let reason = delivery.reason.as_ref().map(|reason| format!(": {reason}"));
                format!(
                    "{}{at}, {made}{}",
                    self.colour.paint(Tone::Bad, "given up: a dead letter"),
                    reason.unwrap_or_default()
                )
            }
            "unknown" if delivery.attempts_made == 0 => {
                "ended; neither how nor after how many attempts was written down".to_owned()
            }
            "unknown" => format!("ended, {made}; how was not written down"),
            _ => self.waits(delivery),
        }
    }

    /// What a pending delivery waits for.
    fn waits(&self, delivery: &DeliveryStory) -> String {
        if let Some(health) = &delivery.endpoint_health {
            return self.waits_for_endpoint(delivery, health);
        }
        match delivery.next_at {
            Some(at) if at > self.now => {
                format!(
                    "waits for its next attempt, in {} at {at}",
                    span(at.since(self.now))
                )
            }
            Some(at) => format!("its next attempt has been due since {at}, and waits for its turn"),
            None if delivery.attempts_made == 0 => {
                "waits for its batch to close, its sizes, those before it in its repository, or its turn at its host".to_owned()
            }
            None => "waits for what follows from its last attempt".to_owned(),
        }
    }

    /// What one waits for whose endpoint is not healthy.
    fn waits_for_endpoint(&self, delivery: &DeliveryStory, health: &EndpointHealth) -> String {
        let since = health.since.map(|since| format!(" since {since}"));
        let state = format!("{}{}", health.state, since.unwrap_or_default());
        let endpoint = &delivery.endpoint;
        match health.state.as_str() {
            "held" => format!(
                "waits for its endpoint, which is {state}, until somebody enables it: `shipbell endpoints enable {endpoint}`"
            ),
            "disabled" => format!("its endpoint is {state}: it is given up, and becomes a dead letter"),
            "ignored" => format!(
                "its endpoint is {state}: it becomes a dead letter, unless it is what is sent as a probe"
            ),
            // What this push waits for itself may be longer.
            _ => match health.waits_until(delivery.next_at) {
                Some(at) if at > self.now => format!(
                    "waits for its endpoint, which is {state}: the next attempt, of the oldest push for it, is in {} at {at}",
                    span(at.since(self.now))
                ),
                _ => format!(
                    "waits for its endpoint, which is {state}: the next attempt, of the oldest push for it, is due"
                ),
            },
        }
    }

    fn attempt(&mut self, attempt: &AttemptStory) {
        let number = format!("  {}", attempt.number);
        let took = span(attempt.elapsed);
        let what = match (attempt.status, &attempt.reason) {
            (Some(status), None) => self.colour.paint(Tone::Good, format!("answered {status}")),
            (_, reason) => {
                let reason = self
                    .colour
                    .paint(Tone::Bad, reason.as_deref().unwrap_or("failed"));
                let fault = match attempt.fault.as_deref() {
                    Some("push") => "the push's fault",
                    Some("shipbell") => "shipbell's own fault",
                    Some("gone") => "the endpoint says that it is gone for good",
                    _ => "the endpoint's fault",
                };
                format!("{reason} ({fault})")
            }
        };
        self.line(&number, format!("{}  {took:>8}  {what}", attempt.at));
        if let Some(url) = &attempt.url {
            self.line("", format!("              to {url}"));
        }
        if attempt.reason.is_some()
            && let Some(answer) = attempt.answer.as_deref().filter(|answer| !answer.is_empty())
        {
            self.line("", format!("              said {}", excerpt(answer)));
        }
        if let Some(at) = attempt.retry_at {
            self.line("", format!("              tried again from {at} on"));
        }
    }

    fn dropped(&mut self, dropped: &DroppedStory) {
        let image = image(&dropped.repository, &dropped.tag, &dropped.digest);
        self.line("", self.colour.paint(Tone::Loud, image));
        if !dropped.tag.is_empty() && !dropped.digest.is_empty() {
            self.line("digest", &dropped.digest);
        }
        let by = by(&dropped.event_id, &dropped.actor);
        self.line("dropped", format!("{}{by}", dropped.at));
        self.line("because", rule(&dropped.rule));
        self.text.push('\n');
    }
}

/// A rule as a sentence.
fn rule(rule: &str) -> String {
    let told = match rule {
        "untagged" => {
            "it has no tag, and filter.untagged is false: children of multi-arch images and attestations"
        }
        "referrers" => "its tag is that of a signature or an attestation, and filter.referrers is false",
        "repositories" => "no pattern of filter.repositories matches its repository",
        "exclude_repositories" => "a pattern of filter.exclude_repositories matches its repository",
        "exclude_tags" => "a pattern of filter.exclude_tags matches its tag",
        "exclude_actors" => "a pattern of filter.exclude_actors matches who pushed it",
        "nobody_owes" => {
            "no endpoint wants it: no repositories, tags and exclude_tags of an endpoint let it through"
        }
        "accept_hosts" => "it comes from a host that is not in registry.accept_hosts",
        "not_a_manifest" => "its media type is not one of a manifest or an index",
        "invalid_repository" => "its repository's name is not valid: data_dir/quarantine has the event",
        "invalid_tag" => "its tag is not valid: data_dir/quarantine has the event",
        "invalid_digest" => "its digest is not valid: data_dir/quarantine has the event",
        other => other,
    };
    told.to_owned()
}

fn image(repository: &str, tag: &str, digest: &str) -> String {
    // What a registry's clients may say stays on its line.
    let clean = |text: &str| text.escape_debug().to_string();
    match tag {
        "" => format!("{}@{}", clean(repository), clean(digest)),
        tag => format!("{}:{}", clean(repository), clean(tag)),
    }
}

fn by(event_id: &str, actor: &str) -> String {
    let mut by = String::new();
    if !event_id.is_empty() {
        by.push_str(", event ");
        by.extend(event_id.escape_debug());
    }
    if !actor.is_empty() {
        by.push_str(", by ");
        by.extend(actor.escape_debug());
    }
    by
}

fn sizes(delivery: &DeliveryStory, listed: Option<u64>) -> String {
    let number =
        |size: Option<u64>| size.map_or("not known in time".to_owned(), |size| format!("{size} bytes"));
    let layers = match delivery.layers {
        Some(1) => " in 1 layer".to_owned(),
        Some(layers) => format!(" in {layers} layers"),
        None => String::new(),
    };
    let how = match (delivery.image_size, listed) {
        (None, _) | (_, None) => "",
        (Some(_), Some(0)) => "; the registry was asked, for the notification listed no blobs",
        (Some(_), Some(_)) => "; the notification listed its blobs",
    };
    format!(
        "image {}{layers}{how}; repository {}",
        number(delivery.image_size),
        number(delivery.repository_size)
    )
}

/// An answer's beginning, on one line.
fn excerpt(answer: &[u8]) -> String {
    const CHARS_MAX: usize = 160;
    let text = String::from_utf8_lossy(answer);
    let mut chars = text.chars();
    let mut excerpt: String = chars
        .by_ref()
        .take(CHARS_MAX)
        .flat_map(char::escape_debug)
        .collect();
    if chars.next().is_some() {
        excerpt.push('…');
    }
    format!("\"{excerpt}\"")
}

/// `0.8 ms`, `12 ms`, `3.2 s`, `14 min`, `23 h`.
fn span(span: Duration) -> String {
    let ms = span.as_secs_f64() * 1000.0;
    if ms < 10.0 {
        format!("{ms:.1} ms")
    } else if ms < 1_000.0 {
        format!("{ms:.0} ms")
    } else if ms < 120_000.0 {
        format!("{:.1} s", ms / 1_000.0)
    } else if ms < 7_200_000.0 {
        format!("{:.0} min", ms / 60_000.0)
    } else {
        format!("{:.0} h", ms / 3_600_000.0)
    }
}

#[cfg(test)]
mod tests;
