//! What others wrote stands in a page as text: receivers, pushers, whoever writes the configuration.

use std::io::Write;

use super::{Stream, own};
use crate::support::{
    SOON,
    api::Api,
    browser::{Browser, between},
    eventually,
    raw::{RawReceiver, read_head, wait_for_close},
    shipbell::Shipbell,
};

#[test]
fn an_attempts_answer_and_headers_are_text_on_the_page_and_in_its_stream() {
    const ANSWER: &str = "<script>alert(1)</script>\r\revent: ended\r\r</pre><img src=x>\n\n\"'&amp; last";
    let receiver = RawReceiver::start(|stream| {
        read_head(stream)?;
        let length = ANSWER.len();
        let head = format!(
            "HTTP/1.1 500 <b>No</b>\r\nContent-Length: {length}\r\nX-A: <i>\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(ANSWER.as_bytes())?;
        wait_for_close(stream)
    });
    let config = own().with("delivery.retry_schedule = ['1h']\ndelivery.user_agent = '<u>agent</u>'");
    let shipbell = Shipbell::start(config.endpoint("ci", &receiver.url("/hook")));
    let (browser, api) = (Browser::at(&shipbell), Api::at(shipbell.admin_port()));
    shipbell.push("acme/app", "1");
    let id = eventually("it was tried", SOON, || {
        let listed = api.json("/api/v1/deliveries");
        (listed["items"][0]["attempts"] == 1).then(|| listed["items"][0]["id"].as_str().unwrap().to_owned())
    });
    let page = browser.page(&format!("/deliveries/{id}"));
    let (_, _, mut stream) = Stream::open(&shipbell, &format!("/live/deliveries/{id}"), "");
    let streamed = stream.until(|text| text.contains("event: alive"));
    for text in [&page, &streamed] {
        for part in [
            "&#60;script&#62;alert(1)&#60;/script&#62;",
            "&#60;/pre&#62;&#60;img src=x&#62;",
            "&#38;amp; last",
            "&#60;u&#62;agent&#60;/u&#62;",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        for markup in ["<script>alert", "<img src=x", "<u>agent", "<b>No", "<i>"] {
            assert!(!text.contains(markup), "{markup}: {text}");
        }
    }
    assert!(
        streamed.contains("data: event: ended\n"),
        "a line of text: {streamed}"
    );
    assert!(!streamed.contains("\nevent: ended"), "{streamed}");
    // Empty lines are part of what was answered and sent.
    let lines: String = streamed
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .flat_map(|line| [line, "\n"])
        .collect();
    let answer = between(&lines, "aria-label=\"The answer to attempt 1\">", "</pre>");
    assert!(answer.contains("&#60;img src=x&#62;\n\n&#34;"), "{answer}");
}

const WORDS: &str = "A newer configuration can't be used";

#[test]
fn a_configuration_that_cant_be_used_is_told_on_the_overview_until_one_can() {
    let mut shipbell = Shipbell::start(own().endpoint("ci", "https://ci.example.com/"));
    let browser = Browser::at(&shipbell);
    assert!(!browser.page("/overview").contains(WORDS));
    shipbell.set_url("ci", "ftp://<b>ci.example.com/");
    shipbell.write_settings();
    shipbell.hang_up();
    let told = eventually("it is told", SOON, || {
        let page = browser.page("/overview");
        page.contains(WORDS).then_some(page)
    });
    let problems = between(&told, "<div class=\"problem\">", "</div>");
    assert!(problems.contains("endpoints[0].url: not a URL"), "{problems}");
    assert!(!told.contains("<b>ci"), "{told}");
    let (_, _, mut stream) = Stream::open(&shipbell, "/live/overview", "");
    stream.until(|text| text.contains(WORDS));
    shipbell.set_url("ci", "https://ci.example.com/mended");
    shipbell.write_settings();
    shipbell.hang_up();
    eventually("it is mended", SOON, || {
        (!browser.page("/overview").contains(WORDS)).then_some(())
    });
    let text = stream.until(|text| text.contains("event: part"));
    let text = text + &stream.until(|text| text.contains("event: alive"));
    assert!(!text.contains(WORDS), "{text}");
}
