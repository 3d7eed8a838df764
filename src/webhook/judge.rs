//! The one place that says what an answer, or its absence, means for a delivery.

use std::{borrow::Cow, time::Duration};

use chrono::{DateTime, NaiveDateTime};
use http::{HeaderValue, StatusCode};

use super::{Fault, Outcome, answer::Answer, client::SendError};
use crate::clock::Timestamp;

/// The longest that an endpoint's `Retry-After` is honoured.
pub const RETRY_AFTER_MAX: Duration = Duration::from_hours(24);

/// What came of an attempt.
///
/// | answer | outcome |
/// |---|---|
/// | 2xx | delivered |
/// | none, for this machine can open no connection | our own |
/// | none: no connection, TLS, DNS, timeout, settings that can't be read | the endpoint's fault |
/// | 5xx, 408, 429 | the endpoint's fault |
/// | 410 | the endpoint is gone |
/// | any other, redirects among them | the push's fault |
#[must_use]
pub fn judge(result: &Result<Answer, SendError>, now: Timestamp) -> Outcome {
    let answer = match result {
        Ok(answer) => answer,
        Err(error) => {
            return Outcome::Failed {
                fault: if error.is_ours() {
                    Fault::Ours
                } else {
                    Fault::Endpoint
                },
                status: None,
                reason: error.to_string(),
                retry_after: None,
            };
        }
    };
    let status = answer.status;
    if status.is_success() {
        return Outcome::Delivered {
            status: status.as_u16(),
        };
    }
    let fault = match status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Fault::Endpoint,
        status if status.is_server_error() => Fault::Endpoint,
        StatusCode::GONE => Fault::Gone,
        _ => Fault::Push,
    };
    Outcome::Failed {
        fault,
        status: Some(status.as_u16()),
        reason: reason(status),
        retry_after: answer
            .retry_after
            .as_ref()
            .and_then(|value| retry_after(value, now)),
    }
}

fn reason(status: StatusCode) -> String {
    let name = status
        .canonical_reason()
        .map(|name| format!(" {name}"))
        .unwrap_or_default();
    let hint = if matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        "; redirects are not followed"
    } else {
        ""
    };
    format!("answered {}{name}{hint}", status.as_u16())
}

/// How a reason begins that says nothing of where an endpoint is: what was answered, how long it took, what a hand did.
const PLACELESS: [&str; 17] = [
    "this machine can open no connection",
    "answered ",
    "a test was answered ",
    "no connection within ",
    "connected, but no answer within ",
    "connection ",
    "no route to the ",
    "the receiver closed the connection",
    "by ",
    "saved by ",
    "given up",
    "its endpoint is disabled",
    "its endpoint is gone from the configuration",
    "its repository's webhook was removed",
    "its URL was changed in the configuration",
    "it is in the configuration again",
    "too much is owed ",
];

/// Reasons that say where an endpoint is, or was, by how they begin; and what is left of them.
const PLACES: [(&str, &str); 5] = [
    ("the name ", "its name can't be resolved"),
    ("the proxy ", "its proxy does not let it through"),
    ("refused: ", "it points where webhooks may not go"),
    ("TLS: ", "TLS did not come about"),
    ("the endpoint's ", "its settings are not usable"),
];

/// The reason of a failure or of a state without where the endpoint is or was, its proxy and its files: for those who may
/// not know that. What isn't known to say nothing of it is left out.
#[must_use]
pub fn without_place(reason: &str) -> Cow<'_, str> {
    const IGNORED: &str = "its endpoint is ignored: ";
    if let Some(why) = reason.strip_prefix(IGNORED) {
        return format!("{IGNORED}{}", without_place(why)).into();
    }
    if reason.is_empty() || PLACELESS.iter().any(|begin| reason.starts_with(begin)) {
        return reason.into();
    }
    let place = PLACES.iter().find(|(begin, _)| reason.starts_with(begin));
    place.map_or("no answer came", |(_, left)| *left).into()
}

/// How long a `Retry-After` (RFC 9110, section 10.2.3) asks to wait: seconds, or until a date. At most
/// [`RETRY_AFTER_MAX`]; `None` when it makes no sense or is over.
fn retry_after(value: &HeaderValue, now: Timestamp) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    let wait = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // Too many digits for a number are still a number, and far above the clamp.
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        http_date(text)?.since(now)
    };
    (!wait.is_zero()).then_some(wait.min(RETRY_AFTER_MAX))
}

/// A date in any of the three forms that a recipient must accept (RFC 9110, section 5.6.7).
fn http_date(text: &str) -> Option<Timestamp> {
    if let Ok(date) = DateTime::parse_from_rfc2822(text) {
        return Some(date.to_utc().into());
    }
    ["%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"]
        .iter()
        .find_map(|form| NaiveDateTime::parse_from_str(text, form).ok())
        .map(|date| date.and_utc().into())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::webhook::{answer::BodyEnd, connect::ConnectError, tunnel::ProxyFailure};

    /// Sun, 06 Nov 1994 08:49:37 GMT
    const NOW: Timestamp = Timestamp::from_unix_millis(784_111_777_000);

    fn answer(status: u16, retry_after: Option<&str>) -> Answer {
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            retry_after: retry_after.map(|value| HeaderValue::from_str(value).unwrap()),
            body: Bytes::new(),
            end: BodyEnd::Complete,
        }
    }

    fn fault(status: u16) -> Option<Fault> {
        match judge(&Ok(answer(status, None)), NOW) {
            Outcome::Delivered { .. } => None,
            Outcome::Failed { fault, .. } => Some(fault),
        }
    }

    #[test]
    fn where_an_endpoint_is_or_was_stands_in_no_reason_without_its_place() {
        let connect = [
            ConnectError::Resolve {
                host: "secret.example".into(),
                reason: "no such host secret.example".into(),
            },
            ConnectError::Tcp("secret.example: strange".into()),
            ConnectError::Tcp("connection refused".into()),
            ConnectError::Proxy {
                proxy: "http://secret.example:3128".into(),
                failure: ProxyFailure::Protocol("HTTP"),
            },
            ConnectError::Tls("the certificate is for secret.example".into()),
            ConnectError::Late(Duration::from_secs(1)),
        ];
        let sent = [
            SendError::Unreadable {
                what: "URL",
                reason: "/run/secret.example/url: gone".into(),
            },
            SendError::NoAnswer(Duration::from_secs(15)),
            SendError::Lost("connection reset by the receiver".into()),
            SendError::BadAnswer("the answer is no HTTP"),
        ];
        let all = connect.map(SendError::Connect).into_iter().chain(sent);
        for error in all {
            let reason = error.to_string();
            for reason in [reason.clone(), format!("its endpoint is ignored: {reason}")] {
                let left = without_place(&reason);
                assert!(
                    !left.contains("secret.example") && !left.is_empty(),
                    "{reason}: {left}"
                );
            }
        }
        for kept in [
            "answered 503 Service Unavailable",
            "a test was answered 204",
            "connection refused",
            "connected, but no answer within 15s",
            "by ann",
            "its endpoint is ignored: answered 410 Gone",
            "",
        ] {
            assert_eq!(without_place(kept), kept);
        }
        assert_eq!(
            without_place("refused: 10.1.2.3 is private"),
            "it points where webhooks may not go"
        );
        assert_eq!(without_place("whatever secret.example says"), "no answer came");
    }

    #[test]
    fn every_status_has_its_verdict() {
        for status in 100..=999 {
            let expected = match status {
                200..=299 => None,
                408 | 429 | 500..=599 => Some(Fault::Endpoint),
                410 => Some(Fault::Gone),
                _ => Some(Fault::Push),
            };
            assert_eq!(fault(status), expected, "{status}");
        }
    }

    #[test]
    fn a_body_that_dragged_does_not_undo_its_status() {
        let dragged = Answer {
            end: BodyEnd::Late,
            ..answer(202, None)
        };
        assert_eq!(judge(&Ok(dragged), NOW), Outcome::Delivered { status: 202 });
    }

    #[test]
    fn no_answer_is_the_endpoints_fault_and_says_why() {
        let outcome = judge(
            &Err(SendError::Connect(ConnectError::Tcp("connection refused".into()))),
            NOW,
        );
        assert_eq!(
            outcome,
            Outcome::Failed {
                fault: Fault::Endpoint,
                status: None,
                reason: "connection refused".into(),
                retry_after: None,
            }
        );
    }

    #[test]
    fn what_this_machine_has_not_left_is_nobodys_fault() {
        let error = ConnectError::Ours("Too many open files (os error 24)".into());
        let Outcome::Failed { fault, reason, .. } = judge(&Err(SendError::Connect(error)), NOW) else {
            panic!("it was not delivered");
        };
        assert_eq!(fault, Fault::Ours);
        assert_eq!(without_place(&reason), reason);
    }

    #[test]
    fn reasons_are_words() {
        assert_eq!(reason(StatusCode::NOT_FOUND), "answered 404 Not Found");
        assert_eq!(
            reason(StatusCode::FOUND),
            "answered 302 Found; redirects are not followed"
        );
        assert_eq!(reason(StatusCode::NOT_MODIFIED), "answered 304 Not Modified");
        assert_eq!(reason(StatusCode::from_u16(799).unwrap()), "answered 799");
    }

    fn wait(value: &str) -> Option<Duration> {
        match judge(&Ok(answer(503, Some(value))), NOW) {
            Outcome::Failed { retry_after, .. } => retry_after,
            Outcome::Delivered { .. } => unreachable!("503 is no success"),
        }
    }

    #[test]
    fn retry_after_is_taken_in_seconds_and_in_three_forms_of_date() {
        assert_eq!(wait("120"), Some(Duration::from_mins(2)));
        for date in [
            "Sun, 06 Nov 1994 08:51:37 GMT",
            "Sunday, 06-Nov-94 08:51:37 GMT",
            "Sun Nov  6 08:51:37 1994",
        ] {
            assert_eq!(wait(date), Some(Duration::from_mins(2)), "{date}");
        }
    }

    #[test]
    fn an_absurd_retry_after_is_clamped_or_passed_over() {
        for long in [
            "86401",
            "99999999999999999999999999",
            "Fri, 31 Dec 9999 23:59:59 GMT",
        ] {
            assert_eq!(wait(long), Some(RETRY_AFTER_MAX), "{long}");
        }
        for nothing in [
            "0",
            "",
            "-1",
            "1.5",
            "soon",
            "Sun, 06 Nov 1994 08:49:36 GMT",
            "+5",
        ] {
            assert_eq!(wait(nothing), None, "{nothing}");
        }
    }
}
