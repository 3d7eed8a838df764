-- catalog.db, version 1: what became of every push. Times are milliseconds since 1970 in UTC, for people:
--   SELECT datetime(at / 1000, 'unixepoch'), * FROM attempts ORDER BY id DESC LIMIT 10;
-- It may be read at any time, beside a running server too.

-- The journals that wrote here: more than one when a data directory was begun anew.
CREATE TABLE journals (
  number   INTEGER PRIMARY KEY,
  identity TEXT NOT NULL UNIQUE
) STRICT;

-- What was pushed and taken.
CREATE TABLE pushes (
  -- The journal's number * 2^44 + the sequence number: newer pushes have larger ones.
  id            INTEGER PRIMARY KEY,
  sequence      INTEGER NOT NULL,
  repository    TEXT NOT NULL,
  tag           TEXT NOT NULL,              -- '' when it was pushed by digest
  digest        TEXT,
  media_type    TEXT,
  manifest_size INTEGER,                    -- bytes; NULL when the registry did not say
  listed        INTEGER,                    -- how many blobs the notification listed with their sizes
  taken_at      INTEGER,                    -- NULL when that was not written down
  event_id      TEXT NOT NULL,
  actor         TEXT NOT NULL
) STRICT;
CREATE INDEX pushes_by_image ON pushes (repository, tag, id);
CREATE INDEX pushes_by_repository ON pushes (repository, id);
CREATE INDEX pushes_by_event ON pushes (event_id) WHERE event_id <> '';
CREATE INDEX pushes_by_time  ON pushes (taken_at);

-- Every repository that was pushed to or has a webhook of its own. It outlives its pushes.
CREATE TABLE repositories (
  name         TEXT PRIMARY KEY,
  last_push_at INTEGER,                     -- NULL before the first push
  last_tag     TEXT NOT NULL,               -- '' when it was pushed by digest
  pushes       INTEGER NOT NULL,
  size         INTEGER,                     -- bytes, as a webhook last told; NULL when none could
  sized_at     INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX repositories_by_push ON repositories (ifnull(last_push_at, -1) DESC, name);
CREATE INDEX repositories_by_size ON repositories (ifnull(size, -1) DESC, name);

-- One push for one endpoint.
CREATE TABLE deliveries (
  push            INTEGER NOT NULL REFERENCES pushes (id),
  endpoint        TEXT NOT NULL,
  webhook_id      TEXT NOT NULL,
  -- pending | delivered | superseded | dead_letter, or unknown: it ended, and how was not written down
  state           TEXT NOT NULL,
  ended_at        INTEGER,
  attempts        INTEGER NOT NULL DEFAULT 0,
  next_at         INTEGER,                  -- the earliest moment of the next attempt, when it waits for one
  image_size      INTEGER,                  -- sizes as the last attempt sent them; NULL: not known in time
  layers          INTEGER,
  repository_size INTEGER,
  PRIMARY KEY (push, endpoint)
) STRICT, WITHOUT ROWID;
CREATE INDEX deliveries_by_webhook_id ON deliveries (webhook_id);
CREATE INDEX deliveries_by_endpoint   ON deliveries (endpoint, push);
CREATE INDEX deliveries_by_state      ON deliveries (state, push);

-- One HTTP request. Secrets are masked: user-info and query of the URL, headers that carry credentials.
CREATE TABLE attempts (
  id           INTEGER PRIMARY KEY,
  push         INTEGER NOT NULL,
  endpoint     TEXT NOT NULL,
  number       INTEGER NOT NULL,            -- from 1
  at           INTEGER NOT NULL,
  elapsed_us   INTEGER NOT NULL,
  status       INTEGER,                     -- NULL when no answer came
  fault        TEXT,                        -- endpoint | push; NULL when it was delivered
  reason       TEXT,
  retry_at     INTEGER,
  url          TEXT,                        -- NULL when no request could be made
  headers      TEXT,                        -- a line each, in the order in which they were sent
  body         BLOB,
  body_bytes   INTEGER,                     -- as sent: a very long body is kept in part
  answer       BLOB,                        -- the first 4 KiB
  answer_bytes INTEGER
) STRICT;
CREATE INDEX attempts_by_delivery ON attempts (push, endpoint, number);

-- Pushes that no webhook was owed for, and by which rule.
CREATE TABLE dropped (
  id         INTEGER PRIMARY KEY,
  at         INTEGER NOT NULL,
  rule       TEXT NOT NULL,
  repository TEXT NOT NULL,
  tag        TEXT NOT NULL,
  digest     TEXT NOT NULL,
  event_id   TEXT NOT NULL,
  actor      TEXT NOT NULL
) STRICT;
CREATE INDEX dropped_by_image ON dropped (repository, tag, id);
CREATE INDEX dropped_by_event ON dropped (event_id) WHERE event_id <> '';
