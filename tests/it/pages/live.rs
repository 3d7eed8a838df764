//! Pages that are kept up to date by a stream of events.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{
    PAGE, own,
    people::{ADMIN, EDITOR, with_tokens},
};
use crate::support::{
    SOON,
    api::Api,
    browser::{Browser, between, version},
    eventually,
    receiver::{Answer, Receiver},
    shipbell::Shipbell,
};

/// A stream of events, as a browser's script opens it.
pub(crate) struct Stream(BufReader<TcpStream>);

impl Stream {
    /// Asks for it; its status and head.
    pub(crate) fn open(shipbell: &Shipbell, path: &str, headers: &str) -> (u16, String, Self) {
        let mut stream = TcpStream::connect(("127.0.0.1", shipbell.admin_port())).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nAccept: text/event-stream\r\n{headers}\r\n",
            shipbell.admin_port()
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut stream = Self(BufReader::new(stream));
        let head = stream.until(|text| text.ends_with("\r\n\r\n"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head, stream)
    }

    /// What comes, up to a line after which `is_it` holds. The end of the stream ends it, too.
    pub(crate) fn until(&mut self, is_it: impl Fn(&str) -> bool) -> String {
        let (mut text, begin) = (String::new(), Instant::now());
        while !is_it(&text) {
            assert!(begin.elapsed() < SOON, "not within {SOON:?}: {text}");
            // A last chunk is empty.
            if self.0.read_line(&mut text).unwrap() == 0 || text.ends_with("\n0\r\n") {
                text.push_str("(the end)");
                break;
            }
        }
        text
    }
}

#[test]
fn a_page_on_which_nothing_changes_says_that_it_is_kept_up_to_date_while_other_things_happen() {
    let receiver = Receiver::start();
    let shipbell = Shipbell::start(own().endpoint("ci", &receiver.url("/hook")));
    let (_, _, mut quiet) = Stream::open(&shipbell, "/live/deliveries?repository=quiet%2Fapp", "");
    let is_told = |text: &str| text.contains("event: alive\n");
    quiet.until(is_told);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0.. {
                if is_over.load(Ordering::Acquire) {
                    break;
                }
                shipbell.push("busy/app", &number.to_string());
                thread::sleep(Duration::from_millis(100));
            }
        });
        // Twice, for the first may have been on its way.
        for _ in 0..2 {
            quiet.until(is_told);
        }
        is_over.store(true, Ordering::Release);
    });
}

#[test]
fn what_happens_comes_by_itself() {
    let receiver = Receiver::start();
    let shipbell = Shipbell::start(own().endpoint("ci", &receiver.url("/hook?token=hunter2")));
    let browser = Browser::at(&shipbell);
    let (status, head, mut overview) = Stream::open(&shipbell, "/live/overview", "");
    assert_eq!(status, 200);
    assert!(head.contains("content-type: text/event-stream"), "{head}");
    assert!(head.contains("cache-control: no-store"), "{head}");
    let text =
        overview.until(|text| text.contains("Nothing was sent yet") && text.contains("event: alive\ndata: "));
    assert!(
        text.contains("All of them are healthy") && text.contains("Kept up to date as things happen."),
        "{text}"
    );
    // Also while nothing happens: the page says that it is kept up to date for as long as this comes.
    for _ in 0..2 {
        let text = overview.until(|text| text.ends_with("event: alive\n") || text.contains("event: part"));
        assert!(!text.contains("event: ended"), "{text}");
    }
    let (_, _, mut own) = Stream::open(&shipbell, &format!("/live{PAGE}"), "");
    let (_, _, mut other) = Stream::open(&shipbell, "/live/deliveries?repository=other%2Fapp&state=", "");
    let (_, _, mut repositories) = Stream::open(&shipbell, "/live/repositories?q=acme&sort=size", "");
    repositories.until(|text| text.contains("has “acme” in its name"));
    own.until(|text| text.contains("Nothing was sent yet"));
    other.until(|text| text.contains("Nothing matches this filter"));
    shipbell.push("acme/app", "1.4");
    for stream in [&mut overview, &mut own] {
        let text = stream.until(|text| text.contains("acme/app:1.4") && text.contains("badge delivered"));
        assert!(
            text.contains("event: part\n") && !text.contains("hunter2"),
            "{text}"
        );
    }
    let (_, _, mut all) = Stream::open(&shipbell, "/live/deliveries", "");
    all.until(|text| text.contains("Send all of them again") && text.contains("event: alive"));
    // What comes behind the part changes with it.
    let (_, _, mut first) = Stream::open(&shipbell, "/live/deliveries?limit=1", "");
    let text = first.until(|text| text.contains("event: alive"));
    assert!(!text.contains("rel=\"next\""), "{text}");
    shipbell.push("other/app", "2");
    let text = other.until(|text| text.contains("other/app:2"));
    first.until(|text| text.contains("rel=\"next\""));
    assert!(!text.contains("acme/app"), "{text}");
    browser.submit("/endpoints/ci/hold", &[]);
    overview.until(|text| text.contains("badge held"));
    let text = repositories.until(|text| text.contains("badge held"));
    assert!(
        text.contains(">acme/app</a>") && !text.contains("other/app"),
        "{text}"
    );
    shipbell.push("acme/app", "1.5");
    repositories.until(|text| text.contains("<td>1, for "));
    for page in [
        "/overview",
        "/repositories?q=app&sort=last_push",
        "/deliveries?repository=other%2Fapp",
        PAGE,
        "/endpoints?state=held",
        "/endpoints/ci",
        "/dead-letters?endpoint=ci",
    ] {
        let live = browser.page(page);
        let stream = between(&live, "sse-connect=\"", "\"").replace("&#38;", "&");
        assert!(stream.starts_with("/live/"), "{page}");
        assert_eq!(Stream::open(&shipbell, &stream, "").0, 200, "{page}");
        let script = between(&live, "<script src=\"", "\"");
        assert_eq!(browser.get(script).status, 200);
        assert!(
            !live.contains("Kept up to date"),
            "only the stream may say so: {page}"
        );
        let paused = between(&live, "<p class=\"live quiet small\"><a href=\"", "\"").replace("&#38;", "&");
        let paused = browser.page(&paused);
        assert!(
            !paused.contains("sse-connect") && !paused.contains("<script"),
            "{page}"
        );
    }
    for page in [
        "/deliveries?cursor=",
        "/deliveries?limit=1",
        "/repositories?limit=1",
        "/endpoints?limit=1",
        "/endpoints/ci?limit=1",
        "/dead-letters?limit=1",
    ] {
        let still = browser.page(page);
        assert_eq!(still.contains("sse-connect"), page.ends_with("cursor="), "{page}");
    }
    assert_eq!(Stream::open(&shipbell, "/live/deliveries?state=lost", "").0, 400);
    assert_eq!(
        Stream::open(&shipbell, "/live/overview", "Sec-Fetch-Site: cross-site\r\n").0,
        403
    );
}

#[test]
fn everybody_gets_what_they_may_see_and_the_login_ends_it() {
    let shipbell = Shipbell::start(with_tokens());
    let admin = Api::at(shipbell.admin_port()).bearer(ADMIN);
    for repository in ["acme/app", "other/app"] {
        let body = json!({"url": "https://ci.example.com/", "enabled": false});
        assert_eq!(admin.set(repository, &body).status, 201);
    }
    assert_eq!(Stream::open(&shipbell, "/live/overview", "").0, 401);
    let browser = Browser::at(&shipbell);
    let login = browser.submit("/login", &[("token", EDITOR)]);
    let cookie = login.header("set-cookie").unwrap().split(';').next().unwrap();
    let cookies = format!("Cookie: {cookie}\r\n");
    let (status, _, mut stream) = Stream::open(&shipbell, "/live/overview", &cookies);
    assert_eq!(status, 200);
    let text = stream.until(|text| text.contains("running for"));
    assert!(
        text.contains("repository:acme/app") && !text.contains("other/app"),
        "{text}"
    );
    assert_eq!(
        Stream::open(&shipbell, "/live/repositories/other%2Fapp", &cookies).0,
        403
    );
    Browser(browser.0.with("Cookie", cookie)).submit("/logout", &[]);
    let text = stream.until(|_| false);
    assert!(
        text.contains("event: ended") && text.ends_with("(the end)"),
        "{text}"
    );
}

#[test]
fn there_is_room_for_so_many_streams_of_one_person_and_a_drain_ends_them() {
    let mut shipbell = Shipbell::start(own());
    let open = || Stream::open(&shipbell, "/live/overview", "");
    let mut streams: Vec<_> = (0..48).map(|_| open()).collect();
    assert!(streams.iter().all(|(status, ..)| *status == 200));
    let (status, head, _) = open();
    assert_eq!(status, 503);
    assert!(head.contains("retry-after: "), "{head}");
    assert!(Browser::at(&shipbell).page("/overview").contains("Overview"));
    streams.pop();
    eventually("its place is free", SOON, || (open().0 == 200).then_some(()));
    shipbell.terminate();
    let begin = Instant::now();
    assert_eq!(shipbell.wait(SOON).code(), Some(0));
    assert!(
        begin.elapsed() < Duration::from_secs(10),
        "nobody waits for streams"
    );
    let text = streams[0].2.until(|_| false);
    assert!(
        text.ends_with("(the end)") && !text.contains("event: ended"),
        "{text}"
    );
}

/// The stream of a page's parts.
fn stream_of(page: &str) -> String {
    between(page, "sse-connect=\"", "\"").replace("&#38;", "&")
}

#[test]
fn a_repositorys_webhook_is_shown_as_it_is_while_somebody_else_changes_it() {
    let receiver = Receiver::start();
    let shipbell = Shipbell::start(own().endpoint("ci", &receiver.url("/ci")));
    let (browser, api) = (Browser::at(&shipbell), Api::at(shipbell.admin_port()));
    let empty = browser.page(PAGE);
    let (status, _, mut stream) = Stream::open(&shipbell, &stream_of(&empty), "");
    assert_eq!(status, 200);
    stream.until(|text| text.contains("It has no webhook of its own") && text.contains("event: alive"));
    assert_eq!(
        api.set("acme/app", &json!({"url": receiver.url("/own")})).status,
        201
    );
    let text = stream.until(|text| text.contains("badge healthy") && text.contains("Load the page again"));
    assert!(text.contains("event: state\n"), "{text}");
    assert!(
        !text.contains("<input") && !text.contains("<textarea"),
        "nobody's typing is lost: {text}"
    );
    // A page that has it as it is says nothing of the kind.
    let page = browser.page(PAGE);
    let (_, _, mut stream) = Stream::open(&shipbell, &stream_of(&page), "");
    let first = stream.until(|text| text.contains("event: alive"));
    assert!(
        first.contains("Requests are not signed.") && !first.contains("Load the page again"),
        "{first}"
    );
    for name in ["part", "state", "changes", "operators"] {
        assert!(first.contains(&format!("event: {name}\n")), "{name}: {first}");
        assert!(page.contains(&format!("sse-swap=\"{name}\"")), "{name}: {page}");
    }
    assert!(
        !page.contains("aria-live"),
        "nobody is read a page aloud that changes: {page}"
    );
    shipbell.push("acme/app", "1.4");
    let text = stream.until(|text| text.contains("acme/app:1.4"));
    assert!(
        !text.contains("event: operators\n"),
        "they are as they were: {text}"
    );
    assert_eq!(
        api.post("/api/v1/endpoints/repository%3Aacme%2Fapp/hold").status,
        200
    );
    stream.until(|text| text.contains("badge held") && text.contains("<td>by local</td>"));
    assert_eq!(api.post("/api/v1/endpoints/ci/hold").status, 200);
    let text = stream.until(|text| text.contains("<li>ci <span class=\"badge held\">"));
    assert!(text.contains("event: operators\n"), "{text}");
    let removed = browser.submit(
        &format!("{PAGE}/remove"),
        &[("version", &version(&browser.page(PAGE)))],
    );
    assert_eq!(removed.status, 303);
    stream
        .until(|text| text.contains("It has no webhook of its own") && text.contains("Load the page again"));
}

#[test]
fn what_answers_a_form_is_kept_up_to_date_as_well() {
    let receiver = Receiver::scripted(|_| Answer::Status(503));
    let shipbell = Shipbell::start(own().with("delivery.retry_schedule = ['1h']"));
    let (browser, api) = (Browser::at(&shipbell), Api::at(shipbell.admin_port()));
    assert_eq!(
        api.set("acme/app", &json!({"url": receiver.url("/own")})).status,
        201
    );
    shipbell.push("acme/app", "1");
    let id = eventually("it was tried", SOON, || {
        let listed = api.json("/api/v1/deliveries");
        (listed["items"][0]["attempts"] == 1).then(|| listed["items"][0]["id"].as_str().unwrap().to_owned())
    });
    let version = version(&browser.page(PAGE));
    let bad = [
        ("version", &*version),
        ("url", "nothing"),
        ("tags", "**"),
        ("enabled", "yes"),
    ];
    let pages = [
        browser.submit(&format!("{PAGE}/test"), &[]).text(),
        browser.submit(PAGE, &bad).text(),
        browser.submit(&format!("/deliveries/{id}/redeliver"), &[]).text(),
        browser
            .submit(&format!("{PAGE}/rotate"), &[("version", &version)])
            .text(),
    ];
    for page in &pages {
        let (status, _, mut stream) = Stream::open(&shipbell, &stream_of(page), "");
        assert_eq!(status, 200, "{page}");
        let text = stream.until(|text| text.contains("event: alive"));
        assert!(text.contains("event: part\n"), "{text}");
        // What it says stands at no address: it pauses where it is.
        assert!(
            page.contains("data-pause>Pause</button>") && !page.contains("live=off"),
            "{page}"
        );
    }
    let secret = between(&pages[3], "<code>whsec_", "<");
    let (_, _, mut stream) = Stream::open(&shipbell, &stream_of(&pages[3]), "");
    let text = stream.until(|text| text.contains("event: alive"));
    assert!(
        !text.contains(secret) && !text.contains("Load the page again"),
        "{text}"
    );
}

#[test]
fn a_delivery_its_endpoint_and_its_letter_come_by_themselves() {
    let receiver = Receiver::scripted(|_| Answer::Status(503));
    let config = own().with("[delivery]\nretry_schedule = ['1h']\njitter = 0.0");
    let shipbell = Shipbell::start(config.endpoint("ci", &receiver.url("/hook?token=hunter2")));
    let (browser, api) = (Browser::at(&shipbell), Api::at(shipbell.admin_port()));
    let open = |page: &str| {
        let (status, _, stream) = Stream::open(&shipbell, &stream_of(&browser.page(page)), "");
        assert_eq!(status, 200, "{page}");
        stream
    };
    let (mut endpoints, mut failing) = (open("/endpoints"), open("/endpoints?state=failing"));
    let (mut endpoint, mut letters) = (open("/endpoints/ci"), open("/dead-letters"));
    endpoints.until(|text| text.contains("badge healthy"));
    failing.until(|text| text.contains("No endpoint is failing"));
    endpoint.until(|text| text.contains("badge healthy") && text.contains("event: changes"));
    letters.until(|text| text.contains("nothing was given up on"));
    shipbell.push("acme/app", "1.4");
    let id = eventually("it was tried", SOON, || {
        let listed = api.json("/api/v1/deliveries");
        (listed["items"][0]["attempts"] == 1).then(|| listed["items"][0]["id"].as_str().unwrap().to_owned())
    });
    for stream in [&mut endpoints, &mut failing, &mut endpoint] {
        let text = stream.until(|text| text.contains("badge failing") && text.contains("in 59 minutes"));
        assert!(!text.contains("hunter2"), "{text}");
    }
    let mut delivery = open(&format!("/deliveries/{id}"));
    delivery.until(|text| text.contains("Attempt 1: answered 503") && text.contains("the next not before"));
    receiver.answer(|_| Answer::Status(204));
    assert_eq!(api.post("/api/v1/endpoints/ci/enable").status, 200);
    delivery.until(|text| text.contains("badge delivered") && text.contains("Attempt 2: answered 204"));
    endpoints.until(|text| text.contains("badge healthy"));
    failing.until(|text| text.contains("No endpoint is failing"));
    endpoint.until(|text| text.contains("<td>by local</td>") || text.contains("badge healthy"));
    assert_eq!(api.post("/api/v1/endpoints/ci/hold").status, 200);
    endpoint.until(|text| text.contains("badge held") && text.contains("id=\"enable\""));
    shipbell.push("acme/app", "1.5");
    endpoints.until(|text| text.contains("<td>1, for "));
    assert_eq!(api.post("/api/v1/endpoints/ci/disable").status, 200);
    letters.until(|text| text.contains("acme/app:1.5") && text.contains("Send all of them again"));
    for path in [
        "/live/endpoints?state=lost",
        "/live/dead-letters?since=yesterday",
        "/live/repositories?sort=lost",
    ] {
        assert_eq!(Stream::open(&shipbell, path, "").0, 400, "{path}");
    }
    for path in [
        "/live/endpoints/nobody",
        "/live/deliveries/nothing",
        "/live/dead-letters/99",
        "/live/dead-letters/abc",
    ] {
        assert_eq!(Stream::open(&shipbell, path, "").0, 404, "{path}");
    }
}

#[test]
fn a_dead_letters_page_tells_by_itself_that_it_is_none_any_more() {
    let receiver = Receiver::scripted(|_| Answer::Status(400));
    let config = own().with("delivery.retry_schedule = ['10ms']\ndelivery.jitter = 0.0");
    let shipbell = Shipbell::start(config.endpoint("ci", &receiver.url("/hook?token=hunter2")));
    let (browser, api) = (Browser::at(&shipbell), Api::at(shipbell.admin_port()));
    shipbell.push("acme/app", "1.4");
    let id = eventually("there is a dead letter", SOON, || {
        let letters = api.json("/api/v1/dead-letters");
        letters["items"][0]["id"].as_i64()
    });
    let page = browser.page(&format!("/dead-letters/{id}"));
    assert!(page.contains("data-pause") || page.contains("live=off"), "{page}");
    let (status, _, mut stream) = Stream::open(&shipbell, &stream_of(&page), "");
    assert_eq!(status, 200);
    let first = stream.until(|text| text.contains("badge dead") && text.contains("event: alive"));
    assert!(
        first.contains("Send it again") && first.contains("event: attempts\n") && !first.contains("hunter2"),
        "{first}"
    );
    receiver.answer(|_| Answer::Status(204));
    assert_eq!(
        api.post(&format!("/api/v1/dead-letters/replay?id={id}")).status,
        200
    );
    let gone = stream.until(|text| text.contains("It is no dead letter any more") && text.contains("alive"));
    assert!(!gone.contains("event: ended"), "{gone}");
    assert_eq!(browser.get(&format!("/dead-letters/{id}")).status, 404);
}

#[test]
fn what_has_not_changed_is_not_sent_again() {
    let shipbell = Shipbell::start(own());
    let of_other = "/live/deliveries?repository=other%2Fapp&state=";
    let (_, _, mut stream) = Stream::open(&shipbell, of_other, "");
    stream.until(|text| text.contains("Nothing matches this filter") && text.ends_with("event: alive\n"));
    // Something is written down, and looked at.
    shipbell.push("acme/app", "1");
    let text = stream.until(|text| text.ends_with("event: alive\n"));
    assert!(!text.contains("event: part"), "{text}");
}

#[test]
fn under_a_storm_of_changes_a_part_is_sent_at_most_once_a_second() {
    let receiver = Receiver::start();
    let config = own().with("batch.window = '0s'\nbatch.coalesce = 'none'\ndelivery.rate = '0'");
    let shipbell = Shipbell::start(config.endpoint("ci", &receiver.url("/hook")));
    let (_, _, mut stream) = Stream::open(&shipbell, "/live/deliveries", "");
    stream.until(|text| text.contains("event: alive"));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let storm = scope.spawn(|| {
            let mut pushes = 0;
            while !is_over.load(Ordering::Acquire) {
                shipbell.push("acme/app", &pushes.to_string());
                pushes += 1;
                thread::sleep(Duration::from_millis(5));
            }
            pushes
        });
        let came: Vec<Instant> = (0..5)
            .map(|_| {
                let text = stream.until(|text| text.ends_with("event: alive\n"));
                assert!(text.contains("event: part\n"), "each time it changed: {text}");
                Instant::now()
            })
            .collect();
        is_over.store(true, Ordering::Release);
        let pushes = storm.join().unwrap();
        assert!(pushes > 100, "a storm of {pushes}");
        for pair in came.windows(2) {
            let apart = pair[1] - pair[0];
            assert!(
                apart > Duration::from_millis(800) && apart < Duration::from_secs(3),
                "{apart:?} apart"
            );
        }
    });
}
