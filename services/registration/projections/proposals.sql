CREATE TABLE programme_proposals (
    proposal_id uuid PRIMARY KEY,
    year integer NOT NULL,
    state text NOT NULL CONSTRAINT programme_proposals_state CHECK (state IN ('proposed', 'adopted', 'taken_back', 'rejected', 'lapsed')),
    is_new_year boolean NOT NULL,           -- else units follow in a year that is adopted
    proposed_at timestamptz NOT NULL,
    proposed_by uuid NOT NULL,
    expires_at timestamptz NOT NULL,
    approved_by uuid,
    ended_at timestamptz,
    file_digest text NOT NULL,
    compared_with integer,
    words integer NOT NULL,
    words_new text[] NOT NULL,
    words_changed text[] NOT NULL,
    words_gone text[] NOT NULL,
    units_gone text[] NOT NULL,
    stream_id uuid NOT NULL
);
CREATE TABLE proposed_units (
    proposal_id uuid NOT NULL,
    code text NOT NULL,
    difference text NOT NULL CONSTRAINT proposed_units_difference CHECK (difference IN ('new', 'changed', 'same')),
    name text NOT NULL,
    kind text NOT NULL,
    parent_code text,
    planned_activities_per_month integer NOT NULL,
    valid_from date NOT NULL,
    PRIMARY KEY (proposal_id, code)
);
