-- What a row that somebody sees says of what they do not see by itself. Only views of schema `api` read this, each behind a security barrier.
CREATE VIEW joined.account_minutes AS
SELECT volunteer_id, year, sum(timed_minutes + back_entered_minutes + transferred_minutes)::bigint AS minutes
FROM balances GROUP BY volunteer_id, year;
