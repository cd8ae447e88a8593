-- What decisions and the door ask; `withdrawals` destroys the key, and nothing holds that up.
CREATE FUNCTION keys.is_erased(who uuid) RETURNS boolean LANGUAGE sql STABLE
    RETURN EXISTS (SELECT FROM keys.person WHERE subject = who AND destroyed_at IS NOT NULL);
COMMENT ON FUNCTION keys.is_erased(uuid) IS '个人信息是否已删除 / whether somebody''s data were erased, as far as this service has heard';
REVOKE ALL ON FUNCTION keys.is_erased(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION keys.is_erased(uuid) TO :"app";
