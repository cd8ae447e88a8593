CREATE TABLE star_policies (
    effective_from date PRIMARY KEY,
    version text NOT NULL UNIQUE,
    thresholds_minutes integer[] NOT NULL,
    reapply_after_revocation boolean NOT NULL,
    adopted_at timestamptz NOT NULL,
    position bigint NOT NULL
);
