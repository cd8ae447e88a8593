-- Read models are built anew in a schema of their own, beside the live one, and kept for rolling back after they were replaced (D9).
-- Their consumer is `views@<n>` in consumer.position, parked and blocked; the live schema's is `views`.
ALTER TABLE consumer.views
    ADD COLUMN building boolean NOT NULL DEFAULT false,  -- never been live yet
    ADD CONSTRAINT what_is_live_is_built CHECK (NOT (live AND building));
CREATE UNIQUE INDEX one_schema_of_views_is_not_live ON consumer.views (live) WHERE NOT live;

-- Definitions are compared by what rows follow from, from here on: `migrate` writes anew what the code says of those that are there.
UPDATE consumer.views SET definition_hash = '';
