//! What an endpoint answered, as much of it as is kept.

use std::io::Read;

use bytes::Bytes;
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

/// The most bytes of a body that are kept, counted after decompression.
pub const BODY_BYTES_MAX: usize = 64 * 1024;

/// The most bytes of a body that are read. Compression never makes a body twice as large, so whoever
/// sends this much has sent more than is kept, or nothing worth reading.
const WIRE_BYTES_MAX: usize = 2 * BODY_BYTES_MAX;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its header `Retry-After`, as it came.
    pub retry_after: Option<HeaderValue>,
    /// Its body, decompressed; at most [`BODY_BYTES_MAX`].
    pub body: Bytes,
    /// Why the body ends where it does.
    pub end: BodyEnd,
}

/// Why a body ends where it does. Whatever it is, the status counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BodyEnd {
    /// That is all of it.
    Complete,
    /// There was more than is kept.
    Capped,
    /// Time was up.
    Late,
    /// The connection broke, or what came is not what its headers say.
    Broken,
}

#[derive(Clone, Copy)]
enum Coding {
    Identity,
    Gzip,
    Deflate,
}

impl Answer {
    /// Takes the status and reads the body until its end, its cap or `deadline`.
    pub(super) async fn read(response: Response<Incoming>, deadline: Instant) -> Self {
        let (head, mut body) = response.into_parts();
        let coding = coding(head.headers.get(header::CONTENT_ENCODING));
        let wire_bytes_max = match coding {
            // One more, to tell a body that just fits from one that doesn't.
            Coding::Identity => BODY_BYTES_MAX + 1,
            Coding::Gzip | Coding::Deflate => WIRE_BYTES_MAX,
        };
        let mut wire = Vec::new();
        let end = loop {
            if wire.len() == wire_bytes_max {
                break BodyEnd::Capped;
            }
            match timeout_at(deadline, body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    let data = frame.into_data().unwrap_or_default();
                    wire.extend(data.iter().take(wire_bytes_max - wire.len()));
                }
                Ok(None) => break BodyEnd::Complete,
                Ok(Some(Err(_))) => break BodyEnd::Broken,
                Err(_) => break BodyEnd::Late,
            }
        };
        let (body, end) = decoded(wire, coding, end);
        Self {
            status: head.status,
            retry_after: head.headers.get(header::RETRY_AFTER).cloned(),
            body,
            end,
        }
    }
}

/// The codings that were asked for; a body in any other is kept as it is.
fn coding(header: Option<&HeaderValue>) -> Coding {
    let name = header
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .trim();
    if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") {
        Coding::Gzip
    } else if name.eq_ignore_ascii_case("deflate") {
        Coding::Deflate
    } else {
        Coding::Identity
    }
}

fn decoded(wire: Vec<u8>, coding: Coding, end: BodyEnd) -> (Bytes, BodyEnd) {
    let (mut body, readable) = match coding {
        Coding::Identity => (wire, true),
        Coding::Gzip => inflated(MultiGzDecoder::new(wire.as_slice())),
        Coding::Deflate if has_zlib_header(&wire) => inflated(ZlibDecoder::new(wire.as_slice())),
        Coding::Deflate => inflated(DeflateDecoder::new(wire.as_slice())),
    };
    let end = if body.len() > BODY_BYTES_MAX {
        BodyEnd::Capped
    } else if readable || end != BodyEnd::Complete {
        end
    } else {
        BodyEnd::Broken
    };
    body.truncate(BODY_BYTES_MAX);
    (body.into(), end)
}

/// What can be read, up to one byte past the cap however much it unfolds to; and whether that was
/// without an error.
fn inflated(decoder: impl Read) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    let cap = u64::try_from(BODY_BYTES_MAX + 1).unwrap_or(u64::MAX);
    let result = decoder.take(cap).read_to_end(&mut body);
    (body, result.is_ok())
}

/// Whether this is zlib (RFC 1950), what `deflate` means by the letter, and not raw deflate (RFC 1951),
/// what some send. Raw deflate can't look like it: these bits would be a stored block whose padding is
/// not zero.
fn has_zlib_header(wire: &[u8]) -> bool {
    match wire {
        [method, flags, ..] => method & 0x0f == 8 && u16::from_be_bytes([*method, *flags]).is_multiple_of(31),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{
        Compression,
        write::{DeflateEncoder, GzEncoder, ZlibEncoder},
    };

    use super::*;

    const TEXT: &[u8] = b"the receiver says hello, hello, hello";

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn gzip_zlib_and_raw_deflate_are_read() {
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        zlib.write_all(TEXT).unwrap();
        let mut raw = DeflateEncoder::new(Vec::new(), Compression::default());
        raw.write_all(TEXT).unwrap();
        for (wire, coding) in [
            (gzip(TEXT), Coding::Gzip),
            (zlib.finish().unwrap(), Coding::Deflate),
            (raw.finish().unwrap(), Coding::Deflate),
            (TEXT.to_vec(), Coding::Identity),
        ] {
            assert_eq!(
                decoded(wire, coding, BodyEnd::Complete),
                (TEXT.into(), BodyEnd::Complete)
            );
        }
    }

    #[test]
    fn a_gzip_bomb_is_cut_at_the_cap() {
        let bomb = gzip(&vec![0; 50 * 1024 * 1024]);
        let (body, end) = decoded(
            bomb[..WIRE_BYTES_MAX.min(bomb.len())].to_vec(),
            Coding::Gzip,
            BodyEnd::Complete,
        );
        assert_eq!((body.len(), end), (BODY_BYTES_MAX, BodyEnd::Capped));
        assert!(body.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn what_came_of_a_broken_body_is_kept() {
        let whole: Vec<u8> = (0..20_000_u32)
            .flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes())
            .collect();
        let wire = gzip(&whole);
        let half = wire[..wire.len() / 2].to_vec();
        let (body, end) = decoded(half.clone(), Coding::Gzip, BodyEnd::Complete);
        assert_eq!(end, BodyEnd::Broken);
        assert!(!body.is_empty() && whole.starts_with(&body));
        assert_eq!(decoded(half, Coding::Gzip, BodyEnd::Late).1, BodyEnd::Late);
        assert_eq!(
            decoded(b"not gzip".to_vec(), Coding::Gzip, BodyEnd::Complete),
            (Bytes::new(), BodyEnd::Broken)
        );
    }

    #[test]
    fn a_body_that_just_fits_is_complete() {
        let fits = decoded(gzip(&vec![1; BODY_BYTES_MAX]), Coding::Gzip, BodyEnd::Complete);
        assert_eq!((fits.0.len(), fits.1), (BODY_BYTES_MAX, BodyEnd::Complete));
        let over = decoded(vec![1; BODY_BYTES_MAX + 1], Coding::Identity, BodyEnd::Complete);
        assert_eq!((over.0.len(), over.1), (BODY_BYTES_MAX, BodyEnd::Capped));
    }
}
