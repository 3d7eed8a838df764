//! Patterns for repositories, tags and names: `*` stays within a path part, `**` crosses.

use std::{iter::Peekable, sync::Arc};

use globset::{Error, Glob, GlobBuilder, GlobSet};

pub mod saved;

/// The pattern that `text` is: `*` and `?` stay within a path part, `**` crosses from one into others wherever it
/// stands, `[…]` is one of some characters, `{…,…}` one of some patterns, and `\` takes what follows as it is.
///
/// # Errors
/// It is no pattern.
pub(crate) fn parse(text: &str) -> Result<Glob, Error> {
    // The library has `**` cross where it is a whole path part alone.
    GlobBuilder::new(&crossing(text)).literal_separator(true).build()
}

/// What every name begins with that a pattern matches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Beginning {
    /// The pattern's own beginning, up to what may stand for something else.
    pub text: String,
    /// Whether that is all of it: then this name alone matches.
    pub is_whole: bool,
}

impl Beginning {
    /// That of a pattern.
    #[must_use]
    pub fn of(glob: &Glob) -> Self {
        let text = glob.glob();
        let end = text.find(['*', '?', '[', ']', '{', '}', '\\']);
        Self {
            text: text
                .get(..end.unwrap_or(text.len()))
                .unwrap_or_default()
                .to_owned(),
            is_whole: end.is_none(),
        }
    }
}

/// Some patterns, any of which may match.
#[derive(Clone, Debug, Default)]
pub struct Patterns {
    set: GlobSet,
    beginnings: Vec<Beginning>,
}

impl Patterns {
    /// These.
    ///
    /// # Errors
    /// They can't be used together: they are too large.
    pub fn new(globs: &[Glob]) -> Result<Self, Error> {
        Ok(Self {
            set: GlobSet::new(globs)?,
            beginnings: globs.iter().map(Beginning::of).collect(),
        })
    }

    /// Whether one of them matches.
    #[must_use]
    pub fn is_match(&self, name: &str) -> bool {
        self.set.is_match(name)
    }
}

/// The names that somebody may see: those that match one of the patterns of one of these.
#[derive(Clone, Debug, Default)]
pub struct Seen(pub Vec<Arc<Patterns>>);

impl Seen {
    /// Whether the name may be seen.
    #[must_use]
    pub fn is_match(&self, name: &str) -> bool {
        self.0.iter().any(|patterns| patterns.is_match(name))
    }

    /// With what these names begin, in order: none begins with another one.
    #[must_use]
    pub fn beginnings(&self) -> Vec<Beginning> {
        let all = self.0.iter().flat_map(|patterns| &patterns.beginnings);
        let mut all: Vec<_> = all.cloned().collect();
        all.sort_unstable();
        // One that is the whole name comes behind one that is not, so that it is the one to go.
        all.dedup_by(|later, kept| {
            if kept.is_whole {
                later == kept
            } else {
                later.text.starts_with(&kept.text)
            }
        });
        all
    }
}

/// The same pattern, written so that each `**` that crosses is a path part of its own.
fn crossing(text: &str) -> String {
    let mut written = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    let mut before = None;
    while let Some(character) = characters.next() {
        match character {
            '\\' => {
                written.push(character);
                written.extend(characters.next());
            }
            '[' => copy_class(&mut characters, &mut written),
            '*' if characters.peek() == Some(&'*') => {
                while characters.next_if_eq(&'*').is_some() {}
                let begins = before.is_none_or(|before| matches!(before, '/' | '{' | ','));
                let ends = (characters.peek()).is_none_or(|after| matches!(after, '/' | '}' | ','));
                // One that is all of an alternative does not cross for the library either.
                let is_alternative =
                    matches!(before, Some('{' | ',')) && matches!(characters.peek(), Some('}' | ','));
                written.push_str(match (begins, ends) {
                    (true, true) if is_alternative => "{*,*/**}",
                    (true, true) => "**",
                    (true, false) => "{*,**/*}",
                    (false, true) => "{*,*/**}",
                    (false, false) => "{*,*/**/*}",
                });
            }
            _ => written.push(character),
        }
        before = Some(character);
    }
    written
}

/// The patterns in a text, with commas and blanks between them, but for those within `{…}` and `[…]`, or behind a `\`:
/// they are the pattern's own.
pub(crate) fn list(text: &str) -> Vec<String> {
    let (mut patterns, mut pattern, mut depth) = (Vec::new(), String::new(), 0_usize);
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '[' => copy_class(&mut characters, &mut pattern),
            ',' | ' ' | '\r' | '\n' | '\t' if depth == 0 => patterns.push(std::mem::take(&mut pattern)),
            _ => {
                pattern.push(character);
                match character {
                    '\\' => pattern.extend(characters.next()),
                    '{' => depth += 1,
                    '}' => depth = depth.saturating_sub(1),
                    _ => {}
                }
            }
        }
    }
    patterns.push(pattern);
    patterns.retain(|pattern| !pattern.is_empty());
    patterns
}

/// A `[…]`, in which no character has another meaning but the first `]` that is not its first character.
fn copy_class(characters: &mut Peekable<impl Iterator<Item = char>>, written: &mut String) {
    written.push('[');
    written.extend(characters.next_if(|character| matches!(character, '!' | '^')));
    written.extend(characters.next());
    for character in characters {
        written.push(character);
        if character == ']' {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_star_stays_within_a_part_and_two_cross_wherever_they_stand() {
        for (pattern, matching, others) in [
            ("**", &["acme", "acme/app", "a/b/c"][..], &[][..]),
            ("*", &["acme"], &["acme/app"]),
            ("acme/*", &["acme/app"], &["acme", "acme/app/x"]),
            ("acme/**", &["acme/app", "acme/app/x"], &["acme", "acmefoo/bar"]),
            ("**/app", &["app", "x/app", "x/y/app"], &["x/myapp", "app/x"]),
            (
                "acme**",
                &["acme", "acme/app", "acmefoo/bar", "acme/a/b"],
                &["xacme", "x/acme"],
            ),
            (
                "**app",
                &["app", "myapp", "x/app", "x/y/myapp"],
                &["app/x", "x/apps"],
            ),
            (
                "ac**me/x",
                &["acme/x", "ac/me/x", "ac/q/me/x", "acq/w/eme/x"],
                &["ac/q/me", "ac/x"],
            ),
            ("a/**b", &["a/b", "a/xb", "a/x/yb"], &["b", "ab", "a/bx"]),
            ("a**/z", &["a/z", "ab/z", "a/b/c/z"], &["z", "a/zz"]),
            ("{acme**,**lib}", &["acme/app", "x/mylib"], &["x/app", "libs"]),
            ("a***", &["a", "a/b"], &["b"]),
            ("{**,lib}", &["a", "a/b"], &[]),
            ("a/{**,x}", &["a/b", "a/b/c"], &["b/c"]),
            ("{x,**/app,y/**}", &["x", "app", "b/app", "y/z/z"], &["a/b"]),
            ("v[*]*", &["v*1"], &["v1"]),
            ("[]**]x", &["]x", "*x"], &["ax", "a/x"]),
            (r"a\**", &["a*", "a*b"], &["ab", "a*/b"]),
            ("1.**", &["1.2", "1."], &["12"]),
        ] {
            let matcher = parse(pattern).unwrap().compile_matcher();
            for name in matching {
                assert!(matcher.is_match(name), "{pattern} matches {name}");
            }
            for name in others {
                assert!(!matcher.is_match(name), "{pattern} does not match {name}");
            }
        }
    }

    #[test]
    fn names_that_may_be_seen_are_known_by_their_beginnings() {
        let patterns = |texts: &[&str]| {
            let globs: Vec<_> = texts.iter().map(|text| parse(text).unwrap()).collect();
            Arc::new(Patterns::new(&globs).unwrap())
        };
        let seen = Seen(vec![
            patterns(&["acme/app", "team7/**", "team7/app1", "acme/a*"]),
            patterns(&["team7/app?", "acme/app", "other", r"odd\*", "lib**"]),
        ]);
        let beginnings: Vec<_> = seen
            .beginnings()
            .into_iter()
            .map(|beginning| (beginning.text, beginning.is_whole))
            .collect();
        let wanted = [
            ("acme/a", false),
            ("lib", false),
            ("odd", false),
            ("other", true),
            ("team7/", false),
        ];
        assert_eq!(
            beginnings,
            wanted.map(|(text, is_whole)| (text.to_owned(), is_whole))
        );
        assert!(seen.is_match("team7/x/y") && seen.is_match("acme/app") && seen.is_match("odd*"));
        assert!(!seen.is_match("team77/x") && !seen.is_match("acme/bpp"));
        let whole = Seen(vec![patterns(&["acme/app", "acme/app2", "acme/app"])]);
        let beginnings: Vec<_> = whole
            .beginnings()
            .into_iter()
            .map(|beginning| beginning.text)
            .collect();
        assert_eq!(beginnings, ["acme/app", "acme/app2"]);
        assert_eq!(Seen(vec![patterns(&["**", "acme/app"])]).beginnings().len(), 1);
        assert!(Seen::default().beginnings().is_empty() && !Seen::default().is_match(""));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for wrong in ["[", "a[", "{a", "a}", "[z-a]"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
