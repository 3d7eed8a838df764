//! The layers a configuration is made of, and which of them a value came from.
//!
//! figment merges them and keeps each value's provenance. The file is read with the `toml` crate's
//! recovering parser, because it tells lines and every syntax error, where figment's own provider stops at
//! the first. The environment is read by the *defaults'* types rather than by how a value looks, so that the
//! password `12345` stays a string.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs,
    io::{self, Read},
    ops::Range,
    path::{Path, PathBuf},
};

use figment::{
    Figment, Metadata, Profile, Provider,
    value::{Dict, Map, Tag, Value},
};
use toml::de::{DeArray, DeTable, DeValue};

use super::{
    problem::{Problem, Source},
    variables,
};
use crate::stamp::Stamp;

/// The built-in defaults.
pub(super) const DEFAULTS: &str = include_str!("../../config.example.toml");

/// Where the file is looked for when none is named.
const FILES: [&str; 2] = ["./shipbell.toml", "/etc/shipbell/shipbell.toml"];

/// Far above any real file; a bound so that `--config /dev/zero` ends.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The lists of tables that the defaults don't have an example of.
pub(super) const TABLE_LISTS: [&str; 1] = ["endpoints"];

/// What is not looked for in a file with syntax errors, said along with the last of them.
const UNCHECKED: &str = "; what is missing or doesn't go together is looked for once the file is valid";

/// The same when it isn't sure which section a key stands in.
const UNKNOWN_UNCHECKED: &str = "; keys that there aren't, and what is missing or doesn't go together, are looked for \
                                 once the file is valid";

/// The merged tree, its provenance, and what was wrong with its parts.
pub(super) struct Layers {
    figment: Figment,
    /// The file that was read.
    pub(super) file: Option<PathBuf>,
    /// Its stamp, from before that.
    pub(super) file_stamp: Option<Stamp>,
    lines: BTreeMap<String, usize>,
    /// The defaults alone.
    pub(super) defaults: Dict,
    /// What all layers come to.
    pub(super) merged: Dict,
    /// Whether the file has syntax errors, so that parts of it may be missing.
    pub(super) torn: bool,
    /// Whether one of them is in a header: then a key may seem to stand in another section than it does,
    /// and where keys stand goes unreported.
    pub(super) torn_header: bool,
}

impl Layers {
    /// Reads all layers. What doesn't fit the defaults' tree is left out and becomes a problem.
    pub(super) fn read(
        named: Option<&Path>,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let (defaults, _) = Parsed::new(DEFAULTS);
        let environment = variables::read(variables, &defaults.dict, problems);
        let mut figment = Figment::from(Layer {
            metadata: Metadata::named("built-in"),
            dict: defaults.dict.clone(),
        });
        let mut lines = BTreeMap::new();
        let mut torn = false;
        let mut torn_header = false;
        let named = named.map_or_else(|| environment.file.clone(), |path| Some(path.to_owned()));
        let file = find_file(named.as_deref(), problems);
        if let Some(Found { path, text, .. }) = &file {
            let (parsed, errors) = Parsed::new(text);
            torn = !errors.is_empty();
            torn_header = errors.iter().any(|(line, _)| is_header(text, *line));
            let last = errors.len().saturating_sub(1);
            let unchecked = if torn_header { UNKNOWN_UNCHECKED } else { UNCHECKED };
            problems.extend(
                errors
                    .into_iter()
                    .enumerate()
                    .map(|(index, (line, message))| Problem {
                        key: String::new(),
                        source: at(path, line),
                        message: if index == last {
                            message + unchecked
                        } else {
                            message
                        },
                    }),
            );
            lines = parsed.lines;
            let mut dict = parsed.dict;
            Fit {
                path,
                lines: &lines,
                root: &defaults.dict,
                torn_header,
                problems,
            }
            .dict("", &mut dict, &defaults.dict);
            figment = figment.merge(Layer {
                metadata: Metadata::from("file", path.as_path()),
                dict,
            });
        }
        figment = figment.merge(Layer {
            metadata: Metadata::named("environment"),
            dict: environment.dict,
        });
        let merged = match figment.find_value("") {
            Ok(Value::Dict(_, dict)) => dict,
            // A figment of dictionaries merges into a dictionary; were it otherwise, every key would be
            // reported missing.
            Ok(_) | Err(_) => Dict::new(),
        };
        Self {
            figment,
            file_stamp: file.as_ref().and_then(|found| found.stamp),
            file: file.map(|found| found.path),
            lines,
            defaults: defaults.dict,
            merged,
            torn,
            torn_header,
        }
    }

    /// Where the value with that tag, under that key, comes from.
    pub(super) fn source(&self, tag: Tag, key: &str) -> Source {
        match self.figment.get_metadata(tag).map(|metadata| &*metadata.name) {
            Some("file") => at(
                self.file.as_deref().unwrap_or(Path::new("")),
                line_of(&self.lines, key),
            ),
            Some("environment") => Source::Variable(variables::name(key)),
            _ => Source::BuiltIn,
        }
    }

    /// Where what has that key stands in the file, if it does.
    pub(super) fn place(&self, key: &str) -> Source {
        match (&self.file, self.lines.get(key)) {
            (Some(file), Some(line)) => at(file, Some(*line)),
            _ => Source::BuiltIn,
        }
    }
}

fn at(path: &Path, line: Option<usize>) -> Source {
    Source::File {
        path: path.to_owned(),
        line,
    }
}

/// Whether a table's header stands, or was meant to stand, in that line.
fn is_header(text: &str, line: Option<usize>) -> bool {
    let line = line.and_then(|line| text.lines().nth(line.checked_sub(1)?));
    line.is_some_and(|line| line.trim_start().starts_with('['))
}

/// The line of `key`, or of the nearest of its parents that has one.
fn line_of(lines: &BTreeMap<String, usize>, key: &str) -> Option<usize> {
    let mut key = key;
    loop {
        if let Some(line) = lines.get(key) {
            return Some(*line);
        }
        key = key.get(..key.rfind(['.', '['])?)?;
    }
}

struct Found {
    path: PathBuf,
    stamp: Option<Stamp>,
    text: String,
}

/// Reads the named file, or the first of [`FILES`] that exists.
fn find_file(named: Option<&Path>, problems: &mut Vec<Problem>) -> Option<Found> {
    let found = |path: &Path, stamp, text| Found {
        path: path.to_owned(),
        stamp,
        text,
    };
    let mut report = |path: &Path, error: &io::Error| {
        problems.push(Problem {
            key: String::new(),
            source: at(path, None),
            message: format!("the configuration file can't be read: {error}"),
        });
    };
    if let Some(path) = named {
        let stamp = Stamp::of(path);
        return match read_file(path) {
            Ok(text) => Some(found(path, stamp, text)),
            Err(error) => {
                report(path, &error);
                None
            }
        };
    }
    for path in FILES.map(Path::new) {
        let stamp = Stamp::of(path);
        match read_file(path) {
            Ok(text) => return Some(found(path, stamp, text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                report(path, &error);
                return None;
            }
        }
    }
    None
}

fn read_file(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other("it is larger than 4 MiB"));
    }
    Ok(text)
}

/// A layer as figment takes it.
struct Layer {
    metadata: Metadata,
    dict: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        self.metadata.clone()
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.dict.clone())]))
    }
}

/// A TOML document as figment's values, with the line of each key.
pub(super) struct Parsed {
    pub(super) dict: Dict,
    pub(super) lines: BTreeMap<String, usize>,
}

impl Parsed {
    /// Parses as much as can be parsed; the errors have their line and what is wrong, never the text.
    pub(super) fn new(text: &str) -> (Self, Vec<(Option<usize>, String)>) {
        let (document, errors) = DeTable::parse_recoverable(text);
        let starts: Vec<usize> = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .collect();
        let mut errors: Vec<_> = errors
            .into_iter()
            .map(|error| {
                let line = error.span().map(|span| line_at(&starts, &span));
                (line, format!("not valid TOML: {}", error.message()))
            })
            .collect();
        let mut walk = Walk {
            starts: &starts,
            broken: errors.iter().filter_map(|(line, _)| *line).collect(),
            lines: BTreeMap::new(),
            errors: Vec::new(),
        };
        let dict = walk.table("", document.get_ref());
        errors.append(&mut walk.errors);
        errors.sort_by_key(|(line, _)| *line);
        // The parser tells some mistakes at the header and once more for what is in it.
        errors.dedup();
        let lines = walk.lines;
        (Self { dict, lines }, without_echoes(text, errors))
    }
}

/// Leaves out what is only told because of what is wrong right above: behind a quote or a bracket that is missing, the
/// parser takes line after line for items of a list.
fn without_echoes(text: &str, errors: Vec<(Option<usize>, String)>) -> Vec<(Option<usize>, String)> {
    let is_content = |line: &usize| {
        let content = text.lines().nth(line - 1).unwrap_or_default().trim_start();
        !content.is_empty() && !content.starts_with('#')
    };
    let echoing: BTreeSet<usize> = errors
        .iter()
        .filter(|(_, message)| message.contains("array"))
        .filter_map(|(line, _)| *line)
        .collect();
    let mut wrong = None;
    let mut is_echo = |line: usize| {
        let above = (1..line).rev().find(is_content);
        let is_echo = echoing.contains(&line) && above.is_some() && above == wrong;
        wrong = Some(line);
        is_echo
    };
    let lines: BTreeSet<usize> = errors.iter().filter_map(|(line, _)| *line).collect();
    let echoes: BTreeSet<usize> = lines.into_iter().filter(|line| is_echo(*line)).collect();
    let is_own = |line: &Option<usize>| line.is_none_or(|line| !echoes.contains(&line));
    errors.into_iter().filter(|(line, _)| is_own(line)).collect()
}

fn line_at(starts: &[usize], span: &Range<usize>) -> usize {
    starts.partition_point(|start| *start <= span.start)
}

struct Walk<'a> {
    starts: &'a [usize],
    /// Lines with a syntax error: what the parser made of their values is a guess.
    broken: Vec<usize>,
    lines: BTreeMap<String, usize>,
    errors: Vec<(Option<usize>, String)>,
}

impl Walk<'_> {
    fn table(&mut self, path: &str, table: &DeTable<'_>) -> Dict {
        let mut dict = Dict::new();
        for (key, value) in table {
            let line = line_at(self.starts, &key.span());
            let path = join(path, key.get_ref());
            self.lines.insert(path.clone(), line);
            if self.broken.contains(&line) && !value.get_ref().is_table() {
                continue;
            }
            if let Some(value) = self.value(&path, line, value.get_ref()) {
                dict.insert(key.get_ref().to_string(), value);
            }
        }
        dict
    }

    fn array(&mut self, path: &str, array: &DeArray<'_>) -> Vec<Value> {
        let mut values = Vec::new();
        for (index, value) in array.iter().enumerate() {
            let line = line_at(self.starts, &value.span());
            let path = format!("{path}[{index}]");
            self.lines.insert(path.clone(), line);
            if self.broken.contains(&line) {
                continue;
            }
            values.extend(self.value(&path, line, value.get_ref()));
        }
        values
    }

    fn value(&mut self, path: &str, line: usize, value: &DeValue<'_>) -> Option<Value> {
        Some(match value {
            DeValue::String(text) => Value::from(text.as_ref()),
            DeValue::Boolean(value) => Value::from(*value),
            DeValue::Datetime(value) => Value::from(value.to_string()),
            DeValue::Array(array) => Value::from(self.array(path, array)),
            DeValue::Table(table) => Value::from(self.table(path, table)),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Value::from(number),
                Err(_) => return self.not_a_number(path, line),
            },
            DeValue::Float(number) => match number.as_str().parse::<f64>() {
                Ok(number) => Value::from(number),
                Err(_) => return self.not_a_number(path, line),
            },
        })
    }

    fn not_a_number(&mut self, path: &str, line: usize) -> Option<Value> {
        if !self.broken.contains(&line) {
            self.errors
                .push((Some(line), format!("{path} is beyond what a 64-bit number holds")));
        }
        None
    }
}

/// `key` within `path`.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// Holds the file's tree against the defaults': takes out and reports what has no place there.
struct Fit<'a> {
    path: &'a Path,
    lines: &'a BTreeMap<String, usize>,
    root: &'a Dict,
    torn_header: bool,
    problems: &'a mut Vec<Problem>,
}

impl Fit<'_> {
    fn dict(&mut self, path: &str, dict: &mut Dict, like: &Dict) {
        dict.retain(|key, value| {
            let at = join(path, key);
            match (like.get(key), value) {
                (Some(Value::Dict(_, like)), Value::Dict(_, value)) => {
                    self.dict(&at, value, like);
                    true
                }
                (Some(Value::Dict(..)), _) => self.problem(&at, format!("this is a section: write [{at}]")),
                (None, _) if path.is_empty() && TABLE_LISTS.contains(&key.as_str()) => true,
                (None, _) => {
                    let hint = self.hint(path, key, like);
                    self.problem(&at, format!("there is no such key{hint}"))
                }
                (Some(_), _) => true,
            }
        });
    }

    /// Reports, unless a header is torn, and says that the value doesn't stay.
    fn problem(&mut self, key: &str, message: String) -> bool {
        if self.torn_header {
            return false;
        }
        self.problems.push(Problem {
            key: key.to_owned(),
            source: at(self.path, line_of(self.lines, key)),
            message,
        });
        false
    }

    fn hint(&self, path: &str, key: &str, like: &Dict) -> String {
        let siblings = like.keys().map(String::as_str);
        let siblings = siblings.chain(TABLE_LISTS.into_iter().filter(|_| path.is_empty()));
        if let Some(near) = nearest(key, siblings) {
            return format!("; did you mean `{}`?", join(path, near));
        }
        let elsewhere = leaves(self.root)
            .into_iter()
            .find(|leaf| leaf.rsplit('.').next() == Some(key));
        elsewhere.map_or_else(String::new, |leaf| format!("; did you mean `{leaf}`?"))
    }
}

/// The one of `candidates` that `word` is most likely a misspelling of.
pub(super) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).clamp(1, 4);
    candidates
        .map(|candidate| (strsim::osa_distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Every key of `dict` that is not a section, in full.
pub(super) fn leaves(dict: &Dict) -> Vec<String> {
    let mut keys = Vec::new();
    for (key, value) in dict {
        match value {
            Value::Dict(_, dict) => keys.extend(leaves(dict).iter().map(|leaf| join(key, leaf))),
            _ => keys.push(key.clone()),
        }
    }
    keys
}
