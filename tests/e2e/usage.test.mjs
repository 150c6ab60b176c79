// What is used is written down once, priced, and told to its owner: whatever kills the server, stops
// the database, or fills the disk.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { eventually, Gateway, tempDir } from './lib/gateway.mjs';
import { Postgres } from './lib/postgres.mjs';
import { Random } from './lib/soak_mix.mjs';

const LIMIT = { timeout: 90_000 };
const HOUR = 3_600_000;
const SONNET = { input: 3000, output: 15000, write: 3750, read: 300 }; // nano-USD per token

const fake = (step) => `fake:${JSON.stringify(step)}`;
const used = (input, output = 5, creation = 0, read = 0) => ({
  input_tokens: input, output_tokens: output, cache_creation_input_tokens: creation,
  cache_read_input_tokens: read,
});
const sonnet = ([input, output, creation = 0, read = 0]) =>
  input * SONNET.input + output * SONNET.output + creation * SONNET.write + read * SONNET.read;

/** GET with a key: the reply. */
async function get(gw, path, key) {
  return gw.request('GET', path, { headers: { authorization: `Bearer ${key ?? await gw.key()}` } });
}

async function getOk(gw, path, key) {
  const reply = await get(gw, path, key);
  assert.equal(reply.status, 200, reply.text);
  assert.equal(reply.body.success, true);
  return reply.body;
}

/** The roll-up says the same as the rows. */
async function assertRolledUp(gw) {
  const columns = ['input_tokens', 'output_tokens', 'cache_creation_tokens', 'cache_read_tokens',
    'cached'];
  const sums = columns.map((c) => `sum(${c}) AS ${c}`).join(', ');
  const of = (rows) => rows.map((r) => Object.fromEntries(
    Object.entries(r).map(([k, v]) => [k, k === 'model' || k === 'key' ? v : Number(v)])));
  const rows = of(await gw.sql('SELECT CAST(api_key_id AS TEXT) AS key, timestamp / 3600000 AS hour, ' +
    "coalesce(model, '') AS model, count(*) AS requests, " +
    'sum(CASE WHEN status_code >= 400 THEN 1 ELSE 0 END) AS errors, ' +
    `${sums}, coalesce(sum(cost_nano), 0) AS cost_nano, ` +
    'sum(CASE WHEN cost_nano IS NULL THEN 1 ELSE 0 END) AS unpriced ' +
    'FROM usage_logs GROUP BY 1, 2, 3 ORDER BY 1, 2, 3'));
  const rolled = of(await gw.sql('SELECT CAST(api_key_id AS TEXT) AS key, hour, model, requests, ' +
    `errors, ${columns.join(', ')}, cost_nano, unpriced FROM usage_hourly ORDER BY 1, 2, 3`));
  assert.deepEqual(rolled, rows);
  return rows;
}

let gw;
before(async () => {
  gw = await Gateway.start();
});
after(() => gw.stop());

// --- cost and columns ---------------------------------------------------------------------------

test('a row has every column, and the exact price of its model', LIMIT, async () => {
  const body = await gw.ask(fake({ text: 'hi', usage: used(11, 7, 100, 2000) }),
    { model: 'claude-sonnet-4-5-20250929' });
  const row = await gw.usageRow(body.requestId);
  const cost = sonnet([11, 7, 100, 2000]);
  const { id, request_id: _, api_key_id: key, session_id: session, timestamp, response_time_ms: ms,
    ttft_ms: ttft, queue_ms: queue, cost_usd: usd, ...rest } = row;
  assert.match(id, /^[0-9a-f-]{36}$/);
  assert.match(key, /^[0-9a-f-]{36}$/);
  assert.equal(session, body.sessionId);
  assert.ok(Math.abs(timestamp - Date.now()) < 60_000);
  assert.ok(ms >= ttft && ttft >= 0 && queue >= 0 && queue <= ms, `${ms} ${ttft} ${queue}`);
  assert.deepEqual(rest, {
    endpoint: '/api/chat', method: 'POST', model: 'claude-sonnet-4-5-20250929', error: null,
    request_tokens: 2111, response_tokens: 7, total_tokens: 2118, input_tokens: 11,
    output_tokens: 7, cache_creation_tokens: 100, cache_read_tokens: 2000, estimated: 0,
    cached: 0, upstream_calls: 1, retries: 0, status_code: 200, cost_nano: cost,
  });
  assert.ok(Math.abs(usd - cost / 1e9) < 1e-15, usd);
});

test('a model without a price costs an unknown amount, never 0', LIMIT, async () => {
  const { key } = await gw.createKey(['--models', '*']);
  const reply = await gw.chat({ message: 'hello', model: 'mystery-1' }, { key });
  assert.equal(reply.status, 200, reply.text);
  const row = await gw.usageRow(reply.body.requestId);
  assert.deepEqual([row.model, row.input_tokens, row.cost_nano, row.cost_usd],
    ['mystery-1', 10, null, null]);
  assert.equal(await gw.metrics('claudegate_unpriced_turns_total', { model: 'mystery-1' }), 1);
  const { usage, totals } = await getOk(gw, '/api/usage?group=model', key);
  assert.equal(totals.costUsd, null);
  assert.equal(totals.unpricedRequests, 1);
  assert.deepEqual(usage.map((u) => [u.model, u.requests, u.costUsd]), [['mystery-1', 1, null]]);
  await gw.ask(fake({ text: 'x', usage: used(1000, 0) }), { model: 'claude-haiku-4-5' }, { key });
  const { totals: both } = await eventually(async () => {
    const body = await getOk(gw, '/api/usage', key);
    return body.totals.requests === 2 && body;
  });
  assert.deepEqual([both.costUsd, both.unpricedRequests], [0.001, 1]);
});

test('prices of one\'s own replace and add; a wrong file is refused by name', LIMIT, async (t) => {
  const file = join(tempDir(), 'prices.json');
  const rates = { input: 1, output: 2, cacheWrite: 3, cacheRead: 0.5 };
  writeFileSync(file, JSON.stringify({ models: {
    'claude-sonnet-4-5*': { ...rates, name: 'claude-sonnet-4-5', maxTokens: 900 },
    'house-*': { ...rates, output: 20 },
    'house-special': { ...rates, output: 0 },
  } }));
  const own = await Gateway.start({ config: { pricing: { file } }, test: t });
  const { key } = await own.createKey(['--models', '*']);
  const cost = async (model) => {
    const reply = await own.chat({ message: fake({ text: 'x', usage: used(1, 1, 1, 2) }), model },
      { key });
    assert.equal(reply.status, 200, reply.text);
    return (await own.usageRow(reply.body.requestId)).cost_nano;
  };
  assert.equal(await cost('claude-sonnet-4-5'), 1000 + 2000 + 3000 + 1000);
  assert.equal(await cost('house-plain'), 1000 + 20_000 + 3000 + 1000);
  assert.equal(await cost('house-special'), 1000 + 3000 + 1000);
  assert.equal(await cost('claude-haiku-4-5'), 1000 + 5000 + 1250 + 200);
  writeFileSync(file, JSON.stringify({ models: { 'a-*': { ...rates, output: -1 } } }));
  const { code, stderr } = await Gateway.refused({ config: { pricing: { file } } });
  assert.equal(code, 1);
  assert.match(stderr, /pricing\.file '.*': models\.a-\*: output: must be USD per million tokens/);
});

test('a key with a limit of cost may not use what has no price', LIMIT, async () => {
  const { key } = await gw.createKey(['--models', '*', '--cost-per-day', '5']);
  const reply = await gw.chat({ message: 'hello', model: 'mystery-2' }, { key });
  assert.equal(reply.status, 403, reply.text);
  assert.match(reply.body.error, /model: 'mystery-2' has no price/);
  assert.equal((await gw.chat({ message: 'hello' }, { key })).status, 200);
});

// --- the endpoints ------------------------------------------------------------------------------

test('GET /api/usage: by day, hour and model, of one\'s own key alone', LIMIT, async () => {
  const { key } = await gw.createKey();
  const plan = [
    ['claude-sonnet-4-5', [100, 10, 0, 0]], ['claude-sonnet-4-5', [200, 20, 30, 40]],
    ['claude-haiku-4-5', [1000, 1, 0, 0]],
  ];
  const from = new Date(Math.floor(Date.now() / HOUR) * HOUR).toISOString();
  for (const [model, tokens] of plan) {
    await gw.ask(fake({ text: 'x', usage: used(...tokens) }), { model }, { key });
  }
  const failed = await gw.chat({
    message: fake({ error: { status: 400, message: 'no', kind: 'invalid_request' } }),
  }, { key });
  assert.ok(failed.status >= 400, failed.text);
  await gw.usageRows();
  const cost = (sonnet(plan[0][1]) + sonnet(plan[1][1]) + 1000 * 1000 + 5000) / 1e9;
  const byModel = await getOk(gw, `/api/usage?group=model&from=${from}`, key);
  assert.deepEqual(byModel.totals, {
    requests: 4, errors: 1, cachedRequests: 0, promptTokens: 1370, completionTokens: 31, totalTokens: 1401,
    inputTokens: 1300, cacheCreationTokens: 30, cacheReadTokens: 40, costUsd: cost,
    unpricedRequests: 0,
  });
  assert.deepEqual(byModel.usage.map((u) => [u.model, u.requests, u.errors, u.inputTokens, u.costUsd]),
    [['claude-haiku-4-5', 1, 0, 1000, 0.001005],
      ['claude-sonnet-4-5', 3, 1, 300, (sonnet(plan[0][1]) + sonnet(plan[1][1])) / 1e9]]);
  assert.equal(byModel.from, from);
  const byDay = await getOk(gw, '/api/usage', key);
  assert.equal(byDay.group, 'day');
  assert.deepEqual(byDay.totals, byModel.totals);
  assert.ok(byDay.usage.length <= 2 && /^\d{4}-\d\d-\d\d$/.test(byDay.usage[0].day));
  assert.equal(Date.parse(byDay.to) - Date.parse(byDay.from), 30 * 24 * HOUR + HOUR);
  const byHour = await getOk(gw, `/api/usage?group=hour&from=${from}`, key);
  assert.equal(byHour.usage[0].hour, from);
  assert.deepEqual(byHour.totals, byModel.totals);
  const later = new Date(Date.parse(from) + 2 * HOUR).toISOString();
  const none = await getOk(gw, `/api/usage?from=${later}&to=2100-01-01T00:00:00%2B02:00&group=model`
    .replace('2100', String(new Date().getUTCFullYear() + 2)), key);
  assert.deepEqual([none.usage, none.totals.requests, none.totals.costUsd], [[], 0, 0]);
  const { key: other } = await gw.createKey();
  assert.equal((await getOk(gw, '/api/usage', other)).totals.requests, 0);
});

test('GET /api/usage/requests: pages, newest first', LIMIT, async () => {
  const { key } = await gw.createKey();
  const ids = [];
  for (let i = 0; i < 7; i++) {
    ids.unshift((await gw.ask(fake({ text: 'x', usage: used(i) }), {}, { key })).requestId);
  }
  await gw.usageRows();
  const seen = [];
  let pages = 0;
  for (let before = ''; before !== null; pages++) {
    const page = await getOk(gw, `/api/usage/requests?limit=3${before}`, key);
    seen.push(...page.requests);
    before = page.next && `&before=${page.next}`;
  }
  assert.equal(pages, 3);
  assert.deepEqual(seen.map((r) => r.requestId), ids);
  const { requestId: _, sessionId, timestamp, responseTimeMs, ttftMs, queueMs, ...rest } = seen[0];
  assert.match(sessionId, /^[0-9a-f-]{36}$/);
  assert.ok(Math.abs(Date.parse(timestamp) - Date.now()) < 60_000);
  assert.ok(responseTimeMs >= 0 && ttftMs >= 0 && queueMs >= 0);
  assert.deepEqual(rest, {
    endpoint: '/api/chat', method: 'POST', model: 'claude-sonnet-4-5', promptTokens: 6,
    completionTokens: 5, totalTokens: 11, inputTokens: 6, cacheCreationTokens: 0,
    cacheReadTokens: 0, estimated: false, cached: false, costUsd: sonnet([6, 5]) / 1e9,
    statusCode: 200, error: null, upstreamCalls: 1, retries: 0,
  });
  const foreign = await get(gw, `/api/usage/requests?before=${ids[0]}`); // another key's
  assert.equal(foreign.status, 400, foreign.text);
});

test('a wrong parameter is named, with its rule', LIMIT, async () => {
  const cases = [
    ['/api/usage?group=week', /^group: must be day, hour or model$/],
    ['/api/usage?from=yesterday', /^from: must be a date like/],
    ['/api/usage?to=2026-13-01', /^to: must be a date like/],
    ['/api/usage?from=2026-02-01&to=2026-02-01', /^from: must be before to$/],
    ['/api/usage?from=2001-01-01&to=2026-01-01', /^from: must be at most 3660 days before to/],
    ['/api/usage?from=2024-01-01&to=2026-01-01&group=hour', /^from: must be at most 366 days/],
    ['/api/usage/requests?limit=0', /^limit: must be a number from 1 to 500$/],
    ['/api/usage/requests?limit=many', /^limit: must be/],
    ['/api/usage/requests?before=req_unknown', /^before: must be the requestId/],
  ];
  for (const [path, rule] of cases) {
    const reply = await get(gw, path);
    assert.equal(reply.status, 400, `${path}: ${reply.text}`);
    assert.equal(reply.body.success, false);
    assert.match(reply.body.error, rule, path);
  }
  assert.equal((await gw.request('GET', '/api/usage')).status, 401);
  assert.equal((await gw.request('GET', '/api/models')).status, 401);
});

test('GET /api/models: what this key may use, with price and longest answer', LIMIT, async () => {
  const { key } = await gw.createKey(['--models', 'claude-sonnet-4-5*,house-model,claude-haiku-5*',
    '--max-tokens', '5000']);
  const { models } = await getOk(gw, '/api/models', key);
  assert.deepEqual(models.map((m) => m.name), ['house-model', 'claude-sonnet-4-5', 'claude-haiku-5-5']);
  const [house, sonnet45, haiku] = models;
  assert.deepEqual(house, { name: 'house-model', default: false, maxTokens: 5000, pricing: null });
  assert.deepEqual(sonnet45, { name: 'claude-sonnet-4-5', default: true, maxTokens: 5000,
    pricing: { unit: 'USD per million tokens', input: 3, output: 15, cacheWrite: 3.75, cacheRead: 0.3 } });
  assert.deepEqual(haiku.pricing.longPrompt,
    { over: 100_000, input: 0.5, output: 2.5, cacheWrite: 0.625, cacheRead: 0.05 });
  const { key: free } = await gw.createKey(['--max-tokens', 'unlimited']);
  const all = (await getOk(gw, '/api/models', free)).models;
  assert.ok(all.length >= 8 && all.every((m) => m.pricing.input > 0), JSON.stringify(all));
  assert.equal(all.find((m) => m.name === 'claude-sonnet-4-5').maxTokens, 64_000);
});

// --- exactly once -------------------------------------------------------------------------------

/** Asks without end until the server is gone. Each question has a number of its own as its usage. */
async function client(server, key, next, answers) {
  for (;;) {
    const n = next();
    const step = { text: 'one two three four', chunk: 5, delay_ms: n % 4, usage: used(n, n % 50 + 1) };
    const reply = await server.chat({ message: `q${n} ${fake(step)}` }, { key }).catch(() => null);
    if (!reply) return;
    if (reply.status === 200) answers.set(n, reply.body.requestId);
    else assert.equal(reply.status, 503, reply.text);
  }
}

test('kill -9 at random moments: each question has one row', { timeout: 180_000 }, async (t) => {
  const KILLS = 8;
  const CLIENTS = 6;
  const seed = Number(process.env.USAGE_SEED ?? Date.now() % 1_000_000);
  const random = new Random(seed);
  const ledger = join(tempDir(), 'turns');
  let server = await Gateway.start({ env: {
    CLAUDEGATE_CLAUDE_PASS_ENV: 'FAKE_TURNS', FAKE_TURNS: ledger, CLAUDEGATE_POOL_MAX_WORKERS: '4',
    CLAUDEGATE_POOL_MIN_SPARE: '2',
  } });
  const key = await server.key();
  const answers = new Map();
  let number = 100_000;
  for (let i = 0; i < KILLS; i++) {
    const clients = Array.from({ length: CLIENTS },
      () => client(server, key, () => ++number, answers));
    const enough = answers.size + random.int(0, 25);
    await eventually(() => answers.size >= enough, { ms: 20_000, every: 2, what: 'answers' });
    await sleep(random.int(0, 40));
    await server.kill9();
    await Promise.all(clients);
    server = await server.restart({ ready: i % 3 !== 0 });
  }
  const rows = await server.usageRows();
  const asked = readFileSync(ledger, 'utf8').trim().split('\n').map((line) => Number(line.split(' q')[1]));
  const why = `USAGE_SEED=${seed}`;
  assert.equal(new Set(rows.map((r) => r.request_id)).size, rows.length, why);
  // Whoever got an answer is billed exactly that, once.
  const byId = new Map(rows.map((r) => [r.request_id, r]));
  for (const [n, id] of answers) {
    const row = byId.get(id);
    assert.deepEqual([row?.status_code, row?.input_tokens, row?.output_tokens, row?.estimated],
      [200, n, n % 50 + 1, 0], why);
  }
  // Every question a process has read has one row. Those of a turn that was cut off before it told
  // its usage hold an estimate of the question's length.
  const rowsOf = new Map();
  for (const r of rows) rowsOf.set(r.input_tokens, [...rowsOf.get(r.input_tokens) ?? [], r]);
  const lost = asked.filter((n) => !rowsOf.has(n));
  const estimates = rows.filter((r) => r.input_tokens < 100_000);
  assert.deepEqual([...rowsOf].filter(([n, list]) => n > 100_000 && list.length !== 1), [], why);
  assert.ok(lost.length <= estimates.length, `${why}: ${lost} of ${asked.length} without a row`);
  assert.ok(estimates.length <= KILLS * CLIENTS, why);
  for (const row of estimates) {
    assert.match(row.error ?? '', /^(server_died|client_gone|shutting_down|worker_failed)/, why);
  }
  for (const row of rows) {
    assert.equal(row.cost_nano, sonnet([row.input_tokens, row.output_tokens]), why);
  }
  assert.ok(answers.size > KILLS, `${answers.size} answers`);
  const rolled = await assertRolledUp(server);
  const { totals } = await getOk(server, '/api/usage');
  assert.equal(totals.requests, rows.length);
  assert.equal(totals.costUsd, rolled.reduce((sum, r) => sum + r.cost_nano, 0) / 1e9);
  t.diagnostic(`${answers.size} answers, ${asked.length} questions, ${rows.length} rows, ` +
    `${estimates.length} estimates, ${why}`);
  await server.stop();
});

test('while the database is away the journal grows, then all of it arrives', { timeout: 120_000 }, async (t) => {
  const pg = await Postgres.start();
  t.after(() => pg.close());
  const server = await Gateway.start({ postgres: pg,
    env: { CLAUDEGATE_DATABASE_CONNECT_TIMEOUT_MS: '200' } }); // a session waits that long
  const ask = (n) => server.ask(`q ${fake({ text: 'x', usage: used(n) })}`);
  for (let i = 0; i < 10; i++) await ask(i);
  await server.usageRows();
  await pg.control('stop');
  await Promise.all(Array.from({ length: 30 }, (_, i) => ask(i + 10)));
  assert.equal(await server.metrics('claudegate_usage_journal_pending'), 30);
  const files = readdirSync(join(server.dataDir, 'journal')).filter((f) => /^usage-\d+/.test(f));
  assert.ok(files.length >= 1, files.join());
  await sleep(1500);
  await pg.control('start');
  await eventually(async () => await server.metrics('claudegate_usage_journal_pending') === 0,
    { ms: 40_000, what: 'the journal has been moved' });
  const rows = await server.usageRows();
  assert.deepEqual(rows.map((r) => r.input_tokens).sort((a, b) => a - b),
    Array.from({ length: 40 }, (_, i) => i));
  assert.equal(await server.metrics('claudegate_usage_dropped_total'), 0);
  await assertRolledUp(server);
  await server.stop();
});

// --- a full disk --------------------------------------------------------------------------------

/** No file of that server may grow any more; undefined: as before. */
function fileLimit(server, bytes = 'unlimited') {
  execFileSync('prlimit', ['--pid', String(server.pid), `--fsize=${bytes}:`]);
}

test('a full disk: alarm, 503 instead of an unbilled answer, recovery by itself', LIMIT, async (t) => {
  const server = await Gateway.start({ test: t });
  const ids = [(await server.ask('hello')).requestId];
  await server.usageRows();
  assert.equal((await server.pool()).usageJournal, 'ok');
  assert.equal(await server.metrics('claudegate_usage_journal_disk_full'), 0);
  fileLimit(server, 0);
  ids.push((await server.ask('this one finds out')).requestId);
  for (let i = 0; i < 3; i++) {
    const reply = await server.chat({ message: 'hello' });
    assert.equal(reply.status, 503, reply.text);
    assert.equal(reply.body.code, 'unavailable');
    assert.ok(Number(reply.headers['retry-after']) > 0);
  }
  const { status, body } = await server.request('GET', '/readyz');
  assert.deepEqual([status, body.reason, body.usageJournal],
    [503, 'the disk of the usage journal is full', 'disk full']);
  assert.equal(await server.metrics('claudegate_usage_journal_disk_full'), 1);
  assert.match(server.stderr, /error the disk of the usage journal is full directory=/);
  await sleep(1200); // a look at the disk changes nothing
  assert.equal((await server.request('GET', '/readyz')).status, 503);
  fileLimit(server);
  await server.ready(10_000);
  assert.match(server.stderr, /info +the usage journal can be written again/);
  ids.push((await server.ask('hello again')).requestId);
  await eventually(async () => await server.metrics('claudegate_usage_journal_pending') === 0,
    { ms: 40_000, what: 'the journal has been moved' });
  const rows = await server.usageRows();
  assert.deepEqual(rows.map((r) => r.request_id).sort(), ids.sort());
  assert.equal(await server.metrics('claudegate_usage_dropped_total'), 0);
  await assertRolledUp(server);
});

test('a full disk with usage.when_disk_is_full: serve', LIMIT, async (t) => {
  const server = await Gateway.start({ config: { usage: { when_disk_is_full: 'serve' } }, test: t });
  const ids = [(await server.ask('hello')).requestId];
  fileLimit(server, 0);
  for (let i = 0; i < 5; i++) ids.push((await server.ask('goes on')).requestId);
  const { status, body } = await server.request('GET', '/readyz');
  assert.deepEqual([status, body.usageJournal], [200, 'disk full']);
  fileLimit(server);
  await eventually(async () => (await server.pool()).usageJournal === 'ok',
    { ms: 10_000, what: 'the end of the alarm' });
  await eventually(async () => await server.metrics('claudegate_usage_journal_pending') === 0,
    { ms: 40_000, what: 'the journal has been moved' });
  const rows = await server.usageRows();
  assert.deepEqual(rows.map((r) => r.request_id).sort(), ids.sort());
});
