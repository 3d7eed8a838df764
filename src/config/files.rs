//! The leaves of a [`Section`] that are secret or stand in files: certificates, keys, tokens, headers.

use std::{fs, io, path::PathBuf};

use figment::value::Value;
use http::{HeaderName, HeaderValue};
use rustls::{
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use secrecy::ExposeSecret;

use super::{
    Tls,
    reader::{Section, Shown, as_dict, kind, some, string},
    units,
};
use crate::{
    secret::{Check, Secret},
    trust,
    webhook::guard::Guard,
};

/// What a bundle of all public certificates has, several times over.
const PEM_BYTES_MAX: u64 = 4 * 1024 * 1024;

const NO_HEADER_VALUE: &str = "a header's value is one line of printable characters";

/// Of what is shown to us: whoever empties such a file wants nobody let in by it any more.
const ANYTHING: Check = |_| Ok(());

impl Section<'_> {
    /// A file of PEM certificates to trust, at least one.
    pub(super) fn authorities(&mut self, key: &str) -> Option<PathBuf> {
        self.optional(key, |text| {
            for certificate in certificates(text)? {
                trust::check(&certificate).map_err(|error| {
                    format!("there is a certificate in this file that can't be used: {error}")
                })?;
            }
            Ok(PathBuf::from(text))
        })
    }

    /// A certificate chain and its key: both or neither.
    pub(super) fn tls(&mut self, cert: &str, key: &str) -> Option<Tls> {
        let chain = self.optional(cert, |text| Ok((PathBuf::from(text), certificates(text)?)));
        let private = self.optional(key, |text| Ok((PathBuf::from(text), private_key(text)?)));
        for (set, missing) in [(cert, key), (key, cert)] {
            if self.clean(&[missing]) && self.is_set(set) && !self.is_set(missing) {
                self.report(set, format!("{missing} is missing: the two belong together"));
            }
        }
        let ((cert_file, chain), (key_file, private)) = (chain?, private?);
        if let Err(error) = CertifiedKey::from_der(chain, private, &ring::default_provider()) {
            self.report(
                cert,
                format!("this certificate and the key in {key} can't be used: {error}"),
            );
        }
        Some(Tls { cert_file, key_file })
    }

    /// A secret in place.
    pub(super) fn secrets(
        &mut self,
        key: &str,
        check: impl Fn(&str) -> Result<(), String>,
    ) -> Option<Vec<Secret>> {
        self.list(key, Shown::Secret, |text| {
            check(text).map(|()| Secret::inline(text))
        })
    }

    /// Secrets that are shown to us, in files, one each, each readable now.
    pub(super) fn shown_files(&mut self, key: &str, check: Check) -> Option<Vec<Secret>> {
        self.strings(key, |text| secret_file(text, ANYTHING, check))
    }

    /// A secret that is shown to us, in a file, readable now.
    pub(super) fn shown_file(&mut self, key: &str, check: Check) -> Option<Secret> {
        self.optional(key, |text| secret_file(text, ANYTHING, check))
    }

    /// A secret that is shown to us: `key` itself, or the file that `<key>_file` names. Not both.
    pub(super) fn shown_secret(&mut self, key: &str, check: Check) -> Option<Secret> {
        self.twins(key, Shown::Secret, ANYTHING, check)
    }

    /// A secret that we use: `key` itself, or the file that `<key>_file` names. Not both.
    pub(super) fn secret(&mut self, key: &str, check: Check) -> Option<Secret> {
        self.twins(key, Shown::Secret, check, check)
    }

    /// The same for a URL.
    pub(super) fn secret_url(&mut self, key: &str, check: Check) -> Option<Secret> {
        self.twins(key, Shown::Url, check, check)
    }

    /// The same for a URL of webhooks, which may point where `guard` lets the operator's.
    pub(super) fn webhook_url(&mut self, key: &str, guard: &Guard) -> Option<Secret> {
        let check = |text: &str| units::webhook_url(text, guard).map(drop);
        // Where one points that comes later is judged when it is sent to, and told then.
        self.twins(key, Shown::Url, units::target, check)
    }

    /// `check` is for now, and `form` for what the file says later.
    fn twins(
        &mut self,
        key: &str,
        shown: Shown,
        form: Check,
        check: impl Fn(&str) -> Result<(), String>,
    ) -> Option<Secret> {
        let inline = self
            .leaf(key, shown, |value| {
                let text = some(string(value)?);
                text.map(|text| check(text).map(|()| Secret::inline(text)))
                    .transpose()
            })
            .flatten();
        let file_key = format!("{key}_file");
        let file = self.optional(&file_key, |path| secret_file(path, form, &check));
        if self.is_set(key) && self.is_set(&file_key) {
            self.report(
                key,
                format!("set this or {file_key}, not both; \"\" takes one away"),
            );
        }
        inline.or(file)
    }

    /// Headers to add, by name; `refuse` says why a name can't be.
    pub(super) fn headers(
        &mut self,
        key: &str,
        refuse: impl Fn(&HeaderName) -> Option<String>,
    ) -> Vec<(HeaderName, HeaderValue)> {
        let example = "names and values, such as { X-Team = \"a\" }";
        self.by_header(key, (Shown::Secret, example), refuse, |text| {
            let mut value = HeaderValue::try_from(text).map_err(|_| NO_HEADER_VALUE.to_owned())?;
            value.set_sensitive(true);
            Ok(value)
        })
    }

    /// The same, of values that stand in files, one each, each readable now.
    pub(super) fn header_files(
        &mut self,
        key: &str,
        refuse: impl Fn(&HeaderName) -> Option<String>,
    ) -> Vec<(HeaderName, Secret)> {
        let example = "names and files, such as { X-Team = \"/run/secrets/team\" }";
        let check: Check = |text| {
            units::secret(text)?;
            let value = HeaderValue::try_from(text);
            value.map(drop).map_err(|_| NO_HEADER_VALUE.to_owned())
        };
        self.by_header(key, (Shown::Plain, example), refuse, |path| {
            secret_file(path, check, check)
        })
    }

    fn by_header<T>(
        &mut self,
        key: &str,
        (shown, example): (Shown, &str),
        refuse: impl Fn(&HeaderName) -> Option<String>,
        take: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<(HeaderName, T)> {
        let values = self.leaf(key, shown, |value| {
            let dict = as_dict(value).cloned();
            dict.ok_or_else(|| format!("write {example}, not {}", kind(value)))
        });
        let header = |name: &str, value: &Value| {
            let name = HeaderName::try_from(name).map_err(|_| "not a header's name".to_owned())?;
            let refused = refuse(&name);
            refused.map_or_else(|| Ok((name, take(string(value)?)?)), Err)
        };
        let mut headers: Vec<(HeaderName, T)> = Vec::new();
        for (name, value) in values.iter().flatten() {
            match header(name, value) {
                Ok((name, _)) if headers.iter().any(|(other, _)| *other == name) => {
                    let full = format!("{}.{name}", self.key(key));
                    self.problem(value, &full, "this header is here twice".to_owned());
                }
                Ok(header) => headers.push(header),
                Err(message) => {
                    let full = format!("{}.{name}", self.key(key));
                    self.problem(value, &full, message);
                }
            }
        }
        headers
    }
}

fn secret_file(
    path: &str,
    form: Check,
    check: impl Fn(&str) -> Result<(), String>,
) -> Result<Secret, String> {
    let secret = Secret::checked_file(path, form);
    let text = secret
        .get()
        .map_err(|error| format!("the file can't be read: {error}"))?;
    check(text.expose_secret()).map_err(|message| format!("what is in the file is not right: {message}"))?;
    Ok(secret)
}

fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read_pem(path)?;
    match CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>() {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err("there is no PEM certificate in this file".to_owned()),
        Err(error) => Err(format!("this file is not sound PEM: {error}")),
    }
}

fn private_key(path: &str) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(&read_pem(path)?)
        .map_err(|_| "there is no PEM private key in this file".to_owned())
}

fn read_pem(path: &str) -> Result<Vec<u8>, String> {
    let read = || {
        let meta = fs::metadata(path)?;
        if !meta.is_file() || meta.len() > PEM_BYTES_MAX {
            return Err(io::Error::other("it is no regular file of at most 4 MiB"));
        }
        fs::read(path)
    };
    read().map_err(|error| format!("the file can't be read: {error}"))
}
