CREATE TABLE erasures (
    volunteer_id uuid PRIMARY KEY,
    state text NOT NULL CONSTRAINT erasures_state CHECK (state IN ('requested', 'declined', 'erased', 'completed')),
    log_id uuid NOT NULL,
    requested_at timestamptz,
    requested_by uuid,
    requested_position bigint,
    declined_as text,
    erased_at timestamptz,
    approved_by text,
    erased_position bigint,
    registration_receipt_at timestamptz,
    hours_receipt_at timestamptz,
    hours_position bigint,
    recognition_receipt_at timestamptz,
    recognition_position bigint,
    completed_at timestamptz,
    completed_position bigint
);
