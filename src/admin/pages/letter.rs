//! `/dead-letters/{id}`: one that was given up on, kept up to date until it is none any more.

use askama::Template;
use axum::{
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;

use super::{
    super::{
        Admin,
        access::Who,
        api::{
            self, Params,
            deliveries::found,
            letters::{LetterQuery, LetterView, listed},
        },
        problem::Problem,
    },
    LiveQuery,
    deliveries::Attempted,
    frame::{Frame, Visitor},
    href,
    letters::{LIST, image},
    link, page, segment, sentence,
    when::When,
};

/// Which letter a page is about, also once it is none any more.
#[derive(Clone, Debug)]
pub(super) struct Known {
    id: i64,
    webhook_id: String,
    repository: String,
}

#[derive(Template)]
#[template(path = "letter.html")]
struct LetterPage {
    frame: Frame,
    image: String,
    repository: String,
    href: String,
    state: LetterState,
    last: LastAttempt,
}

/// How it is with a letter.
#[derive(Template)]
#[template(path = "letter_state.html")]
pub(super) struct LetterState {
    /// `None` once it is none any more.
    letter: Option<LetterView>,
    taken: Option<When>,
    died: Option<When>,
    /// Where it can be sent again; empty for those who may not.
    replay: String,
}

/// The last that was tried.
#[derive(Template)]
#[template(path = "letter_last.html")]
pub(super) struct LastAttempt {
    /// Where its delivery is, if the history knows it.
    delivery: String,
    /// Why the history can't be read; empty when it can.
    unread: String,
    last: Option<Attempted>,
}

async fn letter(admin: &Admin, who: &Who, id: i64) -> Result<Option<LetterView>, Problem> {
    let query = LetterQuery {
        id: Some(id.to_string()),
        ..LetterQuery::default()
    };
    Ok(listed(admin, who, &query).await?.items.pop())
}

/// The letter of that number, which has to be one now.
pub(super) async fn known(admin: &Admin, who: &Who, text: &str) -> Result<(Known, LetterView), Problem> {
    let absent = |_| Problem::absent(format!("there is no dead letter {text}"));
    let id = text.parse().map_err(absent)?;
    let letter = letter(admin, who, id).await?;
    let letter = letter.ok_or_else(|| Problem::absent(format!("there is no dead letter {id} any more")))?;
    let known = Known {
        id,
        webhook_id: letter.webhook_id.clone(),
        repository: letter.repository.clone(),
    };
    Ok((known, letter))
}

/// What changes on a letter's page.
pub(super) async fn parts(
    admin: &Admin,
    who: &Who,
    known: &Known,
) -> Result<(LetterState, LastAttempt), Problem> {
    // Whoever may not see it any more learns nothing of it, not that it is gone either.
    who.see(&api::repository(&known.repository)?)?;
    let there = letter(admin, who, known.id).await?;
    parts_of(admin, who, known, there).await
}

async fn parts_of(
    admin: &Admin,
    who: &Who,
    known: &Known,
    letter: Option<LetterView>,
) -> Result<(LetterState, LastAttempt), Problem> {
    let now = admin.parts().clock.now();
    let mut last = LastAttempt {
        delivery: String::new(),
        unread: String::new(),
        last: None,
    };
    match found(admin, who, &known.webhook_id).await {
        Ok((_, mut delivery)) => {
            last.delivery = format!("/deliveries/{}", segment(&known.webhook_id));
            last.last = delivery.attempts.pop().map(|last| Attempted::of(last, now));
        }
        Err(error) if error.status().is_server_error() => last.unread = sentence(&error.detail),
        Err(_) => {}
    }
    let is_dead = |letter: &&LetterView| letter.state == "dead" && who.may_edit(&letter.repository);
    let replay = letter.as_ref().filter(is_dead).map(|letter| {
        let number = letter.id.to_string();
        let one = [("id", number.as_str()), ("repository", &letter.repository)];
        link("/dead-letters/replay", &one)
    });
    let moment = |text: Option<&String>| When::read(text.map(String::as_str), now);
    let state = LetterState {
        taken: moment(letter.as_ref().map(|letter| &letter.taken_at)),
        died: moment(letter.as_ref().map(|letter| &letter.died_at)),
        replay: replay.unwrap_or_default(),
        letter,
    };
    Ok((state, last))
}

pub(super) async fn show(
    State(admin): State<Admin>,
    visitor: Visitor,
    Path(id): Path<String>,
    Params(query): Params<LiveQuery>,
) -> Result<Response, Problem> {
    let (known, letter) = known(&admin, &visitor.who, &id).await?;
    let (image, repository) = (image(&letter), letter.repository.clone());
    let (state, last) = parts_of(&admin, &visitor.who, &known, Some(letter)).await?;
    let mut shown = LetterPage {
        frame: visitor.frame,
        image,
        href: href(&repository),
        repository,
        state,
        last,
    };
    let here = format!("{LIST}/{}", known.id);
    let stream = format!("/live{here}");
    shown.frame.keep_up(query.live.as_deref(), &here, stream);
    Ok(page(StatusCode::OK, &shown))
}
