-- catalog.db, what version 5 has more: how far the file was read in which news waited ("catalog.overflow-…"), so that
-- none is written down twice when the process ends in between.
CREATE TABLE overflow (
  one      INTEGER PRIMARY KEY CHECK (one = 1),
  file     INTEGER NOT NULL,                -- the random number in its header
  position INTEGER NOT NULL                 -- bytes of it that were read
) STRICT;
