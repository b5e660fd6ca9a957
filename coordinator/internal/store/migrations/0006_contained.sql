-- What the governor counts is read for every order: from the index alone, since a fleet's
-- orders of a day are tens of thousands of rows.
DROP INDEX isolations_counted;
CREATE INDEX isolations_counted ON isolations (counted_at, host) WHERE counted_at > 0;
