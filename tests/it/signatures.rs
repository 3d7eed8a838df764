//! Signatures, checked by programs that are not ours over the very bytes that arrived: `v1` by the library that
//! Standard Webhooks publishes for Python, `v1a` (Ed25519, which that library doesn't have) by OpenSSL.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::json;

use crate::support::{
    SOON, envelope, folder,
    receiver::{Receiver, Request},
    shipbell::{Config, Shipbell},
};

const NEW: &str = "whsec_c2hpcGJlbGwncyB0ZXN0cyBzaWduIHdpdGggdGhpcw==";
const OLD: &str = "whsec_c2hpcGJlbGwncyB0ZXN0cyBzaWduZWQgd2l0aCB0aGF0";
const OTHER: &str = "whsec_bm9ib2R5IGhhcyBldmVyIHNpZ25lZCB3aXRoIHRoaXMu";

/// Reads `{secret, headers, body}` and says `verified`, or why not.
const VERIFY: &str = "
import base64, json, sys
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
given = json.load(sys.stdin)
try:
    Webhook(given['secret']).verify(base64.b64decode(given['body']), given['headers'])
    print('verified')
except WebhookVerificationError as error:
    print('refused:', error)
";

/// What the library says of these bytes under the request's headers.
fn library_says(secret: &str, request: &Request, body: &[u8]) -> String {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/venv/bin/python");
    let mut child = Command::new(&python)
        .args(["-c", VERIFY])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}; `make test` installs it", python.display()));
    let headers: serde_json::Map<_, _> = request
        .headers()
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    let given = json!({ "secret": secret, "headers": headers, "body": BASE64_STANDARD.encode(body) });
    let mut input = child.stdin.take().unwrap();
    input.write_all(given.to_string().as_bytes()).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "standardwebhooks is not installed: `make test` installs it"
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

pub(crate) fn is_verified(secret: &str, request: &Request, body: &[u8]) -> bool {
    library_says(secret, request, body) == "verified"
}

/// The body with one byte of it changed.
fn tampered(request: &Request) -> Vec<u8> {
    let text = request.text().replacen("acme", "acne", 1);
    assert_ne!(text, request.text());
    text.into_bytes()
}

/// A shipbell with one endpoint of these settings, and the request that comes of a push.
fn request_with(settings: &str) -> Request {
    let receiver = Receiver::start();
    let config = Config::without_registry().with(&format!(
        "[[endpoints]]\nname = 'hook'\nrepositories = ['**']\nurl = '{}'\n{settings}",
        receiver.url("/hook")
    ));
    let shipbell = Shipbell::start(config);
    shipbell.take(envelope::of(&[envelope::push("acme/app", "1.4", "any")]));
    receiver.wait_for(1, SOON).remove(0)
}

#[test]
fn the_official_library_takes_what_was_sent_and_nothing_else() {
    let request = request_with(&format!("secret = '{NEW}'"));
    assert_eq!(library_says(NEW, &request, &request.body), "verified");
    for (secret, body) in [(NEW, tampered(&request)), (OTHER, request.body.clone())] {
        let said = library_says(secret, &request, &body);
        assert_eq!(said, "refused: No matching signature found");
    }
}

#[test]
fn while_a_secret_is_rotated_the_official_library_takes_either() {
    let request = request_with(&format!("secret = '{NEW}'\nprevious_secret = '{OLD}'"));
    let signatures = request.header("webhook-signature");
    assert_eq!(signatures.split(' ').count(), 2, "{signatures}");
    for secret in [NEW, OLD] {
        assert!(is_verified(secret, &request, &request.body));
        assert!(!is_verified(secret, &request, &tampered(&request)));
    }
    assert!(!is_verified(OTHER, &request, &request.body));
}

#[test]
fn a_secret_that_was_changed_in_its_file_signs_the_next_webhook() {
    let folder = folder();
    let (secret, previous) = (folder.path().join("secret"), folder.path().join("previous"));
    fs::write(&secret, OLD).unwrap();
    fs::write(&previous, OLD).unwrap();
    let receiver = Receiver::start();
    let config = Config::without_registry().with(&format!(
        "batch.window = '0s'\n[[endpoints]]\nname = 'hook'\nrepositories = ['**']\nurl = '{}'\n\
         secret_file = '{}'\nprevious_secret_file = '{}'",
        receiver.url("/hook"),
        secret.display(),
        previous.display(),
    ));
    let shipbell = Shipbell::start(config);
    let send = |number: usize| {
        let tag = number.to_string();
        shipbell.take(envelope::one("acme/app", &tag));
        receiver.wait_for(number, SOON).remove(number - 1)
    };
    let before = send(1);
    assert!(is_verified(OLD, &before, &before.body) && !is_verified(NEW, &before, &before.body));
    fs::write(&secret, format!("{NEW}\n")).unwrap();
    let during = send(2);
    assert!(is_verified(OLD, &during, &during.body) && is_verified(NEW, &during, &during.body));
    fs::write(&previous, NEW).unwrap();
    let after = send(3);
    assert!(!is_verified(OLD, &after, &after.body) && is_verified(NEW, &after, &after.body));
}

/// A pair of keys as docs/operating.md says to make it: what stands in the configuration, and the public key for
/// OpenSSL.
fn key_pair(folder: &Path) -> (String, PathBuf) {
    const MAKE: &str = r#"
        openssl genpkey -algorithm ed25519 -out key.pem
        echo "whsk_$(openssl pkey -in key.pem -outform DER | tail -c 32 | base64)" >shipbell-key
        echo "whpk_$(openssl pkey -in key.pem -pubout -outform DER | tail -c 32 | base64)" >public-key
        openssl pkey -in key.pem -pubout -out public.pem
    "#;
    let mut shell = Command::new("sh");
    let made = shell.args(["-ec", MAKE]).current_dir(folder).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    (
        fs::read_to_string(folder.join("shipbell-key")).unwrap(),
        folder.join("public.pem"),
    )
}

/// Whether OpenSSL takes the `v1a` signature of the request for these bytes.
fn openssl_verifies(public: &Path, folder: &Path, request: &Request, body: &[u8]) -> bool {
    let signature = request
        .header("webhook-signature")
        .split(' ')
        .find_map(|signature| signature.strip_prefix("v1a,"))
        .unwrap();
    fs::write(
        folder.join("signature"),
        BASE64_STANDARD.decode(signature).unwrap(),
    )
    .unwrap();
    let head = format!("{}.{}.", request.id(), request.header("webhook-timestamp"));
    fs::write(folder.join("message"), [head.as_bytes(), body].concat()).unwrap();
    let mut openssl = Command::new("openssl");
    openssl.args([
        "pkeyutl",
        "-verify",
        "-rawin",
        "-sigfile",
        "signature",
        "-in",
        "message",
    ]);
    openssl.args(["-pubin", "-inkey"]).arg(public).current_dir(folder);
    openssl.output().unwrap().status.success()
}

#[test]
fn openssl_takes_what_an_ed25519_key_signed_beside_the_secret_before_it() {
    let folder = folder();
    let (key, public) = key_pair(folder.path());
    let request = request_with(&format!("secret = '{}'\nprevious_secret = '{OLD}'", key.trim()));
    let signatures: Vec<&str> = request.header("webhook-signature").split(' ').collect();
    assert!(
        signatures.len() == 2 && signatures[0].starts_with("v1a,") && signatures[1].starts_with("v1,"),
        "{signatures:?}"
    );
    assert!(openssl_verifies(&public, folder.path(), &request, &request.body));
    assert!(!openssl_verifies(
        &public,
        folder.path(),
        &request,
        &tampered(&request)
    ));
    // Who still has the secret from before passes over the one it doesn't know.
    assert!(is_verified(OLD, &request, &request.body));
}
