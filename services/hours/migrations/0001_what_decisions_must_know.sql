-- What hours must know of others, and of its own policies, to decide. Written by the inbox, each log's rows by its own fold.

CREATE SCHEMA lookup;
GRANT USAGE ON SCHEMA lookup TO :"app";

-- From registration: who is a volunteer. The position is what a later withdrawal of the person is compared with.
CREATE TABLE lookup.volunteers (
    volunteer_id uuid PRIMARY KEY,
    position bigint NOT NULL
);

-- From registration: what takes place when, and whose it is.
CREATE TABLE lookup.activities (
    activity_id uuid PRIMARY KEY,
    unit_code text NOT NULL,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    state text NOT NULL CONSTRAINT activities_state CHECK (state IN ('published', 'held', 'cancelled'))
);

-- From registration: who has a seat where.
CREATE TABLE lookup.seats (
    activity_id uuid NOT NULL,
    volunteer_id uuid NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (activity_id, volunteer_id)
);

-- From hours itself.
CREATE TABLE lookup.hours_policies (
    version text PRIMARY KEY,
    effective_from date NOT NULL CONSTRAINT hours_policies_effective_from_key UNIQUE,
    daily_cap_minutes integer NOT NULL,
    pairs_per_activity_day_max integer NOT NULL,
    check_in_early_minutes integer NOT NULL,
    missed_check_out_after_minutes integer NOT NULL
);

GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA lookup TO :"app";

-- Read models keep credited intervals apart by (volunteer_id, during WITHOUT OVERLAPS), which compares ids in a GiST index.
CREATE EXTENSION IF NOT EXISTS btree_gist;
