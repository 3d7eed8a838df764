//! The registry's wire types: what CNCF Distribution POSTs, the fields that are kept, nothing more.
//!
//! Lenient by design, for the registry resends for ever what we refuse: a field that is missing, `null`,
//! an empty string or 0 all mean the same, and so does a size that can't be one; unknown ones are passed over, and one event
//! that can't be read doesn't lose the others. Source: `notifications/event.go` of CNCF Distribution 2.8 to 3.1.

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::value::RawValue;

/// More references than any image has: a body of tiny ones would cost many times its size.
const REFERENCES_MAX: usize = 1000;

/// More events than a registry sends at once, for the same reason.
const AT_ONCE_MAX: usize = 16;

/// A POST's body: `{"events":[…]}`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Envelope<'a> {
    #[serde(borrow, deserialize_with = "list")]
    events: Vec<&'a RawValue>,
}

/// The same of a few events, each read at once.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Sound<'a> {
    #[serde(borrow)]
    events: BoundedList<Object<Event<'a>>, AT_ONCE_MAX>,
}

/// Why an event in an envelope, or a whole envelope, can't be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Unreadable {
    reason: String,
}

impl From<serde_json::Error> for Unreadable {
    fn from(error: serde_json::Error) -> Self {
        Self {
            reason: error.to_string(),
        }
    }
}

/// One thing that happened in a registry.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Event<'a> {
    /// Unique; the same when it is sent again.
    #[serde(borrow, deserialize_with = "text")]
    pub id: Cow<'a, str>,
    /// `push`, `pull`, `mount`, `delete`, …
    #[serde(borrow, deserialize_with = "text")]
    pub action: Cow<'a, str>,
    /// What it happened to.
    #[serde(borrow, deserialize_with = "object")]
    pub target: Target<'a>,
    /// The request that did it.
    #[serde(borrow, deserialize_with = "object")]
    pub request: Request<'a>,
    /// Who did it.
    #[serde(borrow, deserialize_with = "object")]
    pub actor: Actor<'a>,
    /// Where it happened.
    #[serde(borrow, deserialize_with = "object")]
    pub source: Source<'a>,
}

/// The process that tells of an event.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Source<'a> {
    /// Another one after each start.
    #[serde(borrow, rename = "instanceID", deserialize_with = "text")]
    pub instance_id: Cow<'a, str>,
}

/// What an event happened to.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Target<'a> {
    /// Empty on deletes.
    #[serde(borrow, deserialize_with = "text")]
    pub media_type: Cow<'a, str>,
    /// Empty when a tag was deleted.
    #[serde(borrow, deserialize_with = "text")]
    pub digest: Cow<'a, str>,
    /// The manifest's own bytes.
    #[serde(deserialize_with = "number")]
    pub size: u64,
    /// The same under its older name.
    #[serde(deserialize_with = "number")]
    pub length: u64,
    /// The repository's name.
    #[serde(borrow, deserialize_with = "text")]
    pub repository: Cow<'a, str>,
    /// Only when the request named a tag.
    #[serde(borrow, deserialize_with = "text")]
    pub tag: Cow<'a, str>,
    /// What a manifest refers to, with `includereferences: true`.
    #[serde(borrow, deserialize_with = "references")]
    pub references: Vec<Descriptor<'a>>,
}

/// A blob or manifest that a manifest refers to.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Descriptor<'a> {
    /// Anything.
    #[serde(borrow, deserialize_with = "text")]
    pub media_type: Cow<'a, str>,
    /// Its digest.
    #[serde(borrow, deserialize_with = "text")]
    pub digest: Cow<'a, str>,
    /// Its bytes.
    #[serde(deserialize_with = "number")]
    pub size: u64,
    /// Whether it says where else it can be had: foreign layers do.
    #[serde(rename = "urls", deserialize_with = "not_empty")]
    pub has_urls: bool,
}

/// The request that caused an event.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Request<'a> {
    /// The host that the client asked.
    #[serde(borrow, deserialize_with = "text")]
    pub host: Cow<'a, str>,
}

/// Who caused an event.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Actor<'a> {
    /// Empty when anonymous.
    #[serde(borrow, deserialize_with = "text")]
    pub name: Cow<'a, str>,
}

impl<'a> Envelope<'a> {
    /// Reads a body. Its events are read one by one as [`Envelope::events`] comes to them, so that a
    /// million tiny ones don't stand in memory side by side.
    ///
    /// # Errors
    /// It is not UTF-8, not JSON, or its top level is not an object whose `events` is a list.
    pub fn parse(body: &'a [u8]) -> Result<Self, Unreadable> {
        let unreadable = |reason: String| Unreadable { reason };
        if body.is_empty() {
            return Err(unreadable("the body is empty".to_owned()));
        }
        let body =
            std::str::from_utf8(body).map_err(|error| unreadable(format!("it is not UTF-8: {error}")))?;
        if !body.trim_start().starts_with('{') {
            serde_json::from_str::<de::IgnoredAny>(body)?;
            return Err(unreadable("it is JSON, but not an object".to_owned()));
        }
        let envelope: Object<Self> = serde_json::from_str(body)?;
        Ok(envelope.0)
    }

    /// The events of a body as registries send them: few, and all of them can be read. `None` of any other. This reads the
    /// body once, where [`Envelope::parse`] looks for where each event ends, to read it then.
    #[must_use]
    pub fn sound(body: &'a [u8]) -> Option<impl Iterator<Item = Event<'a>>> {
        let body = std::str::from_utf8(body).ok()?;
        if !body.trim_start().starts_with('{') {
            return None;
        }
        let sound: Sound<'a> = serde_json::from_str(body).ok()?;
        let events = sound.events.0?;
        Some(events.into_iter().map(|event| event.0))
    }

    /// The events in order: each as it stands in the body, and what was read from it.
    pub fn events(&self) -> impl Iterator<Item = (&'a str, Result<Event<'a>, Unreadable>)> {
        self.events.iter().map(|raw| {
            let event = serde_json::from_str(raw.get()).map(|event: Object<Event<'a>>| event.0);
            (raw.get(), event.map_err(Unreadable::from))
        })
    }
}

/// A struct that is written as an object and as nothing else: what serde derives takes lists as well.
#[derive(Debug)]
struct Object<T>(T);

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        object(deserializer).map(Object)
    }
}

fn object<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    struct Fields<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de> + Default> Visitor<'de> for Fields<T> {
        type Value = T;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map))
        }
        fn visit_unit<E: de::Error>(self) -> Result<T, E> {
            Ok(T::default())
        }
    }
    deserializer.deserialize_any(Fields(PhantomData))
}

/// A string that is borrowed when it has no escapes; `null` is empty.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Cow<'de, str>, D::Error> {
    struct Text;
    impl<'de> Visitor<'de> for Text {
        type Value = Cow<'de, str>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }
        fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
            Ok(Cow::Borrowed(text))
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            Ok(Cow::Owned(text.to_owned()))
        }
        fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok(Cow::Borrowed(""))
        }
    }
    deserializer.deserialize_any(Text)
}

/// A count of bytes; 0 for anything that is none, be it negative, fractional, past any bound, or no number. The registry has
/// the right one, so a wrong one must not cost the push its webhook.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let raw = <&RawValue>::deserialize(deserializer)?;
    Ok(raw.get().parse().unwrap_or_default())
}

fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Whether a list has anything in it.
fn not_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let items: BoundedList<de::IgnoredAny, REFERENCES_MAX> = BoundedList::deserialize(deserializer)?;
    Ok(items.0.is_none_or(|items| !items.is_empty()))
}

/// At most [`REFERENCES_MAX`] references: of more, none, as if the registry had not listed them.
fn references<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Descriptor<'a>>, D::Error> {
    let list: BoundedList<Descriptor<'a>, REFERENCES_MAX> = BoundedList::deserialize(deserializer)?;
    Ok(list.0.unwrap_or_default())
}

/// A list of at most so many items; `None` when it has more.
#[derive(Debug)]
struct BoundedList<T, const MAX: usize>(Option<Vec<T>>);

impl<T, const MAX: usize> Default for BoundedList<T, MAX> {
    fn default() -> Self {
        Self(Some(Vec::new()))
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for BoundedList<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T, const MAX: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Items<T, MAX> {
            type Value = BoundedList<T, MAX>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = sequence.next_element()? {
                    if items.len() == MAX {
                        while sequence.next_element::<de::IgnoredAny>()?.is_some() {}
                        return Ok(BoundedList(None));
                    }
                    items.push(item);
                }
                Ok(BoundedList(Some(items)))
            }
            fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
                Ok(BoundedList::default())
            }
        }
        deserializer.deserialize_any(Items(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(body: &str) -> Vec<Result<Event<'_>, Unreadable>> {
        let envelope = Envelope::parse(body.as_bytes()).unwrap();
        envelope.events().map(|(_, event)| event).collect()
    }

    #[test]
    fn missing_null_empty_and_zero_mean_the_same() {
        for event in [
            "{}",
            "null",
            r#"{"id":null,"action":null,"target":null,"request":null,"actor":null}"#,
            r#"{"id":"","action":"","target":{"size":0,"tag":"","references":[]},"actor":{}}"#,
            r#"{"target":{"mediaType":null,"digest":null,"size":null,"references":null}}"#,
        ] {
            let body = format!(r#"{{"events":[{event}]}}"#);
            let events = events(&body);
            let event = events[0].as_ref().unwrap();
            assert_eq!((&*event.id, &*event.action, &*event.actor.name), ("", "", ""));
            assert_eq!((&*event.target.tag, event.target.size), ("", 0));
            assert!(event.target.references.is_empty());
        }
    }

    #[test]
    fn few_sound_events_are_read_at_once_as_they_are_one_by_one_and_others_are_not() {
        let event = r#"{"id":"1","target":{"tag":"t","references":[{"size":1}]}}"#;
        let many = |count| format!(r#"{{"events":[{}]}}"#, vec![event; count].join(","));
        for body in [
            many(1),
            many(AT_ONCE_MAX),
            " {} ".to_owned(),
            r#"{"events":null}"#.to_owned(),
            r#"{"events":[null,{}]}"#.to_owned(),
        ] {
            let at_once: Vec<_> = Envelope::sound(body.as_bytes()).unwrap().collect();
            let one_by_one: Vec<_> = events(&body).into_iter().map(Result::unwrap).collect();
            assert_eq!(format!("{at_once:?}"), format!("{one_by_one:?}"));
        }
        for body in [
            many(AT_ONCE_MAX + 1).as_bytes(),
            br#"{"events":[{"id":2}]}"#,
            br#"{"events":[[]]}"#,
            b"",
            b"[]",
            b"null",
            b"{} {}",
            b"{\"a\":\"\xff\"}",
        ] {
            assert!(
                Envelope::sound(body).is_none(),
                "{}",
                String::from_utf8_lossy(body)
            );
        }
    }

    #[test]
    fn an_envelope_without_events_is_fine() {
        for body in [
            "{}",
            r#"{"events":null}"#,
            r#" {"events":[]} "#,
            r#"{"more":[{"deep":[1]}]}"#,
        ] {
            assert!(events(body).is_empty(), "{body}");
        }
    }

    #[test]
    fn what_is_not_an_envelope_is_unreadable() {
        let nested = "[".repeat(200_000);
        for body in [
            "",
            " ",
            "null",
            "[]",
            "7",
            "\"events\"",
            "{",
            "{} {}",
            "hello",
            r#"{"events":{}}"#,
            r#"{"events":[{]}"#,
            r#"{"events":[{"id":"1"}"#,
            r#"{"events":7}"#,
            &nested,
        ] {
            let shown: String = body.chars().take(30).collect();
            assert!(Envelope::parse(body.as_bytes()).is_err(), "{shown}");
        }
        assert!(Envelope::parse(b"{\"a\":\"\xff\"}").is_err());
    }

    #[test]
    fn deep_nesting_neither_overflows_the_stack_nor_loses_the_events() {
        let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
        let body = format!(r#"{{"x":{deep},"events":[{{"id":"1","y":{deep}}}]}}"#);
        assert_eq!(events(&body)[0].as_ref().unwrap().id, "1");
    }

    #[test]
    fn an_event_that_cannot_be_read_does_not_lose_the_others() {
        let body = r#"{"events":[{"id":"1"},{"id":2},[],{"target":{"tag":1}},{"id":"\ud800"},{"id":"3"}]}"#;
        let events = events(body);
        let ids: Vec<_> = events.iter().map(|e| e.as_ref().ok().map(|e| &*e.id)).collect();
        assert_eq!(ids, [Some("1"), None, None, None, None, Some("3")]);
        let envelope = Envelope::parse(body.as_bytes()).unwrap();
        assert_eq!(envelope.events().nth(1).unwrap().0, r#"{"id":2}"#);
    }

    #[test]
    fn a_size_that_is_none_counts_as_left_out() {
        let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
        for (size, read) in [
            ("7", 7),
            ("18446744073709551615", u64::MAX),
            ("18446744073709551616", 0),
            ("-1", 0),
            ("-0", 0),
            ("7.5", 0),
            ("7e0", 0),
            ("1e999", 0),
            ("null", 0),
            ("true", 0),
            (r#""7""#, 0),
            (r#"{"bytes":7}"#, 0),
            (&*deep, 0),
        ] {
            let target = format!(r#"{{"size":{size},"length":{size},"references":[{{"size":{size}}}]}}"#);
            let body = format!(r#"{{"events":[{{"id":"1","target":{target}}}]}}"#);
            let at_once = Envelope::sound(body.as_bytes()).unwrap();
            for event in at_once.chain(events(&body).into_iter().map(Result::unwrap)) {
                let target = event.target;
                let sizes = [target.size, target.length, target.references[0].size];
                assert_eq!(sizes, [read; 3], "{size:.40}");
            }
        }
        assert!(Envelope::parse(br#"{"events":[{"target":{"size":-}}]}"#).is_err());
    }

    #[test]
    fn strings_are_borrowed_unless_they_have_escapes() {
        let body = r#"{"events":[{"id":"plain","action":"p\u0075sh"}]}"#;
        let events = events(body);
        let event = events[0].as_ref().unwrap();
        assert!(matches!(event.id, Cow::Borrowed("plain")));
        assert_eq!(event.action, "push");
    }

    #[test]
    fn more_references_than_any_image_has_count_as_none() {
        for (count, kept) in [(1000, 1000), (1001, 0)] {
            let references = vec![r#"{"size":1}"#; count].join(",");
            let body = format!(r#"{{"events":[{{"id":"1","target":{{"references":[{references}]}}}}]}}"#);
            let events = events(&body);
            let event = events[0].as_ref().unwrap();
            assert_eq!((&*event.id, event.target.references.len()), ("1", kept));
        }
    }
}
