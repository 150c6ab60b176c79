-- Requests that were answered with what another one like them had got before: they have used
-- nothing. usage_hourly.cached counts them; they are among its requests, too.

ALTER TABLE usage_logs ADD COLUMN cached SMALLINT NOT NULL DEFAULT 0 CHECK (cached IN (0, 1));
ALTER TABLE usage_hourly ADD COLUMN cached BIGINT NOT NULL DEFAULT 0;

CREATE OR REPLACE VIEW usage_logs_readable AS
    SELECT to_timestamp(timestamp / 1000.0) AS at, request_id, api_key_id, session_id, endpoint,
           model, status_code, input_tokens, output_tokens, cache_creation_tokens,
           cache_read_tokens, total_tokens, cost_usd, response_time_ms, error, cached = 1 AS cached
    FROM usage_logs;
CREATE OR REPLACE VIEW usage_hourly_readable AS
    SELECT to_timestamp(hour * 3600) AS at, api_key_id, model, requests, errors, input_tokens,
           output_tokens, cache_creation_tokens, cache_read_tokens,
           cost_nano / 1000000000.0 AS cost_usd, unpriced, cached
    FROM usage_hourly;
