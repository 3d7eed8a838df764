//! `/api/v1/configuration`: which configuration is in effect, and what is wrong with a newer one.

use axum::{Extension, Json, extract::State};
use http::StatusCode;

use super::super::{Admin, access::Who, configuration::ConfigurationView, problem::Problem};

/// The configuration in effect. For those who see every repository.
#[utoipa::path(
    get, path = "/api/v1/configuration", tag = "endpoints", operation_id = "configuration",
    responses((status = 200, body = ConfigurationView, description = "What was read, and what came of it"))
)]
pub(super) async fn get(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
) -> Result<Json<ConfigurationView>, Problem> {
    if !who.sees_all() {
        let detail = "the configuration is for those who see every repository";
        return Err(Problem::new(StatusCode::FORBIDDEN, detail));
    }
    Ok(Json(admin.parts().configuration.view()))
}
