//! `/api/v1/dead-letters`: pushes that were given up on.

use axum::{Extension, Json, extract::State};
use globset::GlobMatcher;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use tracing::info;
use utoipa::ToSchema;

use super::{
    super::{Admin, access::Who, cursors::List, problem::Problem, rate::Act},
    Page, Paging, Params,
    deliveries::moment,
    named, order, run, veiled,
};
use crate::{
    dispatch::letters::{LettersError, Refused, Run},
    settings::{KeptLetter, LetterFilter},
    webhook::sign::webhook_id,
};

/// A repository's name, or a pattern for several: characters of names, `*` within a part, `**` across, `?`.
pub(super) const PATTERN: &str = "[a-z0-9._/*?-]+";
pub(super) const PATTERN_MAX: usize = 255;

/// Letters that are named one by one at most.
const IDS_MAX: usize = 1000;

/// Of the letters that were named one by one, the log has the first.
const IDS_NOTED_BYTES_MAX: usize = 200;

/// What becomes of each of so many is looked up while somebody waits for a page.
pub(super) const FORESEEN_MAX: u64 = 2_000;

/// What sending a set again would come to.
pub(in super::super) enum Foreseen<T> {
    /// Of each it was looked up.
    Each(T),
    /// So many are meant, which are too many for that.
    Many(u64),
}

/// A dead letter.
#[derive(Debug, Serialize, ToSchema)]
pub(in super::super) struct LetterView {
    /// Its number.
    pub(in super::super) id: i64,
    /// `dead`, or `replaying`: it is to be sent again.
    #[schema(example = "dead")]
    pub(in super::super) state: String,
    /// The `webhook-id` of its delivery.
    pub(in super::super) webhook_id: String,
    /// The endpoint.
    pub(in super::super) endpoint: String,
    /// The repository.
    pub(in super::super) repository: String,
    /// The tag; null when it was pushed by digest.
    pub(in super::super) tag: Option<String>,
    /// What was pushed.
    pub(in super::super) digest: String,
    /// The registry's event id.
    pub(in super::super) event_id: Option<String>,
    /// When the push was taken.
    pub(in super::super) taken_at: String,
    /// When it was given up on.
    pub(in super::super) died_at: String,
    /// Why.
    pub(in super::super) reason: String,
    /// How many attempts there were; null when that is not known: the push was taken before the last start.
    pub(in super::super) attempts: Option<u32>,
}

impl From<KeptLetter> for LetterView {
    fn from(kept: KeptLetter) -> Self {
        let letter = kept.letter;
        Self {
            id: kept.id,
            state: kept.state.as_str().to_owned(),
            webhook_id: webhook_id(letter.journal, letter.sequence, &letter.endpoint),
            endpoint: letter.endpoint.to_string(),
            repository: letter.repository.to_string(),
            tag: letter.tag.map(|tag| tag.to_string()),
            digest: letter.digest.to_string(),
            event_id: named(&letter.event_id),
            taken_at: letter.taken_at.to_string(),
            died_at: letter.died_at.to_string(),
            reason: letter.reason,
            attempts: letter.attempts,
        }
    }
}

/// Which dead letters are meant.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in super::super) struct LetterQuery {
    pub(in super::super) id: Option<String>,
    pub(in super::super) endpoint: Option<String>,
    pub(in super::super) repository: Option<String>,
    pub(in super::super) tag: Option<String>,
    pub(in super::super) since: Option<String>,
    pub(in super::super) until: Option<String>,
    pub(in super::super) limit: Option<u32>,
    pub(in super::super) cursor: Option<String>,
    pub(in super::super) dry_run: Option<bool>,
    pub(in super::super) force: Option<bool>,
}

impl LetterQuery {
    /// What is asked for.
    pub(in super::super) fn filter(&self) -> Result<LetterFilter, Problem> {
        // One that is empty is refused: a script's variable may have been unset, and a filter that is left out lets more in.
        let ids = self.id.as_ref().map(|ids| ids.split(',').map(number).collect());
        let ids: Vec<i64> = ids
            .unwrap_or(Some(Vec::new()))
            .ok_or_else(|| Problem::parameter("id", "numbers of dead letters, with commas between them"))?;
        if ids.len() > IDS_MAX {
            return Err(Problem::parameter("id", format!("at most {IDS_MAX} at once")));
        }
        let endpoint = self.endpoint.as_deref().map(super::endpoints::named);
        let tag = self.tag.as_deref().map(str::parse).transpose();
        Ok(LetterFilter {
            ids,
            endpoint: endpoint.transpose()?,
            repository: self.repository.as_deref().map(pattern).transpose()?,
            seen: None,
            tag: tag.map_err(|error| Problem::parameter("tag", format!("{error}")))?,
            since: moment("since", self.since.as_deref())?,
            until: moment("until", self.until.as_deref())?,
        })
    }
}

/// A number of digits alone.
fn number(text: &str) -> Option<i64> {
    text.parse()
        .ok()
        .filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

fn pattern(text: &str) -> Result<GlobMatcher, Problem> {
    let is_known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._/*?-".contains(&byte);
    let is_one = (1..=PATTERN_MAX).contains(&text.len()) && text.bytes().all(is_known);
    let glob = is_one.then(|| crate::glob::parse(text).ok()).flatten();
    let glob =
        glob.ok_or_else(|| Problem::parameter("repository", "a name, or a pattern such as acme/**"))?;
    Ok(glob.compile_matcher())
}

impl From<LettersError> for Problem {
    fn from(error: LettersError) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()).retry_after(5)
    }
}

/// Dead letters by number, the newest first.
///
/// One that is given up on again keeps its number, and its place. A page may have fewer than were asked for, or none,
/// and a `next` all the same: only so many are looked at for each.
#[utoipa::path(
    get, path = "/api/v1/dead-letters", tag = "deliveries", operation_id = "dead_letters",
    params(
        ("id" = Option<String>, Query, description = "Their numbers, with commas between them"),
        ("endpoint" = Option<String>, Query, description = "For this endpoint alone"),
        ("repository" = Option<String>, Query, description = "Of this repository, or of those that match", example = "acme/**"),
        ("tag" = Option<String>, Query, description = "Of this tag alone"),
        ("since" = Option<String>, Query, description = "Given up on then or later, RFC 3339"),
        ("until" = Option<String>, Query, description = "Given up on before, RFC 3339"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Items of a page, 50 unless told"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
    ),
    responses((status = 200, body = Page<LetterView>, description = "A page of dead letters"))
)]
pub(super) async fn list(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Params(query): Params<LetterQuery>,
) -> Result<Json<Page<LetterView>>, Problem> {
    listed(&admin, &who, &query).await.map(Json)
}

/// One page of dead letters.
pub(in super::super) async fn listed(
    admin: &Admin,
    who: &Who,
    query: &LetterQuery,
) -> Result<Page<LetterView>, Problem> {
    let paging = Paging::new(admin, List::DeadLetters, query.limit, query.cursor.clone());
    let (limit, after) = (paging.limit()?, paging.after::<i64>()?);
    let filter = LetterFilter {
        seen: who.seen(),
        ..query.filter()?
    };
    let letters = admin.parts().dispatcher.dead_letters();
    let page = letters.list(filter, after, limit).await?;
    let items = page.letters.into_iter().map(|mut kept| {
        let (endpoint, reason) = (&kept.letter.endpoint, kept.letter.reason);
        kept.letter.reason = veiled::reason(who, endpoint, reason);
        LetterView::from(kept)
    });
    Ok(Page {
        items: items.collect(),
        next: paging.next(page.next.as_ref()),
    })
}

/// What a replay comes to, or would.
#[derive(Debug, Serialize, ToSchema)]
pub(in super::super) struct ReplayView {
    /// Whether it was only counted.
    pub(in super::super) dry_run: bool,
    /// Dead letters that are meant, and are not on their way already.
    pub(in super::super) matched: u64,
    /// Those of them that are sent again.
    pub(in super::super) replayed: u64,
    /// Those that stay, because there is a newer push of their tag; `force=true` sends them too.
    pub(in super::super) passed_over: u64,
    /// Those that stay, because nothing can be sent to their endpoints.
    pub(in super::super) refused: Vec<RefusedView>,
}

/// Deliveries for an endpoint that nothing can be sent to.
#[derive(Debug, Serialize, ToSchema)]
pub(in super::super) struct RefusedView {
    /// The endpoint.
    pub(in super::super) endpoint: String,
    /// How many.
    pub(in super::super) letters: u64,
    /// Why.
    pub(in super::super) reason: String,
}

/// Sends dead letters again, in the order of their pushes, at the pace of their endpoints, also after a restart.
#[utoipa::path(
    post, path = "/api/v1/dead-letters/replay", tag = "deliveries", operation_id = "replay_dead_letters",
    params(
        ("id" = Option<String>, Query, description = "Their numbers, with commas between them"),
        ("endpoint" = Option<String>, Query, description = "For this endpoint alone"),
        ("repository" = Option<String>, Query, description = "Of this repository, or of those that match", example = "acme/**"),
        ("tag" = Option<String>, Query, description = "Of this tag alone"),
        ("since" = Option<String>, Query, description = "Given up on then or later, RFC 3339"),
        ("until" = Option<String>, Query, description = "Given up on before, RFC 3339"),
        ("dry_run" = Option<bool>, Query, description = "Count only"),
        ("force" = Option<bool>, Query, description = "Also those of which a newer push of the same tag is known"),
    ),
    responses(
        (status = 200, body = ReplayView, description = "How many are sent again, or would be"),
        (
            status = 429, body = Problem, content_type = "application/problem+json", description = "One had 60 sets sent again (or 60 counted) within a minute",
            headers(("Retry-After" = u64, description = "In how many seconds it may go better")),
        ),
    )
)]
pub(super) async fn replay(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Params(query): Params<LetterQuery>,
) -> Result<Json<ReplayView>, Problem> {
    replayed(&admin, &who, &query).await.map(Json)
}

/// Whoever may not change everything names one repository that may be changed.
pub(super) fn allowed(who: &Who, repository: Option<&str>) -> Result<(), Problem> {
    if who.may_administer() {
        return Ok(());
    }
    match repository.map(str::parse) {
        Some(Ok(name)) => who.edit(&name),
        _ => Err(Problem::new(
            StatusCode::FORBIDDEN,
            "name one repository that you may change: repository=acme/app",
        )),
    }
}

/// What a replay comes to, or would.
pub(in super::super) async fn replayed(
    admin: &Admin,
    who: &Who,
    query: &LetterQuery,
) -> Result<ReplayView, Problem> {
    let run = run(query.dry_run);
    replay_of(admin, who, query, meant(admin, who, query, run)?, run).await
}

/// What a replay would come to, unless so many are meant that somebody who waits for it is only told how many.
pub(in super::super) async fn foreseen(
    admin: &Admin,
    who: &Who,
    query: &LetterQuery,
) -> Result<Foreseen<ReplayView>, Problem> {
    let filter = meant(admin, who, query, Run::Dry)?;
    let letters = admin.parts().dispatcher.dead_letters();
    let count = letters.count(filter.clone()).await?.dead;
    if count > FORESEEN_MAX {
        return Ok(Foreseen::Many(count));
    }
    let view = replay_of(admin, who, query, filter, Run::Dry).await;
    view.map(Foreseen::Each)
}

/// The letters that somebody means who may have them sent again now.
fn meant(admin: &Admin, who: &Who, query: &LetterQuery, run: Run) -> Result<LetterFilter, Problem> {
    allowed(who, query.repository.as_deref())?;
    let filter = query.filter()?;
    admin.parts().rates.allow(Act::Set(who.name.clone(), run))?;
    Ok(filter)
}

async fn replay_of(
    admin: &Admin,
    who: &Who,
    query: &LetterQuery,
    filter: LetterFilter,
    run: Run,
) -> Result<ReplayView, Problem> {
    let letters = admin.parts().dispatcher.dead_letters();
    let replayed = letters
        .replay(filter, order(query.force), run, who.authority())
        .await?;
    if run == Run::Real {
        note(who, query, Some(replayed.replayed), "dead letters replayed");
    }
    Ok(ReplayView {
        dry_run: run == Run::Dry,
        matched: replayed.matched,
        replayed: replayed.replayed,
        passed_over: replayed.passed_over,
        refused: replayed.refused.into_iter().map(RefusedView::from).collect(),
    })
}

/// Notes down what somebody did with the letters that a filter means, and with how many; not known when it failed.
fn note(who: &Who, query: &LetterQuery, letters: Option<u64>, what: &str) {
    let id = query
        .id
        .as_deref()
        .map(|ids| ids.get(..IDS_NOTED_BYTES_MAX).unwrap_or(ids));
    info!(
        target: "shipbell::audit", by = %who.name, letters, id, repository = query.repository,
        endpoint = query.endpoint, tag = query.tag, since = query.since, until = query.until, force = query.force,
        "{what}"
    );
}

impl From<Refused> for RefusedView {
    fn from(refused: Refused) -> Self {
        Self {
            endpoint: refused.endpoint.to_string(),
            letters: refused.letters,
            reason: refused.reason,
        }
    }
}

/// How many dead letters were let go of.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Discarded {
    /// So many, or so many would be.
    discarded: u64,
}

/// Lets go of dead letters for good. All of them only when asked for by `id`, or with any other filter.
#[utoipa::path(
    delete, path = "/api/v1/dead-letters", tag = "deliveries", operation_id = "discard_dead_letters",
    params(
        ("id" = Option<String>, Query, description = "Their numbers, with commas between them"),
        ("endpoint" = Option<String>, Query, description = "For this endpoint alone"),
        ("repository" = Option<String>, Query, description = "Of this repository, or of those that match", example = "acme/**"),
        ("tag" = Option<String>, Query, description = "Of this tag alone"),
        ("since" = Option<String>, Query, description = "Given up on then or later, RFC 3339"),
        ("until" = Option<String>, Query, description = "Given up on before, RFC 3339"),
        ("dry_run" = Option<bool>, Query, description = "Count only"),
    ),
    responses((status = 200, body = Discarded, description = "How many were discarded"))
)]
pub(super) async fn discard(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Params(query): Params<LetterQuery>,
) -> Result<Json<Discarded>, Problem> {
    allowed(&who, query.repository.as_deref())?;
    let filter = query.filter()?;
    let given = [
        &query.id,
        &query.endpoint,
        &query.repository,
        &query.tag,
        &query.since,
        &query.until,
    ];
    if given.into_iter().all(Option::is_none) {
        let detail = "say which: by id, endpoint, repository (** for all), tag, since or until";
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail));
    }
    let letters = admin.parts().dispatcher.dead_letters();
    let discarded = if query.dry_run == Some(true) {
        letters.count(filter).await?.letters
    } else {
        let discarded = letters.discard(filter).await;
        // When it failed, some may be gone.
        note(
            &who,
            &query,
            discarded.as_ref().ok().copied(),
            "dead letters discarded",
        );
        discarded?
    };
    Ok(Json(Discarded { discarded }))
}
