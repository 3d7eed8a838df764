//! The schema and its versions.

use rusqlite::Connection;

/// The version that this program writes.
pub(super) const VERSION: i64 = 2;

/// From each version to the next. What is here is never changed, only added to.
const MIGRATIONS: [&str; 2] = [
    "
CREATE TABLE endpoint_states (
    endpoint       TEXT PRIMARY KEY,  -- a name, or repository:<name>
    state          TEXT NOT NULL,     -- failing, paused, ignored, disabled, held; a healthy one has no row
    since_ms       INTEGER NOT NULL,  -- moments are milliseconds since 1970, UTC
    reason         TEXT NOT NULL,
    url_sha256     BLOB NOT NULL,     -- of the URL that it is about; empty when it couldn't be read
    failures       INTEGER,           -- in a row; this and what follows is null for what was set by hand
    began_ms       INTEGER,           -- when the first of them ended
    last_ms        INTEGER,           -- and the last
    waits_since_ms INTEGER,
    wait_ms        INTEGER,           -- null: for ever
    known_at_ms    INTEGER NOT NULL   -- when there was such an endpoint
) STRICT;
",
    "
CREATE TABLE repository_webhooks (
    repository        TEXT PRIMARY KEY,
    url               TEXT NOT NULL,     -- whole, with its query
    secret            TEXT,              -- whsec_… or whsk_…; this column and the next are secrets in the clear
    previous_secret   TEXT,
    previous_until_ms INTEGER,           -- until when the previous secret signs too
    format            TEXT NOT NULL,
    headers           TEXT NOT NULL,     -- JSON: [[name, value], …]; the values are secrets too
    tags              TEXT NOT NULL,     -- JSON: [pattern, …]
    version           INTEGER NOT NULL,  -- what an ETag says
    saved_at_ms       INTEGER NOT NULL,
    saved_by          TEXT NOT NULL
) STRICT;
CREATE TABLE webhook_version (value INTEGER NOT NULL) STRICT;
INSERT INTO webhook_version VALUES (0);
",
];

/// The version of what is there; 0 when nothing is.
pub(super) fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Brings it from `version` to [`VERSION`]: all the way, or not at all.
pub(super) fn migrate(connection: &Connection, version: i64) -> rusqlite::Result<()> {
    let from = usize::try_from(version).unwrap_or_default();
    let Some(steps) = MIGRATIONS.get(from..).filter(|steps| !steps.is_empty()) else {
        return Ok(());
    };
    let transaction = connection.unchecked_transaction()?;
    for step in steps {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}

/// Whether there are tables in a file that has no version: then they are another program's.
pub(super) fn is_foreign(connection: &Connection, version: i64) -> rusqlite::Result<bool> {
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", (), |row| row.get(0))?;
    Ok(version == 0 && tables > 0)
}
