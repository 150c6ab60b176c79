-- Answers that belong to an Idempotency-Key: a request with the same key gets the stored answer, and
-- while it is being made no second one is begun. id is a hash of the API key and the key's value,
-- fingerprint one of the request. state: running (its owner renews lease_until while it works; later
-- than that anybody may take it over), done (content is the answer), lost (it was answered, but is
-- too large to be kept). sealed_with: the id of the master key that content is sealed with; NULL =
-- it is plain.

CREATE TABLE replies (
    id          TEXT PRIMARY KEY NOT NULL CHECK (length(id) = 64),
    api_key_id  UUID NOT NULL REFERENCES api_keys (id),
    fingerprint TEXT NOT NULL,
    request_id  TEXT NOT NULL,
    state       TEXT NOT NULL CHECK (state IN ('running', 'done', 'lost')),
    owner       TEXT NOT NULL,
    lease_until BIGINT NOT NULL,
    expires_at  BIGINT NOT NULL,
    sealed_with TEXT,
    content     TEXT
);
CREATE INDEX idx_replies_expires_at ON replies (expires_at);
