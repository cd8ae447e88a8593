CREATE TABLE stars (
    volunteer_id uuid NOT NULL,
    stars integer NOT NULL,
    unit_code text NOT NULL,
    granted_at timestamptz NOT NULL,
    confirmed_minutes bigint NOT NULL,
    threshold_minutes integer NOT NULL,
    policy_version text NOT NULL,
    hours_position bigint NOT NULL,
    granted_position bigint NOT NULL,
    PRIMARY KEY (volunteer_id, stars)
);
