// Signed requests: docs/signing.md, its examples, and everything that must be refused.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createHash, createHmac, randomBytes, randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { Gateway, ROOT, eventually } from './lib/gateway.mjs';
import { Redis } from './lib/redis.mjs';

const LIMIT = { timeout: 60_000 };
const MASTER = randomBytes(32).toString('hex');
const BODY = JSON.stringify({ message: 'hello' });

let gw, key;
before(async () => {
  gw = await Gateway.start({ env: { CLAUDEGATE_MASTER_KEY: MASTER } });
  key = await gw.createKey(['--require-signature']);
  await sleep(1000); // what was signed in the second of the start is refused: see below
});
after(() => gw.stop());

const now = () => Math.floor(Date.now() / 1000);

function sign(secret, { t = now(), n = randomUUID(), method = 'POST', target = '/api/chat',
  body = BODY }) {
  const hash = createHash('sha256').update(body).digest('hex');
  const text = ['v1', t, n, method, target, hash].join('\n');
  return `t=${t},n=${n},v1=${createHmac('sha256', secret).update(text).digest('hex')}`;
}

/** POST /api/chat with that signature (undefined: none); body null: none. */
async function send(signature, { server = gw, k = key, method = 'POST', target = '/api/chat',
  body = BODY } = {}) {
  return server.request(method, target, {
    body: body ?? undefined, headers: { authorization: `Bearer ${k.key}`,
      ...(signature !== undefined && { 'x-claudegate-signature': signature }) },
  });
}

async function refused(beginning, ...args) {
  const reply = await send(...args);
  assert.deepEqual([reply.status, reply.body.code], [401, 'unauthenticated'], reply.text);
  assert.ok(reply.body.error.startsWith(beginning), reply.text);
}

const good = (more = {}) => sign(key.signingSecret, more);

test('the example of the documentation', LIMIT, () => {
  const document = readFileSync(join(ROOT, 'docs/signing.md'), 'utf8');
  const wanted = /^v1=([0-9a-f]{64})$/m.exec(document)[1];
  const header = sign(`ss-cg-${'0'.repeat(43)}`, { t: 1700000000, n: '0123456789abcdef',
    target: '/api/chat?x=1', body: '{"message":"hi"}' });
  assert.equal(header, `t=1700000000,n=0123456789abcdef,v1=${wanted}`);
});

test('a signed request is served, with every character of its target and body', LIMIT, async () => {
  for (const [target, body] of [
    ['/api/chat', BODY], ['/api/chat?a=%20b&c=d', BODY], ['/api/%63hat', BODY],
    ['/api/chat', JSON.stringify({ message: 'ä€😀\n\t', maxTokens: 9 })],
    ['/api/chat', JSON.stringify({ message: 'x'.repeat(200_000) })],
  ]) {
    const reply = await send(good({ target, body }), { target, body });
    assert.equal(reply.status, 200, `${target}: ${reply.text}`);
  }
});

test('what was altered is refused', LIMIT, async () => {
  const other = await gw.createKey(['--require-signature']);
  for (const [signature, how] of [
    [good({ body: '{"message":"other"}' })], [good({ target: '/api/chat?x' })],
    [good({ method: 'PUT' })], [good({ body: '' })],
    [good(), { target: '/api/chat?x=1' }], [good(), { body: `${BODY} ` }],
    [sign(other.signingSecret, {})], [sign(key.key, {})],
    [good().replace(/v1=../, (m) => `v1=${m.slice(3) === '00' ? '11' : '00'}`)],
    [good({ n: '0123456789abcdef' }).replace('n=0', 'n=1')],
    [good({ t: now() - 5 }).replace(/t=\d+/, `t=${now()}`)],
  ]) {
    await refused('Wrong signature', signature, how);
  }
});

test('malformed ones are refused as that', LIMIT, async () => {
  const mac = 'a'.repeat(64);
  const n = 'n'.repeat(16);
  for (const signature of [
    '', 'x', good().slice(0, -1), `${good()}0`, `${good()},v2=1`, ` t=1 ,n=${n},v1=${mac}`,
    `n=${n},t=${now()},v1=${mac}`, `t=-1,n=${n},v1=${mac}`, `t=1e9,n=${n},v1=${mac}`,
    `t=${'9'.repeat(19)},n=${n},v1=${mac}`, `t=,n=${n},v1=${mac}`,
    `t=${now()},n=${'n'.repeat(15)},v1=${mac}`, `t=${now()},n=${'n'.repeat(49)},v1=${mac}`,
    `t=${now()},n=${n}:,v1=${mac}`, `t=${now()},n=${n},v1=${'g'.repeat(64)}`,
    `t=${now()},n=${n},v1=`, 'x'.repeat(5000),
  ]) {
    await refused('Malformed signature', signature);
  }
  const twice = await gw.request('POST', '/api/chat', { body: BODY,
    headers: { authorization: `Bearer ${key.key}`, 'x-claudegate-signature': [good(), good()] } });
  assert.match(twice.body.error, /^Malformed signature/);
});

test('a missing one is refused on every route that needs a key', LIMIT, async () => {
  await refused('Missing signature');
  const table = readFileSync(join(ROOT, 'src/api/routes.c'), 'utf8');
  const routes = [...table.matchAll(/\{\s*"([A-Z]+)",\s*"([^"]+)",\s*SCOPE_KEY/g)];
  assert.ok(routes.length >= 1);
  for (const [, method, path] of routes) {
    const target = path.replace(/:\w+/g, 'x');
    const body = method === 'POST' ? BODY : null;
    for (const used of method === 'GET' ? ['GET', 'HEAD'] : [method]) {
      const bare = await send(undefined, { method: used, target, body });
      assert.equal(bare.status, 401, `${used} ${target}: ${bare.text}`);
      const signature = good({ method: used, target, body: body ?? '' });
      const signed = await send(signature, { method: used, target, body });
      assert.notEqual(signed.status, 401, `${used} ${target}: ${signed.text}`);
      assert.equal((await send(signature, { method: used, target, body })).status, 401, 'again');
      assert.equal((await send(good({ target: `${target}?` }), { method: used, target, body })).status,
        401, 'of another request');
    }
  }
});

test('old and future ones are refused, replays too', LIMIT, async () => {
  for (const t of [now() - 302, now() + 302, 0, 99_999_999_999]) {
    await refused('Expired signature', good({ t }));
  }
  for (const t of [now(), now() + 295]) {
    const signature = good({ t });
    assert.equal((await send(signature)).status, 200);
    await refused('Replayed signature', signature);
    await refused('Wrong signature', signature, { body: '{"message":"other"}' });
  }
  const n = randomUUID();
  const replies = await Promise.all(Array.from({ length: 10 }, () => send(good({ n }))));
  assert.equal(replies.filter((r) => r.status === 200).length, 1, 'of ten at once');
  const other = await gw.createKey(['--require-signature']);
  const same = sign(other.signingSecret, { n });
  assert.equal((await send(same, { k: other })).status, 200, "another key's nonces are its own");
});

test('what is refused costs nothing', LIMIT, async () => {
  const k = await gw.createKey(['--require-signature', '--requests-per-minute', '2']);
  for (let i = 0; i < 4; i++) await refused('Missing signature', undefined, { k });
  for (let i = 0; i < 2; i++) {
    assert.equal((await send(sign(k.signingSecret, {}), { k })).status, 200);
  }
});

test('optional: unsigned is served, a signature that is there is checked', LIMIT, async () => {
  const k = await gw.createKey(['--signing-secret']);
  assert.equal(k.permissions.requireSignature, false);
  assert.equal((await send(undefined, { k })).status, 200);
  assert.equal((await send(sign(k.signingSecret, {}), { k })).status, 200);
  await refused('Wrong signature', sign('ss-cg-wrong', {}), { k });
  const plain = await gw.createKey([]);
  assert.equal(plain.signingSecret, undefined);
  await refused('Wrong signature: this key has no secret', sign('x', {}), { k: plain });
});

test('required later, and not any more', LIMIT, async () => {
  const k = await gw.createKey([]);
  assert.equal((await send(undefined, { k })).status, 200);
  const set = await gw.cli(['key', 'set', k.id, '--require-signature', '--json']);
  assert.equal(set.code, 0, set.stderr);
  const { signingSecret } = JSON.parse(set.stdout);
  assert.match(signingSecret, /^ss-cg-[0-9A-Za-z]{43}$/);
  await eventually(async () => (await send(undefined, { k })).status === 401);
  assert.equal((await send(sign(signingSecret, {}), { k })).status, 200);
  assert.equal((await gw.cli(['key', 'set', k.id, '--no-signature'])).code, 0);
  await eventually(async () => (await send(undefined, { k })).status === 200);
});

test('rotation: both secrets during the overlap, then the new one alone', LIMIT, async () => {
  const k = await gw.createKey(['--require-signature']);
  assert.equal((await send(sign(k.signingSecret, {}), { k })).status, 200);
  const rotated = await gw.cli(['key', 'rotate', k.id, '--overlap', '4s', '--json']);
  assert.equal(rotated.code, 0, rotated.stderr);
  const fresh = JSON.parse(rotated.stdout);
  const until = Date.parse(fresh.oldSecretUntil);
  await eventually(async () => (await send(sign(fresh.signingSecret, {}), { k: fresh })).status === 200);
  assert.equal((await send(sign(k.signingSecret, {}), { k })).status, 200);
  await sleep(until - Date.now() + 50);
  await refused('Invalid API key', sign(k.signingSecret, {}), { k });
  await refused('Wrong signature', sign(k.signingSecret, {}), { k: fresh });
  assert.equal((await send(sign(fresh.signingSecret, {}), { k: fresh })).status, 200);
});

test('the secrets are sealed, and nowhere to be read', LIMIT, async () => {
  const rows = await gw.sql('SELECT signing_secret AS s FROM api_keys WHERE signing_secret IS NOT NULL');
  assert.ok(rows.length >= 3);
  for (const { s } of rows) assert.match(s, /^v1:[0-9a-f]{8}:/);
  const list = await gw.cli(['key', 'list', '--json']);
  const log = readFileSync(join(gw.dataDir, 'logs/combined.log'), 'utf8');
  for (const text of [gw.stderr, list.stdout, log, JSON.stringify(rows)]) {
    assert.ok(!text.includes(key.signingSecret.slice(6)));
  }
});

test('the examples of the documentation, run as they are', LIMIT, async () => {
  const run = (file, args, more) => new Promise((resolve) => {
    execFile(file, args, { timeout: 20_000, env: { PATH: process.env.PATH, LANG: 'C.UTF-8',
      CLAUDEGATE_URL: gw.url, CLAUDEGATE_KEY: key.key,
      CLAUDEGATE_SIGNING_SECRET: key.signingSecret, ...more } },
    (error, stdout, stderr) => resolve({ code: error?.code ?? 0, stdout, stderr }));
  });
  for (const [program, file] of [['node', 'sign.mjs'], ['python3', 'sign.py'], ['sh', 'sign.sh']]) {
    const path = join(ROOT, 'docs/examples', file);
    const args = [path, 'POST', '/api/chat', '{"message":"Grüße"}'];
    for (let i = 0; i < 2; i++) {
      const { code, stdout, stderr } = await run(program, args);
      assert.equal(code, 0, `${file}: ${stdout}${stderr}`);
      assert.equal(JSON.parse(stdout).success, true, stdout);
    }
    const wrong = await run(program, args, { CLAUDEGATE_SIGNING_SECRET: 'ss-cg-x' });
    assert.notEqual(wrong.code, 0, file);
    assert.match(wrong.stdout + wrong.stderr, /Wrong signature/, file);
    const get = await run(program, [path, 'GET', '/healthz']);
    assert.equal(get.code, 0, `${file}: ${get.stdout}${get.stderr}`);
  }
});

test('without a master key signatures cannot be required', LIMIT, async (t) => {
  const plain = await Gateway.start({ test: t });
  for (const args of [['key', 'create', '--name', 'x', '--require-signature'],
    ['key', 'create', '--name', 'x', '--signing-secret']]) {
    const { code, stdout, stderr } = await plain.cli(args);
    assert.deepEqual([code, stdout], [1, '']);
    assert.match(stderr, /^claudegate: signed requests need a master key.*vault\.master_key/);
  }
  const k = await plain.createKey([]);
  const set = await plain.cli(['key', 'set', k.id, '--require-signature']);
  assert.equal(set.code, 1);
  assert.match(set.stderr, /^claudegate: signed requests need a master key/);
  assert.equal((await send(undefined, { server: plain, k })).status, 200);
});

test('a restart does not forget what it has seen', LIMIT, async (t) => {
  const one = await Gateway.start({ env: { CLAUDEGATE_MASTER_KEY: MASTER } });
  const k = await one.createKey(['--require-signature']);
  await sleep(1000);
  const signature = sign(k.signingSecret, {});
  assert.equal((await send(signature, { server: one, k })).status, 200);
  await one.kill9();
  const two = await one.restart({ test: t });
  await refused('Expired signature', signature, { server: two, k });
  await sleep(1000);
  assert.equal((await send(sign(k.signingSecret, {}), { server: two, k })).status, 200);
});

test('two servers on one Redis: a replay is refused by the other; 503 while it is away', LIMIT,
  async (t) => {
    const redis = await Redis.start();
    t.after(() => redis.stop());
    const one = await Gateway.start({ test: t, env: { CLAUDEGATE_MASTER_KEY: MASTER,
      REDIS_URL: redis.url, CLAUDEGATE_REDIS_TIMEOUT_MS: '300' } });
    const k = await one.createKey(['--require-signature']);
    const two = await Gateway.start({ test: t, postgres: one.postgres,
      env: { ...one.env, CLAUDEGATE_DATA_DIR: `${one.dataDir}-two`, ...(one.postgres ? {} : {
        DATABASE_URL: `sqlite:${one.dataDir}/claudegate.db` }) } });
    const signature = sign(k.signingSecret, {});
    assert.equal((await send(signature, { server: one, k })).status, 200);
    await refused('Replayed signature', signature, { server: two, k });
    await redis.kill();
    const away = await send(sign(k.signingSecret, {}), { server: two, k });
    assert.deepEqual([away.status, away.body.code], [503, 'unavailable'], away.text);
    assert.equal(away.headers['retry-after'], '1');
    await redis.restart();
    await eventually(async () =>
      (await send(sign(k.signingSecret, {}), { server: two, k })).status === 200, { ms: 15_000 });
  });
