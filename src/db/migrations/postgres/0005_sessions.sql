-- A session's row says which state of the conversation it holds: version is random and never given
-- twice, so that who saves says what it replaces, and of two turns on two servers none is lost.
-- model, message_count: for lists, which do not read the conversation; NULL until the next turn.
-- sealed_with: the id of the master key that context is sealed with; NULL = it is plain. A sealed
-- context is a JSON string.

ALTER TABLE sessions
    ADD COLUMN model TEXT,
    ADD COLUMN message_count BIGINT,
    ADD COLUMN version BIGINT NOT NULL DEFAULT 1,
    ADD COLUMN sealed_with TEXT;
DROP INDEX idx_sessions_api_key_id;
CREATE INDEX idx_sessions_owner ON sessions (api_key_id, created_at, id);
