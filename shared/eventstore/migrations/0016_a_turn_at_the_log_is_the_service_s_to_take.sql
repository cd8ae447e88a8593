-- The lock under which positions are given out (D2), taken by the owner's right: where a superuser has run `shared/access/locks.sql`,
-- nobody else in this database can take it, and the processes can by this alone. `es.append` is otherwise as it was.
CREATE FUNCTION es.take_turn() RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    PERFORM pg_catalog.pg_advisory_xact_lock(5104202001);
END $$;
REVOKE ALL ON FUNCTION es.take_turn() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION es.take_turn() TO :"app";
COMMENT ON FUNCTION es.take_turn() IS '轮到写入日志 / waits until it is this transaction''s turn to append, which lasts until its end';

DO $$
DECLARE
    said text := pg_get_functiondef('es.append'::regproc);
    turn text := replace(said, 'PERFORM pg_advisory_xact_lock(5104202001);', 'PERFORM es.take_turn();');
BEGIN
    ASSERT turn <> said, 'es.append takes its turn in another way';
    EXECUTE turn;
END $$;
