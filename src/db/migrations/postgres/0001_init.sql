-- The first schema, the same as SQLite's.
--
-- Times are BIGINT milliseconds since 1970 UTC and not TIMESTAMPTZ, truth values are 0 and 1 and
-- not BOOLEAN: every statement of the program is one SQL text for both engines, and SQLite has
-- neither type. People with psql read the views *_readable. context is JSON and not JSONB, because
-- a conversation may hold \u0000, which JSONB refuses, and must come back as it was.

CREATE TABLE users (
    id            UUID PRIMARY KEY,
    name          TEXT NOT NULL UNIQUE CHECK (name <> ''),
    role          TEXT NOT NULL CHECK (role IN ('owner', 'operator', 'viewer')),
    password_hash TEXT,
    created_at    BIGINT NOT NULL
);

CREATE TABLE api_keys (
    id           UUID PRIMARY KEY,
    public_id    TEXT NOT NULL UNIQUE CHECK (public_id <> ''),
    secret_hash  TEXT NOT NULL,
    user_id      UUID NOT NULL REFERENCES users (id),
    name         TEXT NOT NULL,
    status       TEXT NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'revoked')),
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT,
    last_used_at BIGINT,
    limits       JSONB NOT NULL,
    permissions  JSONB NOT NULL,
    metadata     JSONB
);
CREATE INDEX idx_api_keys_user_id ON api_keys (user_id);

-- request_tokens = input + cache creation + cache read, response_tokens = output.
CREATE TABLE usage_logs (
    id                    UUID PRIMARY KEY,
    request_id            TEXT NOT NULL UNIQUE,
    api_key_id            UUID NOT NULL REFERENCES api_keys (id),
    session_id            UUID,
    timestamp             BIGINT NOT NULL,
    endpoint              TEXT NOT NULL,
    method                TEXT NOT NULL,
    request_tokens        BIGINT NOT NULL DEFAULT 0,
    response_tokens       BIGINT NOT NULL DEFAULT 0,
    total_tokens          BIGINT NOT NULL DEFAULT 0,
    input_tokens          BIGINT NOT NULL DEFAULT 0,
    output_tokens         BIGINT NOT NULL DEFAULT 0,
    cache_creation_tokens BIGINT NOT NULL DEFAULT 0,
    cache_read_tokens     BIGINT NOT NULL DEFAULT 0,
    estimated             SMALLINT NOT NULL DEFAULT 0 CHECK (estimated IN (0, 1)),
    upstream_calls        BIGINT NOT NULL DEFAULT 0,
    retries               BIGINT NOT NULL DEFAULT 0,
    response_time_ms      BIGINT,
    ttft_ms               BIGINT,
    queue_ms              BIGINT,
    status_code           INTEGER,
    model                 TEXT,
    error                 TEXT,
    cost_usd              DOUBLE PRECISION
);
-- Serves lookups by api_key_id alone as well.
CREATE INDEX idx_usage_logs_api_key_id ON usage_logs (api_key_id, timestamp);
CREATE INDEX idx_usage_logs_timestamp ON usage_logs (timestamp);

CREATE TABLE sessions (
    id               UUID PRIMARY KEY,
    api_key_id       UUID NOT NULL REFERENCES api_keys (id),
    conversation_id  TEXT,
    context          JSON,
    created_at       BIGINT NOT NULL,
    last_accessed_at BIGINT NOT NULL
);
CREATE INDEX idx_sessions_api_key_id ON sessions (api_key_id);
CREATE INDEX idx_sessions_last_accessed_at ON sessions (last_accessed_at);

-- Counts the changes of keys and users, so that every replica notices within a second that its
-- cached keys are out of date: it reads this one number. A counter in a row misses nothing,
-- whatever happens to connections in between, and needs none of its own; a notification that
-- nobody listened to would be lost.
CREATE TABLE key_changes (
    version BIGINT NOT NULL,
    one     BOOLEAN PRIMARY KEY DEFAULT TRUE CHECK (one)
);
INSERT INTO key_changes (version) VALUES (0);

CREATE FUNCTION note_key_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE key_changes SET version = version + 1;
    RETURN NULL;
END
$$;

-- When a key was used last is written every few seconds and is no change.
CREATE TRIGGER api_keys_updated AFTER UPDATE ON api_keys FOR EACH ROW
    WHEN (to_jsonb(OLD) - 'last_used_at' IS DISTINCT FROM to_jsonb(NEW) - 'last_used_at')
    EXECUTE FUNCTION note_key_change();
CREATE TRIGGER api_keys_changed AFTER INSERT OR DELETE OR TRUNCATE ON api_keys
    FOR EACH STATEMENT EXECUTE FUNCTION note_key_change();
CREATE TRIGGER users_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON users
    FOR EACH STATEMENT EXECUTE FUNCTION note_key_change();

CREATE VIEW usage_logs_readable AS
    SELECT to_timestamp(timestamp / 1000.0) AS at, request_id, api_key_id, session_id, endpoint,
           model, status_code, input_tokens, output_tokens, cache_creation_tokens,
           cache_read_tokens, total_tokens, cost_usd, response_time_ms, error
    FROM usage_logs;
CREATE VIEW api_keys_readable AS
    SELECT public_id, name, status, to_timestamp(created_at / 1000.0) AS created_at,
           to_timestamp(expires_at / 1000.0) AS expires_at,
           to_timestamp(last_used_at / 1000.0) AS last_used_at, limits, permissions, id, user_id
    FROM api_keys;
