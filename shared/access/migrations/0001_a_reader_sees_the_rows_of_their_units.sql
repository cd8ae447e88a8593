-- Which units' rows somebody sees who reads the views of schema `api`: the policies on the tables below ask these functions (D11).
-- A login is known by its session, which no statement of its own can change; what the query API says of who asks counts in its role only.
CREATE SCHEMA access;
CREATE TABLE access.login (
    login name NOT NULL,
    unit_code text                              -- null is every unit
);
CREATE UNIQUE INDEX login_sees_a_unit_once ON access.login (login, unit_code) NULLS NOT DISTINCT;
COMMENT ON TABLE access.login IS 'SQL 登录及其单位 / the SQL logins of admins, and whose rows each sees; written by the operator''s command `logins`';

CREATE FUNCTION access.login_sees_all() RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = ''
    RETURN EXISTS (SELECT FROM access.login WHERE login = session_user AND unit_code IS NULL);
CREATE FUNCTION access.login_units() RETURNS text[] LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = ''
    RETURN ARRAY(SELECT unit_code FROM access.login WHERE login = session_user AND unit_code IS NOT NULL);

-- Not by definer's rights, here and below: `current_user` is who asks.
CREATE FUNCTION access.is_superuser() RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE
    RETURN EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = current_user AND rolsuper);
CREATE FUNCTION access.sees_all() RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE
    RETURN CASE current_user
        WHEN :'query' THEN coalesce(current_setting('leifeng.reach', true) = 'bureau', false)
        WHEN :'app' THEN true
        WHEN :'owner' THEN true
        ELSE access.login_sees_all() OR access.is_superuser()
    END;
CREATE FUNCTION access.units() RETURNS text[] LANGUAGE sql STABLE PARALLEL SAFE
    RETURN CASE current_user
        WHEN :'query' THEN CASE WHEN current_setting('leifeng.reach', true) = 'unit' THEN ARRAY[current_setting('leifeng.unit', true)] END
        WHEN :'app' THEN NULL
        WHEN :'owner' THEN NULL
        ELSE access.login_units()
    END;
CREATE FUNCTION access.sees_any() RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE
    RETURN access.sees_all() OR coalesce(cardinality(access.units()) > 0, false);
COMMENT ON FUNCTION access.sees_all() IS '是否可见全部单位 / whether who asks sees the rows of every unit';
COMMENT ON FUNCTION access.units() IS '可见的单位 / the units whose rows who asks sees';
COMMENT ON FUNCTION access.sees_any() IS '是否可见任何单位 / whether who asks sees the rows of any unit: nobody in particular sees nothing at all';
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA access FROM PUBLIC;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA access TO :"app", :"reader", :"query";
GRANT USAGE ON SCHEMA access TO :"views";       -- To name them in a view; whoever reads it needs no name.
