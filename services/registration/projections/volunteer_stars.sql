CREATE TABLE volunteer_stars (
    volunteer_id uuid NOT NULL,
    stars integer NOT NULL,
    is_held boolean NOT NULL,
    PRIMARY KEY (volunteer_id, stars)
);
