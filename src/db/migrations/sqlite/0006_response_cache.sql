-- Requests that were answered with what another one like them had got before: they have used
-- nothing. usage_hourly.cached counts them; they are among its requests, too.

ALTER TABLE usage_logs ADD COLUMN cached INTEGER NOT NULL DEFAULT 0 CHECK (cached IN (0, 1));
ALTER TABLE usage_hourly ADD COLUMN cached INTEGER NOT NULL DEFAULT 0;
