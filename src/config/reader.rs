//! Reads the merged tree leaf by leaf, so that one mistake doesn't hide the next.
//!
//! A method that returns `None` or an empty list has either found nothing or has noted what is wrong;
//! the caller goes on with a stand-in, because a configuration with problems is never handed out.

use std::collections::BTreeSet;

use figment::value::{Dict, Value};
use sha2::{Digest, Sha256};

use super::{
    layers::{Layers, join, nearest},
    problem::{Problem, Source},
    units,
};

/// A list longer than this is an accident.
const ITEMS_MAX: usize = 1_000;
/// The same, for endpoints: each costs a comparison for every push.
const TABLES_MAX: usize = 10_000;

/// One key as it came out.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Setting {
    pub(super) key: String,
    /// As it may be shown.
    pub(super) value: toml::Value,
    pub(super) source: Source,
    /// Whether it differs from the built-in default.
    pub(super) changed: bool,
    /// What tells the value, also one that is not shown, from another.
    pub(super) print: [u8; 32],
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

    /// Whether these keys, what is in them, and what they are in have no problem so far.
    pub(super) fn clean(&self, keys: &[&str]) -> bool {
        let is_in = |key: &str, other: &str| {
            key.strip_prefix(other)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        let concerns = |problem: &Problem, key: &str| is_in(&problem.key, key) || is_in(key, &problem.key);
        !keys
            .iter()
            .any(|key| self.problems.iter().any(|problem| concerns(problem, key)))
    }
}

/// How `config show` shows a value.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shown {
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
        // What is missing is missing where its siblings are, or their table is.
        let sibling = self.dict.and_then(|dict| dict.values().next());
        let source = match sibling {
            Some(value) => self.layers.source(value.tag(), &self.path),
            None => self.layers.place(&self.path),
        };
        self.findings.problems.push(Problem {
            key: full,
            source,
            message,
        });
    }

    /// Notes that `key` is missing. Not in a file with syntax errors: it may be what couldn't be read.
    pub(super) fn missing(&mut self, key: &str, message: &str) {
        if !self.layers.torn {
            self.report(key, message);
        }
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

    pub(super) fn problem(&mut self, value: &Value, key: &str, message: String) {
        let source = self.layers.source(value.tag(), key);
        self.findings.problems.push(Problem {
            key: key.to_owned(),
            source,
            message,
        });
    }

    /// Reports the keys nobody asked for.
    fn refuse_others(&mut self) {
        let Some(dict) = self.dict.filter(|_| !self.layers.torn_header) else {
            return;
        };
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
            print: fingerprint(value),
        });
    }

    pub(super) fn leaf<T>(
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

    pub(super) fn list<T>(
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

    /// Whether the key is there and not the empty string.
    pub(super) fn is_set(&self, key: &str) -> bool {
        let value = self.dict.and_then(|dict| dict.get(key));
        value.is_some_and(|value| value.as_str() != Some(""))
    }
}

pub(super) fn as_dict(value: &Value) -> Option<&Dict> {
    match value {
        Value::Dict(_, dict) => Some(dict),
        _ => None,
    }
}

pub(super) fn some(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

pub(super) fn string(value: &Value) -> Result<&str, String> {
    value
        .as_str()
        .ok_or_else(|| format!("write a string, in quotes, not {}", kind(value)))
}

/// What a value is, in words.
pub(super) fn kind(value: &Value) -> &'static str {
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

/// What tells a value from others. Where it stands is not part of it.
fn fingerprint(value: &Value) -> [u8; 32] {
    // A figment's values are maps of texts, lists, texts and numbers: JSON has all of them.
    Sha256::digest(serde_json::to_vec(value).unwrap_or_default()).into()
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
