-- What was accepted stays for ever. A refusal is forgotten after ninety days by the server's clock, which no log travels with: the person
-- it tells of asked for nothing that came about, and a client that repeats its command after that long is decided upon anew.
CREATE FUNCTION es.forget_refusals() RETURNS integer LANGUAGE sql SECURITY DEFINER SET search_path = '' AS $$
    WITH old AS (
        SELECT command_id FROM es.command
        WHERE outcome = 'refused' AND at < clock_timestamp() - interval '90 days'
        ORDER BY at LIMIT 1000 FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM es.command USING old WHERE command.command_id = old.command_id RETURNING command.command_id
    )
    SELECT count(*)::integer FROM gone
$$;
REVOKE ALL ON FUNCTION es.forget_refusals() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION es.forget_refusals() TO :"app";
COMMENT ON FUNCTION es.forget_refusals() IS '忘掉九十天前的拒绝 / forgets up to a thousand refusals older than ninety days, says how many';
