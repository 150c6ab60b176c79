-- The first schema. Identifiers are UUID texts, times are milliseconds since 1970 UTC, JSON is
-- text that must parse. STRICT (SQLite 3.37) makes the column types binding.

CREATE TABLE users (
    id            TEXT PRIMARY KEY NOT NULL CHECK (length(id) = 36),
    name          TEXT NOT NULL UNIQUE CHECK (name <> ''),
    role          TEXT NOT NULL CHECK (role IN ('owner', 'operator', 'viewer')),
    password_hash TEXT,
    created_at    INTEGER NOT NULL
) STRICT;

CREATE TABLE api_keys (
    id           TEXT PRIMARY KEY NOT NULL CHECK (length(id) = 36),
    public_id    TEXT NOT NULL UNIQUE CHECK (public_id <> ''),
    secret_hash  TEXT NOT NULL,
    user_id      TEXT NOT NULL REFERENCES users (id),
    name         TEXT NOT NULL,
    status       TEXT NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'revoked')),
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER,
    last_used_at INTEGER,
    limits       TEXT NOT NULL CHECK (json_valid(limits)),
    permissions  TEXT NOT NULL CHECK (json_valid(permissions)),
    metadata     TEXT CHECK (metadata IS NULL OR json_valid(metadata))
) STRICT;
-- Lookups by public_id use the index of its UNIQUE.
CREATE INDEX idx_api_keys_user_id ON api_keys (user_id);

-- request_tokens = input + cache creation + cache read, response_tokens = output.
CREATE TABLE usage_logs (
    id                    TEXT PRIMARY KEY NOT NULL,
    request_id            TEXT NOT NULL UNIQUE,
    api_key_id            TEXT NOT NULL REFERENCES api_keys (id),
    session_id            TEXT,
    timestamp             INTEGER NOT NULL,
    endpoint              TEXT NOT NULL,
    method                TEXT NOT NULL,
    request_tokens        INTEGER NOT NULL DEFAULT 0,
    response_tokens       INTEGER NOT NULL DEFAULT 0,
    total_tokens          INTEGER NOT NULL DEFAULT 0,
    input_tokens          INTEGER NOT NULL DEFAULT 0,
    output_tokens         INTEGER NOT NULL DEFAULT 0,
    cache_creation_tokens INTEGER NOT NULL DEFAULT 0,
    cache_read_tokens     INTEGER NOT NULL DEFAULT 0,
    estimated             INTEGER NOT NULL DEFAULT 0 CHECK (estimated IN (0, 1)),
    upstream_calls        INTEGER NOT NULL DEFAULT 0,
    retries               INTEGER NOT NULL DEFAULT 0,
    response_time_ms      INTEGER,
    ttft_ms               INTEGER,
    queue_ms              INTEGER,
    status_code           INTEGER,
    model                 TEXT,
    error                 TEXT,
    cost_usd              REAL
) STRICT;
-- Serves lookups by api_key_id alone as well.
CREATE INDEX idx_usage_logs_api_key_id ON usage_logs (api_key_id, timestamp);
CREATE INDEX idx_usage_logs_timestamp ON usage_logs (timestamp);

CREATE TABLE sessions (
    id               TEXT PRIMARY KEY NOT NULL CHECK (length(id) = 36),
    api_key_id       TEXT NOT NULL REFERENCES api_keys (id),
    conversation_id  TEXT,
    context          TEXT CHECK (context IS NULL OR json_valid(context)),
    created_at       INTEGER NOT NULL,
    last_accessed_at INTEGER NOT NULL
) STRICT;
CREATE INDEX idx_sessions_api_key_id ON sessions (api_key_id);
CREATE INDEX idx_sessions_last_accessed_at ON sessions (last_accessed_at);
