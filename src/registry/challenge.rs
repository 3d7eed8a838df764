//! The headers that ask for something: `WWW-Authenticate` (RFC 9110, 11.6.1) and `Link` (RFC 8288).

/// One challenge of a `WWW-Authenticate` header, its parameters' names in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    pub(super) scheme: String,
    pub(super) parameters: Vec<(String, String)>,
}

impl Challenge {
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

/// The challenges that one header value makes. What comes after something unreadable is left out.
pub(super) fn challenges(value: &str) -> Vec<Challenge> {
    let mut cursor = Cursor(value);
    let mut challenges = Vec::new();
    loop {
        cursor.skip(|c| c.is_ascii_whitespace() || c == ',');
        let scheme = cursor.take(is_token);
        if scheme.is_empty() {
            return challenges;
        }
        let mut challenge = Challenge {
            scheme: scheme.to_ascii_lowercase(),
            parameters: Vec::new(),
        };
        while let Some(parameter) = cursor.parameter() {
            challenge.parameters.push(parameter);
        }
        challenges.push(challenge);
    }
}

/// The target of the first link whose relation is `next`.
pub(super) fn next_link(value: &str) -> Option<&str> {
    let mut cursor = Cursor(value);
    loop {
        cursor.skip(|c| c.is_ascii_whitespace() || c == ',');
        if !cursor.eat('<') {
            return None;
        }
        let target = cursor.take(|c| c != '>');
        if !cursor.eat('>') {
            return None;
        }
        let mut is_next = false;
        loop {
            cursor.skip(|c| c.is_ascii_whitespace());
            if !cursor.eat(';') {
                break;
            }
            cursor.skip(|c| c.is_ascii_whitespace());
            let name = cursor.take(is_token);
            cursor.skip(|c| c.is_ascii_whitespace());
            let value = if cursor.eat('=') {
                cursor.value()?
            } else {
                String::new()
            };
            is_next |= name.eq_ignore_ascii_case("rel")
                && value
                    .split_ascii_whitespace()
                    .any(|relation| relation.eq_ignore_ascii_case("next"));
        }
        if is_next {
            return Some(target);
        }
    }
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

/// What is left to read.
struct Cursor<'a>(&'a str);

impl<'a> Cursor<'a> {
    fn take(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let end = self.0.find(|c| !wanted(c)).unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at(end);
        self.0 = rest;
        taken
    }

    fn skip(&mut self, unwanted: impl Fn(char) -> bool) {
        self.take(unwanted);
    }

    fn eat(&mut self, wanted: char) -> bool {
        match self.0.strip_prefix(wanted) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    /// `name=value` with the comma before it; leaves the cursor where it was when what comes is something
    /// else, such as the next challenge's scheme.
    fn parameter(&mut self) -> Option<(String, String)> {
        let before = self.0;
        self.skip(|c| c.is_ascii_whitespace() || c == ',');
        let name = self.take(is_token);
        self.skip(|c| c.is_ascii_whitespace());
        if name.is_empty() || !self.eat('=') {
            self.0 = before;
            return None;
        }
        self.skip(|c| c.is_ascii_whitespace());
        let value = self.value()?;
        Some((name.to_ascii_lowercase(), value))
    }

    /// A token or a quoted string; `None` when a quote is never closed.
    fn value(&mut self) -> Option<String> {
        self.skip(|c| c.is_ascii_whitespace());
        if !self.eat('"') {
            return Some(
                self.take(|c| !c.is_ascii_whitespace() && c != ',' && c != ';')
                    .to_owned(),
            );
        }
        let mut value = String::new();
        // A quote that is never closed leaves nothing to read.
        let mut characters = std::mem::take(&mut self.0).chars();
        loop {
            match characters.next()? {
                '"' => break,
                '\\' => value.push(characters.next()?),
                other => value.push(other),
            }
        }
        self.0 = characters.as_str();
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(value: &str) -> Vec<(String, Vec<(String, String)>)> {
        challenges(value)
            .into_iter()
            .map(|challenge| (challenge.scheme, challenge.parameters))
            .collect()
    }

    #[test]
    fn quoted_commas_and_escapes_stay_in_their_parameter() {
        let bearer = &challenges(
            r#"Bearer realm="https://auth.example/token?a=b,c",service="reg \"x\"",scope="repository:a/b:pull,push""#,
        )[0];
        assert_eq!(bearer.scheme, "bearer");
        assert_eq!(
            bearer.parameter("realm"),
            Some("https://auth.example/token?a=b,c")
        );
        assert_eq!(bearer.parameter("service"), Some("reg \"x\""));
        assert_eq!(bearer.parameter("scope"), Some("repository:a/b:pull,push"));
    }

    #[test]
    fn several_challenges_in_one_value_are_told_apart() {
        let two = parsed(r#"Negotiate, BEARER Realm = "r" , service=s, Basic realm="x""#);
        let schemes: Vec<_> = two.iter().map(|(scheme, _)| scheme.as_str()).collect();
        assert_eq!(schemes, ["negotiate", "bearer", "basic"]);
        assert_eq!(
            two[1].1,
            [("realm".into(), "r".into()), ("service".into(), "s".into())]
        );
    }

    #[test]
    fn an_unclosed_quote_is_no_parameter() {
        assert_eq!(parsed(r#"Basic realm="x"#), [("basic".into(), vec![])]);
        assert_eq!(parsed(""), []);
        assert_eq!(parsed("\"\u{fc}\""), []);
    }

    #[test]
    fn the_next_link_is_found_among_others() {
        assert_eq!(
            next_link(r#"</v2/a/tags/list?last=x&n=2>; rel="next""#),
            Some("/v2/a/tags/list?last=x&n=2")
        );
        assert_eq!(
            next_link(r#"<http://r/a,b>; title="x, y"; rel=prev, <http://r/c>; rel="last Next""#),
            Some("http://r/c")
        );
        assert_eq!(next_link("<http://r/a>; rel=prev"), None);
        assert_eq!(next_link("http://r/a; rel=next"), None);
        assert_eq!(next_link("<http://r/a; rel=next"), None);
    }
}
