-- One row for each entry, as it stands now.
CREATE TABLE entries (
    entry_id uuid PRIMARY KEY,
    account_id uuid NOT NULL,
    volunteer_id uuid NOT NULL,
    unit_code text NOT NULL,
    activity_id uuid NOT NULL,
    hour_class text NOT NULL,
    served_on date NOT NULL,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    minutes integer NOT NULL CONSTRAINT entries_minutes_of_one_day CHECK (minutes BETWEEN 0 AND 24 * 60),
    state text NOT NULL CONSTRAINT entries_state CHECK (state IN ('pending', 'counted', 'reversed')),
    credited_minutes integer NOT NULL,
    over_cap_minutes integer NOT NULL,
    recorder_id uuid NOT NULL,
    proposed_at timestamptz NOT NULL,
    CONSTRAINT entries_count_what_was_served CHECK (credited_minutes + over_cap_minutes = CASE state WHEN 'counted' THEN minutes ELSE 0 END)
);
CREATE INDEX entries_by_person ON entries (volunteer_id, served_on);
CREATE INDEX entries_waiting ON entries (proposed_at, entry_id) WHERE state = 'pending';

-- What happened to each entry, old values beside new ones; the position is the event's.
CREATE TABLE entry_changes (
    position bigint PRIMARY KEY,
    entry_id uuid NOT NULL,
    account_id uuid NOT NULL,
    volunteer_id uuid NOT NULL,
    unit_code text NOT NULL,
    activity_id uuid NOT NULL,
    served_on date NOT NULL,
    change text NOT NULL CONSTRAINT entry_changes_change CHECK (change IN ('proposed', 'confirmed', 'corrected', 'reversed')),
    changed_at timestamptz NOT NULL,
    old_starts_at timestamptz,
    old_ends_at timestamptz,
    old_credited_minutes integer NOT NULL,
    old_over_cap_minutes integer NOT NULL,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    credited_minutes integer NOT NULL,
    over_cap_minutes integer NOT NULL,
    policy_version text,
    reason_code text,
    requester_id uuid,
    approver_id uuid
);
CREATE INDEX entry_changes_by_person ON entry_changes (volunteer_id, position);

-- The tripwire: a minute that two counted entries of one person hold cannot be written. The decision is the account's.
CREATE TABLE credited_intervals (
    entry_id uuid PRIMARY KEY,
    volunteer_id uuid NOT NULL,
    during tstzrange NOT NULL,
    CONSTRAINT no_minute_counts_twice UNIQUE (volunteer_id, during WITHOUT OVERLAPS)
);
