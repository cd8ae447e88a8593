-- Up to where the topic was read back and found whole: the record at `record_offset` carried `position` and `hash`. It only saves
-- reading from the start; the relay's resume position is always what the topic itself says (D4).
CREATE TABLE es.relay_mark (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    first_offset bigint NOT NULL CHECK (first_offset >= 0),
    record_offset bigint NOT NULL CHECK (record_offset >= first_offset),
    position bigint NOT NULL CHECK (position > 0),
    hash bytea NOT NULL CHECK (octet_length(hash) = 32)
);
COMMENT ON TABLE es.relay_mark IS '回读标记 / how far the topic in Kafka was read back and found whole';
GRANT SELECT, INSERT, UPDATE ON es.relay_mark TO :"app";

-- Kafka holds what this log does not (a restored backup): nothing may be appended until `recover` has run. The app may close its log
-- in this way and in no other, and cannot open it again.
CREATE FUNCTION es.wait_for_recovery() RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = '' AS $$
    UPDATE es.log SET state = 'recovering' WHERE state <> 'recovering'
$$;
REVOKE ALL ON FUNCTION es.wait_for_recovery FROM PUBLIC;
GRANT EXECUTE ON FUNCTION es.wait_for_recovery TO :"app";
