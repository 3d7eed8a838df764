//! Whether an endpoint is set as it was, for what outlives the process.

use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};

use super::{
    Endpoint,
    way::{Credentials, Way},
};
use crate::secret::Secret;

impl Endpoint {
    /// 16 bits that are others, but for one time in 65,536, once the endpoint has another URL, secret, header or way
    /// there: too few to tell which of many guesses at a secret is right. `None` when a secret can't be read.
    ///
    /// Of certificates only the files' paths count.
    #[must_use]
    pub fn fingerprint(&self) -> Option<u16> {
        let mut hash = Fields(Sha256::new());
        hash.secret(Some(&self.url))?;
        hash.secret(self.secret.as_ref())?;
        hash.secret(self.previous_secret.as_ref())?;
        for (name, value) in &self.headers {
            hash.field(name.as_str().as_bytes());
            hash.field(value.as_bytes());
        }
        if let Some(way) = &self.way {
            hash.way(way)?;
        }
        let [first, second, ..]: [u8; 32] = hash.0.finalize().into();
        Some(u16::from_be_bytes([first, second]))
    }
}

/// Fields, each with its length before it, so that no two lists of them are hashed alike.
struct Fields(Sha256);

impl Fields {
    fn field(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
    }

    /// `None` when it can't be read.
    fn secret(&mut self, secret: Option<&Secret>) -> Option<()> {
        match secret {
            None => self.0.update([0]),
            Some(secret) => {
                self.0.update([1]);
                self.field(secret.get().ok()?.expose_secret().as_bytes());
            }
        }
        Some(())
    }

    fn way(&mut self, way: &Way) -> Option<()> {
        match &way.credentials {
            None => {}
            Some(Credentials::Basic { username, password }) => {
                self.field(username.as_bytes());
                self.secret(Some(password))?;
            }
            Some(Credentials::Bearer(token)) => self.secret(Some(token))?,
        }
        for (name, value) in &way.header_files {
            self.field(name.as_str().as_bytes());
            self.secret(Some(value))?;
        }
        // The files' paths.
        self.field(format!("{:?}", way.tls).as_bytes());
        self.secret(way.proxy.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::{HeaderName, HeaderValue};

    use super::*;
    use crate::webhook::way::TlsFiles;

    #[test]
    fn another_setting_of_any_kind_is_another_fingerprint() {
        let plain = || Endpoint::plain("ci", "http://127.0.0.1:1/");
        let with_header = |value| Endpoint {
            headers: vec![(
                HeaderName::from_static("x-token"),
                HeaderValue::from_static(value),
            )],
            ..plain()
        };
        let by = |way| Endpoint {
            way: Some(Arc::new(way)),
            ..plain()
        };
        let by_credentials = |credentials| {
            by(Way {
                credentials: Some(credentials),
                ..Way::default()
            })
        };
        let by_header = |name, value| {
            by(Way {
                header_files: vec![(HeaderName::from_static(name), Secret::inline(value))],
                ..Way::default()
            })
        };
        let basic = |username: &str, password| Credentials::Basic {
            username: username.to_owned(),
            password: Secret::inline(password),
        };
        let all = [
            plain(),
            Endpoint::plain("ci", "http://127.0.0.1:1/other"),
            Endpoint {
                secret: Some(Secret::inline("s")),
                ..plain()
            },
            Endpoint {
                previous_secret: Some(Secret::inline("s")),
                ..plain()
            },
            with_header("1"),
            with_header("2"),
            by_credentials(Credentials::Bearer(Secret::inline("t"))),
            by_credentials(Credentials::Bearer(Secret::inline("other"))),
            by_credentials(basic("u", "t")),
            by_credentials(basic("u", "other")),
            by_credentials(basic("other", "t")),
            by(Way {
                tls: Some(Arc::new(TlsFiles {
                    ca_file: Some("ca.pem".into()),
                    client_cert: None,
                })),
                ..Way::default()
            }),
            by(Way {
                proxy: Some(Secret::inline("http://127.0.0.1:3128")),
                ..Way::default()
            }),
            by_header("x-token", "1"),
            by_header("x-token", "2"),
            by_header("x-other", "1"),
        ];
        let all = all.map(|endpoint| endpoint.fingerprint().unwrap());
        for (place, one) in all.iter().enumerate() {
            assert!(!all.iter().skip(place + 1).any(|other| other == one), "{place}");
        }
        assert_eq!(plain().fingerprint(), plain().fingerprint());
        let folder = tempfile::tempdir().unwrap();
        let unreadable = Endpoint {
            secret: Some(Secret::file(folder.path().join("none"))),
            ..plain()
        };
        assert_eq!(unreadable.fingerprint(), None);
    }
}
