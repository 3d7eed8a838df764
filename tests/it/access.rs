//! Registries that want to know who asks.

use crate::support::{
    SOON, eventually, folder,
    image::Image,
    registry::{Access, Options},
    stage::Stage,
    tokens::{self, Asked, TokenServer},
};

#[test]
fn sizes_come_from_a_registry_with_passwords() {
    let stage = Stage::new(
        Options {
            references: false,
            access: Access::Htpasswd {
                user: "shipbell",
                password: "correct horse",
            },
            ..Options::default()
        },
        "registry.username = 'shipbell'\nregistry.password = 'correct horse'",
    );
    stage
        .registry
        .push(&Image::oci("htpasswd", &[3_000]), "acme/app:1", &[]);
    let webhooks = stage.webhooks(&["acme/app:1"]);
    stage.assert_body(&webhooks[0], "acme/app", "1");
    assert!(!stage.shipbell.log().contains("correct horse"));
}

#[test]
fn sizes_come_from_a_registry_with_token_auth() {
    let tokens = TokenServer::start();
    let (user, password) = TokenServer::reader();
    let folder = folder();
    let file = folder.path().join("password");
    std::fs::write(&file, format!("{password}\n")).unwrap();
    let stage = Stage::new(
        Options {
            references: false,
            access: Access::Tokens(&tokens),
            ..Options::default()
        },
        &format!(
            "registry.username = '{user}'\nregistry.password_file = '{}'",
            file.display()
        ),
    );
    let image = Image::two_platforms_with_attestation("tokens");
    stage.registry.push(&image, "acme/app:1", &["--all"]);
    stage
        .registry
        .push(&Image::oci("tokens", &[3_000]), "acme/other:1", &[]);
    let webhooks = stage.receiver.wait_for(2, SOON);
    for webhook in &webhooks {
        let name = webhook.image();
        stage.assert_body(webhook, name.trim_end_matches(":1"), "1");
    }

    let asked: Vec<Asked> = tokens
        .asked()
        .into_iter()
        .filter(|asked| asked.user == user)
        .collect();
    let mut scopes: Vec<String> = asked.iter().flat_map(|asked| asked.scopes.clone()).collect();
    scopes.sort_unstable();
    scopes.dedup();
    assert_eq!(
        scopes,
        ["repository:acme/app:pull", "repository:acme/other:pull"],
        "to read, and no more"
    );
    assert!(asked.iter().all(|asked| asked.service == tokens::SERVICE));
}

#[test]
fn wrong_credentials_cost_the_sizes_and_not_the_webhook() {
    let stage = Stage::new(
        Options {
            references: false,
            access: Access::Htpasswd {
                user: "alice",
                password: "right",
            },
            ..Options::default()
        },
        "registry.username = 'alice'\nregistry.password = 'a wrong one'\nsize.deadline = '1s'",
    );
    stage
        .registry
        .push(&Image::oci("wrong", &[3_000]), "acme/app:1", &[]);
    let webhooks = stage.webhooks(&["acme/app:1"]);
    let body = webhooks[0].json();
    assert!(
        body["image_size"].is_null() && body["repository_size"].is_null(),
        "{body}"
    );
    let log = eventually("the refusal is logged", SOON, || {
        let log = stage.shipbell.log();
        log.contains("refuses access").then_some(log)
    });
    assert!(!log.contains("a wrong one"));
}
