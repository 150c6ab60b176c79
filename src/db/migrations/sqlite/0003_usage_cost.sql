-- What each turn has cost, exactly, and a roll-up of usage by hour.
--
-- cost_nano is the price in USD * 10^-9, an integer, so that sums are exact; cost_usd is the same
-- for people. Both are NULL when the model has no price: unknown is not 0.
--
-- usage_hourly is kept in the transaction that inserts the rows it counts. hour = milliseconds
-- since 1970 UTC / 3600000; hours add up to days of any time zone that is whole hours from UTC.
-- model '' stands for none. counted_tokens are those that count against tokens per day, where reads
-- from the cache count a tenth, rounded down for each request. unpriced counts the requests whose
-- cost is not in cost_nano.

ALTER TABLE usage_logs ADD COLUMN cost_nano INTEGER;

CREATE TABLE usage_hourly (
    api_key_id            TEXT NOT NULL REFERENCES api_keys (id),
    hour                  INTEGER NOT NULL,
    model                 TEXT NOT NULL,
    requests              INTEGER NOT NULL,
    errors                INTEGER NOT NULL,
    input_tokens          INTEGER NOT NULL,
    output_tokens         INTEGER NOT NULL,
    cache_creation_tokens INTEGER NOT NULL,
    cache_read_tokens     INTEGER NOT NULL,
    counted_tokens        INTEGER NOT NULL,
    cost_nano             INTEGER NOT NULL,
    unpriced              INTEGER NOT NULL,
    PRIMARY KEY (api_key_id, hour, model)
) STRICT, WITHOUT ROWID;
CREATE INDEX idx_usage_hourly_hour ON usage_hourly (hour);

INSERT INTO usage_hourly (api_key_id, hour, model, requests, errors, input_tokens, output_tokens,
                          cache_creation_tokens, cache_read_tokens, counted_tokens, cost_nano,
                          unpriced)
    SELECT api_key_id, timestamp / 3600000, COALESCE(model, ''), count(*),
           sum(CASE WHEN status_code >= 400 THEN 1 ELSE 0 END), sum(input_tokens),
           sum(output_tokens), sum(cache_creation_tokens), sum(cache_read_tokens),
           sum(input_tokens + output_tokens + cache_creation_tokens + cache_read_tokens / 10), 0,
           count(*)
    FROM usage_logs
    GROUP BY 1, 2, 3;
