//! The real registry, and the ways to push to it.

use std::{
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    eventually, folder, http,
    image::{Blob, Image},
    ports,
    process::{self, Process},
    storage::Storage,
    tokens::{self, TokenServer},
};

/// Who may use the registry.
pub(crate) enum Access<'a> {
    Anyone,
    /// Basic, the one user with this password.
    Htpasswd {
        user: &'a str,
        password: &'a str,
    },
    /// Bearer tokens of this server.
    Tokens(&'a TokenServer),
}

/// How to run the registry.
pub(crate) struct Options<'a> {
    /// The ports of loopback that notifications go to, each with the bearer token they carry.
    pub(crate) notify: Vec<(u16, &'a str)>,
    /// Whether only manifests that are pushed or deleted are told of, as the README advises.
    pub(crate) ignore_noise: bool,
    /// `notifications.events.includereferences`.
    pub(crate) references: bool,
    pub(crate) access: Access<'a>,
    /// Whether schema 1 manifests may be pushed.
    pub(crate) schema1: bool,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            notify: Vec::new(),
            ignore_noise: false,
            references: true,
            access: Access::Anyone,
            schema1: false,
        }
    }
}

/// A running `docker-registry` with storage of its own.
pub(crate) struct Registry {
    port: u16,
    debug_port: u16,
    credentials: Option<String>,
    // Ends before its folder goes.
    process: Process,
    folder: TempDir,
}

impl Registry {
    /// Starts one on a port of its own.
    pub(crate) fn start(options: &Options<'_>) -> Self {
        Self::start_on(ports::free(), options)
    }

    /// Starts one on this port, and waits until it answers.
    pub(crate) fn start_on(port: u16, options: &Options<'_>) -> Self {
        Self::start_with(port, options, Value::to_string)
    }

    /// Starts one on this port with these lines in its configuration, as somebody puts them in who has none of
    /// notifications.
    pub(crate) fn start_told(port: u16, lines: &str) -> Self {
        Self::start_with(port, &Options::default(), |configuration| {
            let keys = configuration.as_object().unwrap().iter();
            let keys = keys.filter(|(key, _)| *key != "notifications");
            let rest: Vec<_> = keys.map(|(key, value)| format!("{key}: {value}")).collect();
            format!("{}\n{lines}\n", rest.join("\n"))
        })
    }

    fn start_with(port: u16, options: &Options<'_>, written: impl FnOnce(&Value) -> String) -> Self {
        let folder = folder();
        let debug_port = ports::free();
        let config = folder.path().join("config.yml");
        // JSON is YAML.
        let text = written(&configuration(port, debug_port, folder.path(), options));
        std::fs::write(&config, text).unwrap();
        let process = serve(&config, folder.path());
        let credentials = match &options.access {
            Access::Anyone => None,
            Access::Htpasswd { user, password } => Some(format!("{user}:{password}")),
            Access::Tokens(_) => Some(TokenServer::pusher()),
        };
        let registry = Self {
            port,
            debug_port,
            credentials,
            process,
            folder,
        };
        registry.wait_until_ready();
        registry
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// What it has stored.
    pub(crate) fn storage(&self) -> Storage {
        Storage::new(&self.folder.path().join("storage"))
    }

    /// Ends it; its storage stays until the handle is dropped.
    pub(crate) fn stop(&mut self) {
        self.process.kill().unwrap();
    }

    /// Starts it again after [`Registry::stop`].
    pub(crate) fn start_again(&mut self) {
        self.process = serve(&self.folder.path().join("config.yml"), self.folder.path());
        self.wait_until_ready();
    }

    /// How many events wait to be sent or are being sent.
    pub(crate) fn pending_events(&self) -> u64 {
        self.endpoints()
            .iter()
            .map(|endpoint| metric(endpoint, "Pending"))
            .sum()
    }

    /// How many events the endpoint at `port` has taken.
    pub(crate) fn taken_events(&self, port: u16) -> u64 {
        let url = notification_url(port);
        let endpoints = self.endpoints();
        let endpoint = endpoints.iter().find(|endpoint| endpoint["url"] == url.as_str());
        metric(endpoint.unwrap(), "Successes")
    }

    /// What the registry says of its notification endpoints.
    fn endpoints(&self) -> Vec<Value> {
        let vars = http::get(self.debug_port, "/debug/vars").unwrap();
        let vars: Value = serde_json::from_slice(&vars.body).unwrap();
        vars["registry"]["notifications"]["endpoints"]
            .as_array()
            .unwrap()
            .clone()
    }

    /// Waits until every notification has been taken.
    pub(crate) fn wait_until_drained(&self, deadline: Duration) {
        eventually("the registry's queue is empty", deadline, || {
            (self.pending_events() == 0).then_some(())
        });
    }

    /// Pushes the image with skopeo, with these options of `skopeo copy` besides.
    pub(crate) fn push(&self, image: &Image, name: &str, options: &[&str]) {
        let layout = folder();
        image.write_layout(layout.path());
        self.skopeo_copy(&format!("oci:{}", layout.path().display()), name, options);
    }

    /// Gives the image `from` the second name `to`, with skopeo.
    pub(crate) fn retag(&self, from: &str, to: &str) {
        let from = format!("docker://127.0.0.1:{}/{from}", self.port);
        self.skopeo_copy(&from, to, &["--src-tls-verify=false", "--all"]);
    }

    fn skopeo_copy(&self, from: &str, to: &str, options: &[&str]) {
        let mut command = Command::new("skopeo");
        command
            .args(["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false"])
            .args(options);
        if let Some(credentials) = &self.credentials {
            command.arg(format!("--dest-creds={credentials}"));
        }
        command
            .arg(from)
            .arg(format!("docker://127.0.0.1:{}/{to}", self.port));
        run("skopeo", &mut command);
    }

    /// Pushes the image by plain HTTP: blobs, children by digest, then the manifest as `reference`, a tag
    /// or its digest. Blobs named in `absent` are not uploaded.
    pub(crate) fn put(&self, image: &Image, repository: &str, reference: &str, absent: &[String]) {
        self.put_blobs(image, repository, absent);
        let mut connection = http::Connection::open(self.port).unwrap();
        for child in &image.children {
            put_manifest(&mut connection, repository, &child.digest(), child);
        }
        put_manifest(&mut connection, repository, reference, &image.manifest);
    }

    /// Uploads the image's blobs but for those named in `absent`, and nothing else.
    pub(crate) fn put_blobs(&self, image: &Image, repository: &str, absent: &[String]) {
        let mut connection = http::Connection::open(self.port).unwrap();
        for blob in image.blobs.iter().filter(|blob| !absent.contains(&blob.digest())) {
            put_blob(&mut connection, repository, blob);
        }
    }

    fn wait_until_ready(&self) {
        eventually("the registry answers", Duration::from_secs(10), || {
            let response = http::get(self.port, "/v2/").ok()?;
            matches!(response.status, 200 | 401).then_some(())
        });
    }
}

fn notification_url(port: u16) -> String {
    format!("http://127.0.0.1:{port}/events")
}

fn metric(endpoint: &Value, name: &str) -> u64 {
    endpoint["Metrics"][name].as_u64().unwrap()
}

fn serve(config: &Path, folder: &Path) -> Process {
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(config);
    Process::spawn("docker-registry", command, &folder.join("log")).unwrap()
}

fn configuration(port: u16, debug_port: u16, folder: &Path, options: &Options<'_>) -> Value {
    let mut config = json!({
        "version": 0.1,
        "log": { "level": "info", "accesslog": { "disabled": true } },
        "storage": {
            "filesystem": { "rootdirectory": folder.join("storage") },
            "cache": { "blobdescriptor": "inmemory" },
            "delete": { "enabled": true },
            "maintenance": { "uploadpurging": { "enabled": false } },
        },
        "http": {
            "addr": format!("127.0.0.1:{port}"),
            "secret": "the tests' own",
            "debug": { "addr": format!("127.0.0.1:{debug_port}") },
        },
        "validation": { "manifests": { "urls": { "allow": ["^https://example\\.com/"] } } },
        "compatibility": { "schema1": { "enabled": options.schema1 } },
    });
    let endpoints: Vec<Value> = options
        .notify
        .iter()
        .map(|&(port, token)| {
            let mut endpoint = json!({
                "name": format!("port {port}"),
                "url": notification_url(port),
                "headers": { "Authorization": [format!("Bearer {token}")] },
                "timeout": "1s",
                "threshold": 10,
                "backoff": "100ms",
            });
            if options.ignore_noise {
                endpoint["ignore"] = json!({
                    "mediatypes": ["application/octet-stream"],
                    "actions": ["pull", "mount"],
                });
            }
            endpoint
        })
        .collect();
    config["notifications"] = json!({
        "events": { "includereferences": options.references },
        "endpoints": endpoints,
    });
    match &options.access {
        Access::Anyone => {}
        Access::Htpasswd { user, password } => {
            let path = folder.join("htpasswd");
            let output = run(
                "htpasswd",
                Command::new("htpasswd").args(["-Bbn", user, password]),
            );
            std::fs::write(&path, output.stdout).unwrap();
            config["auth"] = json!({ "htpasswd": { "realm": "tests", "path": path } });
        }
        Access::Tokens(server) => {
            let path = folder.join("tokens.pem");
            std::fs::write(&path, server.certificate()).unwrap();
            config["auth"] = json!({ "token": {
                "realm": server.realm(),
                "service": tokens::SERVICE,
                "issuer": tokens::ISSUER,
                "rootcertbundle": path,
            } });
        }
    }
    config
}

fn put_blob(connection: &mut http::Connection, repository: &str, blob: &Blob) {
    let path = format!("/v2/{repository}/blobs/uploads/");
    let response = connection.request("POST", &path, &[], &[]).unwrap();
    assert_eq!(response.status, 202, "{}", response.text());
    let location = url::Url::parse(response.header("location").unwrap()).unwrap();
    let path = format!(
        "{}?{}&digest={}",
        location.path(),
        location.query().unwrap(),
        blob.digest()
    );
    let headers = [("Content-Type", "application/octet-stream")];
    let response = connection.request("PUT", &path, &headers, &blob.bytes).unwrap();
    assert_eq!(response.status, 201, "{}", response.text());
}

/// Pushes one manifest as `reference`, a tag or its digest.
pub(crate) fn put_manifest(
    connection: &mut http::Connection,
    repository: &str,
    reference: &str,
    manifest: &Blob,
) {
    let path = format!("/v2/{repository}/manifests/{reference}");
    let headers = [("Content-Type", manifest.media_type)];
    let response = connection
        .request("PUT", &path, &headers, &manifest.bytes)
        .unwrap();
    assert_eq!(response.status, 201, "{}", response.text());
}

/// Runs a program to its end and panics, with what it printed, when it fails.
fn run(program: &str, command: &mut Command) -> Output {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{}", process::missing(program, error)));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    output
}
