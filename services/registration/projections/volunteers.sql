CREATE TABLE volunteers (
    volunteer_id uuid PRIMARY KEY,
    number text NOT NULL UNIQUE,
    unit_code text NOT NULL,
    name text,                              -- clear: views mask it until they may show it, an erasure nulls it
    is_minor boolean NOT NULL,
    skills text,                            -- clear: staff see them, an erasure nulls them
    standing text NOT NULL CONSTRAINT volunteers_standing CHECK (standing IN ('registered', 'left', 'erased')),
    registered_at timestamptz NOT NULL,
    registered_position bigint NOT NULL,
    named_position bigint,                  -- of the consent to be named; null without one
    is_place_known boolean NOT NULL         -- of the ID number: a warning
);
