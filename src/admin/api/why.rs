//! `/api/v1/why`: the whole story of a push.

use axum::{Extension, Json, extract::State};
use http::StatusCode;
use serde::Deserialize;

use super::{
    super::{Admin, access::Who, problem::Problem},
    Params, history_just_now, veiled,
};
use crate::catalog::{Sought, Stories, json::StoriesDocument};

/// Pushes that are told at most, the newest.
const STORIES_MAX: u32 = 20;

#[derive(Debug, Deserialize)]
pub(super) struct WhyQuery {
    image: Option<String>,
    event: Option<String>,
}

/// What became of a push: taken, by which rule it was dropped, how it was sized, each attempt.
#[utoipa::path(
    get, path = "/api/v1/why", tag = "deliveries", operation_id = "why",
    params(
        ("image" = Option<String>, Query, description = "An image or a repository", example = "acme/app:1.4"),
        ("event" = Option<String>, Query, description = "The registry's id of the event, or a webhook-id"),
    ),
    responses(
        (status = 200, body = StoriesDocument, description = "`pushes` and `dropped`, newest first"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "Nothing is known"),
    )
)]
pub(super) async fn why(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Params(query): Params<WhyQuery>,
) -> Result<Json<StoriesDocument>, Problem> {
    let (name, asked) = match (query.image, query.event) {
        (Some(image), None) => ("image", image),
        (None, Some(event)) => ("event", event),
        _ => {
            let detail = "say either image or event";
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail));
        }
    };
    let readings = readings(asked.trim(), &admin.parts().public_host);
    let readings = readings.map_err(|error| Problem::parameter(name, error))?;
    let found = history_just_now(&admin, move |reader| {
        for sought in &readings {
            let stories = reader.stories(sought, None, STORIES_MAX)?;
            if !stories.pushes.is_empty() || !stories.dropped.is_empty() {
                return Ok(Some(stories));
            }
        }
        Ok(None)
    });
    let mut found: Stories = found.await?.unwrap_or_default();
    found.pushes.retain(|push| who.may_see(&push.repository));
    for delivery in found.pushes.iter_mut().flat_map(|push| &mut push.deliveries) {
        veiled::delivery(&admin, &who, delivery);
    }
    found.dropped.retain(|push| who.may_see(&push.repository));
    if found.pushes.is_empty() && found.dropped.is_empty() {
        return Err(Problem::absent(format!("nothing is known of {asked}")));
    }
    Ok(Json((&found).into()))
}

/// What `text` can mean, as it is and without the registry's public host in front.
fn readings(text: &str, public_host: &str) -> Result<Vec<Sought>, String> {
    let whole = Sought::readings(text);
    let Some(Ok(behind)) = Sought::without_host(text, public_host).map(Sought::readings) else {
        return whole;
    };
    let mut readings = whole.unwrap_or_default();
    readings.extend(behind);
    Ok(readings)
}
