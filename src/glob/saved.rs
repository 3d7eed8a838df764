//! Patterns that people save, of which there may be very many: compiled when something is first looked for, and kept within
//! a bound of all lists together, equal ones once. What is not kept is compiled again.

use std::{fmt, sync::Arc};

use quick_cache::{
    DefaultHashBuilder, OptionsBuilder, Weighter,
    sync::{Cache, DefaultLifecycle},
};
use regex_automata::{
    Input,
    meta::{Config, Regex},
    util::syntax,
};

use super::parse;

/// The most that a list may take that is saved now: the states of its automaton, bytes. It is compiled in a few
/// milliseconds, and looked through in as many at worst.
const STATES_BYTES_MAX: usize = 256 * 1024;

/// The most that a list may take that was saved before: as much as the library permits a set of patterns.
const STATES_BYTES_EVER: usize = 10 * 1024 * 1024;

/// What all that is compiled may take together, bytes.
const KEPT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Lists that are kept at the same time, about.
const KEPT: usize = 10_000;

/// Compiled lists of patterns. Cheap to clone: clones are the same.
#[derive(Clone)]
pub struct Kept(Arc<Cache<Arc<[String]>, Arc<Regex>, Bytes>>);

#[derive(Clone)]
struct Bytes;

impl Weighter<Arc<[String]>, Arc<Regex>> for Bytes {
    fn weight(&self, patterns: &Arc<[String]>, regex: &Arc<Regex>) -> u64 {
        let texts: usize = patterns.iter().map(|text| text.len() + size_of::<String>()).sum();
        (regex.memory_usage() + texts + 512) as u64
    }
}

impl Kept {
    fn within(bytes_max: u64) -> Self {
        let options = OptionsBuilder::new()
            .estimated_items_capacity(KEPT)
            .weight_capacity(bytes_max)
            // Of several, each would keep nothing that is larger than its part.
            .shards(1)
            .build();
        let cache = options.map_or_else(
            |_| Cache::with_weighter(KEPT, bytes_max, Bytes),
            |options| {
                let (hasher, lifecycle) = (DefaultHashBuilder::default(), DefaultLifecycle::default());
                Cache::with_options(options, Bytes, hasher, lifecycle)
            },
        );
        Self(Arc::new(cache))
    }
}

impl Default for Kept {
    fn default() -> Self {
        Self::within(KEPT_BYTES_MAX)
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("lists", &self.0.len()).finish()
    }
}

/// A list of patterns, any of which may match.
#[derive(Clone, Debug)]
pub struct Saved {
    patterns: Arc<[String]>,
    kept: Kept,
}

impl Saved {
    /// These, which are compiled among those that are `kept` once they are asked.
    #[must_use]
    pub fn new(patterns: &[String], kept: &Kept) -> Self {
        Self {
            patterns: patterns.into(),
            kept: kept.clone(),
        }
    }

    /// Whether one of them matches. Those that are no patterns, which can't have been saved, match nothing.
    #[must_use]
    pub fn is_match(&self, name: &str) -> bool {
        let compiled = self.kept.0.get_or_insert_with(&self.patterns, || {
            compile(&self.patterns, STATES_BYTES_EVER).map(Arc::new)
        });
        // What a search takes goes with it: else each thread would keep some for each list.
        compiled.is_ok_and(|regex| {
            let input = Input::new(name).earliest(true);
            regex
                .search_half_with(&mut regex.create_cache(), &input)
                .is_some()
        })
    }
}

/// Whether these patterns may be saved together, as far as they are patterns.
pub(crate) fn are_too_large(patterns: &[String]) -> bool {
    matches!(compile(patterns, STATES_BYTES_MAX), Err(Unusable::TooLarge))
}

/// Why patterns can't be looked through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unusable {
    TooLarge,
    NoPatterns,
}

fn compile(patterns: &[String], bytes_max: usize) -> Result<Regex, Unusable> {
    let globs = patterns.iter().filter_map(|text| parse(text).ok());
    let texts: Vec<_> = globs.map(|glob| glob.regex().to_owned()).collect();
    let config = Config::new()
        .nfa_size_limit(Some(bytes_max))
        .hybrid(false)
        .dfa(false);
    // As the library itself has them.
    let syntax = syntax::Config::new().utf8(false).dot_matches_new_line(true);
    let compiled = Regex::builder()
        .configure(config)
        .syntax(syntax)
        .build_many(&texts);
    compiled.map_err(|error| match error.size_limit() {
        Some(_) => Unusable::TooLarge,
        None => Unusable::NoPatterns,
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use globset::GlobSet;

    use super::*;

    fn list(patterns: &[&str]) -> Vec<String> {
        patterns.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn a_list_matches_what_the_librarys_own_set_matches() {
        let lists = [
            &["**"][..],
            &["*"],
            &["1.*", "latest", "v[0-9]*"],
            &["{a,b}**c", "?x", "*-rc*"],
            &["a**b**", "[!a]*"],
            &["latest"],
            &[r"a\*", "sha256-*"],
        ];
        let names = [
            "", "latest", "Latest", "1.", "1.4", "v1", "vx", "ac", "b1-c", "xx", "1-rc2", "axb", "ab", "a*",
            "sha256-0", "_", "latest-1",
        ];
        let kept = Kept::default();
        for patterns in lists {
            let globs = patterns.iter().map(|text| parse(text).unwrap());
            let set = GlobSet::new(globs).unwrap();
            let saved = Saved::new(&list(patterns), &kept);
            for name in names {
                assert_eq!(saved.is_match(name), set.is_match(name), "{patterns:?} {name}");
            }
        }
        assert_eq!(kept.0.len(), lists.len());
    }

    #[test]
    fn equal_lists_are_compiled_once_and_none_before_it_is_asked() {
        let kept = Kept::default();
        let all: Vec<_> = (0..100).map(|_| Saved::new(&list(&["1.*"]), &kept)).collect();
        assert_eq!(kept.0.len(), 0);
        assert!(all.iter().all(|saved| saved.is_match("1.4")));
        assert_eq!(kept.0.len(), 1);
    }

    #[test]
    fn what_is_kept_is_bounded_and_what_is_not_kept_matches_all_the_same() {
        let bytes_max = 4 * 1024 * 1024;
        let kept = Kept::within(bytes_max);
        for number in 0..200 {
            let patterns = vec![format!("{}{number}*", "a*".repeat(120)); 3];
            let saved = Saved::new(&patterns, &kept);
            assert!(saved.is_match(&format!("{}{number}", "a".repeat(120))));
        }
        assert!(kept.0.weight() <= bytes_max);
        assert!((1..200).contains(&kept.0.len()), "{} are kept", kept.0.len());
    }

    #[test]
    fn lists_that_take_too_much_are_known_soon_and_usual_ones_are_not_among_them() {
        let large = ["**a**b", "a*", "?"].map(|text| vec![text.repeat(256 / text.len()); 64]);
        for patterns in &large {
            let began = Instant::now();
            assert!(are_too_large(patterns), "{}", patterns[0]);
            let took = began.elapsed();
            assert!(took < Duration::from_secs(2), "{took:?}");
        }
        let usual: Vec<_> = (0..64).map(|n| format!("release-{n}.*-stable-*")).collect();
        let one = vec!["**a**b".repeat(42)];
        for patterns in [usual, one, list(&["**"]), list(&["[", "no pattern"])] {
            assert!(!are_too_large(&patterns), "{}", patterns[0]);
        }
    }
}
