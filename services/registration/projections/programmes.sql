CREATE TABLE programmes (
    year integer PRIMARY KEY,
    title text NOT NULL,
    theme text NOT NULL,
    issuing_body text NOT NULL,
    document_reference text NOT NULL,
    issued_on date NOT NULL,
    starts_on date NOT NULL,
    ends_on date NOT NULL
);
CREATE TABLE programme_words (
    year integer NOT NULL,
    kind text NOT NULL,
    code text NOT NULL,
    name_zh text NOT NULL,
    name_en text NOT NULL,
    month integer,
    day integer,
    PRIMARY KEY (year, kind, code)
);
CREATE TABLE units (
    code text PRIMARY KEY,
    name text NOT NULL,
    kind text NOT NULL,
    parent_code text,
    aliases text[] NOT NULL,
    valid_from date NOT NULL,
    planned_activities_per_month integer NOT NULL,
    year integer NOT NULL                   -- of the programme that said so: the newest counts
);
-- What each year's programme said, whatever a later one says.
CREATE TABLE unit_plans (
    year integer NOT NULL,
    code text NOT NULL,
    planned integer NOT NULL,
    valid_from date NOT NULL,
    PRIMARY KEY (year, code)
);
CREATE TABLE devices (
    device_id uuid PRIMARY KEY,
    unit_code text NOT NULL,
    name text NOT NULL,
    issued_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    networks text[] NOT NULL,               -- from where the key counts; none: from anywhere
    revoked_at timestamptz,
    reason text
);
CREATE TABLE roles (
    person_id uuid NOT NULL,
    role text NOT NULL,
    unit_code text NOT NULL,
    is_held boolean NOT NULL,
    since timestamptz NOT NULL,
    PRIMARY KEY (person_id, role, unit_code)
);
