-- The key-encryption key lies in escrow with two custodians, each of whom holds half of it: who, when, and which key (by its name, which
-- tells nothing of it). The halves are not here.
CREATE TABLE keys.escrow (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key text NOT NULL,
    first_custodian text NOT NULL,
    second_custodian text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT two_custodians_are_two_persons CHECK (lower(btrim(first_custodian)) <> lower(btrim(second_custodian)))
);
COMMENT ON TABLE keys.escrow IS '密钥托管 / which key-encryption key lies with which two custodians';
CREATE FUNCTION keys.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'what is written down here stays';
END $$;
CREATE TRIGGER escrow_never_changes BEFORE UPDATE OR DELETE OR TRUNCATE ON keys.escrow
    FOR EACH STATEMENT EXECUTE FUNCTION keys.refuse_change();
ALTER TABLE keys.escrow ENABLE ALWAYS TRIGGER escrow_never_changes;
