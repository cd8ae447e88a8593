-- One row while `recover` is at work: the last position that the restored copy held. Whoever runs it again after a kill still knows which
-- part of the log came from Kafka. Only the owner sees it; `recover` removes it when it opens the log.
CREATE TABLE es.recovery (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    from_position bigint NOT NULL CHECK (from_position >= 0),
    began_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE es.recovery IS '恢复 / a recovery that is under way, and what the restored copy held';
