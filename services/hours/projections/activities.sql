CREATE TABLE activities (
    activity_id uuid PRIMARY KEY,
    title text NOT NULL
);
