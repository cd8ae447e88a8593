-- What registration must know across its streams to decide: written by the inbox from its own log.
CREATE SCHEMA lookup;
GRANT USAGE ON SCHEMA lookup TO :"app";

CREATE TABLE lookup.units (
    code text PRIMARY KEY
);

-- The codes that the programme of a year names: carriers, target groups, occasions.
CREATE TABLE lookup.words (
    year integer NOT NULL,
    kind text NOT NULL CHECK (kind IN ('carrier', 'target_group', 'occasion')),
    code text NOT NULL,
    PRIMARY KEY (year, kind, code)
);

CREATE TABLE lookup.volunteers (
    volunteer_id uuid PRIMARY KEY,
    unit_code text NOT NULL,
    is_minor boolean NOT NULL,
    standing text NOT NULL CHECK (standing IN ('registered', 'left', 'erased')),
    position bigint NOT NULL,           -- of the registration: a withdrawal counts when it is later
    consent_position bigint             -- of the consent to be registered; null without one
);

CREATE TABLE lookup.activities (
    activity_id uuid PRIMARY KEY,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    is_open boolean NOT NULL
);

-- Live enrolments only.
CREATE TABLE lookup.enrollments (
    volunteer_id uuid NOT NULL,
    activity_id uuid NOT NULL,
    is_seated boolean NOT NULL,
    PRIMARY KEY (volunteer_id, activity_id)
);

GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA lookup TO :"app";
