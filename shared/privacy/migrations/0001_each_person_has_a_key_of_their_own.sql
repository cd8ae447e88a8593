-- Personal fields are sealed under one key per person (D12). The keys stand apart from the log, so that destroying one is all it takes.
CREATE SCHEMA keys;
CREATE TABLE keys.person (
    subject uuid PRIMARY KEY,
    wrapped bytea,                          -- the key under the key-encryption key; null once it is destroyed: the row stays as a tombstone
    wrapped_by text NOT NULL,               -- which key-encryption key, by its fingerprint
    made_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    destroyed_at timestamptz,
    CONSTRAINT person_key_is_there_or_destroyed CHECK ((wrapped IS NULL) = (destroyed_at IS NOT NULL))
);
COMMENT ON TABLE keys.person IS '个人密钥 / the key of each person, wrapped; without it their sealed fields read nothing';

-- A destroyed key never comes back under the same person, whoever asks.
CREATE FUNCTION keys.refuse_revival() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.destroyed_at IS NOT NULL AND (NEW.wrapped IS NOT NULL OR NEW.destroyed_at IS NULL) THEN
        RAISE EXCEPTION 'the key of % is destroyed for good', OLD.subject;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER person_key_stays_destroyed BEFORE UPDATE ON keys.person FOR EACH ROW EXECUTE FUNCTION keys.refuse_revival();

GRANT USAGE ON SCHEMA keys TO :"app";
GRANT SELECT, INSERT, UPDATE ON keys.person TO :"app";
