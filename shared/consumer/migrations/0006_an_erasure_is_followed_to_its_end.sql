-- Where the erasure of each person's data stands, as registration's log says: it is kept by `withdrawals`, which no parked key holds up.
CREATE TABLE consumer.erasure (
    subject uuid PRIMARY KEY,
    state text NOT NULL CHECK (state IN ('requested', 'declined', 'erased', 'completed')),
    since timestamptz NOT NULL                  -- business time of the event that said so
);
CREATE INDEX open_erasures ON consumer.erasure (state, since) WHERE state IN ('requested', 'erased');
COMMENT ON TABLE consumer.erasure IS '个人信息删除进度 / erasures: requested, declined, erased here and everywhere asked, completed';
GRANT SELECT, INSERT, UPDATE ON consumer.erasure TO :"app";
