CREATE TABLE volunteer_minutes (
    volunteer_id uuid PRIMARY KEY,
    timed bigint NOT NULL,
    back_entered bigint NOT NULL,
    transferred bigint NOT NULL,
    over_cap bigint NOT NULL
);
