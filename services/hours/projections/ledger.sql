-- One row for each posting group: what the world gave (`served`, negative) and where it went. A group that does not balance cannot be written.
CREATE TABLE postings (
    position bigint PRIMARY KEY,
    account_id uuid NOT NULL,
    volunteer_id uuid NOT NULL,
    year integer NOT NULL,
    unit_code text NOT NULL,
    activity_id uuid NOT NULL,
    entry_id uuid NOT NULL,
    served_on date NOT NULL,
    posted_by text NOT NULL CONSTRAINT postings_posted_by CHECK (posted_by IN ('confirmed', 'corrected', 'reversed')),
    posted_at timestamptz NOT NULL,
    served_minutes integer NOT NULL,
    timed_minutes integer NOT NULL,
    back_entered_minutes integer NOT NULL,
    transferred_minutes integer NOT NULL,
    over_cap_minutes integer NOT NULL,
    CONSTRAINT postings_sum_to_zero
        CHECK (served_minutes + timed_minutes + back_entered_minutes + transferred_minutes + over_cap_minutes = 0)
);
CREATE INDEX postings_by_person ON postings (volunteer_id, year, posted_at);

-- The sums of the postings of one person, year and unit, kept as they come.
CREATE TABLE balances (
    volunteer_id uuid NOT NULL,
    year integer NOT NULL,
    unit_code text NOT NULL,
    account_id uuid NOT NULL,
    timed_minutes bigint NOT NULL CONSTRAINT balances_timed_not_negative CHECK (timed_minutes >= 0),
    back_entered_minutes bigint NOT NULL CONSTRAINT balances_back_entered_not_negative CHECK (back_entered_minutes >= 0),
    transferred_minutes bigint NOT NULL CONSTRAINT balances_transferred_not_negative CHECK (transferred_minutes >= 0),
    over_cap_minutes bigint NOT NULL CONSTRAINT balances_over_cap_not_negative CHECK (over_cap_minutes >= 0),
    PRIMARY KEY (volunteer_id, year, unit_code)
);
