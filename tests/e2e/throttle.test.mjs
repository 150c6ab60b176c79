// Addresses that try keys have to wait; keys already known from there go on working.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { Gateway, eventually } from './lib/gateway.mjs';
import { Redis } from './lib/redis.mjs';

const LIMIT = { timeout: 60_000 };
const MAX = 20; // the default

let guesses = 0;
const guess = () => `sk-cg-${String(guesses++).padStart(12, '0')}-${'x'.repeat(43)}`;

const start = (test, { env, ...more } = {}) => Gateway.start({ test, ...more,
  env: { CLAUDEGATE_AUTH_MAX_FAILURES: undefined, ...env } });

/** One request that shows this key, from the address a proxy names. */
const ask = (gw, key, from) => gw.request('GET', '/api/me', {
  headers: { authorization: `Bearer ${key}`, ...(from !== undefined && { 'x-forwarded-for': from }) },
});

/** Wrong keys until the address has to wait; how many were looked at. */
async function tryUntilThrottled(gw, from, most = MAX + 5) {
  for (let n = 0; n < most; n++) {
    const reply = await ask(gw, guess(), from);
    if (reply.status === 429) return { n, reply };
    assert.equal(reply.status, 401, reply.text);
  }
  return { n: most };
}

const TRUSTING = { CLAUDEGATE_SERVER_TRUSTED_PROXIES: '127.0.0.0/8, 10.0.0.0/8' };

test('after twenty wrong keys an address waits; known keys do not; then it may again', LIMIT,
  async (t) => {
    const gw = await start(t);
    const known = await gw.createKey([]);
    const fresh = await gw.createKey([]);
    assert.equal((await ask(gw, known.key)).status, 200);
    const { n, reply } = await tryUntilThrottled(gw);
    assert.ok(n >= MAX && n <= MAX + 1, `${n} were looked at`);
    assert.equal(reply.body.code, 'rate_limited');
    assert.match(reply.body.error, /^Too many wrong API keys came from this address; try again in \d s$/);
    const wait = Number(reply.headers['retry-after']);
    assert.ok(wait >= 1 && wait <= 3, `${wait} s: one of twenty in a minute`);

    assert.equal((await ask(gw, known.key)).status, 200, 'a known key');
    assert.equal((await ask(gw, fresh.key)).status, 429, 'one that was never seen');
    const wrong = `${known.key.slice(0, -1)}${known.key.endsWith('A') ? 'B' : 'A'}`;
    assert.equal((await ask(gw, wrong)).status, 429, 'another secret of a known key');
    assert.equal((await gw.request('GET', '/healthz')).status, 200);
    assert.equal((await gw.request('GET', '/api/me')).status, 401, 'no key is no guess');

    await sleep(wait * 1000);
    assert.equal((await ask(gw, fresh.key)).status, 200, 'retry-after is true');
    const metrics = await gw.request('GET', '/metrics');
    assert.match(metrics.text, /^claudegate_auth_failures_total\{what="key"\} (20|21)$/m);
    assert.match(metrics.text, /^claudegate_auth_throttled_total 3$/m);
    assert.match(metrics.text, /^claudegate_auth_throttled_addresses_total 1$/m);
    const lines = gw.stderr.match(/too many refused keys from an address.*/g);
    assert.equal(lines.length, 1);
    assert.match(lines[0], /address="?127\.0\.0\.1"?/);
  });

test('a right key that has ended is no guess', LIMIT, async (t) => {
  const gw = await start(t, { env: { CLAUDEGATE_AUTH_MAX_FAILURES: '3' } });
  const { key, id } = await gw.createKey([]);
  await gw.cli(['key', 'disable', id]);
  for (let i = 0; i < 10; i++) {
    const reply = await ask(gw, key);
    assert.deepEqual([reply.status, reply.body.error], [401, 'API key disabled']);
  }
  assert.equal((await tryUntilThrottled(gw)).n, 3);
});

test('wrong signatures count, too', LIMIT, async (t) => {
  const gw = await start(t, { env: { CLAUDEGATE_AUTH_MAX_FAILURES: '3',
    CLAUDEGATE_MASTER_KEY: '0'.repeat(63) + '1' } });
  const { key } = await gw.createKey(['--require-signature']);
  for (let i = 0; i < 5; i++) assert.equal((await ask(gw, key)).status, 401, 'its key is known');
  assert.equal((await ask(gw, guess())).status, 429);
});

test('behind a trusted proxy each client counts for itself, IPv6 by /64', LIMIT, async (t) => {
  const gw = await start(t, { env: { ...TRUSTING, CLAUDEGATE_AUTH_MAX_FAILURES: '4' } });
  assert.equal((await tryUntilThrottled(gw, '192.0.2.1')).n, 4);
  for (const same of ['192.0.2.1', '203.0.113.9, 192.0.2.1', '192.0.2.1:4711', '192.0.2.1, 10.1.2.3',
    'x, 192.0.2.1,10.0.0.1 , 127.0.0.9', '::ffff:192.0.2.1']) {
    assert.equal((await ask(gw, guess(), same)).status, 429, same);
  }
  for (const other of ['192.0.2.2', '192.0.2.1, 192.0.2.3', '2001:db8::1', undefined]) {
    assert.equal((await ask(gw, guess(), other)).status, 401, String(other));
  }
  assert.equal((await tryUntilThrottled(gw, '2001:db8:1:2::1')).n, 4);
  for (const same of ['2001:db8:1:2::1', '2001:db8:1:2:ffff::9', '[2001:db8:1:2::7]:443']) {
    assert.equal((await ask(gw, guess(), same)).status, 429, same);
  }
  assert.equal((await ask(gw, guess(), '2001:db8:1:3::1')).status, 401);
  // Two lines are one list: what the client wrote itself stands in front.
  const two = (first, second) => gw.request('GET', '/api/me', { headers: {
    authorization: `Bearer ${guess()}`, 'x-forwarded-for': [first, second] } });
  assert.equal((await two('198.51.100.7', '192.0.2.1')).status, 429);
  assert.equal((await two('192.0.2.1', '198.51.100.7')).status, 401);
});

test('without trusted proxies X-Forwarded-For is only text', LIMIT, async (t) => {
  const gw = await start(t, { env: { CLAUDEGATE_AUTH_MAX_FAILURES: '4' } });
  for (let i = 0; i < 4; i++) assert.equal((await ask(gw, guess(), `192.0.2.${i}`)).status, 401);
  assert.equal((await ask(gw, guess(), '192.0.2.99')).status, 429);
});

test('0 is no limit; what is no list of networks is refused', LIMIT, async (t) => {
  const gw = await start(t, { env: { CLAUDEGATE_AUTH_MAX_FAILURES: '0' } });
  assert.equal((await tryUntilThrottled(gw, undefined, 60)).n, 60);
  for (const list of ['localhost', '10.0.0.1/8', '1.2.3.4/33', '::1/129', '10.0.0.0/', ',']) {
    const { code, stderr } = await gw.cli(['config', 'check'],
      { env: { CLAUDEGATE_SERVER_TRUSTED_PROXIES: list } });
    assert.equal(code, 1, list);
    assert.match(stderr, /CLAUDEGATE_SERVER_TRUSTED_PROXIES: must be addresses and networks/);
  }
});

test('servers on one Redis count together, and each by itself while it is away', LIMIT, async (t) => {
  const redis = await Redis.start();
  t.after(() => redis.stop());
  const env = { ...TRUSTING, REDIS_URL: redis.url, CLAUDEGATE_REDIS_TIMEOUT_MS: '300',
    CLAUDEGATE_AUTH_MAX_FAILURES: '10' };
  const one = await start(t, { env });
  const two = await start(t, { postgres: one.postgres, env: { ...one.env,
    CLAUDEGATE_AUTH_MAX_FAILURES: '10', CLAUDEGATE_DATA_DIR: `${one.dataDir}-two`,
    ...(one.postgres ? {} : { DATABASE_URL: `sqlite:${one.dataDir}/claudegate.db` }) } });
  const from = '192.0.2.1';
  for (let i = 0; i < 5; i++) {
    for (const gw of [one, two]) assert.equal((await ask(gw, guess(), from)).status, 401);
  }
  for (const gw of [one, two]) {
    await eventually(async () => (await ask(gw, guess(), from)).status === 429,
      { ms: 500, every: 100, what: 'ten of both' });
  }
  await redis.kill();
  for (const gw of [one, two]) {
    const { n } = await tryUntilThrottled(gw, '192.0.2.77');
    assert.equal(n, 10, 'ten of each');
  }
});
