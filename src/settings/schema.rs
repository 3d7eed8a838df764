//! The schema and its versions.

use rusqlite::Connection;

/// The version that this program writes.
pub(super) const VERSION: i64 = 6;

/// From each version to the next. What is here is never changed, only added to.
pub(super) const MIGRATIONS: [&str; 6] = [
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
-- Pushes given up on for an endpoint, one row for each push and endpoint. Moments are milliseconds since 1970, UTC.
CREATE TABLE dead_letters (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,  -- what was given up later has a larger one
    journal       TEXT NOT NULL,     -- the identity of the journal that took the push
    sequence      INTEGER NOT NULL,  -- the push's number there; with the endpoint they make its webhook-id
    endpoint      TEXT NOT NULL,     -- a name, or repository:<name>
    repository    TEXT NOT NULL,
    tag           TEXT NOT NULL,     -- '' when it was pushed by digest
    digest        TEXT NOT NULL,
    media_type    TEXT NOT NULL,
    manifest_size INTEGER NOT NULL,  -- bytes; 0 when the registry did not say
    listed        TEXT NOT NULL,     -- config and layers as the registry listed them, JSON; '' when it did not
    event_id      TEXT NOT NULL,
    actor         TEXT NOT NULL,
    taken_ms      INTEGER NOT NULL,
    died_ms       INTEGER NOT NULL,
    reason        TEXT NOT NULL,
    attempts      INTEGER            -- null: not known
) STRICT;
CREATE UNIQUE INDEX dead_letters_by_push ON dead_letters (sequence, endpoint, journal);
CREATE INDEX dead_letters_by_image ON dead_letters (repository, tag, endpoint);
CREATE INDEX dead_letters_by_time ON dead_letters (died_ms);

-- Those of them that are to be sent again.
CREATE TABLE replays (
    letter   INTEGER PRIMARY KEY,    -- dead_letters.id
    endpoint TEXT NOT NULL,
    place    INTEGER NOT NULL,       -- in the order in which they go
    forced   INTEGER NOT NULL        -- 1: past newer pushes of the same tag
) STRICT;
CREATE INDEX replays_by_endpoint ON replays (endpoint, place);
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
    "
-- What cursors of lists are sealed with: one row, made at the first start.
CREATE TABLE cursor_key (value BLOB NOT NULL) STRICT;
",
    "
-- For lists of dead letters by a filter, newest first: each index ends with the id.
CREATE INDEX dead_letters_by_endpoint ON dead_letters (endpoint);
CREATE INDEX dead_letters_by_repository ON dead_letters (repository);
CREATE INDEX dead_letters_by_tag ON dead_letters (tag);

-- When the letters of 1,024 ids were given up on: none earlier than first_ms, none later than last_ms.
CREATE TABLE letter_spans (
    block    INTEGER PRIMARY KEY,    -- dead_letters.id >> 10
    first_ms INTEGER NOT NULL,
    last_ms  INTEGER NOT NULL
) STRICT;
INSERT INTO letter_spans SELECT id >> 10, min(died_ms), max(died_ms) FROM dead_letters GROUP BY id >> 10;
CREATE TRIGGER letter_spans_grow AFTER INSERT ON dead_letters BEGIN
    INSERT INTO letter_spans VALUES (new.id >> 10, new.died_ms, new.died_ms) ON CONFLICT (block) DO UPDATE SET
        first_ms = min(first_ms, excluded.first_ms), last_ms = max(last_ms, excluded.last_ms);
END;
-- One that was sent again in vain.
CREATE TRIGGER letter_spans_stretch AFTER UPDATE OF died_ms ON dead_letters BEGIN
    UPDATE letter_spans SET first_ms = min(first_ms, new.died_ms), last_ms = max(last_ms, new.died_ms)
        WHERE block = new.id >> 10;
END;
",
    "
-- Pushes that their endpoints refused and that wait for their next attempt: of each repository and endpoint the oldest
-- that is owed, at most.
CREATE TABLE refusals (
    sequence    INTEGER NOT NULL,  -- the push's number in its journal
    endpoint    TEXT NOT NULL,     -- a name, or repository:<name>
    journal     TEXT NOT NULL,     -- that journal's identity
    repository  TEXT NOT NULL,
    failures    INTEGER NOT NULL,  -- how often it was refused
    at_ms       INTEGER NOT NULL,  -- when it was refused last
    wait_ms     INTEGER NOT NULL,  -- since then
    fingerprint INTEGER,           -- 16 bits, of how the endpoint was set; null when that couldn't be read
    PRIMARY KEY (sequence, endpoint)
) STRICT, WITHOUT ROWID;
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
