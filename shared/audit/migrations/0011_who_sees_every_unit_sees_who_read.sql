-- Who read personal data is for those who see every unit.
ALTER TABLE audit.read ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit.read FORCE ROW LEVEL SECURITY;
CREATE POLICY processes ON audit.read TO :"owner" USING (true) WITH CHECK (true);
CREATE POLICY rows ON audit.read FOR SELECT TO :"views" USING ((SELECT access.sees_all()));
