-- A session's row says which state of the conversation it holds: version is random and never given
-- twice, so that who saves says what it replaces, and of two turns on two servers none is lost.
-- model, message_count: for lists, which do not read the conversation; NULL until the next turn.
-- sealed_with: the id of the master key that context is sealed with; NULL = it is plain. A sealed
-- context is a JSON string. The table is made anew to have context last: what stands behind a large
-- text is slow to read.

CREATE TABLE sessions_new (
    id               TEXT PRIMARY KEY NOT NULL CHECK (length(id) = 36),
    api_key_id       TEXT NOT NULL REFERENCES api_keys (id),
    conversation_id  TEXT,
    model            TEXT,
    message_count    INTEGER,
    version          INTEGER NOT NULL DEFAULT 1,
    sealed_with      TEXT,
    created_at       INTEGER NOT NULL,
    last_accessed_at INTEGER NOT NULL,
    context          TEXT CHECK (context IS NULL OR json_valid(context))
) STRICT;
INSERT INTO sessions_new (id, api_key_id, conversation_id, created_at, last_accessed_at, context)
    SELECT id, api_key_id, conversation_id, created_at, last_accessed_at, context FROM sessions;
DROP TABLE sessions;
ALTER TABLE sessions_new RENAME TO sessions;
CREATE INDEX idx_sessions_owner ON sessions (api_key_id, created_at, id);
CREATE INDEX idx_sessions_last_accessed_at ON sessions (last_accessed_at);
