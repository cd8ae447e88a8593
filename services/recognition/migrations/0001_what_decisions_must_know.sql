-- What recognition must know of others, and of its own policies, to decide. Written by the inbox, each log's rows by its own fold.

CREATE SCHEMA lookup;
GRANT USAGE ON SCHEMA lookup TO :"app";

-- From registration: who is a volunteer, of which unit.
CREATE TABLE lookup.volunteers (
    volunteer_id uuid PRIMARY KEY,
    unit_code text NOT NULL,
    position bigint NOT NULL
);

-- From hours: minutes that count (timed, back-entered and transferred, without what lies above the daily cap).
CREATE TABLE lookup.confirmed_minutes (
    volunteer_id uuid PRIMARY KEY,
    minutes bigint NOT NULL CONSTRAINT confirmed_minutes_not_negative CHECK (minutes >= 0),
    position bigint NOT NULL,
    lowered_by text CONSTRAINT confirmed_minutes_lowered_by CHECK (lowered_by IN ('hours_corrected', 'hours_reversed'))
);

-- From recognition itself.
CREATE TABLE lookup.star_policies (
    version text PRIMARY KEY,
    effective_from date NOT NULL CONSTRAINT star_policies_effective_from_key UNIQUE,
    thresholds_minutes integer[] NOT NULL
);

GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA lookup TO :"app";
