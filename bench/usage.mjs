// usage.mjs - usage rows: how fast they are stored, and how fast they are added up.
//
//   i  rows per second that become durable, against the same batches straight to the database; and
//      10,000 rows a second for 20 s: how many wait at most. SQLite, then PostgreSQL (fsync on).
//   j  a year of one key by day among ten million rows (BENCH_ROWS) of a hundred keys, by
//      GET /api/usage, against the same sum over the rows. SQLite, then PostgreSQL.
import { execFile, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import path from 'node:path';
import { promisify } from 'node:util';

import {
  add, agent, BENCH_USAGE, CLAUDEGATE, cleanEnv, FAKE, median, ms, start, startGateway, stop, tmp,
} from './lib.mjs';

const run = promisify(execFile);
const MANY = Number(process.env.BENCH_ROWS ?? 10_000_000);
const KEYS = 100;
const HOUR = 3_600_000;
const WITH_POSTGRES = path.resolve(import.meta.dirname, '../tools/with-postgres.sh');

/** body(url, psql) with a PostgreSQL server of its own. */
async function withPostgres(body) {
  const p = spawn(WITH_POSTGRES, ['bash', '-c', 'echo "$TEST_DATABASE_URL $TEST_PSQL"; cat'],
    { stdio: ['pipe', 'pipe', 'inherit'], env: { ...cleanEnv(), TEST_POSTGRES_FSYNC: 'on' } });
  const ended = once(p, 'exit');
  try {
    const [text] = await once(p.stdout, 'data');
    const [url, psql] = String(text).trim().split(' ');
    p.stdout.resume();
    const sql = (db, statement) => run(psql, ['-X', '-q', '-A', '-t', '-v', 'ON_ERROR_STOP=1', db,
      '-c', statement], { maxBuffer: 64 << 20 });
    await sql(url, 'CREATE DATABASE bench TEMPLATE template0');
    await body(url.replace(/\/[^/]*$/, '/bench'), sql);
  } finally {
    p.stdin.end();
    await ended;
  }
}

// --- i ------------------------------------------------------------------------------------------

async function measureWrites(name, url) {
  const dir = path.join(tmp, `journal-${name}`);
  const { stdout } = await run(BENCH_USAGE, [url, dir], { env: cleanEnv(), timeout: 600_000 });
  const { plain, flat, paced } = JSON.parse(stdout);
  add(`i  usage rows/s durable, ${name}`, flat.toFixed(0), `${plain.toFixed(0)}  plain batched inserts`,
    `${(flat / plain).toFixed(2)} of it`);
  add(`i  10,000 rows/s for 20 s, ${name}: most waiting`, String(paced.mostWaiting),
    `${paced.asked}  rows that come in a second`,
    `${(paced.mostWaiting / paced.asked).toFixed(2)} s behind, ${paced.drainMs} ms to the last`);
}

export async function usageWrites() {
  await measureWrites('SQLite', `sqlite:${path.join(tmp, 'writes.db')}`);
  await withPostgres((url) => measureWrites('PostgreSQL', url));
}

// --- j ------------------------------------------------------------------------------------------

const COLUMNS = 'id, request_id, api_key_id, timestamp, endpoint, method, request_tokens, ' +
  'response_tokens, total_tokens, input_tokens, output_tokens, cache_creation_tokens, ' +
  'cache_read_tokens, upstream_calls, response_time_ms, ttft_ms, queue_ms, status_code, model, ' +
  'cost_nano, cost_usd';

/** Rows spread over the year before `now`; n is the row's number, h its number in hex digits. */
const values = (n, h, now) => `${h}, 'req_' || ${n}, ` +
  `k.id, ${now} - (${n} % 31536000) * 1000 - (${n} % 997), '/api/chat', 'POST', 1000, 50, 1050, ` +
  `1000, 50, 0, 0, 1, 900, 300, 1, CASE WHEN ${n} % 50 = 0 THEN 500 ELSE 200 END, ` +
  `'claude-sonnet-4-' || (${n} % 3 + 4), 3750000, 0.00375`;

const ROLL_UP = 'INSERT INTO usage_hourly SELECT api_key_id, timestamp / 3600000, model, count(*), ' +
  'sum(CASE WHEN status_code >= 400 THEN 1 ELSE 0 END), sum(input_tokens), sum(output_tokens), ' +
  'sum(cache_creation_tokens), sum(cache_read_tokens), sum(input_tokens + output_tokens), ' +
  'sum(cost_nano), 0 FROM usage_logs GROUP BY 1, 2, 3';
const INDEXES = ['idx_usage_logs_api_key_id ON usage_logs (api_key_id, timestamp)',
  'idx_usage_logs_timestamp ON usage_logs (timestamp)'];
const rawSum = (key, from) => 'SELECT timestamp / 86400000, count(*), ' +
  'sum(CASE WHEN status_code >= 400 THEN 1 ELSE 0 END), sum(input_tokens), sum(output_tokens), ' +
  'sum(cache_creation_tokens), sum(cache_read_tokens), sum(cost_nano) FROM usage_logs ' +
  `WHERE api_key_id = '${key}' AND timestamp >= ${from} GROUP BY 1 ORDER BY 1`;

/** The rows of many keys, as fast as the engine can: the indexes come last. */
async function fill(sql, postgres, now) {
  const drop = INDEXES.map((text) => `DROP INDEX ${text.split(' ')[0]}`);
  const make = INDEXES.map((text) => `CREATE INDEX ${text}`);
  const keys = `(SELECT id, row_number() OVER (ORDER BY created_at, id) - 1 AS i FROM api_keys) AS k`;
  const [series, hex] = postgres
    ? [`generate_series(1::bigint, ${MANY}) AS n(n)`,
      "(lpad(to_hex(n.n), 8, '0') || '-0000-7000-8000-000000000000')::uuid"]
    : [`(WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n LIMIT ${MANY}) SELECT n FROM n) AS n`,
      "printf('%08x-0000-7000-8000-000000000000', n.n)"];
  await sql(`${drop.join('; ')}; INSERT INTO usage_logs (${COLUMNS}) SELECT ${values('n.n', hex, now)} ` +
    `FROM ${series} JOIN ${keys} ON k.i = n.n % ${KEYS}; ${make.join('; ')}; ${ROLL_UP}; ANALYZE`);
}

async function getUsage(gw, from) {
  const t0 = performance.now();
  const reply = await fetch(`${gw.url}/api/usage?group=day&from=${new Date(from).toISOString()}`,
    { headers: { authorization: `Bearer ${gw.key}` } });
  const body = await reply.json();
  if (reply.status !== 200) throw new Error(JSON.stringify(body));
  return { time: performance.now() - t0, body };
}

/** sql(statement) -> text; rawTime(statement) -> ms. */
async function measureSums(name, env, sql, rawTime) {
  const gw = await startGateway(`sums-${name}`, {
    CLAUDEGATE_CLAUDE_BIN: FAKE, ANTHROPIC_BASE_URL: 'http://127.0.0.1:9', ...env,
  });
  const key = (await sql("SELECT id FROM api_keys WHERE name = 'bench'")).trim();
  const copies = Array.from({ length: KEYS - 2 }, (_, i) =>
    `('${String(i).padStart(8, '0')}-0000-4000-8000-000000000000', 'copy${String(i).padStart(8, '0')}')`);
  await sql('INSERT INTO api_keys (id, public_id, secret_hash, user_id, name, status, created_at, ' +
    `limits, permissions) SELECT ${name === 'PostgreSQL' ? 'v.id::uuid' : 'v.column1'}, ` +
    `${name === 'PostgreSQL' ? 'v.pid' : 'v.column2'}, 'h', user_id, 'copy', 'active', created_at + 1, ` +
    `limits, permissions FROM api_keys, (VALUES ${copies}) AS v${name === 'PostgreSQL' ? '(id, pid)' : ''} ` +
    "WHERE name = 'bench'");
  const now = Math.floor(Date.now() / HOUR) * HOUR;
  process.stderr.write(`bench: ${MANY} rows into ${name}\n`);
  await fill(sql, name === 'PostgreSQL', now);
  const from = now - 365 * 24 * HOUR;
  const times = [];
  let requests = 0;
  for (let i = 0; i < 21; i++) {
    const { time, body } = await getUsage(gw, from);
    times.push(time);
    requests = body.totals.requests;
  }
  if (requests < MANY / KEYS * 0.99) throw new Error(`${requests} requests in the sum`);
  const raw = [];
  for (let i = 0; i < 5; i++) raw.push(await rawTime(rawSum(key, from)));
  add(`j  a year of one key by day, ${MANY / 1e6} M rows, ${name}`, ms(median(times)),
    `${ms(median(raw))}  the same sum over its ${requests} rows`,
    `${(median(raw) / median(times)).toFixed(1)}x faster, slowest ${ms(Math.max(...times))}`);
  await stop(gw.p);
  agent.destroy();
}

async function sumsInSqlite() {
  const file = path.join(tmp, 'sums.db');
  const sqlite = async (...args) => (await run('sqlite3', ['-cmd', '.timeout 60000', file, ...args],
    { maxBuffer: 64 << 20 })).stdout;
  await measureSums('SQLite', { DATABASE_URL: `sqlite:${file}` }, sqlite, async (statement) => {
    const text = execFileSync('sqlite3', [file],
      { input: `.timer on\n${statement};\n`, encoding: 'utf8', maxBuffer: 64 << 20 });
    return 1000 * Number(/Run Time: real ([\d.]+)/.exec(text)[1]);
  });
  fs.rmSync(file, { force: true });
}

async function sumsInPostgres() {
  await withPostgres(async (url, psql) => {
    const sql = async (statement) => (await psql(url, statement)).stdout;
    await measureSums('PostgreSQL', { DATABASE_URL: url }, sql, async (statement) => {
      const text = await sql(`EXPLAIN (ANALYZE, TIMING OFF) ${statement}`);
      return Number(/Execution Time: ([\d.]+) ms/.exec(text)[1]);
    });
  });
}

export async function usageSums() {
  await sumsInSqlite();
  await sumsInPostgres();
}
