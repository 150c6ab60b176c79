// Limits of several servers on one Redis: exact, and as the policy says while Redis is away.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { eventually, Gateway, HttpError, tempDir } from './lib/gateway.mjs';
import { Redis } from './lib/redis.mjs';

const LIMIT = { timeout: 180_000 };
const fake = (step) => `fake:${JSON.stringify(step)}`;
const SLOW = fake({ start_delay_ms: 3000 });
const FAST_REDIS = { CLAUDEGATE_REDIS_TIMEOUT_MS: '300' };

/** Servers with one Redis and one database, each with a data directory of its own. */
async function fleet(t, redis, count, env = {}) {
  const all = [];
  for (let i = 0; i < count; i++) {
    const dataDir = join(tempDir(), 'data');
    const first = all[0];
    const url = first?.env.DATABASE_URL ?? (first && `sqlite:${first.dataDir}/claudegate.db`);
    all.push(await Gateway.start({ test: t, dataDir, env: {
      REDIS_URL: redis.url, ...FAST_REDIS, ...env, ...(url && { DATABASE_URL: url }),
    } }));
  }
  for (const gw of all) await redisIs(gw, 'up');
  return all;
}

async function redisIs(gw, state, ms = 15_000) {
  await eventually(async () => (await gw.pool()).redis === state, { ms, what: `redis ${state}` });
}

/** N requests at once, in turn to each server: what came of them. */
async function volley(servers, n, key, message = 'hello') {
  const replies = await Promise.all(Array.from({ length: n }, (_, i) =>
    servers[i % servers.length].chat({ message, maxTokens: 50 }, { key })));
  const statuses = {};
  for (const { status } of replies) statuses[status] = (statuses[status] ?? 0) + 1;
  return { replies, statuses };
}

test('200 requests at once on two servers: exactly the limit', LIMIT, async (t) => {
  const redis = await Redis.start();
  const servers = await fleet(t, redis, 2);
  for (const [flag, code] of [['--requests-per-minute', 'rate_limited'],
    ['--requests-per-day', 'quota_exceeded']]) {
    const { key } = await servers[0].createKey([flag, '50']);
    const { replies, statuses } = await volley(servers, 200, key);
    assert.deepEqual(statuses, { 200: 50, 429: 150 }, flag);
    for (const reply of replies.filter((r) => r.status === 429)) assert.equal(reply.body.code, code);
    const { headers } = await servers[1].chat({ message: 'x' }, { key });
    assert.deepEqual([headers['ratelimit-limit'], headers['ratelimit-remaining']], ['50', '0']);
  }
  // tokens: an answer of the fake costs 15, a request reserves its text and maxTokens
  const { key } = await servers[0].createKey(['--tokens-per-day', '1000']);
  let spent = 0;
  for (let i = 0; i < 10; i++) spent += 15 * ((await volley(servers, 10, key)).statuses[200] ?? 0);
  assert.ok(spent <= 1000 && spent > 900, `${spent} of 1000 tokens`);
  assert.match(await redis.ask('KEYS', '*'), /claudegate:\{[0-9a-f-]{36}\}:b/);
});

test('concurrent requests are counted over all servers', LIMIT, async (t) => {
  const redis = await Redis.start();
  const servers = await fleet(t, redis, 2);
  const { key } = await servers[0].createKey(['--max-concurrent', '5']);
  const { replies, statuses } = await volley(servers, 30, key, SLOW);
  assert.deepEqual(statuses, { 200: 5, 429: 25 });
  const refused = replies.find((r) => r.status === 429);
  assert.match(refused.body.error, /The limit of 5 requests at once is reached/);
  assert.equal(refused.headers['retry-after'], '1');
  // a client that leaves gives its place back
  const leaving = new AbortController();
  const left = Array.from({ length: 5 }, () => servers[0].chat({ message: SLOW },
    { key, signal: leaving.signal }).catch(() => 'left'));
  await eventually(async () => (await servers[0].pool()).workers.busy === 5, { what: 'five at once' });
  assert.equal((await servers[1].chat({ message: 'x' }, { key })).status, 429);
  leaving.abort();
  await Promise.all(left);
  await eventually(async () => (await servers[1].chat({ message: 'x' }, { key })).status === 200,
    { what: 'places given back' });
});

test('one limit in a single process, without Redis', LIMIT, async (t) => {
  const gw = await Gateway.start({ test: t });
  assert.equal((await gw.pool()).redis, 'not used');
  const { key } = await gw.createKey(['--max-concurrent', '3']);
  assert.deepEqual((await volley([gw], 20, key, SLOW)).statuses, { 200: 3, 429: 17 });
  assert.deepEqual((await volley([gw], 3, key)).statuses, { 200: 3 });
});

test('Redis away: closed refuses with 503, and all is well when it is back', LIMIT, async (t) => {
  const redis = await Redis.start();
  const [gw] = await fleet(t, redis, 1, { CLAUDEGATE_LIMITS_WHEN_REDIS_IS_AWAY: 'closed' });
  const { key } = await gw.createKey(['--requests-per-day', '20']);
  assert.deepEqual((await volley([gw], 5, key)).statuses, { 200: 5 });
  await redis.kill();
  const { replies, statuses } = await volley([gw], 5, key);
  assert.deepEqual(statuses, { 503: 5 });
  for (const { body, headers } of replies) {
    assert.equal(body.code, 'unavailable');
    assert.equal(headers['retry-after'], '5');
    assert.doesNotMatch(body.error, /127\.0\.0\.1|redis/i);
  }
  await redisIs(gw, 'away');
  assert.equal((await gw.request('GET', '/readyz')).status, 200);
  await redis.restart(); // with nothing in it
  await redisIs(gw, 'up');
  await gw.logged((l) => l.message === 'Redis is there' && l.away_ms > 0);
  await eventually(async () => // the day comes back from the database
    Number((await gw.chat({ message: 'x' }, { key })).headers['ratelimit-remaining']) <= 14);
  let admitted = 0;
  while ((await gw.chat({ message: 'x' }, { key })).status === 200) admitted++;
  assert.ok(admitted <= 14 && (await gw.usageRows()).length === 20, 'not one more than the limit');
});

test('Redis away: open lets everything through', LIMIT, async (t) => {
  const redis = await Redis.start();
  const [gw] = await fleet(t, redis, 1, { CLAUDEGATE_LIMITS_WHEN_REDIS_IS_AWAY: 'open' });
  const { key } = await gw.createKey(['--requests-per-minute', '2', '--max-concurrent', '1']);
  await redis.kill();
  assert.deepEqual((await volley([gw], 20, key)).statuses, { 200: 20 });
  await redis.restart();
  await redisIs(gw, 'up');
  assert.deepEqual((await volley([gw], 20, key, SLOW)).statuses, { 200: 1, 429: 19 });
});

test('Redis away: share gives each server its part', LIMIT, async (t) => {
  const redis = await Redis.start();
  const servers = await fleet(t, redis, 2);
  const used = await servers[0].createKey(['--requests-per-day', '40']);
  const fresh = await servers[0].createKey(['--requests-per-minute', '20']);
  assert.deepEqual((await volley(servers, 8, used.key)).statuses, { 200: 8 });
  for (const gw of servers) await gw.ask('x', {}, { key: used.key }); // each knows of 9 or 10
  await sleep(6000); // and has heard of the other
  await redis.kill();
  for (const gw of servers) await redisIs(gw, 'away');
  assert.deepEqual((await volley(servers, 80, fresh.key)).statuses, { 200: 20, 429: 60 });
  assert.deepEqual((await volley(servers, 80, used.key)).statuses, { 200: 30, 429: 50 });
  await redis.restart();
  for (const gw of servers) await redisIs(gw, 'up');
  await eventually(async () => (await servers[1].chat({ message: 'x' }, { key: used.key }))
    .status === 429, { ms: 10_000, what: 'the day known again' });
  await gwLogsOnce(servers[0]);
});

/** One outage is not a line per request. */
async function gwLogsOnce(gw) {
  const away = gw.logs().filter((l) => l.message === 'Redis is away');
  assert.ok(away.length >= 1 && away.length <= 3, JSON.stringify(away));
}

test('Redis hangs: the first waits for the time-out, nobody else', LIMIT, async (t) => {
  const redis = await Redis.start();
  const [gw] = await fleet(t, redis, 1, { CLAUDEGATE_LIMITS_WHEN_REDIS_IS_AWAY: 'closed' });
  const { key } = await gw.createKey(['--requests-per-day', '100']);
  await gw.ask('x', {}, { key });
  redis.pause();
  const leaving = new AbortController(); // gone before there is an answer
  const left = gw.chat({ message: 'x' }, { key, signal: leaving.signal }).catch(() => 'left');
  setTimeout(() => leaving.abort(), 100);
  assert.deepEqual((await volley([gw], 10, key)).statuses, { 503: 10 });
  assert.equal(await left, 'left');
  const from = performance.now();
  assert.deepEqual((await volley([gw], 10, key)).statuses, { 503: 10 });
  assert.ok(performance.now() - from < 2000);
  redis.resume();
  await redisIs(gw, 'up');
  await gw.ask('x', {}, { key });
  await gw.stop(); // in order, with nothing pending
});

test('kill -9 of a server frees what its requests held', LIMIT, async (t) => {
  const redis = await Redis.start();
  const [one, two] = await fleet(t, redis, 2);
  const { key } = await one.createKey(['--max-concurrent', '3', '--tokens-per-day', '100000']);
  const lost = Array.from({ length: 3 }, () => one.chat({
    message: fake({ start_delay_ms: 120_000 }), maxTokens: 4000 }, { key }).catch(() => 'lost'));
  await eventually(async () => (await one.pool()).workers.busy === 3, { what: 'three at once' });
  await sleep(12_000); // they are renewed meanwhile
  assert.equal((await two.chat({ message: 'x' }, { key })).status, 429);
  const from = performance.now();
  await one.kill9();
  await Promise.all(lost);
  assert.equal((await two.chat({ message: 'x' }, { key })).status, 429, 'not at once');
  await eventually(async () => (await two.chat({ message: 'x' }, { key })).status === 200,
    { ms: 40_000, every: 500, what: 'places of the dead server' });
  assert.ok(performance.now() - from < 35_000);
  assert.deepEqual((await volley([two], 3, key)).statuses, { 200: 3 });
});

test('a Redis that is not there at the start comes later', LIMIT, async (t) => {
  const redis = await Redis.start();
  await redis.kill();
  const gw = await Gateway.start({ test: t, env: { REDIS_URL: redis.url, ...FAST_REDIS } });
  await redisIs(gw, 'away');
  const { key } = await gw.createKey(['--requests-per-day', '5']);
  assert.deepEqual((await volley([gw], 8, key)).statuses, { 200: 5, 429: 3 });
  await redis.restart();
  await redisIs(gw, 'up');
  await eventually(async () => (await gw.chat({ message: 'x' }, { key })).status === 429,
    { what: 'the day known' });
});

test('addresses that cannot be used are refused, and no password is told', LIMIT, async (t) => {
  const secret = 'p4ssw0rd-of-redis';
  const refused = await Gateway.refused({ env: { REDIS_URL: `rediss://:${secret}@h` } });
  assert.notEqual(refused.code, 0);
  assert.match(refused.stderr, /TLS to Redis \(rediss:\/\/\) is not available/);
  assert.ok(!(refused.stderr + refused.stdout).includes(secret));
  const redis = await Redis.start();
  const url = redis.url.replace('//', `//:${secret}@`); // it has no password
  const gw = await Gateway.start({ test: t, env: { REDIS_URL: url, ...FAST_REDIS } });
  await redisIs(gw, 'away');
  const shown = await gw.cli(['config', 'show']);
  const all = gw.stderr + JSON.stringify(gw.logs()) + shown.stdout +
    (await gw.request('GET', '/metrics')).text;
  assert.match(all, /Redis is away/);
  assert.ok(!all.includes(secret));
  assert.equal(await gw.metrics('claudegate_redis_up'), 0);
});

test('an error inside a stream is an HTTP error before it', LIMIT, async (t) => {
  const redis = await Redis.start();
  const [gw] = await fleet(t, redis, 1, { CLAUDEGATE_LIMITS_WHEN_REDIS_IS_AWAY: 'closed' });
  const key = await gw.key();
  assert.equal((await gw.collect({ message: 'hello' }, { key })).done, true);
  await redis.kill();
  await assert.rejects(gw.collect({ message: 'hello' }, { key }),
    (error) => error instanceof HttpError && error.status === 503);
});
