//! The effective configuration, for people and for machines.

use std::fmt::Write;

use serde_json::json;

use super::reader::Setting;

/// The column at which a value's source stands, when the value is not longer.
const COLUMN: usize = 44;

pub(super) fn toml(settings: &[Setting]) -> String {
    let mut text = String::new();
    let mut open = "";
    for setting in settings {
        let (section, key) = setting.key.rsplit_once('.').unwrap_or(("", &setting.key));
        if section != open {
            let header = match section.rsplit_once('[') {
                Some((list, _)) => format!("[[{list}]]"),
                None => format!("[{section}]"),
            };
            push(&mut text, &format!("\n{header}\n"));
            open = section;
        }
        let line = format!("{key} = {}", setting.value);
        push(&mut text, &format!("{line:<COLUMN$}  # {}\n", setting.source));
    }
    text
}

fn push(text: &mut String, more: &str) {
    // Writing to a String doesn't fail.
    let _ = text.write_str(more);
}

pub(super) fn json(settings: &[Setting]) -> serde_json::Value {
    let items: Vec<_> = settings
        .iter()
        .map(|setting| {
            json!({
                "key": setting.key,
                "value": setting.value,
                "source": setting.source.to_string(),
            })
        })
        .collect();
    json!({ "items": items })
}
