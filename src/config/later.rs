//! Keys that are read and checked, and do nothing in this version.

use super::{problem::Warning, reader::Setting};

/// Each key, or beginning of keys, and what it will do. Who builds the behaviour takes the line out.
const LATER: &[(&str, &str)] = &[
    ("telemetry.otlp", "traces come in a later version"),
    (
        "size.reconcile_",
        "comparing with the registry comes in a later version",
    ),
];

/// The warnings for what differs from the defaults and does nothing.
pub(super) fn warnings(settings: &[Setting]) -> Vec<Warning> {
    let told = settings
        .iter()
        .filter(|setting| setting.changed && !is_nothing(&setting.value));
    told.filter_map(|setting| {
        let key = without_indexes(&setting.key);
        let (_, later) = LATER.iter().find(|(prefix, _)| key.starts_with(prefix))?;
        Some(Warning {
            key: setting.key.clone(),
            message: format!("does nothing yet: {later}"),
        })
    })
    .collect()
}

fn is_nothing(value: &toml::Value) -> bool {
    value.as_str() == Some("")
}

/// `endpoints[2].url` as `endpoints[].url`.
fn without_indexes(key: &str) -> String {
    key.chars().filter(|c| !c.is_ascii_digit()).collect()
}
