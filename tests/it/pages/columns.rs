//! What the list of repositories tells of each, of a real registry; and what it tells the registry's owner.

use super::{lists::names, own};
use crate::support::{
    SOON,
    api::Api,
    browser::{Browser, between},
    eventually,
    image::Image,
    ports,
    receiver::{Answer, Receiver},
    registry::{Options, Registry},
    shipbell::{Config, Shipbell, TOKEN},
    stage::Stage,
};

/// The cells behind a repository's name.
fn cells(page: &str, name: &str) -> Vec<String> {
    let row = between(page, &format!(">{name}</a></th>"), "</tr>");
    row.split("<td").skip(1).map(ToOwned::to_owned).collect()
}

#[test]
fn a_repository_is_listed_with_size_tags_last_push_queue_and_state() {
    let stage = Stage::new(Options::default(), "delivery.retry_schedule = ['1h']");
    let (browser, api) = (Browser::at(&stage.shipbell), Api::at(stage.shipbell.admin_port()));
    for (image, bytes) in [
        ("acme/large:1", 300_000),
        ("acme/small:1", 4_000),
        ("acme/small:2", 4_000),
    ] {
        stage.registry.push(&Image::oci(image, &[bytes]), image, &[]);
        stage.receiver.wait_for_image(image, SOON);
    }
    let size = |name: &str| api.json(&format!("/api/v1/repositories?q={name}"))["items"][0]["size"].as_u64();
    let (large, small) = eventually("their sizes are known", SOON, || {
        size("large").zip(size("small").filter(|size| *size > 8_000))
    });
    let page = browser.page("/repositories");
    assert_eq!(names(&page), ["acme/large", "acme/small"]);
    let (first, second) = (cells(&page, "acme/large"), cells(&page, "acme/small"));
    assert!(first[0].contains("badge healthy"), "{first:?}");
    for (cells, size, tags, last) in [(&first, large, 1, "1"), (&second, small, 2, "2")] {
        assert!(cells[1].contains(&format!("title=\"{size} bytes\"")), "{cells:?}");
        assert!(cells[2].contains(&format!(">{tags}<")), "{cells:?}");
        assert!(
            cells[3].contains("<time datetime=") && cells[3].contains(&format!("as {last}<")),
            "{cells:?}"
        );
        assert!(cells[4].contains("nothing"), "{cells:?}");
    }
    assert_eq!(
        names(&browser.page("/repositories?sort=size")),
        ["acme/large", "acme/small"]
    );
    assert_eq!(
        names(&browser.page("/repositories?sort=last_push")),
        ["acme/small", "acme/large"]
    );
    let sorted = browser.page("/repositories?sort=size&limit=1");
    assert!(sorted.contains("value=\"size\" selected"), "{sorted}");
    let next = between(&sorted, "rel=\"next\" href=\"", "\"").replace("&#38;", "&");
    assert_eq!(names(&browser.page(&next)), ["acme/small"]);
    // What waits, and for how long.
    stage.receiver.answer(|_| Answer::Status(503));
    stage
        .registry
        .push(&Image::oci("3", &[4_000]), "acme/small:3", &[]);
    let waits = eventually("it fails", SOON, || {
        let cells = cells(&browser.page("/repositories"), "acme/small");
        let is_waiting = cells[0].contains("badge failing") && cells[4].contains("1, for ");
        (is_waiting && cells[3].contains("as 3<")).then_some(cells)
    });
    assert!(waits[2].contains(">3<"), "{waits:?}");
}

#[test]
fn a_registry_that_is_told_what_the_empty_page_says_has_its_pushes_arrive() {
    let (receiver, port) = (Receiver::start(), ports::free());
    let config = Config::new(&format!("http://127.0.0.1:{port}")).endpoint("hook", &receiver.url("/hook"));
    let shipbell = Shipbell::start(config);
    let page = Browser::at(&shipbell).page("/repositories");
    let snippet = between(
        &page,
        "aria-label=\"For the registry's configuration\">",
        "</pre>",
    );
    let snippet = snippet.replace("&lt;one of ingest.tokens&gt;", TOKEN);
    assert!(!snippet.contains('&'), "{snippet}");
    let registry = Registry::start_told(port, &snippet);
    registry.push(&Image::oci("1", &[5_000]), "acme/app:1.4", &[]);
    let webhook = receiver.wait_for_image("acme/app:1.4", SOON).remove(0);
    assert!(
        webhook.json()["image_size"].as_u64() > Some(5_000),
        "{}",
        webhook.text()
    );
    // The pull by which it was sized is nobody's push.
    assert_eq!(receiver.requests().len(), 1);
    // And without a token, where none is wanted.
    let open = Shipbell::start(own().with("ingest.tokens = []"));
    assert!(!Browser::at(&open).page("/repositories").contains("Authorization"));
}
