//! The environment's layer.

use std::{ffi::OsString, net::IpAddr, path::PathBuf};

use figment::value::{Dict, Value};

use super::{
    layers::{Parsed, TABLE_LISTS, leaves, nearest},
    problem::{Problem, Source},
};

/// What the names of all our variables begin with.
const PREFIX: &str = "SHIPBELL_";
/// Names the configuration file; not a key.
const FILE: &str = "SHIPBELL_CONFIG";
/// What the ports of Kubernetes' services speak.
const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];

/// What the environment says.
#[derive(Default)]
pub(super) struct Environment {
    /// The file that `SHIPBELL_CONFIG` names.
    pub(super) file: Option<PathBuf>,
    /// The values, typed as the defaults are.
    pub(super) dict: Dict,
}

/// The variable that sets `key`; for a part of a list, the list's.
pub(super) fn name(key: &str) -> String {
    let key = key.split('[').next().unwrap_or(key);
    format!("{PREFIX}{}", key.to_uppercase().replace('.', "__"))
}

/// Sorts out the variables that are ours. One that sets no key is a problem, but for `SHIPBELL_CONFIG`
/// and those that Kubernetes sets for a service called `shipbell…`.
pub(super) fn read(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    defaults: &Dict,
    problems: &mut Vec<Problem>,
) -> Environment {
    let mut environment = Environment::default();
    let mut variables: Vec<_> = variables
        .into_iter()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| name.starts_with(PREFIX))
        .collect();
    variables.sort();
    for (name, value) in variables {
        if name == FILE {
            environment.file = Some(value).filter(|value| !value.is_empty()).map(PathBuf::from);
            continue;
        }
        if value.to_str().is_some_and(|value| is_service_link(&name, value)) {
            continue;
        }
        let set = match value.into_string() {
            Ok(text) => set(&mut environment.dict, defaults, &name, &text),
            Err(_) => Err((key_of(&name), "its value is not UTF-8".to_owned())),
        };
        if let Err((key, message)) = set {
            problems.push(Problem {
                key,
                source: Source::Variable(name),
                message,
            });
        }
    }
    environment
}

fn key_of(name: &str) -> String {
    let key = name.strip_prefix(PREFIX).unwrap_or(name);
    key.to_lowercase().replace("__", ".")
}

/// Whether Kubernetes sets it, by the name and by what it writes there: for every service of the namespace,
/// `<SERVICE>_SERVICE_HOST`, `<SERVICE>_SERVICE_PORT[_<NAME>]`,
/// `<SERVICE>_PORT[_<NUMBER>_<PROTOCOL>[_ADDR|_PORT|_PROTO]]`
/// (<https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables>). Any other value is
/// somebody's who meant a key, such as a port number in `SHIPBELL_INGEST_PORT`.
fn is_service_link(name: &str, value: &str) -> bool {
    if name.contains("__") {
        return false;
    }
    let is_address = value.parse::<IpAddr>().is_ok();
    let is_port = value.parse::<u16>().is_ok();
    let is_url = || {
        let (protocol, place) = value.split_once("://")?;
        let is_place = place
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        Some(is_place && PROTOCOLS.contains(&protocol))
    };
    let of_one_port = || {
        let (_, rest) = name.rsplit_once("_PORT_")?;
        let (number, rest) = rest.split_once('_')?;
        number.parse::<u16>().ok()?;
        let (protocol, part) = rest.split_once('_').unwrap_or((rest, ""));
        let is_protocol = |text: &str| PROTOCOLS.contains(&text);
        is_protocol(&protocol.to_ascii_lowercase()).then_some(match part {
            "" => is_url().unwrap_or(false),
            "ADDR" => is_address,
            "PORT" => is_port,
            "PROTO" => is_protocol(value),
            _ => false,
        })
    };
    (name.ends_with("_SERVICE_HOST") && is_address)
        || ((name.ends_with("_SERVICE_PORT") || name.contains("_SERVICE_PORT_")) && is_port)
        || (name.ends_with("_PORT") && is_url().unwrap_or(false))
        || of_one_port().unwrap_or(false)
}

/// Puts the value where its name says, or tells the key and what is wrong.
fn set(dict: &mut Dict, defaults: &Dict, name: &str, text: &str) -> Result<(), (String, String)> {
    let key = key_of(name);
    let path: Vec<&str> = key.split('.').collect();
    let wrong = |message: String| Err((key.clone(), message));
    // Only in the spelling that `name` gives back, so that no two variables set the same key.
    if self::name(&key) != name {
        return wrong(format!("write it {}", self::name(&key)));
    }
    let value = match find(defaults, &path) {
        Some(Value::Dict(..)) => return wrong("this is a section: set the keys within it".to_owned()),
        None if !TABLE_LISTS.contains(&key.as_str()) => {
            return Err((String::new(), unknown(defaults, name, &path)));
        }
        Some(Value::String(..)) => Ok(Value::from(text)),
        Some(Value::Bool(..)) => parse_bool(text),
        Some(Value::Num(..)) => parse_number(text),
        Some(_) => parse_list(text).ok_or_else(|| "write a list, such as '[\"one\", \"two\"]'".to_owned()),
        None => parse_list(text).ok_or_else(|| format!("write it {}", tables(&key))),
    };
    match value {
        Ok(value) => put(dict, &path, value),
        Err(message) => return wrong(message),
    }
    Ok(())
}

fn find<'a>(dict: &'a Dict, path: &[&str]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    match (dict.get(*first)?, rest) {
        (value, []) => Some(value),
        (Value::Dict(_, dict), rest) => find(dict, rest),
        _ => None,
    }
}

fn put(dict: &mut Dict, path: &[&str], value: Value) {
    match path {
        [] => {}
        [key] => {
            dict.insert((*key).to_owned(), value);
        }
        [key, rest @ ..] => {
            let inner = dict
                .entry((*key).to_owned())
                .or_insert_with(|| Value::from(Dict::new()));
            if let Value::Dict(_, inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}

/// How a list of tables is written in a variable.
fn tables(list: &str) -> String {
    format!("{}='[{{ name = \"…\", url = \"…\" }}]'", name(list))
}

fn unknown(defaults: &Dict, name: &str, path: &[&str]) -> String {
    if let Some(list) = path
        .first()
        .filter(|first| path.len() > 1 && TABLE_LISTS.contains(*first))
    {
        return format!("{list} can only be set as a whole: {}", tables(list));
    }
    let known: Vec<String> = leaves(defaults).iter().map(|leaf| self::name(leaf)).collect();
    nearest(name, known.iter().map(String::as_str)).map_or_else(
        || format!("no key is set by {name}"),
        |near| format!("no key is set by {name}; did you mean {near}?"),
    )
}

fn parse_bool(text: &str) -> Result<Value, String> {
    text.trim()
        .parse::<bool>()
        .map(Value::from)
        .map_err(|_| "write true or false".to_owned())
}

fn parse_number(text: &str) -> Result<Value, String> {
    let text = text.trim();
    let whole = text.parse::<i64>().map(Value::from).ok();
    whole
        .or_else(|| text.parse::<f64>().map(Value::from).ok())
        .ok_or_else(|| "write a number".to_owned())
}

/// A list as TOML writes it, which takes JSON's lists of strings too.
fn parse_list(text: &str) -> Option<Value> {
    let (mut parsed, errors) = Parsed::new(&format!("list = {text}"));
    match (errors.is_empty(), parsed.dict.remove("list"), parsed.dict.len()) {
        (true, Some(list @ Value::Array(..)), 0) => Some(list),
        _ => None,
    }
}
