//! Keeps secrets out of what is written down: of a request, and of an answer that repeats parts of it.

use std::fmt::Write as _;

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, header};

use crate::webhook::request::Request;

/// What stands in a secret's place.
pub(super) const MASK: &str = "[masked]";

/// What is shorter is no secret worth the name, and stands in any text.
const SECRET_BYTES_MIN: usize = 4;

/// What stands between the parts of a header's value, as in `session=…; theme=dark` or `Token token="…"`,
const SEPARATORS: &[u8] = b" \t;:,=\"'";

/// and how long a part is at least that is taken for a secret, and not for one of the words between.
const PART_BYTES_MIN: usize = 8;

/// A character's number in HTML has no more digits, but for zeros in front.
const ENTITY_DIGITS_MAX: usize = 8;

/// Headers that carry credentials, whoever set them.
const CREDENTIALS: [HeaderName; 3] = [header::AUTHORIZATION, header::PROXY_AUTHORIZATION, header::COOKIE];

/// The headers, a line each in the order in which they are sent. Credentials are masked, and whatever an
/// endpoint's own headers hold. `webhook-signature` stays: it shows whether a receiver got what was signed,
/// tells nothing of the secret, and is good for no other body and only for some minutes.
pub(crate) fn headers(headers: &HeaderMap) -> String {
    let mut text = String::with_capacity(512);
    for (name, value) in headers {
        let shown = if value.is_sensitive() || CREDENTIALS.contains(name) {
            MASK.into()
        } else {
            String::from_utf8_lossy(value.as_bytes())
        };
        // Writing to a String doesn't fail.
        let _ = writeln!(text, "{name}: {shown}");
    }
    text
}

/// The secrets of one request, for answers that say them again.
#[derive(Default)]
pub(crate) struct Mask {
    /// Longest first, so that none leaves a part of a longer one behind.
    secrets: Vec<Vec<u8>>,
}

impl Mask {
    /// The mask for answers to `request`.
    pub(crate) fn of(request: &Request) -> Self {
        let mut secrets = Vec::new();
        if let Some(query) = request.target().uri().query() {
            secrets.push(query.as_bytes().to_vec());
            for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
                let secret = if value.is_empty() { name } else { value };
                secrets.push(secret.into_owned().into_bytes());
            }
            let typed = query.split('&').map(|pair| match pair.split_once('=') {
                None | Some((_, "")) => pair.trim_end_matches('='),
                Some((_, value)) => value,
            });
            secrets.extend(typed.map(|value| value.as_bytes().to_vec()));
        }
        let credentials = request
            .headers()
            .iter()
            .filter(|(name, value)| value.is_sensitive() || CREDENTIALS.contains(name))
            .map(|(_, value)| value);
        for value in credentials.chain(request.target().authorization()) {
            let value = value.as_bytes();
            secrets.push(value.to_vec());
            let mut words = value.splitn(2, |byte| *byte == b' ');
            if let (Some(scheme), Some(rest)) = (words.next(), words.next()) {
                secrets.push(rest.to_vec());
                if scheme.eq_ignore_ascii_case(b"basic") {
                    let plain = BASE64_STANDARD.decode(rest).unwrap_or_default();
                    secrets.extend(plain.splitn(2, |byte| *byte == b':').map(<[u8]>::to_vec));
                }
            }
            let parts = value.split(|byte| SEPARATORS.contains(byte));
            secrets.extend(
                parts
                    .filter(|part| part.len() >= PART_BYTES_MIN)
                    .map(<[u8]>::to_vec),
            );
        }
        secrets.retain(|secret| secret.len() >= SECRET_BYTES_MIN);
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.dedup();
        Self { secrets }
    }

    /// `text` without the secrets, also where it escapes some of their characters, see [`escape`].
    pub(crate) fn apply(&self, text: &Bytes) -> Bytes {
        if self.secrets.is_empty() {
            return text.clone();
        }
        let mut masked = Vec::new();
        let (mut rest, mut kept): (&[u8], &[u8]) = (text, text);
        while let Some((_, after)) = rest.split_first() {
            let found = self.secrets.iter().find_map(|secret| behind(secret, rest));
            let Some(behind) = found else {
                rest = after;
                continue;
            };
            masked.extend(kept.get(..kept.len() - rest.len()).unwrap_or_default());
            masked.extend_from_slice(MASK.as_bytes());
            (rest, kept) = (behind, behind);
        }
        if kept.len() == text.len() {
            return text.clone();
        }
        masked.extend_from_slice(kept);
        masked.into()
    }
}

/// What stands behind the secret that `text` begins with, as it is, or with some of its characters escaped or in the other
/// case.
fn behind<'a>(secret: &[u8], text: &'a [u8]) -> Option<&'a [u8]> {
    text.strip_prefix(secret).or_else(|| behind_escaped(secret, text))
}

fn behind_escaped<'a>(secret: &[u8], text: &'a [u8]) -> Option<&'a [u8]> {
    secret.iter().try_fold(text, |rest, byte| {
        let escaped = escape(rest).filter(|(value, _)| value.eq_ignore_ascii_case(byte));
        let (first, after) = rest.split_first()?;
        match escaped {
            Some((_, after)) => Some(after),
            None => first.eq_ignore_ascii_case(byte).then_some(after),
        }
    })
}

/// The character that is escaped at the front of `text`, and what follows: as URLs and forms do it (`%2F`, `+`), JSON
/// and scripts (`\/`, `\u002f`, `\x2f`), and HTML (`&#47;`, `&#x2f;`, `&amp;`).
fn escape(text: &[u8]) -> Option<(u8, &[u8])> {
    const ENTITIES: [(&[u8], u8); 9] = [
        (b"&amp;", b'&'),
        (b"&lt;", b'<'),
        (b"&gt;", b'>'),
        (b"&quot;", b'"'),
        (b"&apos;", b'\''),
        (b"&plus;", b'+'),
        (b"&equals;", b'='),
        (b"&sol;", b'/'),
        (b"&nbsp;", b' '),
    ];
    match text {
        [b'+', rest @ ..] => Some((b' ', rest)),
        [b'%', rest @ ..] | [b'\\', b'x', rest @ ..] | [b'\\', b'u', b'0', b'0', rest @ ..] => {
            let (digits, rest) = rest.split_at_checked(2)?;
            Some((number(digits, 16)?, rest))
        }
        [b'\\', escaped @ (b'/' | b'"' | b'\'' | b'\\'), rest @ ..] => Some((*escaped, rest)),
        [b'&', b'#', rest @ ..] => {
            let (rest, radix) = match rest {
                [b'x' | b'X', rest @ ..] => (rest, 16),
                _ => (rest, 10),
            };
            let end = rest
                .iter()
                .take(ENTITY_DIGITS_MAX)
                .position(|byte| *byte == b';')?;
            Some((number(rest.get(..end)?, radix)?, rest.get(end + 1..)?))
        }
        [b'&', ..] => ENTITIES
            .iter()
            .find_map(|(entity, value)| Some((*value, text.strip_prefix(*entity)?))),
        _ => None,
    }
}

fn number(digits: &[u8], radix: u32) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(secret: &str, text: &str) -> String {
        let mask = Mask {
            secrets: vec![secret.as_bytes().to_vec()],
        };
        String::from_utf8(mask.apply(&Bytes::copy_from_slice(text.as_bytes())).to_vec()).unwrap()
    }

    #[test]
    fn a_secret_is_masked_however_its_characters_are_escaped() {
        const SECRET: &str = "ab+cd/HUSH== &x";
        for said in [
            SECRET,
            "AB+cd/hush== &X",
            "ab%2Bcd%2FHUSH%3D%3D%20%26x",
            "ab%2bcd%2fHUSH%3d%3d+%26x",
            r"ab+cd\/HUSH== &x",
            r"ab\u002bcd\u002FHUSH\u003d= \u0026x",
            r"ab\x2bcd\x2fHUSH== &x",
            "ab&#43;cd&#x2F;HUSH&#061;=&#32;&amp;x",
            "ab&plus;cd&sol;HUSH&equals;=&nbsp;&amp;x",
            "&#97;b+cd/HUSH==+&x",
        ] {
            let text = format!("<a>{said}</a>, {said}");
            assert_eq!(masked(SECRET, &text), "<a>[masked]</a>, [masked]", "{said}");
        }
        for other in [
            "ab+cd/hus== &x",
            "ab%2Bcd%2FHUS",
            "ab&#43cd/HUSH== &x",
            "%",
            "&#",
            r"\u00",
            "",
        ] {
            assert_eq!(masked(SECRET, other), other);
        }
        for secret in ["a%25b", r"a\\b", "a&amp;b", r"a\x5cb", "a&#38;b"] {
            assert_eq!(masked(secret, &format!("<{secret}>")), "<[masked]>", "{secret}");
        }
        assert_eq!(
            masked("a%2Bb", "it was a%2Bb, a%252Bb"),
            "it was [masked], [masked]"
        );
    }
}
