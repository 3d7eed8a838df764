//! Patterns for repositories, tags and names: `*` stays within a path part, `**` crosses.

use std::iter::Peekable;

use globset::{Error, Glob, GlobBuilder};

/// The pattern that `text` is: `*` and `?` stay within a path part, `**` crosses from one into others wherever it
/// stands, `[…]` is one of some characters, `{…,…}` one of some patterns, and `\` takes what follows as it is.
///
/// # Errors
/// It is no pattern.
pub(crate) fn parse(text: &str) -> Result<Glob, Error> {
    // The library has `**` cross where it is a whole path part alone.
    GlobBuilder::new(&crossing(text)).literal_separator(true).build()
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
    fn what_is_no_pattern_is_refused() {
        for wrong in ["[", "a[", "{a", "a}", "[z-a]"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
