-- The last number of the chain and its hash, for whoever says it outside the database: more of the chain the processes do not read.
CREATE FUNCTION audit.head() RETURNS TABLE (number bigint, hash text) LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' AS $$
    SELECT last.number, pg_catalog.encode(last.hash, 'hex') FROM audit.read AS last ORDER BY last.number DESC LIMIT 1
$$;
REVOKE ALL ON FUNCTION audit.head FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit.head TO :"app";
