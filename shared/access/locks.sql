-- For a superuser, once in the database of each service, whose owner the variable `owner` names; it may be run again.
-- PostgreSQL lets everybody take advisory locks and make large objects. By the first any login could hold up all appends and keep every
-- worker from its roles, by the second fill the disk. The functions are PostgreSQL's own, so a superuser alone can take that back.
-- Letting go of a lock stays everybody's: nobody has another's, and a pool does so for each connection that comes back.
SET leifeng.owner = :'owner';
DO $$
DECLARE
    each regprocedure;
BEGIN
    FOR each IN
        SELECT oid FROM pg_proc
        WHERE pronamespace = 'pg_catalog'::regnamespace
            AND proname ~ '^(pg_(try_)?advisory_(xact_)?lock(_shared)?|lo_(creat|create|from_bytea))$'
    LOOP
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', each);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', each, current_setting('leifeng.owner'));
    END LOOP;
END $$;
