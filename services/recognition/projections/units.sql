CREATE TABLE units (
    code text PRIMARY KEY,
    name text NOT NULL
);
