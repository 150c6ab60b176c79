-- A key can be disabled and enabled again, has its old secret beside the new one for a while after
-- a rotation, and may have a secret to sign requests with (sealed with the master key). version
-- counts the changes, so that of two that are made at once none is lost.

ALTER TABLE api_keys DROP CONSTRAINT api_keys_status_check;
ALTER TABLE api_keys ADD CONSTRAINT api_keys_status_check
    CHECK (status IN ('active', 'disabled', 'revoked'));

ALTER TABLE api_keys
    ADD COLUMN version            BIGINT NOT NULL DEFAULT 1,
    ADD COLUMN old_secret_hash    TEXT,
    ADD COLUMN old_secret_until   BIGINT,
    ADD COLUMN signing_secret     TEXT,
    ADD COLUMN old_signing_secret TEXT;
