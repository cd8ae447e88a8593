CREATE TABLE activities (
    activity_id uuid PRIMARY KEY,
    unit_code text NOT NULL,
    month date NOT NULL,
    title text NOT NULL,
    carrier text NOT NULL,
    target_group text,
    occasion text,
    place text NOT NULL,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    wait_list_max integer NOT NULL,
    has_risk boolean NOT NULL,
    state text NOT NULL CONSTRAINT activities_state CHECK (state IN ('open', 'held', 'cancelled')),
    outcome text
);
CREATE INDEX activities_start_idx ON activities (starts_at, activity_id);
CREATE INDEX activities_unit_month_idx ON activities (unit_code, month);
CREATE TABLE activity_positions (
    activity_id uuid NOT NULL,
    position text NOT NULL,
    name text NOT NULL,
    capacity integer NOT NULL,
    PRIMARY KEY (activity_id, position)
);
CREATE TABLE enrollments (
    activity_id uuid NOT NULL,
    volunteer_id uuid NOT NULL,
    position text NOT NULL,
    standing text NOT NULL
        CONSTRAINT enrollments_standing CHECK (standing IN ('seated', 'offered', 'waiting', 'withdrawn', 'expired')),
    expires_at timestamptz,
    since timestamptz NOT NULL,
    PRIMARY KEY (activity_id, volunteer_id)
);
CREATE INDEX enrollments_volunteer_idx ON enrollments (volunteer_id);
CREATE TABLE clashes_overridden (
    activity_id uuid NOT NULL,
    volunteer_id uuid NOT NULL,
    clashes_with uuid NOT NULL,
    reason text,                            -- about the person: an erasure nulls it
    overridden_at timestamptz NOT NULL
);
CREATE INDEX clashes_overridden_volunteer_idx ON clashes_overridden (volunteer_id);
-- What was decided about a person in the moment of the erasure may follow it in the log: of them no reason is kept.
CREATE TABLE persons_erased (
    volunteer_id uuid PRIMARY KEY
);
