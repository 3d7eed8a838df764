//! `If-Match` and `If-None-Match`: what has to be so for a request to be done, or answered in full (RFC 9110, 13.1).

use http::{HeaderMap, HeaderName};

/// What one of the two fields names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// `*`: whatever is there.
    Any,
    /// These tags.
    Tags(Vec<EntityTag>),
}

/// An entity tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EntityTag {
    /// Whether it stands for all that means the same, not for the same bytes.
    is_weak: bool,
    /// With its quotes.
    text: String,
}

/// A field that is neither `*` nor a list of tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

impl Named {
    /// What the field names, in as many lines as it comes; `None` without it.
    pub(super) fn of(headers: &HeaderMap, field: &HeaderName) -> Result<Option<Self>, Malformed> {
        let lines = headers.get_all(field).iter();
        let lines = lines.map(|line| line.to_str().map(str::trim).map_err(|_| Malformed));
        let lines: Vec<&str> = lines.collect::<Result<_, _>>()?;
        match lines.as_slice() {
            [] => Ok(None),
            ["*"] => Ok(Some(Self::Any)),
            lines => {
                let tags: Vec<_> = lines.iter().map(|line| listed(line)).collect::<Result<_, _>>()?;
                Ok(Some(Self::Tags(tags.concat())))
            }
        }
    }

    /// The tags that stand for the same bytes, with their quotes: the only ones that `If-Match` goes by.
    pub(super) fn strong(&self) -> impl Iterator<Item = &str> {
        let tags = match self {
            Self::Any => &[][..],
            Self::Tags(tags) => tags,
        };
        tags.iter().filter(|tag| !tag.is_weak).map(|tag| &*tag.text)
    }

    /// Whether what is there, by this strong tag, is among them by `If-None-Match`, to which weak ones are as good.
    pub(super) fn knows(&self, current: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Tags(tags) => tags.iter().any(|tag| tag.text == current),
        }
    }
}

/// What may stand around tags and their commas.
const BLANK: [char; 2] = [' ', '\t'];

/// The tags of a line, one at least, with commas between them, which may stand in a tag too.
fn listed(line: &str) -> Result<Vec<EntityTag>, Malformed> {
    let (mut tags, mut rest) = (Vec::new(), line);
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() && !tags.is_empty() {
            return Ok(tags);
        }
        let (is_weak, quoted) = match rest.strip_prefix("W/") {
            Some(quoted) => (true, quoted),
            None => (false, rest),
        };
        let text = quoted.strip_prefix('"').and_then(|text| text.split_once('"'));
        let (text, behind) = text.ok_or(Malformed)?;
        rest = behind.trim_start_matches(BLANK);
        if !rest.is_empty() && !rest.starts_with(',') {
            return Err(Malformed);
        }
        tags.push(EntityTag {
            is_weak,
            text: format!("\"{text}\""),
        });
    }
}

#[cfg(test)]
mod tests {
    use http::header::{IF_MATCH, IF_NONE_MATCH};

    use super::*;

    fn named(lines: &[&str]) -> Result<Option<Named>, Malformed> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(IF_MATCH, line.parse().unwrap());
        }
        assert_eq!(Named::of(&headers, &IF_NONE_MATCH), Ok(None));
        Named::of(&headers, &IF_MATCH)
    }

    fn strong(lines: &[&str]) -> Vec<String> {
        let named = named(lines).unwrap().unwrap();
        named.strong().map(str::to_owned).collect()
    }

    #[test]
    fn tags_are_read_from_lists_in_one_line_or_in_several() {
        assert_eq!(named(&[]), Ok(None));
        assert_eq!(named(&["*"]), Ok(Some(Named::Any)));
        assert_eq!(
            named(&["*", "\"5\""]),
            Err(Malformed),
            "as if they stood in one line"
        );
        assert_eq!(strong(&[r#""5""#]), [r#""5""#]);
        let several = strong(&[r#""5", "6" ,,"7""#, r#" "8","#]);
        assert_eq!(several, [r#""5""#, r#""6""#, r#""7""#, r#""8""#]);
        assert_eq!(
            strong(&[r#""a,b","c""#]),
            [r#""a,b""#, r#""c""#],
            "a comma may stand in one"
        );
    }

    #[test]
    fn what_is_no_tag_is_refused() {
        for line in [
            "",
            "5",
            "\"5",
            "5\"",
            ",",
            "W/5",
            "w/\"5\"",
            "*5",
            "\"5\" \"6\"",
            "\"4\", \"5\"x",
            "\"5\", *",
        ] {
            assert_eq!(named(&[line]), Err(Malformed), "{line}");
        }
    }

    #[test]
    fn a_weak_tag_is_as_good_as_a_strong_one_only_for_who_wants_nothing_that_is_known() {
        let named = named(&[r#"W/"5", "6""#]).unwrap().unwrap();
        assert_eq!(named.strong().collect::<Vec<_>>(), [r#""6""#]);
        assert!(named.knows(r#""5""#) && named.knows(r#""6""#) && !named.knows(r#""7""#));
        assert!(Named::Any.knows(r#""5""#));
    }
}
