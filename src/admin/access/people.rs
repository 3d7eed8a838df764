//! Somebody who came in, and what may be done by them.

use std::sync::Arc;

use http::StatusCode;

use super::super::problem::Problem;
use crate::{
    dispatch::authority::Authority,
    glob::{Patterns, Seen},
    image::RepositoryName,
    push::EndpointId,
};

/// What somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look.
    Viewer,
    /// Change what belongs to repositories.
    Editor,
    /// Everything.
    Admin,
}

impl Role {
    /// Its name, as the configuration has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Editor => "editor",
            Self::Admin => "admin",
        }
    }
}

/// A role, and for which repositories.
#[derive(Clone, Debug)]
pub struct Grant {
    /// What may be done.
    pub role: Role,
    /// With which repositories; `None` is all.
    pub repositories: Option<Arc<Patterns>>,
}

impl Grant {
    fn covers(&self, repository: &str) -> bool {
        let patterns = self.repositories.as_ref();
        patterns.is_none_or(|patterns| patterns.is_match(repository))
    }
}

/// Somebody who came in. Of several grants the strongest counts that is for the repository in question: a role that is
/// for some repositories says nothing of others.
#[derive(Clone, Debug)]
pub struct Who {
    /// As the audit log has it.
    pub name: Arc<str>,
    grants: Vec<Grant>,
}

impl Who {
    /// Somebody who may do what these allow.
    #[must_use]
    pub fn new(name: Arc<str>, grants: Vec<Grant>) -> Self {
        Self { name, grants }
    }

    /// Somebody who may do everything.
    #[must_use]
    pub fn admin(name: &str) -> Self {
        let everything = Grant {
            role: Role::Admin,
            repositories: None,
        };
        Self::new(name.into(), vec![everything])
    }

    /// The strongest of their roles, be it for some repositories alone.
    #[must_use]
    pub fn role(&self) -> Role {
        let roles = self.grants.iter().map(|grant| grant.role);
        roles.max().unwrap_or(Role::Viewer)
    }

    fn role_for(&self, repository: &str) -> Option<Role> {
        let grants = self.grants.iter().filter(|grant| grant.covers(repository));
        grants.map(|grant| grant.role).max()
    }

    /// Whether every repository may be looked at.
    #[must_use]
    pub fn sees_all(&self) -> bool {
        self.grants.iter().any(|grant| grant.repositories.is_none())
    }

    /// Whether the repository may be looked at.
    #[must_use]
    pub fn may_see(&self, repository: &str) -> bool {
        self.role_for(repository).is_some()
    }

    /// The repositories that may be looked at; `None` if every one may.
    #[must_use]
    pub fn seen(&self) -> Option<Seen> {
        let patterns = self.grants.iter().map(|grant| grant.repositories.clone());
        patterns.collect::<Option<Vec<_>>>().map(Seen)
    }

    /// Whether it may be known where the endpoint is. Whoever sees one repository knows which of the operator's
    /// endpoints get its pushes and how they are, and no more of them.
    #[must_use]
    pub fn may_locate(&self, endpoint: &EndpointId) -> bool {
        match endpoint {
            EndpointId::Named(_) => self.sees_all(),
            EndpointId::Repository(name) => self.may_see(name.as_str()),
        }
    }

    /// Whether what belongs to the repository may be changed.
    #[must_use]
    pub fn may_edit(&self, repository: &str) -> bool {
        self.role_for(repository) >= Some(Role::Editor)
    }

    /// Whether everything may be changed.
    #[must_use]
    pub fn may_administer(&self) -> bool {
        let is_everything = |grant: &Grant| grant.role == Role::Admin && grant.repositories.is_none();
        self.grants.iter().any(is_everything)
    }

    /// Whether the endpoint may be changed.
    #[must_use]
    pub fn may_change(&self, endpoint: &EndpointId) -> bool {
        match endpoint {
            EndpointId::Named(_) => self.may_administer(),
            EndpointId::Repository(name) => self.may_edit(name.as_str()),
        }
    }

    /// That the repository may be looked at.
    ///
    /// # Errors
    /// It may not.
    pub fn see(&self, repository: &RepositoryName) -> Result<(), Problem> {
        if self.may_see(repository.as_str()) {
            return Ok(());
        }
        Err(self.refused(&format!("{} may not see {repository}", self.name)))
    }

    /// That what belongs to the repository may be changed.
    ///
    /// # Errors
    /// It may not.
    pub fn edit(&self, repository: &RepositoryName) -> Result<(), Problem> {
        self.see(repository)?;
        if self.may_edit(repository.as_str()) {
            return Ok(());
        }
        Err(self.refused(&format!(
            "{} may look at {repository}, and change nothing",
            self.name
        )))
    }

    /// That everything may be changed.
    ///
    /// # Errors
    /// It may not.
    pub fn administer(&self) -> Result<(), Problem> {
        if self.may_administer() {
            return Ok(());
        }
        Err(self.refused("this is for admins of all repositories"))
    }

    /// Over which endpoints they decide, as far as that matters to what they send again.
    #[must_use]
    pub fn authority(&self) -> Authority {
        if self.may_administer() {
            Authority::Endpoint
        } else {
            Authority::Repositories
        }
    }

    #[expect(clippy::unused_self, reason = "somebody is refused")]
    fn refused(&self, detail: &str) -> Problem {
        Problem::new(StatusCode::FORBIDDEN, detail)
    }
}

#[cfg(test)]
mod tests {
    use globset::Glob;

    use super::*;

    fn grant(role: Role, pattern: Option<&str>) -> Grant {
        let set = |pattern| Patterns::new(&[Glob::new(pattern).unwrap()]).unwrap();
        Grant {
            role,
            repositories: pattern.map(|pattern| Arc::new(set(pattern))),
        }
    }

    #[test]
    fn a_role_is_for_its_own_repositories_and_the_strongest_of_those_counts() {
        let who = Who::new(
            "ann".into(),
            vec![
                grant(Role::Viewer, Some("acme/**")),
                grant(Role::Editor, Some("acme/app")),
                grant(Role::Admin, Some("other/**")),
            ],
        );
        assert_eq!(who.role(), Role::Admin);
        assert!(who.may_edit("acme/app") && who.may_edit("other/app"));
        assert!(who.may_see("acme/web") && !who.may_edit("acme/web"));
        assert!(!who.may_see("third/app"));
        assert!(
            !who.sees_all() && !who.may_administer(),
            "an admin of some is none of all"
        );
        let all = Who::new(
            "eve".into(),
            vec![grant(Role::Viewer, None), grant(Role::Admin, Some("acme/**"))],
        );
        assert!(all.sees_all() && !all.may_administer());
        assert!(all.may_edit("acme/app") && !all.may_edit("other/app") && all.may_see("other/app"));
        let nobody = Who::new("oda".into(), Vec::new());
        assert!(nobody.seen().is_some_and(|seen| !seen.is_match("acme/app")) && all.seen().is_none());
        assert!(
            who.seen()
                .is_some_and(|seen| seen.is_match("acme/web") && !seen.is_match("third/app"))
        );
        assert!(!nobody.may_see("acme/app") && !nobody.sees_all() && !nobody.may_administer());
    }
}
