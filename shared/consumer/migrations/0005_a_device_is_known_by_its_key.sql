-- Devices that registration gave a key, as the consumer `withdrawals` has read: what a revocation must end, no parked key may hold up (D8).
CREATE TABLE consumer.device (
    device_id uuid PRIMARY KEY,
    key_digest text NOT NULL CONSTRAINT device_key_digest_key UNIQUE,   -- SHA-256 of the key, in hexadecimal digits
    unit_code text NOT NULL,
    expires_at timestamptz NOT NULL,            -- by the log's clock
    revoked_position bigint                     -- in registration's log; null while the key counts
);
COMMENT ON TABLE consumer.device IS '设备密钥 / devices and the digests of their keys; what is revoked stays, so that it is known as such';
GRANT SELECT, INSERT, UPDATE ON consumer.device TO :"app";
