-- A key can be disabled and enabled again, has its old secret beside the new one for a while after
-- a rotation, and may have a secret to sign requests with (sealed with the master key). version
-- counts the changes, so that of two that are made at once none is lost.
--
-- SQLite can change a CHECK only by making the table anew. Rows of other tables refer to it: their
-- check waits for the end of the transaction, and the rows put back here satisfy it.

PRAGMA defer_foreign_keys = ON;

CREATE TABLE api_keys_moved AS SELECT * FROM api_keys;
DROP TABLE api_keys;

CREATE TABLE api_keys (
    id           TEXT PRIMARY KEY NOT NULL CHECK (length(id) = 36),
    public_id    TEXT NOT NULL UNIQUE CHECK (public_id <> ''),
    secret_hash  TEXT NOT NULL,
    user_id      TEXT NOT NULL REFERENCES users (id),
    name         TEXT NOT NULL,
    status       TEXT NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'disabled', 'revoked')),
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER,
    last_used_at INTEGER,
    limits       TEXT NOT NULL CHECK (json_valid(limits)),
    permissions  TEXT NOT NULL CHECK (json_valid(permissions)),
    metadata     TEXT CHECK (metadata IS NULL OR json_valid(metadata)),
    priority     INTEGER NOT NULL DEFAULT 1 CHECK (priority BETWEEN 1 AND 10),
    version            INTEGER NOT NULL DEFAULT 1,
    old_secret_hash    TEXT,
    old_secret_until   INTEGER,
    signing_secret     TEXT,
    old_signing_secret TEXT
) STRICT;

INSERT INTO api_keys (id, public_id, secret_hash, user_id, name, status, created_at, expires_at,
                      last_used_at, limits, permissions, metadata, priority)
    SELECT id, public_id, secret_hash, user_id, name, status, created_at, expires_at,
           last_used_at, limits, permissions, metadata, priority FROM api_keys_moved;
DROP TABLE api_keys_moved;

CREATE INDEX idx_api_keys_user_id ON api_keys (user_id);
