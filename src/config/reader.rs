//! Reads the merged tree leaf by leaf, so that one mistake doesn't hide the next.
//!
//! A method that returns `None` or an empty list has either found nothing or has noted what is wrong;
//! the caller goes on with a stand-in, because a configuration with problems is never handed out.

use std::{
    collections::BTreeSet, fmt, fs, io, net::SocketAddr, ops::RangeInclusive, path::PathBuf, time::Duration,
};

use figment::value::{Dict, Value};
use globset::{GlobSet, GlobSetBuilder};
use http::{HeaderName, HeaderValue};
use ipnet::IpNet;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use secrecy::ExposeSecret;

use super::{
    Tls,
    layers::{Layers, join, nearest},
    problem::{Problem, Source},
    units,
};
use crate::{secret::Secret, webhook::Rate};

/// A list longer than this is an accident.
const ITEMS_MAX: usize = 1_000;
/// The same, for endpoints: each costs a comparison for every push.
const TABLES_MAX: usize = 10_000;
/// What a bundle of all public certificates has, several times over.
const PEM_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// One key as it came out.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Setting {
    pub(super) key: String,
    /// As it may be shown.
    pub(super) value: toml::Value,
    pub(super) source: Source,
    /// Whether it differs from the built-in default.
    pub(super) changed: bool,
}

/// What reading brought to light.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) problems: Vec<Problem>,
    /// Every value that was read, in the order of reading.
    pub(super) settings: Vec<Setting>,
    /// Every key that was asked for, whether it is there or not.
    pub(super) asked: BTreeSet<String>,
}

impl Findings {
    /// Notes that these keys don't go together: at the first that is not built in, for that is the one
    /// somebody wrote.
    pub(super) fn report(&mut self, keys: &[&str], message: impl Into<String>) {
        let source = |key: &str| {
            let setting = self.settings.iter().find(|setting| setting.key == key);
            setting.map_or(Source::BuiltIn, |setting| setting.source.clone())
        };
        let written = keys.iter().find(|key| source(key) != Source::BuiltIn);
        if let Some(key) = written.or(keys.first()) {
            let source = source(key);
            self.problems.push(Problem {
                key: (*key).to_owned(),
                source,
                message: message.into(),
            });
        }
    }

    /// Whether these keys, and what is in them, have no problem so far.
    pub(super) fn clean(&self, keys: &[&str]) -> bool {
        let concerns = |problem: &Problem, key: &str| {
            problem
                .key
                .strip_prefix(key)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        !keys
            .iter()
            .any(|key| self.problems.iter().any(|problem| concerns(problem, key)))
    }
}

/// How `config show` shows a value.
#[derive(Clone, Copy, Debug)]
enum Shown {
    Plain,
    Secret,
    Url,
}

/// One section of the configuration.
pub(super) struct Section<'a> {
    path: String,
    /// `None` when what stands in its place is no section, which is reported already.
    dict: Option<&'a Dict>,
    defaults: Option<&'a Dict>,
    layers: &'a Layers,
    findings: &'a mut Findings,
}

impl<'a> Section<'a> {
    /// The whole.
    pub(super) fn root(layers: &'a Layers, findings: &'a mut Findings) -> Self {
        Self {
            path: String::new(),
            dict: Some(&layers.merged),
            defaults: Some(&layers.defaults),
            layers,
            findings,
        }
    }

    /// A section within this.
    pub(super) fn section(&mut self, key: &str) -> Section<'_> {
        Section {
            path: self.key(key),
            dict: self.dict.and_then(|dict| as_dict(dict.get(key)?)),
            defaults: self.defaults.and_then(|dict| as_dict(dict.get(key)?)),
            layers: self.layers,
            findings: self.findings,
        }
    }

    /// A list of tables: each is read by `read`, and has no other keys than those it asks for.
    pub(super) fn tables<T>(
        &mut self,
        key: &str,
        mut read: impl FnMut(&mut Section<'_>) -> Option<T>,
    ) -> Vec<T> {
        let list = self.key(key);
        self.findings.asked.insert(list.clone());
        let Some(value) = self.dict.and_then(|dict| dict.get(key)) else {
            return Vec::new();
        };
        let tables = match value {
            Value::Array(_, tables) if tables.len() <= TABLES_MAX => tables.as_slice(),
            Value::Array(..) => {
                self.problem(value, &list, format!("at most {TABLES_MAX}"));
                return Vec::new();
            }
            _ => {
                self.problem(value, &list, format!("this is a list: write [[{list}]]"));
                return Vec::new();
            }
        };
        if tables.is_empty() && self.defaults.is_some_and(|defaults| defaults.contains_key(key)) {
            self.note(key, value, toml::Value::Array(Vec::new()));
        }
        let mut items = Vec::new();
        for (index, value) in tables.iter().enumerate() {
            let path = format!("{list}[{index}]");
            let Some(dict) = as_dict(value) else {
                self.problem(
                    value,
                    &path,
                    format!("this is a table: write [[{list}]] and its keys below"),
                );
                continue;
            };
            let mut section = Section {
                path,
                dict: Some(dict),
                defaults: None,
                layers: self.layers,
                findings: self.findings,
            };
            items.extend(read(&mut section));
            section.refuse_others();
        }
        items
    }

    /// The full name of `key`.
    pub(super) fn key(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// Notes a problem of `key`, whether it is there or not.
    pub(super) fn report(&mut self, key: &str, message: impl Into<String>) {
        let message = message.into();
        let full = self.key(key);
        if let Some(value) = self.dict.and_then(|dict| dict.get(key)) {
            return self.problem(value, &full, message);
        }
        // What is missing is missing where its siblings are.
        let sibling = self.dict.and_then(|dict| dict.values().next());
        let source = sibling.map_or(Source::BuiltIn, |value| {
            self.layers.source(value.tag(), &self.path)
        });
        self.findings.problems.push(Problem {
            key: full,
            source,
            message,
        });
    }

    /// Notes that these keys don't go together, see [`Findings::report`].
    pub(super) fn report_together(&mut self, keys: &[&str], message: impl Into<String>) {
        let full: Vec<String> = keys.iter().map(|key| self.key(key)).collect();
        let full: Vec<&str> = full.iter().map(String::as_str).collect();
        self.findings.report(&full, message);
    }

    /// Whether these keys have no problem so far, so that they can be held against each other. Never in a
    /// file with syntax errors: what seems to be missing may be what couldn't be read.
    pub(super) fn clean(&self, keys: &[&str]) -> bool {
        !self.layers.torn && keys.iter().all(|key| self.findings.clean(&[&self.key(key)]))
    }

    fn problem(&mut self, value: &Value, key: &str, message: String) {
        let source = self.layers.source(value.tag(), key);
        self.findings.problems.push(Problem {
            key: key.to_owned(),
            source,
            message,
        });
    }

    /// Reports the keys nobody asked for.
    fn refuse_others(&mut self) {
        let Some(dict) = self.dict else { return };
        let known: Vec<String> = {
            let prefix = format!("{}.", self.path);
            let asked = self.findings.asked.iter();
            asked
                .filter_map(|key| Some(key.strip_prefix(&prefix)?.to_owned()))
                .collect()
        };
        for (key, value) in dict.iter().filter(|(key, _)| !known.contains(key)) {
            let hint = nearest(key, known.iter().map(String::as_str))
                .map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            let full = self.key(key);
            self.problem(value, &full, format!("there is no such key{hint}"));
        }
    }

    fn note(&mut self, key: &str, value: &Value, shown: toml::Value) {
        let full = self.key(key);
        let default = self.defaults.and_then(|defaults| defaults.get(key));
        self.findings.settings.push(Setting {
            source: self.layers.source(value.tag(), &full),
            key: full,
            value: shown,
            changed: default != Some(value),
        });
    }

    fn leaf<T>(
        &mut self,
        key: &str,
        shown: Shown,
        parse: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Option<T> {
        let full = self.key(key);
        self.findings.asked.insert(full.clone());
        let dict = self.dict?;
        let Some(value) = dict.get(key) else {
            // In a list's tables, keys may be left out; elsewhere, the defaults have them all.
            if self.defaults.is_some() {
                self.report(key, "this key is missing");
            }
            return None;
        };
        self.note(key, value, show(value, shown));
        match parse(value) {
            Ok(parsed) => Some(parsed),
            Err(message) => {
                self.problem(value, &full, message);
                None
            }
        }
    }

    fn list<T>(
        &mut self,
        key: &str,
        shown: Shown,
        mut parse: impl FnMut(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let values = self.leaf(key, shown, |value| match value {
            Value::Array(_, values) if values.len() <= ITEMS_MAX => Ok(values.clone()),
            Value::Array(..) => Err(format!("at most {ITEMS_MAX}")),
            other => Err(format!("write a list, such as [\"…\"], not {}", kind(other))),
        })?;
        let mut items = Vec::new();
        for (index, value) in values.iter().enumerate() {
            match string(value).and_then(&mut parse) {
                Ok(item) => items.push(item),
                Err(message) => {
                    let full = format!("{}[{index}]", self.key(key));
                    self.problem(value, &full, message);
                }
            }
        }
        Some(items)
    }

    /// A string, as `check` makes something of it.
    pub(super) fn string<T>(
        &mut self,
        key: &str,
        check: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.leaf(key, Shown::Plain, |value| check(string(value)?))
    }

    /// A string that may be empty, which is nothing.
    pub(super) fn optional<T>(
        &mut self,
        key: &str,
        check: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.string(key, |text| some(text).map(check).transpose())
            .flatten()
    }

    /// The same for a URL, whose user-info and query are not shown.
    pub(super) fn url<T>(&mut self, key: &str, check: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        self.leaf(key, Shown::Url, |value| {
            some(string(value)?).map(check).transpose()
        })
        .flatten()
    }

    /// A list of strings; `None` when it is not there.
    pub(super) fn strings<T>(
        &mut self,
        key: &str,
        check: impl FnMut(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        self.list(key, Shown::Plain, check)
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&mut self, key: &str, words: &[(&str, T)]) -> Option<T> {
        self.string(key, |text| {
            let found = words.iter().find(|(word, _)| *word == text);
            found.map(|(_, value)| *value).ok_or_else(|| {
                let words: Vec<_> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
                format!("write {}", words.join(" or "))
            })
        })
    }

    pub(super) fn boolean(&mut self, key: &str) -> Option<bool> {
        self.leaf(key, Shown::Plain, |value| match value {
            Value::Bool(_, value) => Ok(*value),
            other => Err(format!("write true or false, not {}", kind(other))),
        })
    }

    pub(super) fn integer<T>(&mut self, key: &str, range: RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<i128> + PartialOrd + fmt::Display + Copy,
    {
        self.leaf(key, Shown::Plain, |value| {
            let number = match value {
                Value::Num(_, number) => number.to_i128().or_else(|| number.to_u128()?.try_into().ok()),
                _ => None,
            };
            let number = number.ok_or_else(|| format!("write a whole number, not {}", kind(value)))?;
            T::try_from(number)
                .ok()
                .filter(|number| range.contains(number))
                .ok_or_else(|| format!("must be from {} to {}", range.start(), range.end()))
        })
    }

    /// A number from 0 to 1.
    pub(super) fn fraction(&mut self, key: &str) -> Option<f64> {
        self.leaf(key, Shown::Plain, |value| {
            let number = match value {
                Value::Num(_, number) => number.to_f64().or_else(|| {
                    number
                        .to_i128()
                        .and_then(|n| i32::try_from(n).ok())
                        .map(f64::from)
                }),
                _ => None,
            };
            number
                .ok_or_else(|| format!("write a number from 0 to 1, not {}", kind(value)))
                .and_then(|number| {
                    Some(number)
                        .filter(|number| (0.0..=1.0).contains(number))
                        .ok_or_else(|| "must be from 0 to 1".to_owned())
                })
        })
    }

    pub(super) fn duration(&mut self, key: &str, range: RangeInclusive<Duration>) -> Option<Duration> {
        self.leaf(key, Shown::Plain, |value| {
            duration_within(&unit_string(value)?, &range)
        })
    }

    /// Several of them.
    pub(super) fn durations(&mut self, key: &str, range: &RangeInclusive<Duration>) -> Option<Vec<Duration>> {
        self.list(key, Shown::Plain, |text| duration_within(text, range))
    }

    /// Bytes.
    pub(super) fn size(&mut self, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        self.leaf(key, Shown::Plain, |value| {
            let size = units::size(&unit_string(value)?)?;
            Some(size).filter(|size| range.contains(size)).ok_or_else(|| {
                let (least, most) = (units::size_text(*range.start()), units::size_text(*range.end()));
                format!("must be from \"{least}\" to \"{most}\"")
            })
        })
    }

    pub(super) fn rate(&mut self, key: &str) -> Option<Rate> {
        self.leaf(key, Shown::Plain, |value| units::rate(&unit_string(value)?))
    }

    pub(super) fn address(&mut self, key: &str) -> Option<SocketAddr> {
        self.string(key, units::address)
    }

    pub(super) fn networks(&mut self, key: &str) -> Option<Vec<IpNet>> {
        self.strings(key, units::network)
    }

    pub(super) fn patterns(&mut self, key: &str) -> Option<GlobSet> {
        let globs = self.strings(key, units::glob)?;
        let mut set = GlobSetBuilder::new();
        for glob in globs {
            set.add(glob);
        }
        match set.build() {
            Ok(set) => Some(set),
            Err(error) => {
                self.report(
                    key,
                    format!("these patterns can't be used together: {}", error.kind()),
                );
                None
            }
        }
    }

    pub(super) fn header_name(&mut self, key: &str) -> Option<HeaderName> {
        self.string(key, |text| {
            HeaderName::try_from(text)
                .map_err(|_| "not a header's name; write one such as \"x-image\"".to_owned())
        })
    }

    /// A file of PEM certificates, at least one.
    pub(super) fn certificates(&mut self, key: &str) -> Option<PathBuf> {
        self.optional(key, |text| {
            let pem = read_pem(text)?;
            match CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>() {
                Ok(certificates) if !certificates.is_empty() => Ok(PathBuf::from(text)),
                Ok(_) => Err("there is no PEM certificate in this file".to_owned()),
                Err(error) => Err(format!("this file is not sound PEM: {error}")),
            }
        })
    }

    fn private_key(&mut self, key: &str) -> Option<PathBuf> {
        self.optional(key, |text| {
            PrivateKeyDer::from_pem_slice(&read_pem(text)?)
                .map(|_| PathBuf::from(text))
                .map_err(|_| "there is no PEM private key in this file".to_owned())
        })
    }

    /// A certificate chain and its key: both or neither.
    pub(super) fn tls(&mut self, cert: &str, key: &str) -> Option<Tls> {
        let cert_file = self.certificates(cert);
        let key_file = self.private_key(key);
        if self.clean(&[cert, key]) {
            for (set, missing) in [(cert, key), (key, cert)] {
                if self.is_set(set) && !self.is_set(missing) {
                    self.report(set, format!("{missing} is missing: the two belong together"));
                }
            }
        }
        Some(Tls {
            cert_file: cert_file?,
            key_file: key_file?,
        })
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

    /// Secrets in files, one each, each readable now.
    pub(super) fn secret_files(
        &mut self,
        key: &str,
        check: impl Fn(&str) -> Result<(), String>,
    ) -> Option<Vec<Secret>> {
        self.strings(key, |text| secret_file(text, &check))
    }

    /// A secret in a file, readable now.
    pub(super) fn secret_file(
        &mut self,
        key: &str,
        check: impl Fn(&str) -> Result<(), String>,
    ) -> Option<Secret> {
        self.optional(key, |text| secret_file(text, &check))
    }

    /// A secret: `key` itself, or the file that `<key>_file` names. Not both.
    pub(super) fn secret(&mut self, key: &str, check: impl Fn(&str) -> Result<(), String>) -> Option<Secret> {
        self.twins(key, Shown::Secret, check)
    }

    /// The same for a URL.
    pub(super) fn secret_url(
        &mut self,
        key: &str,
        check: impl Fn(&str) -> Result<(), String>,
    ) -> Option<Secret> {
        self.twins(key, Shown::Url, check)
    }

    fn twins(
        &mut self,
        key: &str,
        shown: Shown,
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
        let file = self.secret_file(&file_key, check);
        if self.is_set(key) && self.is_set(&file_key) {
            self.report(
                key,
                format!("set this or {file_key}, not both; \"\" takes one away"),
            );
        }
        inline.or(file)
    }

    /// Whether the key is there and not the empty string.
    pub(super) fn is_set(&self, key: &str) -> bool {
        let value = self.dict.and_then(|dict| dict.get(key));
        value.is_some_and(|value| value.as_str() != Some(""))
    }

    /// Headers to add, by name; `refuse` says why a name can't be.
    pub(super) fn headers(
        &mut self,
        key: &str,
        refuse: impl Fn(&HeaderName) -> Option<String>,
    ) -> Vec<(HeaderName, HeaderValue)> {
        let values = self.leaf(key, Shown::Secret, |value| {
            as_dict(value).cloned().ok_or_else(|| {
                format!(
                    "write names and values, such as {{ X-Team = \"a\" }}, not {}",
                    kind(value)
                )
            })
        });
        let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
        for (name, value) in values.iter().flatten() {
            match header(name, value, &refuse) {
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

fn header(
    name: &str,
    value: &Value,
    refuse: &impl Fn(&HeaderName) -> Option<String>,
) -> Result<(HeaderName, HeaderValue), String> {
    let name = HeaderName::try_from(name).map_err(|_| "not a header's name".to_owned())?;
    if let Some(why) = refuse(&name) {
        return Err(why);
    }
    let mut value = HeaderValue::try_from(string(value)?)
        .map_err(|_| "a header's value is one line of printable characters".to_owned())?;
    value.set_sensitive(true);
    Ok((name, value))
}

fn secret_file(path: &str, check: &impl Fn(&str) -> Result<(), String>) -> Result<Secret, String> {
    let secret = Secret::file(path);
    let text = secret
        .get()
        .map_err(|error| format!("the file can't be read: {error}"))?;
    check(text.expose_secret()).map_err(|message| format!("what is in the file is not right: {message}"))?;
    Ok(secret)
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

fn duration_within(text: &str, range: &RangeInclusive<Duration>) -> Result<Duration, String> {
    let duration = units::duration(text)?;
    Some(duration)
        .filter(|duration| range.contains(duration))
        .ok_or_else(|| {
            let [least, most] = [range.start(), range.end()].map(|bound| {
                humantime::format_duration(*bound)
                    .to_string()
                    .replace("days", "d")
            });
            format!("must be from \"{least}\" to \"{most}\"")
        })
}

fn as_dict(value: &Value) -> Option<&Dict> {
    match value {
        Value::Dict(_, dict) => Some(dict),
        _ => None,
    }
}

fn some(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn string(value: &Value) -> Result<&str, String> {
    value
        .as_str()
        .ok_or_else(|| format!("write a string, in quotes, not {}", kind(value)))
}

/// A string that has a unit; a bare number gets as far as being told so.
fn unit_string(value: &Value) -> Result<String, String> {
    match value {
        Value::Num(_, number) => {
            let number = number.to_i128().map(|number| number.to_string());
            number.ok_or_else(|| "write a string, in quotes, with a unit".to_owned())
        }
        _ => string(value).map(str::to_owned),
    }
}

/// What a value is, in words.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(..) | Value::Char(..) => "a string",
        Value::Bool(..) => "a boolean",
        Value::Num(_, number) if number.to_f64().is_some() => "a fraction",
        Value::Num(..) => "a number",
        Value::Empty(..) => "nothing",
        Value::Dict(..) => "a table",
        Value::Array(..) => "a list",
    }
}

/// The value as it may be shown.
fn show(value: &Value, shown: Shown) -> toml::Value {
    match value {
        Value::String(_, text) => toml::Value::String(match shown {
            Shown::Plain => text.clone(),
            _ if text.is_empty() => String::new(),
            Shown::Secret => "[secret]".to_owned(),
            Shown::Url => units::masked(text),
        }),
        Value::Array(_, values) => {
            toml::Value::Array(values.iter().map(|value| show(value, shown)).collect())
        }
        Value::Dict(_, dict) => {
            let shown = dict.iter().map(|(key, value)| (key.clone(), show(value, shown)));
            toml::Value::Table(shown.collect())
        }
        Value::Bool(_, value) => toml::Value::Boolean(*value),
        Value::Num(_, number) => number
            .to_f64()
            .map(toml::Value::Float)
            .or_else(|| i64::try_from(number.to_i128()?).ok().map(toml::Value::Integer))
            .unwrap_or_else(|| toml::Value::String("?".to_owned())),
        Value::Char(_, c) => toml::Value::String(c.to_string()),
        Value::Empty(..) => toml::Value::String(String::new()),
    }
}
