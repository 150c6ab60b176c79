// Several servers on one PostgreSQL and one Redis, both of which are stopped for real: what clients
// are told meanwhile, and that nothing is lost, doubled or spent twice.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { eventually, Gateway, HttpError, tempDir } from './lib/gateway.mjs';
import { Postgres } from './lib/postgres.mjs';
import { Redis } from './lib/redis.mjs';

const LIMIT = { timeout: 120_000 };
const UNKNOWN = `sk-cg-${'x'.repeat(12)}-${'y'.repeat(43)}`;
const SHORT = { CLAUDEGATE_DATABASE_CONNECT_TIMEOUT_MS: '1s', CLAUDEGATE_REDIS_TIMEOUT_MS: '300' };
const fake = (step) => `fake:${JSON.stringify(step)}`;

let pg;
before(async () => {
  pg = await Postgres.start();
}, LIMIT);
after(() => pg?.close());

async function redisIs(servers, state) {
  for (const gw of servers) {
    await eventually(async () => (await gw.pool()).redis === state,
      { ms: 15_000, what: `redis ${state}` });
  }
}

async function fleet(t, redis, env = {}) {
  const DATABASE_URL = await pg.createDatabase();
  const servers = [];
  for (let i = 0; i < 2; i++) {
    servers.push(await Gateway.start({ test: t, postgres: pg, dataDir: join(tempDir(), 'data'),
      env: { REDIS_URL: redis.url, DATABASE_URL, ...SHORT, ...env } }));
  }
  await redisIs(servers, 'up');
  return servers;
}

/** N requests at once, in turn to each server. */
async function volley(servers, n, key, message = 'hello') {
  const replies = await Promise.all(Array.from({ length: n }, (_, i) =>
    servers[i % servers.length].chat({ message, maxTokens: 50 }, { key })));
  const statuses = {};
  for (const { status } of replies) statuses[status] = (statuses[status] ?? 0) + 1;
  return { replies, statuses, served: replies.filter((reply) => reply.status === 200) };
}

const remaining = async (gw, key, name) => (await gw.request('GET', '/api/me',
  { headers: { authorization: `Bearer ${key}` } })).body.limits[name].remaining;

test('two servers, one PostgreSQL, one Redis: exactly the limit', LIMIT, async (t) => {
  const redis = await Redis.start();
  const servers = await fleet(t, redis);
  for (const [flag, message] of [['--requests-per-minute', 'x'], ['--requests-per-day', 'x'],
    ['--max-concurrent', fake({ start_delay_ms: 2000 })]]) {
    const { key } = await servers[0].createKey([flag, '8']);
    assert.deepEqual((await volley(servers, 60, key, message)).statuses, { 200: 8, 429: 52 }, flag);
  }
});

test('both away and back: known keys are served, nothing is lost, doubled or spent twice', LIMIT,
  async (t) => {
    const redis = await Redis.start();
    const servers = await fleet(t, redis);
    const { key } = await servers[0].createKey(['--requests-per-day', '60']);
    const told = [];
    told.push(...(await volley(servers, 10, key)).served);
    for (const gw of servers) told.push(...(await volley([gw], 1, key)).served); // both know of 11
    assert.equal(told.length, 12);
    for (const gw of servers) assert.equal((await gw.usageRows()).length, 12);
    await eventually(async () => /replicas\\?":2|^2$/.test(await redis.ask('ZCARD', 'claudegate:{replicas}')));
    await sleep(5500); // a heartbeat: each knows of the other
    await Promise.all([redis.kill(), pg.control('stop')]);
    await redisIs(servers, 'away');

    const during = await volley(servers, 100, key);
    told.push(...during.served);
    assert.deepEqual(during.statuses, { 200: 48, 429: 52 }, 'each gives its half of what was left');
    const strangers = await Promise.all(servers.map((gw) => gw.chat({ message: 'x' }, { key: UNKNOWN })));
    assert.deepEqual(strangers.map((reply) => reply.status), [503, 503], 'never 401');
    for (const gw of servers) {
      assert.ok(await gw.metrics('claudegate_usage_journal_pending') >= 24);
      assert.equal(await gw.metrics('claudegate_redis_up'), 0);
      assert.equal(await gw.metrics('claudegate_limit_without_redis_total', { policy: 'share' }), 50);
    }

    await Promise.all([redis.restart(), pg.control('start')]); // Redis with nothing in it
    await redisIs(servers, 'up');
    const last = [];
    for (const gw of servers) {
      await eventually(async () => await gw.metrics('claudegate_usage_journal_pending') === 0,
        { ms: 40_000, what: 'an empty journal' });
    }
    for (const gw of servers) { // the day is spent, and that is known again
      await eventually(async () => {
        const reply = await gw.chat({ message: 'x' }, { key });
        if (reply.status === 200) last.push(reply);
        return reply.status === 429;
      }, { ms: 15_000, every: 200, what: 'the day known' });
    }
    const rows = await servers[0].usageRows();
    const ids = rows.map((row) => row.request_id);
    assert.equal(new Set(ids).size, rows.length);
    assert.deepEqual(ids.toSorted(),
      [...told, ...last].map((reply) => reply.headers['request-id']).toSorted());
    for (const gw of servers) {
      assert.equal(await gw.metrics('claudegate_usage_dropped_total'), 0);
      assert.equal((await gw.chat({ message: 'x' }, { key: UNKNOWN })).status, 401);
    }
  });

test('closed, with two servers: nobody is served without Redis, everybody after', LIMIT, async (t) => {
  const redis = await Redis.start();
  const servers = await fleet(t, redis, { CLAUDEGATE_LIMITS_WHEN_REDIS_IS_AWAY: 'closed' });
  const { key } = await servers[0].createKey(['--requests-per-day', '20']);
  assert.deepEqual((await volley(servers, 6, key)).statuses, { 200: 6 });
  await redis.kill();
  assert.deepEqual((await volley(servers, 10, key)).statuses, { 503: 10 });
  await assert.rejects(servers[0].collect({ message: 'x' }, { key }),
    (error) => error instanceof HttpError && error.status === 503);
  assert.ok(await servers[0].metrics('claudegate_limit_decisions_total', { outcome: 'unavailable' }) >= 5);
  await redis.restart();
  await redisIs(servers, 'up');
  for (const gw of servers) {
    await eventually(async () => await remaining(gw, key, 'requestsPerDay') === 14,
      { what: 'the day known' });
  }
  assert.deepEqual((await volley(servers, 40, key)).statuses, { 200: 14, 429: 26 });
});

test('open, with two servers: what was served without Redis counts once it is back', LIMIT, async (t) => {
  const redis = await Redis.start();
  const servers = await fleet(t, redis, { CLAUDEGATE_LIMITS_WHEN_REDIS_IS_AWAY: 'open' });
  const { key } = await servers[0].createKey(['--requests-per-day', '20']);
  await redis.kill();
  assert.deepEqual((await volley(servers, 30, key)).statuses, { 200: 30 });
  await redis.restart();
  await redisIs(servers, 'up');
  for (const gw of servers) {
    await eventually(async () => (await gw.chat({ message: 'x' }, { key })).status === 429,
      { ms: 10_000, every: 100, what: 'the day is spent' });
  }
});

const USED_7 = `local n = 0
  for _, key in ipairs(redis.call('KEYS', 'claudegate:{*}:b')) do
    if redis.call('HGET', key, 'rd.u') == '7' then n = n + 1 end
  end
  return n`;

test('a Redis with nothing in it learns of all keys of the day', LIMIT, async (t) => {
  const redis = await Redis.start();
  const [gw] = await fleet(t, redis);
  await gw.ask('x');
  await gw.usageRows();
  await pg.execute(gw.env.DATABASE_URL, `
    INSERT INTO api_keys (id, public_id, secret_hash, user_id, name, created_at, limits, permissions)
      SELECT gen_random_uuid(), 'bulk' || n, secret_hash, user_id, 'bulk', created_at, limits, permissions
      FROM (SELECT * FROM api_keys LIMIT 1) k, generate_series(1, 350) n;
    INSERT INTO usage_hourly SELECT id, floor(extract(epoch FROM now()) / 3600)::bigint, 'm', 7, 0, 70,
      35, 0, 0, 105, 0, 7 FROM api_keys WHERE name = 'bulk'`);
  await redis.kill();
  await redis.restart();
  await eventually(async () => await redis.ask('EVAL', USED_7, '0') === '350',
    { ms: 15_000, every: 100, what: '350 keys' });
  await gw.stop(); // also in the middle of telling
});

test('a full Redis is away, and comes back when there is room', LIMIT, async (t) => {
  const redis = await Redis.start();
  const [gw] = await fleet(t, redis, { CLAUDEGATE_LIMITS_WHEN_REDIS_IS_AWAY: 'closed' });
  const { key } = await gw.createKey(['--requests-per-day', '9']);
  await gw.ask('x', {}, { key });
  await redis.ask('CONFIG', 'SET', 'maxmemory', '1');
  assert.equal((await gw.chat({ message: 'x' }, { key })).status, 503);
  await redisIs([gw], 'away');
  await redis.ask('CONFIG', 'SET', 'maxmemory', '0');
  await redisIs([gw], 'up');
  await gw.ask('x', {}, { key });
  assert.equal(await remaining(gw, key, 'requestsPerDay'), 7);
});

test('a server that is stopped while Redis hangs', LIMIT, async () => {
  const redis = await Redis.start();
  const gw = await Gateway.start({ env: { REDIS_URL: redis.url, CLAUDEGATE_REDIS_TIMEOUT_MS: '30000' } });
  await redisIs([gw], 'up');
  const key = await gw.key();
  await gw.ask('x', {}, { key });
  redis.pause();
  try {
    const waiting = [gw.chat({ message: 'x' }, { key }), gw.chat({ message: 'x' }, { key })];
    await sleep(300);
    const from = performance.now();
    gw.signal('SIGTERM');
    await sleep(200);
    gw.signal('SIGTERM'); // do not wait
    for (const { status, body } of await Promise.all(waiting)) {
      assert.deepEqual([status, body.code], [503, 'shutting_down']);
    }
    await gw.stop();
    assert.ok(performance.now() - from < 10_000);
  } finally {
    redis.resume();
  }
});

test('kill -9 between reserving and settling: requests count, reservations do not', LIMIT, async (t) => {
  let gw = await Gateway.start({ postgres: pg, env: SHORT });
  const { key } = await gw.createKey(['--max-concurrent', '2', '--requests-per-day', '10',
    '--tokens-per-day', '5000']);
  await gw.ask('x', {}, { key });
  const lost = Array.from({ length: 2 }, () => gw.chat({
    message: fake({ start_delay_ms: 60_000 }), maxTokens: 2000 }, { key }).catch(() => 'lost'));
  await eventually(async () => (await gw.pool()).workers.busy === 2, { what: 'two at once' });
  assert.equal(await remaining(gw, key, 'maxConcurrent'), 0);
  assert.ok(await remaining(gw, key, 'tokensPerDay') < 1000);
  await gw.kill9();
  await Promise.all(lost);
  gw = await gw.restart({ test: t });
  assert.equal(await remaining(gw, key, 'maxConcurrent'), 2);
  assert.equal(await remaining(gw, key, 'requestsPerDay'), 7);
  assert.ok(await remaining(gw, key, 'tokensPerDay') > 4800);
});

test('PostgreSQL comes after the server, or never', LIMIT, async (t) => {
  const DATABASE_URL = await pg.createDatabase();
  await pg.control('stop');
  const waiting = Gateway.start({ test: t, postgres: pg, env: { ...SHORT, DATABASE_URL } });
  const from = performance.now();
  const refused = await Gateway.refused({
    env: { ...SHORT, DATABASE_URL, CLAUDEGATE_DATABASE_START_TIMEOUT: '2s' } });
  assert.ok(performance.now() - from > 2000);
  await pg.control('start');
  assert.equal(refused.code, 1);
  assert.match(refused.stderr, /the database cannot be reached, waiting for it/);
  assert.match(refused.stderr, /claudegate: .*cannot open the PostgreSQL database/);
  const gw = await waiting;
  await gw.ask('hello');
  await gw.logged((line) => line.message === 'the database cannot be reached, waiting for it');
});
