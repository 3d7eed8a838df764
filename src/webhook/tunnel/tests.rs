//! The SOCKS proxy's side of the talk, byte by byte.

use tokio::io::{DuplexStream, duplex};

use super::*;

const WITH_LOGIN_URL: &str = "socks5://u:hunter2@proxy";

/// What comes of a talk in which the proxy says `answers`, and then closes.
async fn talk(proxy: &str, answers: &[u8], host: &str) -> (Result<(), ProxyFailure>, Vec<u8>) {
    let (mut ours, mut theirs) = duplex(4096);
    theirs.write_all(answers).await.unwrap();
    theirs.shutdown().await.unwrap();
    let proxy = Proxy::parse(proxy).unwrap();
    let result = through(&mut ours, &proxy, host).await;
    drop(ours);
    let mut said = Vec::new();
    theirs.read_to_end(&mut said).await.unwrap();
    (result, said)
}

async fn through(stream: &mut DuplexStream, proxy: &Proxy, host: &str) -> Result<(), ProxyFailure> {
    socks_greet(stream, proxy).await?;
    socks_request(stream, (host, 443)).await
}

const GRANTED: [u8; 10] = [5, 0, 0, 1, 0, 0, 0, 0, 0, 0];

#[tokio::test]
async fn a_name_goes_as_it_is_and_an_address_as_bytes() {
    let granted = [&[5, 0][..], &GRANTED].concat();
    for (host, sent) in [
        ("hook.example", &b"\x05\x01\x00\x03\x0chook.example\x01\xbb"[..]),
        ("192.0.2.7", b"\x05\x01\x00\x01\xc0\x00\x02\x07\x01\xbb"),
        (
            "[2001:db8::1]",
            b"\x05\x01\x00\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x01\xbb",
        ),
    ] {
        let (result, said) = talk("socks5://proxy", &granted, host).await;
        assert_eq!(result, Ok(()));
        assert_eq!(said, [b"\x05\x01\x00", sent].concat());
    }
    let (result, _) = talk("socks5://proxy", &granted, &"x".repeat(256)).await;
    assert_eq!(result, Err(ProxyFailure::Host));
}

#[tokio::test]
async fn the_answer_is_read_to_its_end_and_no_further() {
    for bound in [
        &[1, 0, 0, 0, 0, 0, 0][..],
        &[4; 19],
        &[3, 4, b'h', b'o', b's', b't', 0, 0],
    ] {
        let (mut ours, mut theirs) = duplex(4096);
        let answers = [&[5, 0, 5, 0, 0], bound, b"the endpoint's"].concat();
        theirs.write_all(&answers).await.unwrap();
        drop(theirs.shutdown().await);
        let proxy = Proxy::parse("socks5://proxy").unwrap();
        through(&mut ours, &proxy, "hook.example").await.unwrap();
        let mut rest = Vec::new();
        ours.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"the endpoint's");
    }
}

#[tokio::test]
async fn refusals_and_nonsense_are_told_apart_and_hold_no_secret() {
    let plain = "socks5://proxy";
    for (proxy, answers, said) in [
        (plain, &[5, 0xff][..], "wants a user's name and a password"),
        (
            WITH_LOGIN_URL,
            &[5, 0xff],
            "refuses the user's name or the password",
        ),
        (
            WITH_LOGIN_URL,
            &[5, 2, 1, 1],
            "refuses the user's name or the password",
        ),
        (plain, &[5, 2], "does not speak SOCKS 5"),
        (plain, b"HTTP/1.1 400 Bad Request", "does not speak SOCKS 5"),
        (
            plain,
            &[],
            "broke off during the SOCKS greeting: the receiver closed the connection",
        ),
        (
            plain,
            &[5, 0, 5, 2, 0, 1],
            "gives no connection (SOCKS): its rules don't allow it",
        ),
        (
            plain,
            &[5, 0, 5, 5, 0, 1],
            "gives no connection (SOCKS): the endpoint refused the connection",
        ),
        (
            plain,
            &[5, 0, 5, 99, 0, 1],
            "gives no connection (SOCKS): it failed",
        ),
        (plain, &[5, 0, 5, 0, 0, 7], "does not speak SOCKS 5"),
        (plain, &[5, 0, 4, 0, 0, 1], "does not speak SOCKS 5"),
        (
            plain,
            &[5, 0, 5, 0, 0, 1, 0],
            "broke off during the SOCKS request: the receiver closed the connection",
        ),
    ] {
        let (result, _) = talk(proxy, answers, "hook.example").await;
        assert_eq!(result.unwrap_err().to_string(), said, "{answers:?}");
    }
}
