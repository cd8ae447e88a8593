-- Nothing compares where in the log a seat was taken.
ALTER TABLE lookup.seats DROP COLUMN position;
