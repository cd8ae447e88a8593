-- What a row that somebody sees says of what they do not see by itself. Only views of schema `api` read this, each behind a security barrier.
CREATE VIEW joined.units AS SELECT code, name FROM units;
CREATE VIEW joined.activities AS SELECT activity_id, title, unit_code FROM activities;
CREATE VIEW joined.volunteers AS SELECT volunteer_id, number, unit_code FROM volunteers;
CREATE VIEW joined.last_month AS SELECT coalesce(max(month), '-infinity') AS month FROM activities;
