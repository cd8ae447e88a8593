CREATE TABLE volunteers (
    volunteer_id uuid PRIMARY KEY,
    number text NOT NULL UNIQUE,
    unit_code text NOT NULL,
    name text,                              -- clear: no view shows it, an erasure nulls it
    phone text,                             -- likewise
    is_minor boolean NOT NULL,
    skills text,                            -- likewise, but that staff see them until then
    standing text NOT NULL CONSTRAINT volunteers_standing CHECK (standing IN ('registered', 'left', 'erased')),
    registered_at timestamptz NOT NULL,
    registered_position bigint NOT NULL,
    named_position bigint,                  -- of the consent to be named; null without one
    is_place_known boolean NOT NULL         -- of the ID number: a warning
);
