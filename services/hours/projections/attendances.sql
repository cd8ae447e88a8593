-- One row for each pair of check-in and check-out.
CREATE TABLE attendances (
    attendance_id uuid NOT NULL,
    pair integer NOT NULL,
    activity_id uuid NOT NULL,
    volunteer_id uuid NOT NULL,
    unit_code text NOT NULL,
    state text NOT NULL CONSTRAINT attendances_state CHECK (state IN ('open', 'closed', 'missed')),
    checked_in_at timestamptz NOT NULL,
    counts_from timestamptz NOT NULL,
    checked_out_at timestamptz,
    check_out_by timestamptz NOT NULL,
    checked_in_by uuid NOT NULL,
    checked_out_by uuid,
    PRIMARY KEY (attendance_id, pair)
);
CREATE INDEX attendances_by_time ON attendances (checked_in_at, attendance_id, pair);
CREATE UNIQUE INDEX attendances_one_open_pair ON attendances (attendance_id) WHERE state = 'open';
