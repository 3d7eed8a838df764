-- catalog.db, what version 2 has more: how endpoints came to be as they are, the newest 200 changes of each.
CREATE TABLE transitions (
  id       INTEGER PRIMARY KEY,             -- newer ones have larger ones
  endpoint TEXT NOT NULL,                   -- a name, or repository:<name>
  at       INTEGER NOT NULL,
  before   TEXT NOT NULL,                   -- healthy | failing | paused | ignored | disabled | held
  after    TEXT NOT NULL,
  failures INTEGER NOT NULL,                -- in a row, until then
  reason   TEXT NOT NULL                    -- what happened, or who did it
) STRICT;
CREATE INDEX transitions_by_endpoint ON transitions (endpoint, id);
