-- catalog.db, what version 3 has more: why a push was given up; NULL when it was not, or that was not written down.
ALTER TABLE deliveries ADD COLUMN reason TEXT;
