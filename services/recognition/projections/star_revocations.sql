CREATE TABLE star_revocations (
    proposal_id uuid PRIMARY KEY,
    volunteer_id uuid NOT NULL,
    stars integer NOT NULL,
    unit_code text NOT NULL,
    state text NOT NULL CONSTRAINT star_revocations_state CHECK (state IN ('proposed', 'revoked', 'taken_back', 'rejected', 'lapsed')),
    reason text NOT NULL,
    proposed_at timestamptz NOT NULL,
    proposed_by uuid NOT NULL,
    proposed_position bigint NOT NULL,
    decided_by uuid,
    ended_at timestamptz
);
