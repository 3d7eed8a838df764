-- catalog.db, what version 4 has more: what lists of deliveries find by, whatever they are filtered by.

-- The repository stands with each delivery too, for an index can't reach into another table.
DROP INDEX deliveries_by_endpoint;
DROP INDEX deliveries_by_state;
ALTER TABLE deliveries ADD COLUMN repository TEXT NOT NULL DEFAULT '';
UPDATE deliveries SET repository = (SELECT repository FROM pushes WHERE id = push)
  WHERE push IN (SELECT id FROM pushes);
CREATE INDEX deliveries_by_state      ON deliveries (state, push);
CREATE INDEX deliveries_by_endpoint   ON deliveries (endpoint, state, push);
CREATE INDEX deliveries_by_repository ON deliveries (repository, state, endpoint, push);

-- Between which moments pushes were taken, for each 1,024 ids. It stays as it is when pushes go: none is outside of
-- its span, and few more than there are fit into it.
CREATE TABLE spans (
  block    INTEGER PRIMARY KEY,             -- the id of a push / 1024
  first_at INTEGER NOT NULL,
  last_at  INTEGER NOT NULL
) STRICT;
INSERT INTO spans
  SELECT id >> 10, min(taken_at), max(taken_at) FROM pushes WHERE taken_at IS NOT NULL GROUP BY id >> 10;
