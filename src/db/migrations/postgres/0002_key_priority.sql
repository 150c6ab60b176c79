-- A key's weight when turns wait for a worker: 10 gets ten times the worker time of 1.

ALTER TABLE api_keys ADD COLUMN
    priority INTEGER NOT NULL DEFAULT 1 CHECK (priority BETWEEN 1 AND 10);
