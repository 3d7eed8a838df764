//! What one configuration says otherwise than another.

use std::{collections::BTreeMap, sync::Arc};

use super::{Config, reader::Setting};

/// What a newer configuration changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Endpoints there were none of before, by name.
    pub added: Vec<Arc<str>>,
    /// Endpoints of which anything is set otherwise, by name.
    pub changed: Vec<Arc<str>>,
    /// Endpoints that are no more, by name.
    pub removed: Vec<Arc<str>>,
    /// The keys outside `[[endpoints]]` whose values differ.
    pub others: Vec<String>,
}

impl Changes {
    /// Whether no endpoint is another.
    #[must_use]
    pub fn leave_endpoints(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }
}

/// What tells one value of a key from another.
type Print = [u8; 32];

impl Config {
    /// What `newer` says otherwise. Of a secret in a file, only that the file is another.
    #[must_use]
    pub fn changes(&self, newer: &Self) -> Changes {
        let (before, after) = (self.endpoint_prints(), newer.endpoint_prints());
        let names = |config: &Self| -> Vec<Arc<str>> {
            let endpoints = config.endpoints.iter();
            endpoints.map(|endpoint| Arc::clone(&endpoint.name)).collect()
        };
        let mut changes = Changes {
            others: other_keys(&self.settings, &newer.settings),
            ..Changes::default()
        };
        for name in names(newer) {
            match before.get(&name) {
                None => changes.added.push(name),
                Some(print) if Some(print) != after.get(&name) => changes.changed.push(name),
                Some(_) => {}
            }
        }
        let gone = names(self).into_iter().filter(|name| !after.contains_key(name));
        changes.removed = gone.collect();
        changes
    }

    /// What is set of each endpoint, by its name.
    fn endpoint_prints(&self) -> BTreeMap<Arc<str>, BTreeMap<&str, Print>> {
        let mut prints: Vec<BTreeMap<&str, Print>> = vec![BTreeMap::new(); self.endpoints.len()];
        for setting in &self.settings {
            let parts = setting.key.strip_prefix("endpoints[");
            let Some((index, key)) = parts.and_then(|rest| rest.split_once("].")) else {
                continue;
            };
            let print = index.parse().ok().and_then(|index: usize| prints.get_mut(index));
            if let Some(print) = print {
                print.insert(key, setting.print);
            }
        }
        let names = self.endpoints.iter().map(|endpoint| Arc::clone(&endpoint.name));
        names.zip(prints).collect()
    }
}

fn other_keys(before: &[Setting], after: &[Setting]) -> Vec<String> {
    fn prints(settings: &[Setting]) -> BTreeMap<&str, Print> {
        let others = settings
            .iter()
            .filter(|setting| !setting.key.starts_with("endpoints["));
        others
            .map(|setting| (setting.key.as_str(), setting.print))
            .collect()
    }
    let (before, after) = (prints(before), prints(after));
    let mut keys: Vec<String> = before
        .keys()
        .chain(after.keys())
        .filter(|key| before.get(*key) != after.get(*key))
        .map(|key| (*key).to_owned())
        .collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}
