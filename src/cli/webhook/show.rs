//! How a received webhook is printed: for people, or one JSON object a line.

use std::{
    fmt::{self, Write as _},
    io::{self, Write},
    net::SocketAddr,
};

use serde::Serialize;

use super::{
    super::{
        Output,
        colour::{Colour, Tone},
    },
    wire::Request,
};
use crate::{clock::Timestamp, webhook::masked::masked_target, webhook::sign::VerifyError};

/// What a check of the signature found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signature {
    /// No secret was given.
    Unchecked,
    /// There is none.
    Absent,
    Good,
    Bad(VerifyError),
}

/// A received webhook with all that is told of it.
#[derive(Debug)]
pub(super) struct Webhook<'a> {
    /// 1 for the first.
    pub(super) number: u64,
    pub(super) at: Timestamp,
    pub(super) peer: SocketAddr,
    pub(super) request: &'a Request,
    pub(super) signature: Signature,
    pub(super) seen_before: bool,
    /// What it is answered with.
    pub(super) status: u16,
}

#[derive(Serialize)]
struct JsonLine<'a> {
    number: u64,
    time: String,
    peer: String,
    method: &'a str,
    target: String,
    headers: Vec<(&'a str, &'a str)>,
    body: &'a str,
    body_bytes: usize,
    webhook_id: Option<&'a str>,
    seen_before: bool,
    signature: &'static str,
    signature_problem: Option<String>,
    status: u16,
}

impl Signature {
    fn as_str(self) -> &'static str {
        match self {
            Self::Unchecked => "unchecked",
            Self::Absent => "absent",
            Self::Good => "good",
            Self::Bad(_) => "bad",
        }
    }

    fn problem(self) -> Option<VerifyError> {
        match self {
            Self::Bad(error) => Some(error),
            _ => None,
        }
    }
}

impl Webhook<'_> {
    /// Prints it and flushes, so that whoever reads along sees it at once.
    pub(super) fn print(&self, output: Output, colour: Colour, out: &mut impl Write) -> io::Result<()> {
        match output {
            Output::Text => out.write_all(self.text(colour).as_bytes())?,
            Output::Json => writeln!(out, "{}", serde_json::to_string(&self.json_line())?)?,
        }
        out.flush()
    }

    fn json_line(&self) -> JsonLine<'_> {
        JsonLine {
            number: self.number,
            time: self.at.to_string(),
            peer: self.peer.to_string(),
            method: &self.request.method,
            target: masked_target(&self.request.target),
            headers: self.headers().collect(),
            body: std::str::from_utf8(&self.request.body).unwrap_or("(not UTF-8)"),
            body_bytes: self.request.body.len(),
            webhook_id: self.request.header("webhook-id"),
            seen_before: self.seen_before,
            signature: self.signature.as_str(),
            signature_problem: self.signature.problem().map(|error| error.to_string()),
            status: self.status,
        }
    }

    /// The headers as they came, but for credentials, of which only the scheme is shown.
    fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.request.headers.iter().map(|(name, value)| {
            let is_credential = ["authorization", "proxy-authorization", "cookie"]
                .iter()
                .any(|credential| name.eq_ignore_ascii_case(credential));
            let shown = match value.split_once(' ') {
                _ if !is_credential => value,
                Some((scheme @ ("Basic" | "Bearer"), _)) => match scheme {
                    "Basic" => "Basic …",
                    _ => "Bearer …",
                },
                _ => "…",
            };
            (name.as_str(), shown)
        })
    }

    fn text(&self, colour: Colour) -> String {
        let mut text = String::new();
        let target = masked_target(&self.request.target);
        let title = format!("{} · {} · {} {target}", self.number, self.at, self.request.method);
        // Writing to a String can't fail.
        let _ = writeln!(
            text,
            "{} from {}",
            colour.paint(Tone::Loud, Safe(&title)),
            self.peer
        );
        for (name, value) in self.headers() {
            let _ = writeln!(
                text,
                "{} {}",
                colour.paint(Tone::Quiet, Safe(&format!("{name}:"))),
                Safe(value)
            );
        }
        let body = String::from_utf8_lossy(&self.request.body);
        let body = if serde_json::from_str::<serde::de::IgnoredAny>(&body).is_ok() {
            indented(&body)
        } else {
            body.into_owned()
        };
        let signature = match self.signature {
            Signature::Unchecked => "signature not checked (no secret given)".into(),
            Signature::Absent => colour.paint(Tone::Bad, "signature absent"),
            Signature::Good => colour.paint(Tone::Good, "signature good"),
            Signature::Bad(error) => colour.paint(Tone::Bad, Safe(&format!("signature bad: {error}"))),
        };
        let seen = match (self.request.header("webhook-id"), self.seen_before) {
            (None, _) => "no webhook-id",
            (Some(_), false) => "this webhook-id for the first time",
            (Some(_), true) => "this webhook-id again",
        };
        let _ = writeln!(
            text,
            "\n{}\n\n{signature} · {seen} · answered {}\n",
            Safe(&body),
            self.status
        );
        text
    }
}

/// Text from outside with its control characters escaped: a webhook must not steer the terminal.
struct Safe<'a>(&'a str);

impl fmt::Display for Safe<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '\n' | '\t' => f.write_char(c),
            c if c.is_control() => write!(f, "{}", c.escape_default()),
            c => f.write_char(c),
        })
    }
}

/// Valid JSON, one key or item a line. Nothing but blanks between the tokens is changed, so that keys
/// stay in their order and numbers in their form.
fn indented(json: &str) -> String {
    let mut text = String::with_capacity(json.len() * 2);
    let mut depth = 0_usize;
    let new_line = |text: &mut String, depth: usize| {
        text.push('\n');
        // Deep nesting is shown, but not drawn out without end.
        text.extend(std::iter::repeat_n("  ", depth.min(32)));
    };
    let mut chars = json.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                text.push(c);
                let mut escaped = false;
                for c in chars.by_ref() {
                    text.push(c);
                    match c {
                        '"' if !escaped => break,
                        _ => escaped = c == '\\' && !escaped,
                    }
                }
            }
            '{' | '[' => {
                text.push(c);
                while chars.next_if(char::is_ascii_whitespace).is_some() {}
                if let Some(close) = chars.next_if(|c| matches!(c, '}' | ']')) {
                    text.push(close);
                } else {
                    depth += 1;
                    new_line(&mut text, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                new_line(&mut text, depth);
                text.push(c);
            }
            ',' => {
                text.push(c);
                new_line(&mut text, depth);
            }
            ':' => text.push_str(": "),
            c if c.is_ascii_whitespace() => {}
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        Request {
            method: "POST".into(),
            target: "/hook?token=hunter2".into(),
            headers: vec![
                header("Host", "127.0.0.1"),
                header("webhook-id", "msg_1"),
                header("X-Odd", "\x1b[2Jgone"),
                header("authorization", "Bearer hunter2"),
            ],
            body: br#"{"image":"acme/app:1.4","layers":[],"b":1.50}"#.to_vec(),
            keep_alive: true,
        }
    }

    fn print(output: Output, colour: Colour, signature: Signature) -> String {
        let mut out = Vec::new();
        Webhook {
            number: 7,
            at: Timestamp::from_unix_millis(0),
            peer: "127.0.0.1:9".parse().unwrap(),
            request: &request(),
            signature,
            seen_before: true,
            status: 503,
        }
        .print(output, colour, &mut out)
        .unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn people_see_headers_body_and_verdict() {
        assert_eq!(
            print(Output::Text, Colour::Plain, Signature::Good),
            "7 · 1970-01-01T00:00:00.000Z · POST /hook?… from 127.0.0.1:9\n\
             Host: 127.0.0.1\nwebhook-id: msg_1\nX-Odd: \\u{1b}[2Jgone\nauthorization: Bearer …\n\n\
             {\n  \"image\": \"acme/app:1.4\",\n  \"layers\": [],\n  \"b\": 1.50\n}\n\n\
             signature good · this webhook-id again · answered 503\n\n"
        );
        let coloured = print(Output::Text, Colour::Ansi, Signature::Bad(VerifyError::NoMatch));
        assert!(
            coloured.contains("\x1b[31msignature bad: no v1 signature"),
            "{coloured}"
        );
    }

    #[test]
    fn programs_get_one_line_with_the_body_to_the_byte() {
        let line = print(Output::Json, Colour::Plain, Signature::Bad(VerifyError::TooOld));
        assert_eq!(line.matches('\n').count(), 1);
        let json: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(json["body"].as_str().unwrap().as_bytes(), request().body);
        assert_eq!(json["headers"][1], serde_json::json!(["webhook-id", "msg_1"]));
        assert_eq!(json["signature"], "bad");
        assert_eq!(
            json["signature_problem"],
            "webhook-timestamp is more than 5 minutes in the past"
        );
        assert_eq!(
            (&json["seen_before"], &json["status"]),
            (&true.into(), &503.into())
        );
        assert!(!line.contains("hunter2"));
    }

    #[test]
    fn indenting_changes_nothing_inside_texts() {
        assert_eq!(
            indented(r#"{"a":"{\"x\": [1,\\"}"#),
            "{\n  \"a\": \"{\\\"x\\\": [1,\\\\\"\n}"
        );
        assert_eq!(indented("[ { } , [ ] ]"), "[\n  {},\n  []\n]");
        assert_eq!(indented("\"x\""), "\"x\"");
        assert_eq!(indented(&"[".repeat(3)), "[\n  [\n    [\n      ");
    }
}
