//! On real sockets, with an intake that does as it is told.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{Mutex, atomic::AtomicUsize, atomic::Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::*;
use crate::{clock::Timestamp, glob::Patterns, listener, push::Change, telemetry::labels::ListenerName};

mod bodies;
mod deadline;
mod foreseen;
mod speakers;

/// How long any of this may take before it counts as hung.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Default)]
enum Mood {
    #[default]
    Takes,
    Full,
    JournalFull,
    Broken,
    NeverAnswers,
}

#[derive(Clone, Default)]
struct FakeIntake(Arc<Fake>);

#[derive(Default)]
struct Fake {
    mood: Mutex<Mood>,
    taken: Mutex<Vec<Vec<Item>>>,
    learned: AtomicUsize,
    heard_from: Mutex<Vec<String>>,
}

impl FakeIntake {
    fn is_now(&self, mood: Mood) {
        *self.0.mood.lock().unwrap() = mood;
    }

    /// What was taken since last asked: each envelope's images, and changes as `~`.
    fn taken(&self) -> Vec<Vec<String>> {
        let taken = std::mem::take(&mut *self.0.taken.lock().unwrap());
        let name = |item: &Item| match item {
            Item::Push(push) => {
                assert_eq!(push.taken_at, now());
                assert_eq!(push.owed, [EndpointId::Named("ci".into())]);
                format!("{}:{}", push.repository, push.tag.as_ref().unwrap())
            }
            Item::Change(told) => match &told.change {
                Change::Tagged { repository, tag, .. } => format!("~{repository}:{tag}"),
                Change::Held { repository, .. } => format!("~{repository}@"),
                change => format!("~{change:?}"),
            },
        };
        taken
            .iter()
            .map(|items| items.iter().map(name).collect())
            .collect()
    }
}

impl Intake for FakeIntake {
    fn owing(&self, repository: &RepositoryName, _: Option<&Tag>) -> Vec<EndpointId> {
        let wanted = repository.as_str().starts_with("acme/");
        wanted
            .then(|| EndpointId::Named("ci".into()))
            .into_iter()
            .collect()
    }

    fn learn(&self, _: &Digest, _: MediaType, _: u64, references: &[Reference]) {
        // What it is, and what it lists.
        self.0.learned.fetch_add(1 + references.len(), Ordering::Relaxed);
    }

    fn heard_from(&self, instance: &str) {
        self.0.heard_from.lock().unwrap().push(instance.to_owned());
    }

    fn take(&self, items: Vec<Item>) -> impl Future<Output = Result<(), TakeError>> + Send + 'static {
        let this = self.clone();
        async move {
            let mood = *this.0.mood.lock().unwrap();
            match mood {
                Mood::Takes => this.0.taken.lock().unwrap().push(items),
                Mood::Full => return Err(TakeError::Full("2000000 pushes are pending".to_owned())),
                Mood::JournalFull => {
                    let (bytes, bytes_max) = (4 << 30, 4 << 30);
                    return Err(journal::AppendError::Full { bytes, bytes_max }.into());
                }
                Mood::Broken => return Err(journal::AppendError::Io("no space left".to_owned()).into()),
                Mood::NeverAnswers => std::future::pending().await,
            }
            Ok(())
        }
    }
}

fn now() -> Timestamp {
    Timestamp::from_unix_millis(1_795_424_918_473)
}

const BODY_BYTES_MAX: usize = 128 * 1024;

struct Served {
    address: SocketAddr,
    intake: FakeIntake,
    metrics: Metrics,
    tasks: Tasks,
    folder: tempfile::TempDir,
}

fn options() -> Options {
    Options {
        path: "/events".to_owned(),
        tokens: vec![Secret::inline("old"), Secret::inline("new")],
        body_bytes_max: BODY_BYTES_MAX,
        ack_deadline: Duration::from_secs(5),
    }
}

fn plain() -> listener::Options {
    listener::Options::plain("127.0.0.1:0".parse().unwrap())
}

fn everything() -> filter::Options {
    filter::Options {
        repositories: Patterns::everything(),
        exclude_repositories: Patterns::default(),
        exclude_tags: Patterns::default(),
        exclude_actors: Patterns::default(),
        untagged: false,
        referrers: false,
        accept_hosts: Vec::new(),
    }
}

fn serve(options: Options, listener: listener::Options) -> Served {
    serve_filtered(options, listener, everything())
}

fn serve_filtered(options: Options, listener: listener::Options, filter: filter::Options) -> Served {
    let filter = Filter::new(filter);
    let clock = Clock::from_fn(now);
    let metrics = Metrics::new(&clock);
    let folder = tempfile::tempdir().unwrap();
    let quarantine = Quarantine::open(quarantine::Options::at(folder.path())).unwrap();
    let intake = FakeIntake::default();
    let listener = Listener::bind(ListenerName::Ingest, listener, metrics.clone()).unwrap();
    let served = Served {
        address: listener.address(),
        intake: intake.clone(),
        metrics: metrics.clone(),
        tasks: Tasks::new(),
        folder,
    };
    let ingest = Ingest::new(options, filter, intake, quarantine, metrics, clock);
    let (tasks, stop) = (served.tasks.clone(), served.tasks.soft().clone());
    served
        .tasks
        .spawn_lasting("ingest", ingest.serve(listener, tasks, stop));
    served
}

fn event(repository: &str, tag: &str) -> String {
    format!(
        r#"{{"id":"e-{repository}-{tag}","action":"push","target":{{"mediaType":"application/vnd.oci.image.manifest.v1+json",
            "digest":"sha256:0348b383990dcc85d82743a260488a832aad8e23334fc51550cbda5cd3fdd05c","size":582,
            "repository":"{repository}","tag":"{tag}","references":[{{"mediaType":"c",
            "digest":"sha256:dd9ecfd4059a9d39327b48564c1949b826c9d55667d92a72cba3ac00d9dbbd81","size":343}}]}}}}"#
    )
}

fn envelope(events: &[String]) -> String {
    format!(r#"{{"events":[{}]}}"#, events.join(","))
}

fn head(authorization: &str, length: usize) -> String {
    format!(
        "POST /events HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization}\r\n\
         Content-Type: application/vnd.docker.distribution.events.v2+json\r\nContent-Length: {length}\r\n\r\n"
    )
}

fn request(body: &str) -> Vec<u8> {
    request_of_bytes(body.as_bytes())
}

fn request_of_bytes(body: &[u8]) -> Vec<u8> {
    [head("Bearer new", body.len()).as_bytes(), body].concat()
}

/// Reads one answer; none of ingest's has a body.
async fn answer(stream: &mut TcpStream) -> String {
    let read = async {
        let mut text = Vec::new();
        while !text.ends_with(b"\r\n\r\n") {
            text.push(stream.read_u8().await.expect("closed without an answer"));
        }
        String::from_utf8(text).unwrap()
    };
    let text = timeout(PATIENCE, read).await.expect("no answer");
    assert!(text.contains("\r\ncontent-length: 0\r\n"), "{text}");
    text
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

impl Served {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn send(&self, request: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request).await.unwrap();
        answer(&mut stream).await
    }

    async fn post(&self, body: &str) -> u16 {
        status(&self.send(&request(body)).await)
    }

    fn quarantined(&self) -> Vec<PathBuf> {
        let mut files: Vec<_> = fs::read_dir(self.folder.path())
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        files.sort();
        files
    }

    /// Why the newest quarantined body is there, and the body.
    fn newest_quarantined(&self) -> (String, Vec<u8>) {
        let bytes = fs::read(self.quarantined().last().expect("nothing in the quarantine")).unwrap();
        let end = bytes.windows(2).position(|pair| pair == b"\n\n").unwrap();
        (
            String::from_utf8(bytes[..end].to_vec()).unwrap(),
            bytes[end + 2..].to_vec(),
        )
    }

    fn has_metric(&self, line: &str) -> bool {
        self.metrics.encode().lines().any(|l| l == line)
    }
}

#[tokio::test]
async fn a_push_that_is_durable_is_answered_202_with_nothing_in_it() {
    let served = serve(options(), plain());
    let answer = served
        .send(&request(&envelope(&[event("acme/app", "1.4")])))
        .await;
    assert!(answer.starts_with("HTTP/1.1 202 Accepted\r\n"), "{answer}");
    assert_eq!(served.intake.taken(), [["acme/app:1.4"]]);
    assert!(served.has_metric("shipbell_events_total{verdict=\"accepted\",reason=\"\"} 1"));
    assert!(served.has_metric("shipbell_envelopes_total{answer=\"202\",reason=\"\"} 1"));
}

#[tokio::test]
async fn an_envelopes_items_are_taken_together_in_order_and_what_nobody_owes_moves_sizes() {
    let served = serve(options(), plain());
    let delete = r#"{"action":"delete","target":{"repository":"acme/app","tag":"old"}}"#.to_owned();
    let pull = r#"{"action":"pull","target":{"repository":"acme/app","tag":"old"}}"#.to_owned();
    let events = [
        event("acme/b", "2"),
        delete,
        pull,
        event("other/c", "3"),
        event("acme/child", ""),
        event("acme/a", "1"),
        event("acme/bare", "").replace("references", "others"),
    ];
    assert_eq!(served.post(&envelope(&events)).await, 202);
    let taken = served.intake.taken();
    assert_eq!(taken.len(), 1);
    let untagged = r"~Untagged { repository: acme/app, tag: old }";
    let (child, bare) = ("~acme/child@", "~acme/bare@");
    assert_eq!(
        taken[0],
        ["acme/b:2", untagged, "~other/c:3", child, "acme/a:1", bare]
    );
    assert_eq!(
        served.intake.0.learned.load(Ordering::Relaxed),
        5,
        "other/c and the child, each with a reference, and one without"
    );
    assert!(served.has_metric("shipbell_events_total{verdict=\"sizes_only\",reason=\"untagged\"} 2"));
    assert!(served.has_metric("shipbell_events_total{verdict=\"sizes_only\",reason=\"nobody_owes\"} 1"));
}

#[tokio::test]
async fn any_content_type_and_chunked_bodies_are_fine() {
    let served = serve(options(), plain());
    let body = envelope(&[event("acme/app", "1.4")]);
    let (first, second) = body.split_at(100);
    let chunked = format!(
        "POST /events?from=here HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer old\r\nTransfer-Encoding: chunked\r\n\r\n\
         {:x}\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n",
        first.len(),
        second.len()
    );
    assert_eq!(status(&served.send(chunked.as_bytes()).await), 202);
    assert_eq!(served.intake.taken(), [["acme/app:1.4"]]);
}

#[tokio::test]
async fn envelopes_without_events_are_fine_and_empty() {
    let served = serve(options(), plain());
    for body in ["{}", r#"{"events":null}"#, r#"{"events":[]}"#, r#"{"other":1}"#] {
        assert_eq!(served.post(body).await, 202, "{body}");
    }
    assert!(served.quarantined().is_empty());
    assert!(served.intake.taken().is_empty());
}

#[tokio::test]
async fn without_one_of_the_tokens_nothing_is_read_or_taken() {
    let served = serve(options(), plain());
    let body = envelope(&[event("acme/app", "1.4")]);
    for authorization in ["Bearer wrong", "Basic new", ""] {
        let mut stream = served.connect().await;
        let request = [head(authorization, body.len()).as_bytes(), body.as_bytes()].concat();
        stream.write_all(&request).await.unwrap();
        let refused = answer(&mut stream).await;
        assert_eq!(status(&refused), 401);
        assert!(
            refused.contains("\r\nwww-authenticate: Bearer realm=\"shipbell\"\r\n"),
            "{refused}"
        );
        // The connection can still be used.
        stream.write_all(&self::request("{}")).await.unwrap();
        assert_eq!(status(&answer(&mut stream).await), 202);
    }
    assert!(served.intake.taken().is_empty() && served.quarantined().is_empty());
    assert!(served.has_metric("shipbell_envelopes_total{answer=\"401\",reason=\"\"} 3"));
    for token in ["Bearer old", "Bearer new"] {
        let request = [head(token, body.len()).as_bytes(), body.as_bytes()].concat();
        assert_eq!(status(&served.send(&request).await), 202, "{token}");
    }
}

#[tokio::test]
async fn a_large_body_without_a_token_is_not_swallowed() {
    let served = serve(options(), plain());
    let mut stream = served.connect().await;
    stream
        .write_all(head("Bearer wrong", 1 << 30).as_bytes())
        .await
        .unwrap();
    let refused = answer(&mut stream).await;
    assert!(
        status(&refused) == 401 && refused.contains("\r\nconnection: close\r\n"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_client_that_asks_first_is_refused_before_it_sends() {
    let served = serve(options(), plain());
    let ask = |token: &str| {
        let head = head(token, 2);
        head.replace("Host: x\r\n", "Host: x\r\nExpect: 100-continue\r\n")
    };
    assert_eq!(status(&served.send(ask("Bearer wrong").as_bytes()).await), 401);
    let mut stream = served.connect().await;
    stream.write_all(ask("Bearer new").as_bytes()).await.unwrap();
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"{}").await.unwrap();
    assert_eq!(status(&answer(&mut stream).await), 202);
}

#[tokio::test]
async fn a_token_file_is_rotated_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    fs::write(&path, "first\n").unwrap();
    let tokens = vec![Secret::file(&path)];
    let served = serve(Options { tokens, ..options() }, plain());
    let with = |token: &str| [head(&format!("Bearer {token}"), 2).as_bytes(), b"{}"].concat();
    assert_eq!(status(&served.send(&with("first")).await), 202);
    fs::write(&path, "the second\n").unwrap();
    assert_eq!(status(&served.send(&with("the second")).await), 202);
    assert_eq!(status(&served.send(&with("first")).await), 401);
}

#[tokio::test]
async fn other_paths_and_methods_are_refused_and_the_connection_lives_on() {
    let served = serve(options(), plain());
    let mut stream = served.connect().await;
    for (method, path, expected) in [
        ("POST", "/", 404),
        ("POST", "/events/", 404),
        ("GET", "/metrics", 404),
        ("GET", "/events", 405),
        ("PUT", "/events", 405),
    ] {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello");
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = answer(&mut stream).await;
        assert_eq!(status(&answer), expected, "{method} {path}");
        assert_eq!(
            answer.contains("\r\nallow: POST\r\n"),
            expected == 405,
            "{answer}"
        );
    }
}

#[tokio::test]
async fn what_cannot_be_made_durable_is_answered_503_and_not_quarantined() {
    let served = serve(options(), plain());
    let body = envelope(&[event("acme/app", "1.4"), event("Not/Valid", "1")]);
    for (mood, reason) in [
        (Mood::Full, "full"),
        (Mood::JournalFull, "journal_full"),
        (Mood::Broken, "journal_io"),
    ] {
        served.intake.is_now(mood);
        let answer = served.send(&request(&body)).await;
        assert!(
            status(&answer) == 503 && answer.contains("\r\nretry-after: 1\r\n"),
            "{answer}"
        );
        assert!(served.has_metric(&format!(
            "shipbell_envelopes_total{{answer=\"503\",reason=\"{reason}\"}} 1"
        )));
    }
    assert!(served.quarantined().is_empty(), "it comes again");
    assert_eq!(served.post("{}").await, 202, "nothing in it has to be durable");
    served.intake.is_now(Mood::Takes);
    assert_eq!(served.post(&body).await, 202);
    assert_eq!(served.quarantined().len(), 1);
}

#[tokio::test]
async fn what_is_not_durable_by_the_deadline_is_answered_503() {
    let ack_deadline = Duration::from_millis(100);
    let served = serve(
        Options {
            ack_deadline,
            ..options()
        },
        plain(),
    );
    served.intake.is_now(Mood::NeverAnswers);
    assert_eq!(served.post(&envelope(&[event("acme/app", "1.4")])).await, 503);
    assert!(served.has_metric("shipbell_envelopes_total{answer=\"503\",reason=\"deadline\"} 1"));
}

#[tokio::test]
async fn idle_clients_and_slow_ones_never_keep_a_registry_out() {
    let served = serve(
        options(),
        listener::Options {
            connections_max: 64,
            ..plain()
        },
    );
    let slow = &request(&envelope(&[event("acme/slow", "1")]))[..40];
    let mut crowd = Vec::new();
    for i in 0..400 {
        let mut stream = served.connect().await;
        if i % 2 == 0 {
            let _ = stream.write_all(slow).await;
        }
        crowd.push(stream);
    }
    let began = Instant::now();
    for i in 0..20 {
        let body = envelope(&[event("acme/app", &i.to_string())]);
        assert_eq!(served.post(&body).await, 202);
    }
    assert_eq!(served.intake.taken().len(), 20);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}
