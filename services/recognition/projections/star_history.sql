CREATE TABLE star_history (
    position bigint PRIMARY KEY,
    volunteer_id uuid NOT NULL,
    stars integer NOT NULL,
    unit_code text NOT NULL,
    outcome text NOT NULL CHECK (outcome IN ('granted', 'declined', 'withdrawn')),
    reason text,
    decided_at timestamptz NOT NULL,
    confirmed_minutes bigint NOT NULL,
    threshold_minutes integer NOT NULL,
    policy_version text NOT NULL,
    hours_position bigint NOT NULL
);
CREATE INDEX star_history_volunteer_idx ON star_history (volunteer_id, position);
