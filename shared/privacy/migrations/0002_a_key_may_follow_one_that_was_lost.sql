-- A key that was younger than a restored copy of the database is gone: it was nowhere else, by intent (D12). The person gets another one,
-- and what was sealed under the lost one reads null from then on, where any other text that its key does not open is an error.
ALTER TABLE keys.person ADD COLUMN follows_lost boolean NOT NULL DEFAULT false;
