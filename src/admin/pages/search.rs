//! A search for deliveries: as it was typed, for forms and links, and as it is asked for.

use super::{super::api::deliveries::DeliveryQuery, given, link, when};

/// Which deliveries somebody looks for.
#[derive(Clone, Debug)]
pub(super) struct Search {
    /// The fields as they were typed, times as the field for dates has them.
    typed: [(&'static str, String); 5],
    /// The same as it is asked for: times are UTC, and an empty field is none.
    pub(super) query: DeliveryQuery,
}

impl Search {
    pub(super) fn of(mut query: DeliveryQuery) -> Self {
        let fields = [
            &mut query.repository,
            &mut query.endpoint,
            &mut query.state,
            &mut query.since,
            &mut query.until,
            &mut query.cursor,
        ];
        fields.into_iter().for_each(given);
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let typed = [
            ("repository", text(&query.repository)),
            ("endpoint", text(&query.endpoint)),
            ("state", text(&query.state)),
            ("since", text(&query.since)),
            ("until", text(&query.until)),
        ];
        when::moment(&mut query.since);
        when::moment(&mut query.until);
        Self { typed, query }
    }

    /// A field as it was typed; empty when it wasn't.
    pub(super) fn get(&self, name: &str) -> &str {
        let found = self.typed.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value.as_str()).unwrap_or_default()
    }

    /// All fields as they were typed.
    pub(super) fn typed(&self) -> &[(&'static str, String)] {
        &self.typed
    }

    /// Whether any deliveries are left out by it.
    pub(super) fn is_filtered(&self) -> bool {
        self.typed.iter().any(|(_, value)| !value.is_empty())
    }

    /// A link that carries it on, and more.
    pub(super) fn link(&self, path: &str, more: &[(&str, &str)]) -> String {
        let typed = self.typed.iter().map(|(name, value)| (*name, value.as_str()));
        link(path, &typed.chain(more.iter().copied()).collect::<Vec<_>>())
    }
}
