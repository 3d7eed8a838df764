use std::{fs, path::Path};

use super::*;
use crate::{glob, ingest::envelope::Envelope};

fn globs(patterns: &[&str]) -> Patterns {
    let globs: Vec<_> = patterns.iter().map(|text| glob::parse(text).unwrap()).collect();
    Patterns::new(&globs).unwrap()
}

fn defaults() -> Options {
    Options {
        repositories: globs(&["**"]),
        exclude_repositories: Patterns::default(),
        exclude_tags: Patterns::default(),
        exclude_actors: Patterns::default(),
        untagged: false,
        referrers: false,
        accept_hosts: Vec::new(),
    }
}

fn judge(options: Options, event: &serde_json::Value) -> Verdict {
    let body = serde_json::json!({ "events": [event] }).to_string();
    let envelope = Envelope::parse(body.as_bytes()).unwrap();
    let (_, event) = envelope.events().next().unwrap();
    Filter::new(options).judge(&event.unwrap())
}

const DIGEST: &str = "sha256:0348b383990dcc85d82743a260488a832aad8e23334fc51550cbda5cd3fdd05c";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn push(repository: &str, tag: &str) -> serde_json::Value {
    serde_json::json!({
        "id": "e1", "action": "push",
        "target": { "mediaType": MANIFEST, "digest": DIGEST, "repository": repository, "tag": tag, "size": 582 },
        "request": { "host": "registry.example:5000" },
        "actor": { "name": "alice" },
    })
}

/// A verdict in one line: what it is, of which image, `+n` references.
fn line(verdict: &Verdict) -> String {
    let short = |digest: &Digest| digest.to_string().chars().skip(7).take(8).collect::<String>();
    let image = |arrival: &Arrival| {
        let tag = arrival.tag.as_ref().map_or("-", Tag::as_str);
        let (repository, digest) = (&arrival.repository, short(&arrival.digest));
        format!(
            "{repository} {tag} {digest} {} +{}",
            arrival.manifest_size,
            arrival.references.len()
        )
    };
    match verdict {
        Verdict::Push(arrival) => format!("push {}", image(arrival)),
        Verdict::SizesOnly(arrival, rule) => format!("sizes only ({}) {}", rule.as_str(), image(arrival)),
        Verdict::Change(Change::Untagged { repository, tag }) => format!("untagged {repository} {tag}"),
        Verdict::Change(Change::Deleted { repository, digest }) => {
            format!("deleted {repository} {}", short(digest))
        }
        Verdict::Change(other) => format!("{other:?}"),
        Verdict::Ignore(why) => format!("ignore {}", why.as_str()),
        Verdict::Invalid(why) => format!("invalid {}", why.as_str()),
    }
}

/// Every notification that was captured from a 2.8 and from a 3.1 registry, and what CONTRACT says of it:
/// one webhook per tag pushed, none for children, attestations and artifacts, deletes move sizes.
#[rustfmt::skip]
const CAPTURED: [(&str, &str); 57] = [
    ("2.8/0001-01-oci-push-push-v1_json.json", "push team/app v1 0348b383 582 +3"),
    ("2.8/0002-02-oci-push-again-push-v1_json.json", "push team/app v1 0348b383 582 +3"),
    ("2.8/0003-03-retag-same-digest-pull-v1_json.json", "ignore pull"),
    ("2.8/0004-03-retag-same-digest-push-v1_json.json", "push team/app stable 0348b383 582 +3"),
    ("2.8/0005-04-tag-moves-push-v1_json.json", "push team/app stable 529adf3f 582 +3"),
    ("2.8/0006-05-multiarch-all-push-v1_json.json", "sizes only (untagged) team/multi - 77df6e22 582 +3"),
    ("2.8/0007-05-multiarch-all-push-v1_json.json", "sizes only (untagged) team/multi - 258894c4 582 +3"),
    ("2.8/0008-05-multiarch-all-push-v1_json.json", "sizes only (untagged) team/multi - 8a9f874a 418 +2"),
    ("2.8/0009-05-multiarch-all-push-v1_json.json", "push team/multi 1.0 042ab7b0 927 +0"),
    ("2.8/0010-06-schema2-push-v2_json.json", "push team/dockerfmt v1 c96d81dd 587 +3"),
    ("2.8/0011-07-manifest-list-push-v2_json.json", "sizes only (untagged) team/dockerlist - 453ca363 587 +3"),
    ("2.8/0012-07-manifest-list-push-v2_json.json", "sizes only (untagged) team/dockerlist - 5c5c15cb 587 +3"),
    ("2.8/0013-07-manifest-list-push-v2_json.json", "sizes only (untagged) team/dockerlist - 6bf7ad21 423 +2"),
    ("2.8/0014-07-manifest-list-push-v2_json.json", "push team/dockerlist 1.0 a9ac9d5c 760 +0"),
    ("2.8/0015-08-push-by-digest-pull-v1_json.json", "ignore pull"),
    ("2.8/0016-08-push-by-digest-pull-v1_json.json", "ignore pull"),
    ("2.8/0017-08-push-by-digest-push-v1_json.json", "sizes only (untagged) team/app - 0348b383 582 +3"),
    ("2.8/0018-09-cross-mount-push-v1_json.json", "push other/copy v1 0348b383 582 +3"),
    ("2.8/0019-10-pull-pull-v1_json.json", "ignore pull"),
    ("2.8/0020-11-head-pull-v1_json.json", "ignore pull"),
    ("2.8/0021-12-artifact-subject-push-v1_json.json", "sizes only (untagged) team/app - ba804e82 589 +2"),
    ("2.8/0022-14-manifest-delete-delete-x.json", "deleted team/app 0348b383"),
    ("2.8/0023-14-manifest-delete-delete-tag.json", "untagged team/app v1"),
    ("2.8/0024-15-blob-delete-delete-x.json", "deleted team/app c69b2f7a"),
    ("2.8/0025-16-skopeo-delete-pull-v2_json.json", "ignore pull"),
    ("2.8/0026-16-skopeo-delete-delete-x.json", "deleted team/dockerfmt c96d81dd"),
    ("2.8/0027-16-skopeo-delete-delete-tag.json", "untagged team/dockerfmt v1"),
    ("2.8/0028-17-tag-128-and-underscore-push-v1_json.json", "push a/b/c/d-e.f__g A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_ 0348b383 582 +3"),
    ("3.1/0001-01-oci-push-push-v1_json.json", "push team/app v1 0348b383 582 +3"),
    ("3.1/0002-02-oci-push-again-push-v1_json.json", "push team/app v1 0348b383 582 +3"),
    ("3.1/0003-03-retag-same-digest-pull-v1_json.json", "ignore pull"),
    ("3.1/0004-03-retag-same-digest-push-v1_json.json", "push team/app stable 0348b383 582 +3"),
    ("3.1/0005-04-tag-moves-push-v1_json.json", "push team/app stable 529adf3f 582 +3"),
    ("3.1/0006-05-multiarch-all-push-v1_json.json", "sizes only (untagged) team/multi - 77df6e22 582 +3"),
    ("3.1/0007-05-multiarch-all-push-v1_json.json", "sizes only (untagged) team/multi - 258894c4 582 +3"),
    ("3.1/0008-05-multiarch-all-push-v1_json.json", "sizes only (untagged) team/multi - 8a9f874a 418 +2"),
    ("3.1/0009-05-multiarch-all-push-v1_json.json", "push team/multi 1.0 042ab7b0 927 +0"),
    ("3.1/0010-06-schema2-push-v2_json.json", "push team/dockerfmt v1 c96d81dd 587 +3"),
    ("3.1/0011-07-manifest-list-push-v2_json.json", "sizes only (untagged) team/dockerlist - 453ca363 587 +3"),
    ("3.1/0012-07-manifest-list-push-v2_json.json", "sizes only (untagged) team/dockerlist - 5c5c15cb 587 +3"),
    ("3.1/0013-07-manifest-list-push-v2_json.json", "sizes only (untagged) team/dockerlist - 6bf7ad21 423 +2"),
    ("3.1/0014-07-manifest-list-push-v2_json.json", "push team/dockerlist 1.0 a9ac9d5c 760 +0"),
    ("3.1/0015-08-push-by-digest-pull-v1_json.json", "ignore pull"),
    ("3.1/0016-08-push-by-digest-pull-v1_json.json", "ignore pull"),
    ("3.1/0017-08-push-by-digest-push-v1_json.json", "sizes only (untagged) team/app - 0348b383 582 +3"),
    ("3.1/0018-09-cross-mount-push-v1_json.json", "push other/copy v1 0348b383 582 +3"),
    ("3.1/0019-10-pull-pull-v1_json.json", "ignore pull"),
    ("3.1/0020-11-head-pull-v1_json.json", "ignore pull"),
    ("3.1/0021-12-artifact-subject-push-v1_json.json", "sizes only (untagged) team/app - ba804e82 589 +2"),
    ("3.1/0022-13-tag-delete-delete-tag.json", "untagged team/app stable"),
    ("3.1/0023-14-manifest-delete-delete-x.json", "deleted team/app 0348b383"),
    ("3.1/0024-14-manifest-delete-delete-tag.json", "untagged team/app v1"),
    ("3.1/0025-15-blob-delete-delete-x.json", "deleted team/app c69b2f7a"),
    ("3.1/0026-16-skopeo-delete-pull-v2_json.json", "ignore pull"),
    ("3.1/0027-16-skopeo-delete-delete-x.json", "deleted team/dockerfmt c96d81dd"),
    ("3.1/0028-16-skopeo-delete-delete-tag.json", "untagged team/dockerfmt v1"),
    ("3.1/0029-17-tag-128-and-underscore-push-v1_json.json", "push a/b/c/d-e.f__g A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_ 0348b383 582 +3"),
];

#[test]
fn every_captured_notification_gets_the_right_verdict() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/envelopes");
    let filter = Filter::new(defaults());
    for (file, expected) in CAPTURED {
        let text = fs::read_to_string(folder.join(file)).unwrap();
        let captured: serde_json::Value = serde_json::from_str(&text).unwrap();
        let body = captured["body"].to_string();
        let envelope = Envelope::parse(body.as_bytes()).unwrap();
        let events: Vec<_> = envelope.events().map(|(_, event)| event.unwrap()).collect();
        assert_eq!(events.len(), 1, "{file}");
        assert_eq!(line(&filter.judge(&events[0])), expected, "{file}");
    }
    let captured = ["2.8", "3.1"].map(|version| fs::read_dir(folder.join(version)).unwrap().count());
    assert_eq!(captured, [28, 29], "a file that is not in the table");
}

#[test]
fn only_manifests_fire() {
    let mut event = push("acme/app", "1.4");
    for (media_type, expected) in [
        ("application/vnd.docker.distribution.manifest.v2+json", "push"),
        (
            "application/vnd.docker.distribution.manifest.list.v2+json",
            "push",
        ),
        ("application/vnd.docker.distribution.manifest.v1+json", "push"),
        (
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
            "push",
        ),
        ("application/vnd.oci.image.index.v1+json", "push"),
        ("application/octet-stream", "ignore"),
        ("", "ignore"),
    ] {
        event["target"]["mediaType"] = media_type.into();
        let line = line(&judge(defaults(), &event));
        assert!(line.starts_with(expected), "{media_type}: {line}");
    }
}

#[test]
fn blobs_mounts_and_unknown_actions_are_ignored_even_with_invalid_names() {
    for (action, expected) in [
        ("mount", "ignore mount"),
        ("", "ignore other_action"),
        ("PUSH", "ignore other_action"),
    ] {
        let mut event = push("NOT VALID", "1.4");
        event["action"] = action.into();
        assert_eq!(line(&judge(defaults(), &event)), expected);
    }
    let mut event = push("NOT VALID", "");
    event["target"]["mediaType"] = "application/octet-stream".into();
    assert_eq!(line(&judge(defaults(), &event)), "ignore not_a_manifest");
}

#[test]
fn a_push_with_an_invalid_name_is_invalid() {
    assert_eq!(
        line(&judge(defaults(), &push("Acme/App", "1.4"))),
        "invalid invalid_repository"
    );
    assert_eq!(
        line(&judge(defaults(), &push("", "1.4"))),
        "invalid invalid_repository"
    );
    assert_eq!(
        line(&judge(defaults(), &push("acme/app", "-1.4"))),
        "invalid invalid_tag"
    );
    let mut event = push("acme/app", "1.4");
    event["target"]["digest"] = "sha256:abc".into();
    assert_eq!(line(&judge(defaults(), &event)), "invalid invalid_digest");
}

#[test]
fn each_rule_keeps_its_pushes_quiet() {
    let options = || Options {
        repositories: globs(&["acme/**"]),
        exclude_repositories: globs(&["acme/scratch/*"]),
        exclude_tags: globs(&["*-dirty"]),
        exclude_actors: globs(&["bot-*"]),
        ..defaults()
    };
    let referrer = format!("sha256-{}.sig", "a".repeat(64));
    for (repository, tag, rule) in [
        ("acme/app", "1.4", None),
        ("acme/scratch/deep/er", "1.4", None),
        ("other/app", "1.4", Some(Quiet::Repository)),
        ("acme/scratch/app", "1.4", Some(Quiet::ExcludedRepository)),
        ("acme/app", "1.4-dirty", Some(Quiet::ExcludedTag)),
        ("acme/app", "", Some(Quiet::Untagged)),
        ("acme/app", &*referrer, Some(Quiet::Referrers)),
    ] {
        let quiet = match judge(options(), &push(repository, tag)) {
            Verdict::Push(_) => None,
            Verdict::SizesOnly(_, rule) => Some(rule),
            other => panic!("{other:?}"),
        };
        assert_eq!(quiet, rule, "{repository}:{tag}");
    }
    let mut event = push("acme/app", "1.4");
    event["actor"]["name"] = "bot-7".into();
    assert!(matches!(
        judge(options(), &event),
        Verdict::SizesOnly(_, Quiet::ExcludedActor)
    ));
    event["actor"] = serde_json::json!({});
    assert!(matches!(judge(options(), &event), Verdict::Push(_)));
}

#[test]
fn untagged_and_referrers_fire_when_asked_to() {
    let options = || Options {
        untagged: true,
        referrers: true,
        ..defaults()
    };
    let referrer = format!("sha256-{}", "a".repeat(64));
    assert!(matches!(
        judge(options(), &push("acme/app", "")),
        Verdict::Push(_)
    ));
    assert!(matches!(
        judge(options(), &push("acme/app", &referrer)),
        Verdict::Push(_)
    ));
}

#[test]
fn events_of_other_hosts_are_dropped_deletes_too() {
    let options = || Options {
        accept_hosts: vec!["Registry.example:5000".to_owned()],
        ..defaults()
    };
    let mut event = push("acme/app", "1.4");
    assert!(matches!(judge(options(), &event), Verdict::Push(_)));
    event["request"]["host"] = "registry.example".into();
    assert_eq!(line(&judge(options(), &event)), "ignore accept_hosts");
    event["action"] = "delete".into();
    assert_eq!(line(&judge(options(), &event)), "ignore accept_hosts");
}

#[test]
fn a_delete_of_neither_tag_nor_digest_is_the_repositorys_and_an_invalid_one_is_ignored() {
    let delete = |repository: &str, digest: &str, tag: &str| {
        let target = serde_json::json!({ "repository": repository, "digest": digest, "tag": tag });
        judge(
            defaults(),
            &serde_json::json!({ "action": "delete", "target": target }),
        )
    };
    let repository: RepositoryName = "acme/app".parse().unwrap();
    let change = Change::RepositoryDeleted { repository };
    assert_eq!(delete("acme/app", "", ""), Verdict::Change(change));
    assert_eq!(line(&delete("acme/app", DIGEST, "")), "deleted acme/app 0348b383");
    assert_eq!(line(&delete("acme/app", DIGEST, "1.4")), "untagged acme/app 1.4");
    for (repository, digest, tag) in [
        ("", "", ""),
        ("Acme", "", ""),
        ("acme", "sha256:1", ""),
        ("acme", "", "!"),
    ] {
        assert_eq!(line(&delete(repository, digest, tag)), "ignore invalid_delete");
    }
}

#[test]
fn references_are_all_or_nothing() {
    let listed = |references: serde_json::Value| {
        let mut event = push("acme/app", "1.4");
        event["target"]["references"] = references;
        match judge(defaults(), &event) {
            Verdict::Push(arrival) => arrival.references,
            other => panic!("{other:?}"),
        }
    };
    let good = serde_json::json!({ "mediaType": "a/b", "digest": DIGEST, "size": 7 });
    let foreign =
        serde_json::json!({ "mediaType": "a/b", "digest": DIGEST, "size": 7, "urls": ["https://x"] });
    let both = listed(serde_json::json!([good, foreign]));
    assert_eq!(
        both.iter().map(|r| (r.size, r.has_urls)).collect::<Vec<_>>(),
        [(7, false), (7, true)]
    );
    for bad in [
        serde_json::json!({ "mediaType": "a/b", "digest": "sha256:1", "size": 7 }),
        serde_json::json!({ "mediaType": "a/b", "digest": DIGEST, "size": 0 }),
        serde_json::json!({ "mediaType": MANIFEST, "digest": DIGEST, "size": 7 }),
    ] {
        assert!(listed(serde_json::json!([good, bad])).is_empty(), "{bad}");
    }
}

#[test]
fn what_is_remembered_of_an_event_is_bounded() {
    let mut event = push("acme/app", "1.4");
    event["id"] = "x".repeat(1000).into();
    event["actor"]["name"] = "é".repeat(1000).into();
    let Verdict::Push(arrival) = judge(defaults(), &event) else {
        panic!("not a push");
    };
    assert_eq!(
        arrival.event_id,
        Digest::sha256("x".repeat(1000).as_bytes()).to_string()
    );
    assert_eq!(arrival.actor.chars().count(), 256);
}
