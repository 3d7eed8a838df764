//! Keeps secrets out of what is written down: of a request, and of an answer that repeats parts of it.

use std::{collections::BTreeMap, fmt::Write as _, ops::Range};

use aho_corasick::{AhoCorasick, AhoCorasickKind, Input, MatchKind};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, header};
use secrecy::ExposeSecret as _;

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
        for secret in request.signing_secrets() {
            let secret = secret.expose_secret();
            // With and without what says which kind it is.
            let key = secret.split_once('_').map_or(secret, |(_, key)| key);
            secrets.extend([secret, key].map(|text| text.as_bytes().to_vec()));
        }
        secrets.retain(|secret| secret.len() >= SECRET_BYTES_MIN);
        Self { secrets }
    }

    /// `text` without the secrets, also where it escapes some of their characters, see [`escape`], or has them in the
    /// other case. Takes time by the length of both, and not by their product: secrets and answers are other people's.
    pub(crate) fn apply(&self, text: &Bytes) -> Bytes {
        if self.secrets.is_empty() || text.is_empty() {
            return text.clone();
        }
        let sought = Sought::of(&self.secrets);
        let mut found = sought.find(&Plain::as_it_is(text));
        found.extend(sought.find(&Plain::unescaped(text)));
        found.sort_unstable_by_key(|range| range.start);
        let (mut masked, mut kept) = (Vec::new(), 0);
        let mut ranges = found.into_iter().peekable();
        while let Some(mut range) = ranges.next() {
            while let Some(next) = ranges.next_if(|next| next.start < range.end) {
                range.end = range.end.max(next.end);
            }
            masked.extend(text.get(kept..range.start).unwrap_or_default());
            masked.extend_from_slice(MASK.as_bytes());
            kept = range.end;
        }
        if kept == 0 {
            return text.clone();
        }
        masked.extend(text.get(kept..).unwrap_or_default());
        masked.into()
    }
}

/// So many of a secret's first bytes are looked for; who says them says the secret, and it is masked as far as it goes on.
const SOUGHT_BYTES_MAX: usize = 64;

/// What is looked for at once.
struct Sought {
    beginnings: Option<AhoCorasick>,
    /// The secrets of each beginning, as [`fold`] writes them, in the order of their bytes.
    whole: Vec<Vec<Vec<u8>>>,
}

impl Sought {
    fn of(secrets: &[Vec<u8>]) -> Self {
        let mut by_beginning: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
        for secret in secrets {
            // One that has escapes itself may be unescaped in the answer.
            for plain in [Plain::as_it_is(secret).text, Plain::unescaped(secret).text] {
                let beginning = plain.get(..SOUGHT_BYTES_MAX).unwrap_or(&plain).to_vec();
                if plain.len() >= SECRET_BYTES_MIN {
                    by_beginning.entry(beginning).or_default().push(plain);
                }
            }
        }
        for whole in by_beginning.values_mut() {
            whole.sort_unstable();
        }
        let beginnings = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .kind(Some(AhoCorasickKind::NoncontiguousNFA))
            .build(by_beginning.keys());
        Self {
            // More than it takes would be gigabytes.
            beginnings: beginnings.ok(),
            whole: by_beginning.into_values().collect(),
        }
    }

    /// Where secrets stand, in the text that this came from.
    fn find(&self, plain: &Plain) -> Vec<Range<usize>> {
        let (mut found, mut at) = (Vec::new(), 0);
        let Some(beginnings) = &self.beginnings else {
            return found;
        };
        while let Some(beginning) = beginnings.find(Input::new(&plain.text).range(at..)) {
            let whole = self.whole.get(beginning.pattern().as_usize());
            let text = plain.text.get(beginning.start()..).unwrap_or_default();
            let said = whole.map_or(0, |secrets| said_of(secrets, text));
            at = beginning.start() + said.max(beginning.len());
            found.push(plain.origin(beginning.start())..plain.origin(at));
        }
        found
    }
}

/// How many of its bytes the front of `text` has of the secret that it has most of. In their order that is one of the two
/// between which the text would stand: there may be thousands.
fn said_of(secrets: &[Vec<u8>], text: &[u8]) -> usize {
    let place = secrets.partition_point(|secret| secret.as_slice() < text);
    let neighbours = secrets.iter().skip(place.saturating_sub(1)).take(2);
    let said = neighbours.map(|secret| {
        let pairs = secret.iter().zip(text);
        pairs.take_while(|(secret, text)| secret == text).count()
    });
    said.max().unwrap_or_default()
}

/// A text as secrets are looked for in it.
struct Plain {
    text: Vec<u8>,
    /// Where each of its characters stood; `None` when they all stand where they did.
    origins: Option<Vec<usize>>,
}

impl Plain {
    fn as_it_is(text: &[u8]) -> Self {
        Self {
            text: text.iter().copied().map(fold).collect(),
            origins: None,
        }
    }

    fn unescaped(text: &[u8]) -> Self {
        let (mut plain, mut origins) = (Vec::with_capacity(text.len()), Vec::new());
        let mut rest = text;
        while let Some((first, after)) = rest.split_first() {
            origins.push(text.len() - rest.len());
            let (byte, behind) = escape(rest).unwrap_or((*first, after));
            plain.push(fold(byte));
            rest = behind;
        }
        origins.push(text.len());
        Self {
            text: plain,
            origins: Some(origins),
        }
    }

    fn origin(&self, place: usize) -> usize {
        let origins = self.origins.as_ref();
        origins.map_or(place, |origins| origins.get(place).copied().unwrap_or(place))
    }
}

/// Without case, and with a space for `+`, which forms write for one.
fn fold(byte: u8) -> u8 {
    match byte {
        b'+' => b' ',
        _ => byte.to_ascii_lowercase(),
    }
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

    #[test]
    fn a_secret_that_is_said_in_part_is_masked_as_far_as_it_goes() {
        let secret = format!("{}-and-its-end", "0123456789".repeat(20));
        let first = |bytes: usize| secret.chars().take(bytes).collect::<String>();
        let said = |bytes: usize| masked(&secret, &format!("<{}>", first(bytes)));
        assert_eq!(said(63), format!("<{}>", first(63)), "it may be anything");
        for bytes in [64, 100, 200, secret.len()] {
            assert_eq!(said(bytes), "<[masked]>", "{bytes}");
        }
        assert_eq!(
            masked(&secret, &format!("{secret}{secret}.")),
            "[masked][masked]."
        );
    }

    #[test]
    fn of_secrets_that_begin_alike_the_one_is_masked_that_is_said_furthest() {
        let beginning = "0123456789".repeat(7);
        let ends = ["", "a", "abc", "abcdefg", "abd", "b", "bcd", "bce", "z"];
        let secrets: Vec<_> = ends.map(|end| format!("{beginning}{end}").into_bytes()).into();
        let mask = Mask {
            secrets: secrets.iter().rev().cloned().collect(),
        };
        for (end, left) in [
            (".", "."),
            ("abcd!", "!"),
            ("abce", "e"),
            ("abd", ""),
            ("abz", "z"),
            ("ac", "c"),
            ("bcf", "f"),
            ("c", "c"),
            ("zz", "z"),
            ("", ""),
        ] {
            let masked = mask.apply(&Bytes::from(format!("<{beginning}{end}")));
            assert_eq!(masked, format!("<[masked]{left}"), "{end}");
        }
    }

    #[test]
    fn what_somebody_else_says_is_looked_through_once_however_much_it_resembles_their_secrets() {
        // What it took before was the product: minutes, of a thread that others need.
        let secrets = (0..32).map(|number| format!("{}{number:02}", "a".repeat(4_000)).into_bytes());
        let parts = (0..10_000).map(|number| format!("aaaaaaaa{number:04}").into_bytes());
        let alike = (0..100_000).map(|number| format!("{}{number:06}", "a".repeat(64)).into_bytes());
        let mask = Mask {
            secrets: secrets.chain(parts).chain(alike).collect(),
        };
        let text = Bytes::from("a".repeat(64 << 10));
        assert!(mask.apply(&text).len() < text.len());
        let text = Bytes::from("aaaaaaab".repeat(8 << 10));
        assert_eq!(mask.apply(&text), text);
    }
}
