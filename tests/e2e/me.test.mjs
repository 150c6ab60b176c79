// GET /api/me: what a key has left; and what is told when something of it is spent.
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { eventually, Gateway } from './lib/gateway.mjs';
import { Redis } from './lib/redis.mjs';

const LIMIT = { timeout: 60_000 };
const fake = (step) => `fake:${JSON.stringify(step)}`;
const ISO = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;
const NONE = { limit: null, remaining: null, resetAt: null };

const ask = (gw, key, method = 'GET') =>
  gw.request(method, '/api/me', { headers: { authorization: `Bearer ${key}` } });

async function me(gw, key) {
  const reply = await ask(gw, key);
  assert.equal(reply.status, 200, reply.text);
  return reply.body;
}

test('what a key is, may do and has left', LIMIT, async (t) => {
  const gw = await Gateway.start({ test: t,
    env: { CLAUDEGATE_LIMITS_TIMEZONE: 'Pacific/Kiritimati' } }); // UTC+14, no summer time
  const made = await gw.createKey(['--name', 'Ann "A"', '--priority', '7', '--expires', '30d',
    '--requests-per-minute', '20', '--requests-per-day', '100', '--tokens-per-day', '5000',
    '--max-concurrent', '3', '--models', 'claude-sonnet-*', '--max-tokens', '77']);
  const before = await me(gw, made.key);
  assert.deepEqual([before.success, before.timezone], [true, 'Pacific/Kiritimati']);
  assert.deepEqual([before.key.id, before.key.name, before.key.priority],
    [made.publicId ?? before.key.id, 'Ann "A"', 7]);
  assert.ok(made.key.includes(before.key.id), 'the public id is part of the key');
  assert.ok(Math.abs(Date.parse(before.key.expiresAt) - Date.now() - 30 * 86_400_000) < 60_000);
  assert.match(before.key.createdAt, ISO);
  assert.deepEqual(before.permissions.models, ['claude-sonnet-*']);
  assert.deepEqual([before.permissions.maxTokens, before.permissions.allowStreaming], [77, true]);
  assert.doesNotMatch(JSON.stringify(before), /\$2b\$|hash|secret/i);
  const { limits } = before;
  assert.deepEqual(limits.requestsPerMinute, { limit: 20, remaining: 20, resetAt: null });
  assert.deepEqual(limits.maxConcurrent, { limit: 3, remaining: 3, resetAt: null });
  assert.deepEqual([limits.costPerDay, limits.costPerMonth], [NONE, NONE]);
  const midnight = Math.ceil((Date.now() + 14 * 3_600_000) / 86_400_000) * 86_400_000 - 14 * 3_600_000;
  for (const [name, limit] of [['requestsPerDay', 100], ['tokensPerDay', 5000]]) {
    assert.deepEqual(limits[name],
      { limit, remaining: limit, resetAt: new Date(midnight).toISOString() }, name);
  }

  const running = gw.chat({ message: fake({ start_delay_ms: 1500 }), maxTokens: 70 }, made);
  await eventually(async () => (await me(gw, made.key)).limits.maxConcurrent.remaining === 2);
  const during = (await me(gw, made.key)).limits;
  assert.equal(during.requestsPerDay.remaining, 99);
  assert.ok(during.tokensPerDay.remaining <= 4930, 'what it may need is reserved');
  assert.equal((await running).status, 200);
  const { limits: after } = await me(gw, made.key);
  assert.equal(after.maxConcurrent.remaining, 3);
  assert.equal(after.tokensPerDay.remaining, 4985, 'what it has used');
  assert.equal(after.requestsPerMinute.remaining, 19);
  assert.ok(Date.parse(after.requestsPerMinute.resetAt) - Date.now() < 3500);

  for (let i = 0; i < 30; i++) await me(gw, made.key); // looking costs nothing
  const last = await ask(gw, made.key);
  assert.equal(last.body.limits.requestsPerDay.remaining, 99);
  assert.deepEqual([last.headers['ratelimit-limit'], last.headers['ratelimit-remaining']],
    ['20', String(last.body.limits.requestsPerMinute.remaining)]);
  const unlimited = await me(gw, await gw.key());
  assert.ok(Object.values(unlimited.limits).every((l) => l.limit === null && l.remaining === null));
  assert.equal(unlimited.key.expiresAt, null);

  assert.equal((await gw.request('GET', '/api/me')).status, 401);
  assert.equal((await ask(gw, made.key, 'POST')).status, 405);
  const head = await ask(gw, made.key, 'HEAD');
  assert.deepEqual([head.status, head.text], [200, '']);
});

test('when to try again: a minute says how long, a day that there is no use', LIMIT, async (t) => {
  const gw = await Gateway.start({ test: t });
  const minute = await gw.createKey(['--requests-per-minute', '1']);
  const day = await gw.createKey(['--requests-per-day', '1']);
  const tokens = await gw.createKey(['--tokens-per-day', '100']);
  const atOnce = await gw.createKey(['--max-concurrent', '0']);
  for (const { key } of [minute, day]) await gw.ask('x', {}, { key });

  const soon = await gw.chat({ message: 'x' }, minute);
  assert.deepEqual([soon.status, soon.body.code], [429, 'rate_limited']);
  const wait = Number(soon.headers['retry-after']);
  assert.ok(wait > 50 && wait <= 60, soon.headers['retry-after']);
  assert.equal(soon.headers['x-should-retry'], undefined);
  for (const [key, body] of [[day, {}], [tokens, { maxTokens: 4000 }]]) {
    for (const stream of [false, true]) {
      const never = await gw.chat({ message: 'x', stream, ...body }, key);
      assert.deepEqual([never.status, never.body.code], [429, 'quota_exceeded'], never.text);
      assert.equal(never.headers['x-should-retry'], 'false');
      assert.equal(never.headers['retry-after'], undefined);
      assert.match(never.body.error, /resets at \d{4}-\d\d-\d\dT00:00:00\.000Z/);
    }
  }
  assert.equal((await gw.chat({ message: 'x' }, atOnce)).headers['retry-after'], '1');

  const count = (labels) => gw.metrics('claudegate_limit_decisions_total', labels);
  assert.equal(await count({ outcome: 'admitted' }), 2);
  assert.equal(await count({ outcome: 'refused' }), 6);
  for (const [limit, n] of [['requests_per_minute', 1], ['requests_per_day', 2],
    ['tokens_per_day', 2], ['concurrent', 1]]) {
    assert.equal(await count({ outcome: 'refused', limit }), n, limit);
  }
});

// An answer of the fake costs 10 tokens of input and 5 of output.
const PRICED = { model: 'claude-sonnet-4-5', maxTokens: 10 };

async function spend(gw, key, budget) {
  let served = 0;
  for (let i = 0; i < 100; i++) {
    const reply = await gw.chat({ message: 'x', ...PRICED }, { key });
    if (reply.status === 429) {
      assert.equal(reply.body.code, 'quota_exceeded');
      assert.equal(reply.headers['x-should-retry'], 'false');
      assert.match(reply.body.error, new RegExp(`limit of ${budget} USD per (day|month)`));
      return served;
    }
    assert.equal(reply.status, 200, reply.text);
    served++;
  }
  throw new Error('never refused');
}

for (const store of ['memory', 'Redis']) {
  test(`budgets of a day and a month, over a restart, in ${store}`, LIMIT, async (t) => {
    const redis = store === 'Redis' ? await Redis.start() : undefined;
    let gw = await Gateway.start({ test: t, env: { ...(redis && { REDIS_URL: redis.url }) } });
    const keys = {};
    for (const [name, flag] of [['costPerDay', '--cost-per-day'], ['costPerMonth', '--cost-per-month']]) {
      const { key } = await gw.createKey([flag, '0.001']);
      keys[name] = key;
      const served = await spend(gw, key, '0.001');
      const { limits } = await me(gw, key);
      const rows = (await gw.usageRows()).filter((row) => row.status_code === 200);
      const spent = rows.slice(-served).reduce((sum, row) => sum + row.cost_nano, 0);
      assert.ok(served > 3 && spent > 0 && spent <= 1_000_000, `${served} cost ${spent}`);
      assert.equal(limits[name].limit, 0.001);
      assert.equal(Math.round(limits[name].remaining * 1e9), 1_000_000 - spent);
      assert.match(limits[name].resetAt, /T00:00:00\.000Z$/);
      if (name === 'costPerMonth') assert.match(limits[name].resetAt, /-01T/);
    }
    const left = {};
    for (const [name, key] of Object.entries(keys)) left[name] = (await me(gw, key)).limits[name].remaining;
    await gw.stop();
    if (redis) { // which has lost all, too
      await redis.kill();
      await redis.restart();
    }
    gw = await gw.restart({ test: t });
    for (const [name, key] of Object.entries(keys)) {
      await eventually(async () => (await me(gw, key)).limits[name].remaining === left[name],
        { what: `${name} known again` });
      assert.equal(await spend(gw, key, '0.001'), 0);
    }
  });
}

test('while nobody knows what is left', LIMIT, async (t) => {
  const redis = await Redis.start();
  const start = (policy) => Gateway.start({ test: t, env: { REDIS_URL: redis.url,
    CLAUDEGATE_REDIS_TIMEOUT_MS: '300', CLAUDEGATE_LIMITS_WHEN_REDIS_IS_AWAY: policy } });
  const servers = {};
  const keys = {};
  for (const policy of ['closed', 'open', 'share']) {
    servers[policy] = await start(policy);
    keys[policy] = (await servers[policy].createKey(['--requests-per-day', '30'])).key;
    await eventually(async () => (await servers[policy].pool()).redis === 'up');
    assert.equal((await me(servers[policy], keys[policy])).limits.requestsPerDay.remaining, 30);
  }
  await redis.kill();
  const closed = await ask(servers.closed, keys.closed);
  assert.deepEqual([closed.status, closed.headers['retry-after']], [503, '5']);
  const open = await me(servers.open, keys.open);
  assert.deepEqual(open.limits.requestsPerDay, { limit: 30, remaining: null, resetAt: null });
  const share = (await me(servers.share, keys.share)).limits.requestsPerDay;
  assert.equal(share.limit, 30);
  assert.ok(share.remaining >= 10 && share.remaining <= 30, 'this server\'s part');
});
