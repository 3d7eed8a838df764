//! `admin.proxy.groups`.

use super::*;

/// With the proxy known, and these settings of it.
fn proxy(settings: &str) -> String {
    format!("[admin]\nauth = \"proxy\"\n[admin.proxy]\ntrusted_networks = [\"127.0.0.1/32\"]\n{settings}")
}

#[test]
fn groups_have_a_role_and_repositories() {
    let file = proxy(
        "[[admin.proxy.groups]]\ngroup = \" platform \"\nrole = \"admin\"\n\
         [[admin.proxy.groups]]\ngroup = \"team-a\"\nrole = \"editor\"\nrepositories = [\"acme/**\"]\n",
    );
    let config = load(&file);
    let groups = &config.admin.proxy.groups;
    assert_eq!(
        (groups[0].group.as_str(), groups[0].grant.role),
        ("platform", Role::Admin)
    );
    assert!(groups[0].grant.repositories.is_none());
    let acme = groups[1].grant.repositories.as_ref().unwrap();
    assert!(acme.is_match("acme/app") && !acme.is_match("other/app"));
    let inline = load(&proxy("groups = [{ group = \"platform\", role = \"viewer\" }]"));
    assert_eq!(inline.admin.proxy.groups[0].grant.role, Role::Viewer);
    assert!(load(&proxy("")).admin.proxy.groups.is_empty());
}

#[test]
fn every_problem_of_a_group_is_told_with_its_key() {
    let group = |settings: &str| proxy(&format!("groups = [{{ {settings} }}]"));
    for (settings, key, part) in [
        ("role = \"admin\"", "admin.proxy.groups[0].group", "missing"),
        ("group = \"a\"", "admin.proxy.groups[0].role", "missing"),
        (
            "group = \"a\", role = \"owner\"",
            "admin.proxy.groups[0].role",
            "admin",
        ),
        (
            "group = \"a,b\", role = \"admin\"",
            "admin.proxy.groups[0].group",
            "commas",
        ),
        (
            "group = \" \", role = \"admin\"",
            "admin.proxy.groups[0].group",
            "has a name",
        ),
        (
            "group = \"a\", role = \"admin\", repositories = [\"[\"]",
            "admin.proxy.groups[0].repositories[0]",
            "",
        ),
        (
            "group = \"a\", role = \"admin\", name = \"b\"",
            "admin.proxy.groups[0].name",
            "",
        ),
    ] {
        refused(&group(settings), key, 5, part);
    }
    let all = problems_with(&proxy("groups = [{}, { group = \"a\", role = \"x\" }]"), &[]);
    let keys: Vec<&str> = all.iter().map(|(key, ..)| key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "admin.proxy.groups[0].group",
            "admin.proxy.groups[0].role",
            "admin.proxy.groups[1].role"
        ]
    );
}

#[test]
fn a_header_of_groups_without_groups_is_warned_of() {
    let keys = |settings: &str| -> Vec<String> {
        let warnings = load(&proxy(settings)).warnings();
        warnings.into_iter().map(|warning| warning.key).collect()
    };
    let header = "groups_header = \"X-Groups\"\n";
    let half = "admin.proxy.secret_file";
    assert_eq!(keys(header), ["admin.proxy.groups_header", half]);
    let with = format!("{header}groups = [{{ group = \"a\", role = \"admin\" }}]");
    assert_eq!(keys(&with), [half]);
    assert_eq!(keys(""), [half]);
}

#[test]
fn a_proxy_that_is_known_by_one_thing_alone_is_warned_of_with_what_would_be_right() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, "the-proxys-secret-0123456789").unwrap();
    let (network, secret) = (
        "trusted_networks = [\"10.0.0.7/32\"]\n",
        format!("secret_file = \"{}\"\n", file.display()),
    );
    let told = |auth: &str, settings: &str| -> Vec<String> {
        let text = format!("[admin]\nauth = \"{auth}\"\n[admin.proxy]\n{settings}");
        let warnings = load(&text).warnings().into_iter();
        warnings
            .map(|warning| format!("{} {}", warning.key, warning.message))
            .collect()
    };
    let [lone] = &told("proxy", network)[..] else {
        panic!("one warning")
    };
    assert!(
        lone.starts_with("admin.proxy.secret_file is not set") && lone.contains("X-Shipbell-Proxy-Secret"),
        "{lone}"
    );
    let [lone] = &told("proxy", &secret)[..] else {
        panic!("one warning")
    };
    assert!(
        lone.starts_with("admin.proxy.trusted_networks is not set") && lone.contains("10.0.0.7/32"),
        "{lone}"
    );
    assert!(told("proxy", &format!("{network}{secret}")).is_empty());
    let [lone] = &told("none", network)[..] else {
        panic!("one warning")
    };
    assert!(
        lone.starts_with("admin.proxy does nothing"),
        "it lets nobody in then: {lone}"
    );
}

#[test]
fn with_groups_the_shown_configuration_is_toml_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "0123456789abcdef0123456789abcdef").unwrap();
    let file = proxy(&format!(
        "secret_file = {secret:?}\n[[admin.proxy.groups]]\ngroup = \"platform\"\nrole = \"admin\"\n"
    ));
    let shown = load(&file).show_toml();
    let table: toml::Table = shown.parse().unwrap_or_else(|error| panic!("{error}: {shown}"));
    let proxy = &table["admin"]["proxy"];
    assert_eq!(proxy["groups"][0]["group"].as_str(), Some("platform"));
    assert!(proxy["secret_file"].as_str().is_some_and(|file| !file.is_empty()));
}
