//! JSON that somebody wrote, read so that what is wrong with it is said without quoting it: a secret may stand in the
//! wrong place.
//!
//! `serde_json` says what it found (`invalid type: string "whsec_…"`). Here it is said where it stands, by field, line and
//! column, and what would be right there.

use std::{fmt, slice, vec};

use serde::{
    Deserializer,
    de::{self, DeserializeOwned, MapAccess, SeqAccess, Unexpected, Visitor, value::StrDeserializer},
    forward_to_deserialize_any,
};
use serde_json::{Map, Value, error::Category};

/// What is wrong with a document, without anything of what stands in it but the names of fields.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{words} (line {line}, column {column})")]
pub struct JsonError {
    words: String,
    /// Where it was noticed, from 1.
    pub line: usize,
    /// Where in the line, bytes from 1; 0 at its begin.
    pub column: usize,
}

/// Reads a document.
///
/// # Errors
/// It is no JSON, or not what is wanted.
pub fn read<T: DeserializeOwned>(text: &[u8]) -> Result<T, JsonError> {
    serde_json::from_slice(text).map_err(|error| JsonError {
        words: match error.classify() {
            Category::Data => words::<T>(text),
            Category::Eof => "it ends too early".to_owned(),
            Category::Syntax | Category::Io => "it is not valid JSON from there on".to_owned(),
        },
        line: error.line(),
        column: error.column(),
    })
}

/// What is wrong with JSON that is not what is wanted.
fn words<T: DeserializeOwned>(text: &[u8]) -> String {
    let Ok(value) = serde_json::from_slice::<Value>(text) else {
        return "it is not valid JSON from there on".to_owned();
    };
    match T::deserialize(Node(&value)) {
        Err(fault) => fault.to_string(),
        // A value has each of its fields once.
        Ok(_) => "a field is there twice".to_owned(),
    }
}

/// What doesn't fit, and where: the names on the way there, the outermost last.
#[derive(Debug)]
struct Fault {
    path: Vec<String>,
    words: String,
}

impl Fault {
    fn new(words: impl Into<String>) -> Self {
        Self {
            path: Vec::new(),
            words: words.into(),
        }
    }

    fn at(mut self, name: String) -> Self {
        self.path.push(name);
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            for name in self.path.iter().rev() {
                write!(f, "/{name}")?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.words)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    /// Whoever says this might quote something.
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self::new("it is not what is wanted here")
    }

    fn invalid_type(found: Unexpected<'_>, wanted: &dyn de::Expected) -> Self {
        let found = match found {
            Unexpected::Bool(_) => "a boolean",
            Unexpected::Unsigned(_) | Unexpected::Signed(_) | Unexpected::Float(_) => "a number",
            Unexpected::Str(_) => "a string",
            Unexpected::Unit | Unexpected::Option => "null",
            Unexpected::Seq => "a list",
            Unexpected::Map => "an object",
            _ => "something else",
        };
        Self::new(format!("{found} stands there, and {wanted} is wanted"))
    }

    fn invalid_value(_: Unexpected<'_>, wanted: &dyn de::Expected) -> Self {
        Self::new(format!("{wanted} is wanted"))
    }

    fn invalid_length(_: usize, wanted: &dyn de::Expected) -> Self {
        Self::new(format!("{wanted} is wanted"))
    }

    fn unknown_variant(_: &str, known: &'static [&'static str]) -> Self {
        Self::new(format!("it is none of {}", known.join(", ")))
    }

    fn unknown_field(_: &str, known: &'static [&'static str]) -> Self {
        Self::new(format!("a field is none of {}", known.join(", ")))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(format!("the field {field} is missing"))
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::new(format!("the field {field} is there twice"))
    }
}

/// A value, told of by [`Fault`]s.
struct Node<'a>(&'a Value);

impl<'de> Deserializer<'de> for Node<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(number), ..) => visitor.visit_u64(number),
                (None, Some(number), _) => visitor.visit_i64(number),
                (None, None, number) => visitor.visit_f64(number.unwrap_or_default()),
            },
            Value::String(text) => visitor.visit_str(text),
            Value::Array(items) => visitor.visit_seq(Items(items.iter().enumerate())),
            Value::Object(fields) => visitor.visit_map(Fields::of(fields)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct enum identifier ignored_any
    }
}

struct Items<'a>(std::iter::Enumerate<slice::Iter<'a, Value>>);

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Fault;

    fn next_element_seed<T: de::DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some((index, item)) = self.0.next() else {
            return Ok(None);
        };
        let read = seed.deserialize(Node(item));
        read.map(Some).map_err(|fault| fault.at(index.to_string()))
    }
}

struct Fields<'a> {
    left: vec::IntoIter<(&'a String, &'a Value)>,
    current: Option<(&'a String, &'a Value)>,
}

impl<'a> Fields<'a> {
    fn of(fields: &'a Map<String, Value>) -> Self {
        let left: Vec<_> = fields.iter().collect();
        Self {
            left: left.into_iter(),
            current: None,
        }
    }
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Fault;

    fn next_key_seed<K: de::DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        self.current = self.left.next();
        let Some((name, _)) = self.current else {
            return Ok(None);
        };
        seed.deserialize(StrDeserializer::new(name)).map(Some)
    }

    fn next_value_seed<V: de::DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let Some((name, value)) = self.current else {
            return Err(Fault::new("it is not what is wanted here"));
        };
        let read = seed.deserialize(Node(value));
        read.map_err(|fault| fault.at(name.replace('~', "~0").replace('/', "~1")))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "it is only read")]
    struct Wanted {
        url: String,
        enabled: Option<bool>,
        tags: Option<Vec<String>>,
        headers: Option<BTreeMap<String, String>>,
        count: Option<u8>,
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place_and_never_quoted() {
        for (text, words) in [
            (
                r#"{"url": "x", "enabled": "hunter2"}"#,
                "/enabled: a string stands there, and a boolean is wanted (line 1, column 33)",
            ),
            (
                "{\"url\": \"x\",\n \"tags\": [\"a\", 424242]}",
                "/tags/1: a number stands there, and a string is wanted (line 2, column 21)",
            ),
            (
                r#"{"url": "x", "headers": "hunter2"}"#,
                "/headers: a string stands there, and a map is wanted (line 1, column 33)",
            ),
            (
                r#"{"url": "x", "headers": {"X-A": ["hunter2"]}}"#,
                "/headers/X-A: a list stands there, and a string is wanted (line 1, column 32)",
            ),
            (
                r#"{"url": "x", "count": 424242}"#,
                "/count: u8 is wanted (line 1, column 28)",
            ),
            (
                r#"{"url": "x", "hunter2": 1}"#,
                "a field is none of url, enabled, tags, headers, count (line 1, column 22)",
            ),
            (
                r#"{"enabled": true}"#,
                "the field url is missing (line 1, column 17)",
            ),
            (
                r#"{"url": "hunter2", "url": "hunter2"}"#,
                "a field is there twice (line 1, column 24)",
            ),
            (
                r#""hunter2""#,
                "a string stands there, and struct Wanted is wanted (line 1, column 9)",
            ),
            (r#"{"url": "hunter2"#, "it ends too early (line 1, column 16)"),
            (
                r#"{"url": hunter2}"#,
                "it is not valid JSON from there on (line 1, column 9)",
            ),
            ("", "it ends too early (line 1, column 0)"),
        ] {
            let told = read::<Wanted>(text.as_bytes()).unwrap_err().to_string();
            assert_eq!(told, words, "{text}");
        }
        assert!(read::<Wanted>(br#"{"url": "x", "tags": null, "count": 7}"#).is_ok());
    }
}
