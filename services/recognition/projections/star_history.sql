CREATE TABLE star_history (
    position bigint PRIMARY KEY,
    volunteer_id uuid NOT NULL,
    stars integer NOT NULL,
    unit_code text NOT NULL,
    outcome text NOT NULL CHECK (outcome IN ('granted', 'declined', 'withdrawn', 'revoked')),
    reason text,
    decided_at timestamptz NOT NULL,
    confirmed_minutes bigint,               -- the figures that it rests on: none where it was revoked
    threshold_minutes integer,
    policy_version text,
    hours_position bigint,
    CONSTRAINT star_history_figures CHECK (num_nulls(confirmed_minutes, threshold_minutes, policy_version, hours_position)
                                           = CASE WHEN outcome = 'revoked' THEN 4 ELSE 0 END)
);
CREATE INDEX star_history_volunteer_idx ON star_history (volunteer_id, position);
