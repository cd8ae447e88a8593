-- Who signs in without a provider, and who is signed in. Mutable and forgettable: nothing of this is a fact of the log. Secrets stand here as digests only.
CREATE SCHEMA signin;
GRANT USAGE ON SCHEMA signin TO :"app";

CREATE TABLE signin.account (
    login text PRIMARY KEY,                     -- as typed, in lower case
    person_id uuid NOT NULL CONSTRAINT account_person_key UNIQUE,
    password_hash text NOT NULL,                -- argon2id, with its parameters
    failures integer NOT NULL DEFAULT 0,        -- since the last success
    locked_until timestamptz,
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE signin.account IS '本地账户 / accounts of a bureau without an OpenID Connect provider';

-- A link that signs a person in once: the first time, or when a password was lost.
CREATE TABLE signin.link (
    digest bytea PRIMARY KEY,
    person_id uuid NOT NULL,
    expires_at timestamptz NOT NULL
);
COMMENT ON TABLE signin.link IS '一次性登录链接 / links that sign somebody in once';

-- On the way to the provider and back.
CREATE TABLE signin.flow (
    digest bytea PRIMARY KEY,                   -- of the state that the browser carries
    nonce text NOT NULL,
    verifier text NOT NULL,
    next text NOT NULL,
    expires_at timestamptz NOT NULL
);
COMMENT ON TABLE signin.flow IS '登录途中 / sign-ins that are under way at the provider';

CREATE TABLE signin.session (
    digest bytea PRIMARY KEY,                   -- of the key in the cookie
    person_id uuid NOT NULL,
    way text NOT NULL CONSTRAINT session_way CHECK (way IN ('password', 'link', 'provider')),
    role text,                                  -- as what they chose to act; null for what fits
    unit text,
    began_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL
);
CREATE INDEX session_person ON signin.session (person_id);
COMMENT ON TABLE signin.session IS '会话 / who is signed in';

GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA signin TO :"app";
