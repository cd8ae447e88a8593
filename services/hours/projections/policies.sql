CREATE TABLE hours_policies (
    effective_from date PRIMARY KEY,
    version text NOT NULL CONSTRAINT hours_policies_version_key UNIQUE,
    daily_cap_minutes integer NOT NULL,
    pairs_per_activity_day_max integer NOT NULL,
    check_in_early_minutes integer NOT NULL,
    missed_check_out_after_minutes integer NOT NULL,
    adopted_at timestamptz NOT NULL,
    position bigint NOT NULL
);
