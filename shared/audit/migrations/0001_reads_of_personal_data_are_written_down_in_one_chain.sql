-- Who read personal data: which person or device, about whom (by the random id), which fields, what for. Each row carries the hash of the row
-- before it, so nothing is changed, left out or put in without its being seen (`verify`). Written by one function, and by nothing else.
CREATE SCHEMA audit;
CREATE TABLE audit.read (
    number bigint PRIMARY KEY,
    at timestamptz NOT NULL,
    actor uuid NOT NULL,
    role text NOT NULL,
    unit text NOT NULL,
    subjects uuid[] NOT NULL CHECK (cardinality(subjects) > 0),
    fields text[] NOT NULL CHECK (cardinality(string_to_array(array_to_string(fields, ','), ',')) = cardinality(fields)),
    what text NOT NULL,                         -- reveal, copy, or the name of a list
    reason text NOT NULL,
    hash bytea NOT NULL
);
COMMENT ON TABLE audit.read IS '个人信息查阅记录 / every read of personal data: who, about whom, which fields, why; hash-chained';

CREATE FUNCTION audit.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%.% is append-only', TG_TABLE_SCHEMA, TG_TABLE_NAME USING ERRCODE = 'LF002';
END $$;
CREATE TRIGGER read_never_changes BEFORE UPDATE OR DELETE OR TRUNCATE ON audit.read
    FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse_change();
ALTER TABLE audit.read ENABLE ALWAYS TRIGGER read_never_changes;

-- The hash is over the hash before and the row's parts, each with its length in bytes before it; `shared.audit` counts it the same way.
CREATE FUNCTION audit.note(
    in_actor uuid, in_role text, in_unit text, in_subjects uuid[], in_fields text[], in_what text, in_reason text
) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    last record;
    following bigint;
    instant timestamptz;
    said text;
BEGIN
    PERFORM pg_catalog.pg_advisory_xact_lock(5104202031);
    SELECT number, at, hash INTO last FROM audit.read ORDER BY number DESC LIMIT 1;
    following := coalesce(last.number, 0) + 1;
    instant := greatest(pg_catalog.clock_timestamp(), last.at);
    SELECT pg_catalog.string_agg(pg_catalog.octet_length(part) || ':' || part, '' ORDER BY place) INTO said
    FROM pg_catalog.unnest(ARRAY[
        following::text, pg_catalog.to_char(instant AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US'), in_actor::text, in_role, in_unit,
        pg_catalog.array_to_string(in_subjects, ','), pg_catalog.array_to_string(in_fields, ','), in_what, in_reason
    ]) WITH ORDINALITY AS one (part, place);
    INSERT INTO audit.read (number, at, actor, role, unit, subjects, fields, what, reason, hash) VALUES (
        following, instant, in_actor, in_role, in_unit, in_subjects, in_fields, in_what, in_reason,
        pg_catalog.sha256(coalesce(last.hash, pg_catalog.decode(pg_catalog.repeat('00', 32), 'hex')) || pg_catalog.convert_to(said, 'UTF8'))
    );
    RETURN following;
END $$;
REVOKE ALL ON FUNCTION audit.note FROM PUBLIC;
GRANT USAGE ON SCHEMA audit TO :"app";
GRANT EXECUTE ON FUNCTION audit.note TO :"app";
