//! `/repositories/{name}`: its webhook, and what was sent.

use askama::Template;
use axum::{
    Extension,
    body::Bytes,
    extract::{Path, State},
    response::{IntoResponse, Redirect, Response},
};
use http::StatusCode;
use serde::Deserialize;

use super::{
    super::{
        Admin,
        access::Who,
        api::{
            self, Params,
            deliveries::{DeliveryQuery, DeliveryView, listed},
            endpoints::EndpointView,
            send::{SentView, tested},
            webhooks::rotated,
        },
        draft::{EVERY_TAG, WebhookDraft},
        problem::Problem,
        webhooks::{ChangeError, WebhookView},
    },
    form, href, page, problem,
};
use crate::{image::RepositoryName, push::EndpointId, settings::Expected};

/// So many deliveries stand on the page.
const DELIVERIES: u32 = 20;

#[derive(Default, Template)]
#[template(path = "repository.html")]
struct RepositoryPage {
    name: String,
    href: String,
    notice: String,
    problem: String,
    secret: String,
    version: String,
    url: String,
    url_error: String,
    tags: String,
    tags_error: String,
    enabled: bool,
    exists: bool,
    state: String,
    reason: String,
    has_secret: bool,
    previous_until: String,
    sent: Option<SentView>,
    operators: Vec<EndpointView>,
    deliveries: Vec<DeliveryView>,
}

impl RepositoryPage {
    /// What is there now.
    async fn of(admin: &Admin, who: &Who, name: &RepositoryName) -> Result<Self, Problem> {
        who.see(name)?;
        let webhook = admin.parts().webhooks.get(name).await?;
        let query = DeliveryQuery {
            repository: Some(name.to_string()),
            limit: Some(DELIVERIES),
            ..DeliveryQuery::default()
        };
        let endpoints = &admin.parts().endpoints;
        let concerned = endpoints.concerned(name);
        let operators = concerned
            .iter()
            .filter(|id| matches!(id, EndpointId::Named(_)))
            .filter_map(|id| endpoints.get(id))
            .map(|endpoint| EndpointView::of(admin, &endpoint));
        let mut shown = Self {
            name: name.to_string(),
            href: href(name.as_str()),
            tags: EVERY_TAG.to_owned(),
            enabled: true,
            operators: operators.collect(),
            deliveries: listed(admin, who, query).await?.items,
            ..Self::default()
        };
        if let Some(webhook) = webhook {
            shown.fill(&webhook);
            let view = admin.parts().states.view(&EndpointId::Repository(name.clone()));
            view.state.as_str().clone_into(&mut shown.state);
            shown.reason = view.reason;
        }
        Ok(shown)
    }

    fn fill(&mut self, webhook: &WebhookView) {
        self.exists = true;
        self.version = webhook.version.to_string();
        self.url.clone_from(&webhook.url);
        self.tags = webhook.tags.join(", ");
        self.enabled = webhook.enabled;
        self.has_secret = webhook.has_secret;
        self.previous_until = webhook.previous_secret_until.clone().unwrap_or_default();
    }
}

#[derive(Deserialize)]
pub(super) struct OpenQuery {
    name: Option<String>,
}

/// To the page of a repository that was named.
pub(super) async fn open(Params(query): Params<OpenQuery>) -> Response {
    let name = query.name.unwrap_or_default();
    match api::repository(name.trim()) {
        Ok(name) => Redirect::to(&href(name.as_str())).into_response(),
        Err(error) => problem(&error),
    }
}

#[derive(Deserialize)]
pub(super) struct ShowQuery {
    saved: Option<String>,
}

pub(super) async fn show(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
    Params(query): Params<ShowQuery>,
) -> Response {
    let shown = async {
        let name = api::repository(&name)?;
        RepositoryPage::of(&admin, &who, &name).await
    };
    match shown.await {
        Ok(mut shown) => {
            if query.saved.is_some() {
                "Saved. The next push goes there.".clone_into(&mut shown.notice);
            }
            page(StatusCode::OK, &shown)
        }
        Err(error) => problem(&error),
    }
}

pub(super) async fn save(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
    body: Bytes,
) -> Response {
    let fields = form(&body);
    let field = |name: &str| {
        fields
            .get(name)
            .map(|text| text.trim().to_owned())
            .unwrap_or_default()
    };
    let tags = field("tags")
        .split(',')
        .map(|tag| tag.trim().to_owned())
        .collect();
    let draft = WebhookDraft {
        url: Some(field("url")),
        tags: Some(tags),
        enabled: Some(fields.contains_key("enabled")),
        ..WebhookDraft::default()
    };
    let expected = match field("version").parse() {
        Ok(version) => Expected::Version(version),
        Err(_) => Expected::Absent,
    };
    let name = match api::repository(&name).and_then(|name| who.edit(&name).map(|()| name)) {
        Ok(name) => name,
        Err(error) => return problem(&error),
    };
    let webhooks = &admin.parts().webhooks;
    let put = webhooks.put(&name, draft, Some(expected), &who.name).await;
    let Err(refused) = put else {
        return Redirect::to(&format!("{}?saved=1", href(name.as_str()))).into_response();
    };
    let mut shown = match RepositoryPage::of(&admin, &who, &name).await {
        Ok(shown) => shown,
        Err(error) => return problem(&error),
    };
    let status = Problem::from(refuse(&mut shown, refused)).status();
    // What was typed, to be mended; what is there instead is said.
    shown.url = field("url");
    shown.tags = field("tags");
    shown.enabled = fields.contains_key("enabled");
    page(status, &shown)
}

/// Says at its field why something was refused.
fn refuse(shown: &mut RepositoryPage, refused: ChangeError) -> ChangeError {
    match &refused {
        ChangeError::Invalid(errors) => {
            for error in errors {
                let place = match error.pointer.as_str() {
                    "/url" => &mut shown.url_error,
                    pointer if pointer.starts_with("/tags") => &mut shown.tags_error,
                    _ => &mut shown.problem,
                };
                place.clone_from(&error.detail);
            }
        }
        ChangeError::Changed | ChangeError::Unconditional => {
            shown.problem = if shown.exists {
                format!(
                    "Somebody else changed it meanwhile: it goes to {} now. Save again to have it your way.",
                    shown.url
                )
            } else {
                "Somebody else removed it meanwhile. Save again to set it anew.".to_owned()
            };
        }
        other => shown.problem = other.to_string(),
    }
    refused
}

/// The page, with what came of something that was done.
async fn after(
    admin: &Admin,
    who: &Who,
    name: &RepositoryName,
    tell: impl FnOnce(&mut RepositoryPage),
) -> Response {
    match RepositoryPage::of(admin, who, name).await {
        Ok(mut shown) => {
            tell(&mut shown);
            page(StatusCode::OK, &shown)
        }
        Err(error) => problem(&error),
    }
}

pub(super) async fn test(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
) -> Response {
    let name = match api::repository(&name) {
        Ok(name) => name,
        Err(error) => return problem(&error),
    };
    let sent = tested(&admin, &who, &name).await;
    after(&admin, &who, &name, |shown| match sent {
        Ok(sent) => shown.sent = Some(sent),
        Err(error) => shown.problem = error.detail,
    })
    .await
}

pub(super) async fn rotate(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
) -> Response {
    let name = match api::repository(&name).and_then(|name| who.edit(&name).map(|()| name)) {
        Ok(name) => name,
        Err(error) => return problem(&error),
    };
    let made = rotated(&admin, &who, &name, None).await;
    after(&admin, &who, &name, |shown| match made {
        Ok(made) => shown.secret = made.secret,
        Err(error) => shown.problem = error.detail,
    })
    .await
}

pub(super) async fn remove(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
    body: Bytes,
) -> Response {
    let name = match api::repository(&name).and_then(|name| who.edit(&name).map(|()| name)) {
        Ok(name) => name,
        Err(error) => return problem(&error),
    };
    let version = form(&body)
        .get("version")
        .and_then(|version| version.parse().ok());
    let expected = version.map(Expected::Version);
    let removed = admin.parts().webhooks.remove(&name, expected, &who.name).await;
    after(&admin, &who, &name, |shown| match removed {
        Ok(()) => "Removed. What it was still owed became dead letters.".clone_into(&mut shown.notice),
        Err(error) => shown.problem = error.to_string(),
    })
    .await
}
