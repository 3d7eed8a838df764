//! The leaves of a [`Section`] by type: words, numbers, durations, sizes, addresses, patterns.

use std::{fmt, net::SocketAddr, ops::RangeInclusive, time::Duration};

use figment::value::Value;
use http::HeaderName;
use ipnet::IpNet;

use super::{
    reader::{Section, Shown, kind, some, string},
    units,
};
use crate::{glob::Patterns, webhook::Rate};

impl Section<'_> {
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

    /// A number from 0 to less than 1.
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
                .ok_or_else(|| format!("write a number from 0 to less than 1, not {}", kind(value)))
                .and_then(|number| {
                    Some(number)
                        .filter(|number| (0.0..1.0).contains(number))
                        .ok_or_else(|| "must be from 0 to less than 1, such as 0.2".to_owned())
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

    pub(super) fn patterns(&mut self, key: &str) -> Option<Patterns> {
        let globs = self.strings(key, units::glob)?;
        match Patterns::new(&globs) {
            Ok(patterns) => Some(patterns),
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
