//! Patterns for repositories, tags and names: `*` stays within a path part, `**` crosses.

use std::{iter::Peekable, sync::Arc};

use globset::{Error, ErrorKind, Glob, GlobBuilder, GlobSet};

pub mod saved;

/// How many `{…}` may stand within each other: the library goes into each by recursion, and what it makes of many is not
/// compiled.
pub const DEPTH_MAX: usize = 16;

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It is not written as one.
    #[error("{0}")]
    Malformed(ErrorKind),
    /// More than [`DEPTH_MAX`] `{…}` within each other.
    #[error("{{…}} stand within each other at most {DEPTH_MAX} deep")]
    TooDeep,
}

/// The pattern that `text` is: `*` and `?` stay within a path part, `**` crosses from one into others wherever it
/// stands, `[…]` is one of some characters, `{…,…}` one of some patterns, and `\` takes what follows as it is.
///
/// # Errors
/// It is no pattern.
pub(crate) fn parse(text: &str) -> Result<Glob, PatternError> {
    // The library has `**` cross where it is a whole path part alone.
    let built = GlobBuilder::new(&crossing(text)?).literal_separator(true).build();
    built.map_err(|error| PatternError::Malformed(error.kind().clone()))
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

/// The pattern that matches every name.
const EVERYTHING: &str = "**";

/// Some patterns, any of which may match. The default is none.
#[derive(Clone, Debug, Default)]
pub struct Patterns {
    set: GlobSet,
    beginnings: Vec<Beginning>,
    /// Whether one of them is [`EVERYTHING`]: nothing needs to be looked at then.
    is_everything: bool,
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
            is_everything: globs.iter().any(|glob| glob.glob() == EVERYTHING),
        })
    }

    /// Every name matches, the empty one too.
    #[must_use]
    pub fn everything() -> Self {
        Self {
            set: GlobSet::empty(),
            beginnings: vec![Beginning {
                text: String::new(),
                is_whole: false,
            }],
            is_everything: true,
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.beginnings.is_empty()
    }

    /// Whether one of them matches.
    #[must_use]
    pub fn is_match(&self, name: &str) -> bool {
        self.is_everything || self.set.is_match(name)
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
///
/// # Errors
/// It is too deep.
fn crossing(text: &str) -> Result<String, PatternError> {
    let mut depth = 0_usize;
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
            _ => {
                written.push(character);
                match character {
                    '{' if depth == DEPTH_MAX => return Err(PatternError::TooDeep),
                    '{' => depth += 1,
                    '}' => depth = depth.saturating_sub(1),
                    _ => {}
                }
            }
        }
        before = Some(character);
    }
    Ok(written)
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
    fn everything_is_what_the_pattern_for_it_matches() {
        let patterns = |texts: &[&str]| {
            let globs: Vec<_> = texts.iter().map(|text| parse(text).unwrap()).collect();
            Patterns::new(&globs).unwrap()
        };
        let (all, none) = (patterns(&["acme/*", "**"]), Patterns::default());
        assert!(all.is_everything);
        for name in ["", "a", "acme/app", "a/b/c", "1.4", "a\nb"] {
            assert!(all.is_match(name) && all.set.is_match(name), "{name:?}");
            assert!(
                Patterns::everything().is_match(name) && !none.is_match(name),
                "{name:?}"
            );
        }
        let seen = |patterns: &Patterns| Seen(vec![Arc::new(patterns.clone())]).beginnings();
        assert_eq!(seen(&Patterns::everything()), seen(&patterns(&["**"])));
        assert!(none.is_empty() && !Patterns::everything().is_empty() && !all.is_empty());
        assert!(!patterns(&["acme/**", "*"]).is_match("third/app"));
    }

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
    fn braces_within_braces_are_taken_so_deep_that_every_pattern_compiles_and_no_deeper() {
        let nested = |depth: usize| format!("{}**a**{}", "{x,".repeat(depth), "}".repeat(depth));
        let deep = nested(DEPTH_MAX);
        assert!(parse(&deep).unwrap().compile_matcher().is_match("b/a/c"));
        assert!(Patterns::new(&[parse(&deep).unwrap()]).is_ok());
        for depth in [DEPTH_MAX + 1, 100_000] {
            let refused = parse(&nested(depth)).unwrap_err();
            assert!(refused.to_string().contains("16 deep"), "{refused}");
        }
        // Beside each other they are not within each other, and neither are those that mean themselves.
        for flat in ["{a,b}", r"\{", "[{]"] {
            assert!(parse(&flat.repeat(100)).is_ok(), "{flat}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for wrong in ["[", "a[", "{a", "a}", "[z-a]"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
