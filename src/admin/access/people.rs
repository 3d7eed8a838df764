//! Somebody who came in, and what may be done by them.

use std::sync::Arc;

use globset::GlobSet;
use http::StatusCode;

use super::super::problem::Problem;
use crate::{image::RepositoryName, push::EndpointId};

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

/// Somebody who came in.
#[derive(Clone, Debug)]
pub struct Who {
    /// As the audit log has it.
    pub name: Arc<str>,
    /// What may be done.
    pub role: Role,
    /// With which repositories; `None` is all.
    pub repositories: Option<Arc<GlobSet>>,
}

impl Who {
    /// Somebody who may do everything.
    #[must_use]
    pub fn admin(name: &str) -> Self {
        Self {
            name: name.into(),
            role: Role::Admin,
            repositories: None,
        }
    }

    /// Whether the repository may be looked at.
    #[must_use]
    pub fn may_see(&self, repository: &str) -> bool {
        self.repositories
            .as_ref()
            .is_none_or(|patterns| patterns.is_match(repository))
    }

    /// Whether it may be known where the endpoint is. Whoever sees one repository knows which of the operator's
    /// endpoints get its pushes and how they are, and no more of them.
    #[must_use]
    pub fn may_locate(&self, endpoint: &EndpointId) -> bool {
        match endpoint {
            EndpointId::Named(_) => self.repositories.is_none(),
            EndpointId::Repository(name) => self.may_see(name.as_str()),
        }
    }

    /// Whether what belongs to the repository may be changed.
    #[must_use]
    pub fn may_edit(&self, repository: &str) -> bool {
        self.role >= Role::Editor && self.may_see(repository)
    }

    /// Whether everything may be changed.
    #[must_use]
    pub fn may_administer(&self) -> bool {
        self.role == Role::Admin && self.repositories.is_none()
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
        if self.role >= Role::Editor {
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

    #[expect(clippy::unused_self, reason = "somebody is refused")]
    fn refused(&self, detail: &str) -> Problem {
        Problem::new(StatusCode::FORBIDDEN, detail)
    }
}
