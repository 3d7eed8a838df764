//! The repositories' own webhooks, as they are kept.

use rusqlite::{Connection, OptionalExtension, Row, named_params, types::Type};

use crate::{clock::Timestamp, image::RepositoryName};

/// One repository's webhook as it was saved. Holds secrets in the clear: never print it.
#[derive(Clone, PartialEq, Eq)]
pub struct SavedWebhook {
    /// Whose it is.
    pub repository: RepositoryName,
    /// Where it goes, whole.
    pub url: String,
    /// What its requests are signed with.
    pub secret: Option<String>,
    /// What they were signed with before, and until when they still are.
    pub previous: Option<(String, Timestamp)>,
    /// The name of its format.
    pub format: String,
    /// Headers of its own, in their order.
    pub headers: Vec<(String, String)>,
    /// Patterns of the tags it wants.
    pub tags: Vec<String>,
    /// Another one after each change: of all webhooks, none has it twice.
    pub version: u64,
    /// When it was saved.
    pub saved_at: Timestamp,
    /// By whom.
    pub saved_by: String,
}

impl SavedWebhook {
    /// What it takes, about.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let headers = self
            .headers
            .iter()
            .map(|(name, value)| name.len() + value.len() + 8);
        let tags = self.tags.iter().map(|tag| tag.len() + 3);
        let secrets = [
            &self.secret,
            &self.previous.as_ref().map(|(secret, _)| secret.clone()),
        ];
        let secrets = secrets.map(|secret| secret.as_ref().map_or(0, String::len));
        let texts = [self.repository.as_str(), &self.url, &self.saved_by].map(str::len);
        let bytes = headers.chain(tags).chain(secrets).chain(texts).sum::<usize>();
        bytes as u64
    }
}

/// How much there is of webhooks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WebhookStats {
    /// How many there are.
    pub webhooks: u64,
    /// Bytes of what is kept of them.
    pub bytes: u64,
}

impl std::fmt::Debug for SavedWebhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SavedWebhook")
            .field("repository", &self.repository)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// What has to be so for a change to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// There is none yet.
    Absent,
    /// There is one, whichever.
    Present,
    /// It has this version.
    Version(u64),
    /// It has one of these; none is never so.
    OneOf(Vec<u64>),
}

impl Expected {
    /// Whether it is so, with that version there now.
    #[must_use]
    pub fn is_met(&self, version: Option<u64>) -> bool {
        match self {
            Self::Absent => version.is_none(),
            Self::Present => version.is_some(),
            Self::Version(expected) => version == Some(*expected),
            Self::OneOf(expected) => version.is_some_and(|version| expected.contains(&version)),
        }
    }
}

pub(super) fn all(connection: &Connection) -> rusqlite::Result<Vec<SavedWebhook>> {
    let mut statement = connection.prepare("SELECT * FROM repository_webhooks ORDER BY repository")?;
    let rows = statement.query_map((), read)?;
    rows.collect()
}

pub(super) fn one(
    connection: &Connection,
    repository: &RepositoryName,
) -> rusqlite::Result<Option<SavedWebhook>> {
    let sql = "SELECT * FROM repository_webhooks WHERE repository = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_row([repository.as_str()], read).optional()
}

/// How much there is: of one repository, or of all.
pub(super) fn stats(
    connection: &Connection,
    repository: Option<&RepositoryName>,
) -> rusqlite::Result<WebhookStats> {
    let sql = "SELECT count(*), coalesce(sum(octet_length(repository) + octet_length(url) + \
               coalesce(octet_length(secret), 0) + coalesce(octet_length(previous_secret), 0) + \
               octet_length(headers) + octet_length(tags) + octet_length(saved_by)), 0) FROM repository_webhooks";
    let read = |row: &Row<'_>| {
        let number = |index| row.get::<_, i64>(index).map(i64::cast_unsigned);
        Ok(WebhookStats {
            webhooks: number(0)?,
            bytes: number(1)?,
        })
    };
    match repository {
        None => connection.query_row(sql, (), read),
        Some(name) => connection
            .prepare_cached(&format!("{sql} WHERE repository = ?1"))?
            .query_row([name.as_str()], read),
    }
}

/// Puts it there with a version of its own, which is returned.
pub(super) fn put(connection: &Connection, webhook: &SavedWebhook) -> rusqlite::Result<u64> {
    let version = connection.query_row(
        "UPDATE webhook_version SET value = value + 1 RETURNING value",
        (),
        |row| row.get::<_, i64>(0),
    )?;
    let (previous, until) = webhook.previous.clone().unzip();
    connection.execute(
        "INSERT OR REPLACE INTO repository_webhooks VALUES (:repository, :url, :secret, :previous, :until, :format,
            :headers, :tags, :version, :saved_at, :saved_by)",
        named_params! {
            ":repository": webhook.repository.as_str(),
            ":url": webhook.url,
            ":secret": webhook.secret,
            ":previous": previous,
            ":until": until.map(Timestamp::unix_millis),
            ":format": webhook.format,
            ":headers": json(&webhook.headers)?,
            ":tags": json(&webhook.tags)?,
            ":version": version,
            ":saved_at": webhook.saved_at.unix_millis(),
            ":saved_by": webhook.saved_by,
        },
    )?;
    Ok(u64::try_from(version).unwrap_or_default())
}

/// Forgets the previous secrets whose time was over by `now`; whose they were, without them, and how many bytes they had. Each has a version of its
/// own from then on: it is shown otherwise than before.
pub(super) fn rotated(connection: &Connection, now: Timestamp) -> rusqlite::Result<(Vec<SavedWebhook>, u64)> {
    let sql = "SELECT * FROM repository_webhooks WHERE previous_until_ms <= ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map([now.unix_millis()], read)?;
    let mut over: Vec<SavedWebhook> = rows.collect::<rusqlite::Result<_>>()?;
    let mut forgotten = 0;
    for webhook in &mut over {
        let previous = webhook.previous.take();
        forgotten += previous.map_or(0, |(secret, _)| secret.len() as u64);
        webhook.version = put(connection, webhook)?;
    }
    Ok((over, forgotten))
}

pub(super) fn remove(connection: &Connection, repository: &RepositoryName) -> rusqlite::Result<bool> {
    let sql = "DELETE FROM repository_webhooks WHERE repository = ?1";
    Ok(connection.execute(sql, [repository.as_str()])? > 0)
}

fn json(value: &impl serde::Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

fn read(row: &Row<'_>) -> rusqlite::Result<SavedWebhook> {
    fn parsed<T: serde::de::DeserializeOwned>(row: &Row<'_>, name: &str) -> rusqlite::Result<T> {
        // Without what stands there: values of headers may be secrets.
        crate::json::read(row.get::<_, String>(name)?.as_bytes()).map_err(unreadable)
    }
    let until: Option<i64> = row.get("previous_until_ms")?;
    let previous: Option<String> = row.get("previous_secret")?;
    let name: String = row.get("repository")?;
    Ok(SavedWebhook {
        repository: name.parse().map_err(unreadable)?,
        url: row.get("url")?,
        secret: row.get("secret")?,
        previous: previous.zip(until.map(Timestamp::from_unix_millis)),
        format: row.get("format")?,
        headers: parsed(row, "headers")?,
        tags: parsed(row, "tags")?,
        version: u64::try_from(row.get::<_, i64>("version")?).unwrap_or_default(),
        saved_at: Timestamp::from_unix_millis(row.get("saved_at_ms")?),
        saved_by: row.get("saved_by")?,
    })
}

fn unreadable(error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Box::new(error))
}
