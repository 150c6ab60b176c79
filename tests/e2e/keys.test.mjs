// API keys: making, changing, checking, revoking, and what each may do and spend.
import assert from 'node:assert/strict';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import net from 'node:net';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { Gateway, ROOT, eventually } from './lib/gateway.mjs';
import { Redis } from './lib/redis.mjs';

const LIMIT = { timeout: 60_000 };
const KEY = /^sk-cg-([0-9A-Za-z]{12})-([0-9A-Za-z_-]{43})$/;

let gw;
before(async () => {
  gw = await Gateway.start();
});
after(() => gw.stop());

const made = []; // secrets, to be looked for at the end
async function createKey(...flags) {
  const key = await gw.createKey(flags);
  made.push(key.key);
  return key;
}

/** `key create` with the defaults of the settings. */
async function plainCreate(...flags) {
  const { code, stdout, stderr } =
    await gw.cli(['key', 'create', '--json', '--name', 'n', ...flags]);
  assert.equal(code, 0, stderr);
  const key = JSON.parse(stdout);
  made.push(key.key);
  return key;
}

async function list() {
  const { code, stdout } = await gw.cli(['key', 'list', '--json']);
  assert.equal(code, 0);
  return JSON.parse(stdout);
}

/** What N requests at once got: statuses, sorted, and the replies. */
async function volley(n, key, body = { message: 'hello' }) {
  const replies = await Promise.all(Array.from({ length: n }, () => gw.chat(body, { key })));
  const count = (status) => replies.filter((r) => r.status === status).length;
  const strange = replies.find((r) => r.status !== 200 && r.status !== 429);
  assert.equal(strange?.text, undefined);
  return { replies, count, refused: replies.filter((r) => r.status !== 200) };
}

// --- making ----------------------------------------------------------------------------------

test('a key with the defaults, as one JSON object', LIMIT, async () => {
  const key = await plainCreate();
  const { id, publicId, key: secret, createdAt, ...rest } = key;
  assert.match(secret, KEY);
  assert.equal(KEY.exec(secret)[1], publicId);
  assert.match(id, /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
  assert.ok(Math.abs(Date.parse(createdAt) - Date.now()) < 60_000, createdAt);
  assert.deepEqual(rest, {
    name: 'n', status: 'active', priority: 1, expiresAt: null, lastUsedAt: null,
    oldSecretUntil: null, hasSigningSecret: false, metadata: null,
    limits: { requestsPerMinute: 10, requestsPerDay: 1000, tokensPerDay: 100_000,
      maxConcurrent: null, costPerDay: null, costPerMonth: null },
    permissions: { models: ['claude-*'], maxTokens: 4096, allowStreaming: true, allowAgent: false,
      allowTools: true, requireSignature: false, responseCache: false },
  });
});

test('each flag does what it says', LIMIT, async () => {
  const key = await plainCreate('--name', 'Zoë "x" \\', '--user', 'zoe', '--requests-per-minute',
    '7', '--requests-per-day=unlimited', '--tokens-per-day', '0', '--max-tokens', '99',
    '--models', 'claude-sonnet-*, claude-haiku-4-5', '--no-streaming', '--allow-agent', '--expires',
    '30d', '--priority', '10', '--max-concurrent', '5', '--cost-per-day', '2.50',
    '--cost-per-month', 'unlimited', '--no-tools', '--metadata', '{"team": "ä", "n": [1, null]}');
  assert.deepEqual(key.metadata, { team: 'ä', n: [1, null] });
  assert.equal(key.priority, 10);
  assert.equal(key.name, 'Zoë "x" \\');
  assert.deepEqual(key.limits, { requestsPerMinute: 7, requestsPerDay: null, tokensPerDay: 0,
    maxConcurrent: 5, costPerDay: 2.5, costPerMonth: null });
  assert.deepEqual(key.permissions,
    { models: ['claude-sonnet-*', 'claude-haiku-4-5'], maxTokens: 99, allowStreaming: false,
      allowAgent: true, allowTools: false, requireSignature: false, responseCache: false });
  assert.ok(Math.abs(Date.parse(key.expiresAt) - Date.now() - 30 * 86_400_000) < 60_000);
  for (const [text, at] of [['2999-01-31', '2999-01-31T00:00:00.000Z'],
    ['2999-01-31T12:00:00Z', '2999-01-31T12:00:00.000Z']]) {
    assert.equal(new Date((await plainCreate('--expires', text)).expiresAt).toISOString(), at);
  }
  const users = (await gw.sql('SELECT name FROM users ORDER BY name')).map((row) => row.name);
  assert.deepEqual(users, ['admin', 'zoe']);
});

test('without --json the key is printed once, for people', LIMIT, async () => {
  const { code, stdout } = await gw.cli(['key', 'create', '--name', 'for people']);
  assert.equal(code, 0);
  assert.match(stdout, /^Key 'for people' created\. It is shown only now:\n\n {2}sk-cg-\S+\n$/);
  made.push(/sk-cg-\S+/.exec(stdout)[0]);
});

test('wrong flags are refused with the reason, and nothing is made', LIMIT, async () => {
  const before = (await list()).length;
  for (const [args, error] of [
    [[], /^claudegate: --name: is required/],
    [['--name', ''], /^claudegate: --name: is required/],
    [['--name', 'x'.repeat(256)], /^claudegate: --name: .*255/],
    [['--name', 'x', '--requests-per-minute', 'many'],
      new RegExp('^claudegate: --requests-per-minute: must be a whole number from 0 to ' +
        "2147483647, or 'unlimited'; got 'many'\n$")],
    [['--name', 'x', '--requests-per-day', '-1'], /^claudegate: --requests-per-day: .*got '-1'\n$/],
    [['--name', 'x', '--cost-per-day', '$5'], /^claudegate: --cost-per-day: .*got '\$5'\n$/],
    [['--name', 'x', '--max-concurrent', '-1'], /^claudegate: --max-concurrent: .*got '-1'\n$/],
    [['--name', 'x', '--tokens-per-day', '1.5'], /^claudegate: --tokens-per-day: .*got '1.5'\n$/],
    [['--name', 'x', '--max-tokens', '99999999999'],
      /^claudegate: --max-tokens: .*got '99999999999'\n$/],
    [['--name', 'x', '--models', 'a,,b'],
      /^claudegate: --models: must list 1 to 64 names; got 'a,,b'\n$/],
    [['--name', 'x', '--models', ''], /^claudegate: --models: must list 1 to 64 names; got ''\n$/],
    [['--name', 'x', '--expires', 'soon'],
      /^claudegate: --expires: must be a date such as .*got 'soon'\n$/],
    [['--name', 'x', '--expires', '2001-01-01'],
      /^claudegate: --expires: '2001-01-01' is in the past\n$/],
    [['--name', 'x', '--expires', '2027-02-30'], /^claudegate: --expires: /],
    [['--name', 'x', '--expires', '0d'], /^claudegate: --expires: /],
    ...['0', '11', '-1', '1.5', '', 'high', '99999999999999999999'].map((priority) => [
      ['--name', 'x', '--priority', priority], new RegExp(
        `^claudegate: --priority: must be a whole number from 1 to 10; got '${priority}'\n$`)]),
    [['--name', 'x', '--metadata', '[]'], /^claudegate: --metadata: must be a JSON object of at most 8192/],
    [['--name', 'x', '--metadata', '{"a":'], /^claudegate: --metadata: must be .*; not valid JSON: line 1 column 5: /],
    [['--name', 'x', '--metadata', JSON.stringify({ a: 'x'.repeat(8192) })], /^claudegate: --metadata: /],
    [['--name', 'x', '--metadata', '{"a":"\\u0000"}'], /^claudegate: --metadata: .*without \\u0000\n$/],
    [['--name', 'x', '--allow-tools', '--no-tools'],
      /^claudegate: --allow-tools: cannot be given together with --no-tools\n$/],
    [['--name', 'x', '--overlap', '1h'], /unrecognized option '--overlap'\nUsage: /],
    [['--name', 'x', '--nonsense'], /unrecognized option '--nonsense'\nUsage: /],
    [['--name', 'x', 'extra'], /^Usage: /],
  ]) {
    const { code, stdout, stderr } = await gw.cli(['key', 'create', ...args]);
    assert.equal(code, 2, `${args}: ${stderr}`);
    assert.equal(stdout, '');
    assert.match(stderr, error, String(args));
  }
  assert.equal((await list()).length, before);
});

test('list names every key and no secret', LIMIT, async () => {
  const key = await createKey('--name', 'listed');
  const { stdout } = await gw.cli(['key', 'list', '--json']);
  const { key: secret, ...described } = key;
  assert.deepEqual(JSON.parse(stdout).find((k) => k.id === key.id), described);
  const text = await gw.cli(['key', 'list']);
  assert.match(text.stdout, new RegExp(`^${key.publicId} +active +priority 1 +last used never +listed$`, 'm'));
  assert.ok(!stdout.includes(secret.slice(19)) && !text.stdout.includes(secret.slice(19)));
});

// --- changing --------------------------------------------------------------------------------

async function change(...args) {
  const { code, stdout, stderr } = await gw.cli(['key', ...args, '--json']);
  assert.equal(code, 0, stderr);
  const key = JSON.parse(stdout);
  if (key.key) made.push(key.key);
  return key;
}

const says = async (...args) => (await gw.cli(['key', ...args])).stdout;

test('set changes what it is told and nothing else, by id or public id', LIMIT, async () => {
  const other = await createKey();
  const { key: secret, ...before } = await createKey('--metadata', '{"a":1}');
  assert.deepEqual(await change('show', before.publicId), before);
  for (const [flags, changed] of [
    [['--name', 'new name'], { name: 'new name' }],
    [['--priority', '10'], { priority: 10 }],
    [['--expires', '2999-01-31'], { expiresAt: '2999-01-31T00:00:00.000Z' }],
    [['--metadata', '{"b":{}}'], { metadata: { b: {} } }],
    [['--metadata', ''], { metadata: null }],
    [['--requests-per-minute', '1', '--requests-per-day', '2', '--tokens-per-day', '3',
      '--max-concurrent', '4', '--cost-per-day', '5.5', '--cost-per-month', '6'],
    { limits: { requestsPerMinute: 1, requestsPerDay: 2, tokensPerDay: 3, maxConcurrent: 4,
      costPerDay: 5.5, costPerMonth: 6 } }],
    [['--models', 'a,b*', '--max-tokens', '7', '--no-streaming', '--allow-agent', '--no-tools'],
      { permissions: { ...before.permissions, models: ['a', 'b*'], maxTokens: 7,
        allowStreaming: false, allowAgent: true, allowTools: false } }],
  ]) {
    assert.deepEqual(await change('set', before.id, ...flags), { ...before, ...changed });
    assert.deepEqual(await change('show', before.id), { ...before, ...changed }, String(flags));
    Object.assign(before, changed);
  }
  await change('set', before.publicId, '--allow-streaming', '--no-agent', '--allow-tools',
    '--expires', 'never', '--tokens-per-day', 'unlimited');
  const after = await change('show', before.publicId);
  assert.deepEqual([after.permissions.allowStreaming, after.permissions.allowAgent,
    after.permissions.allowTools, after.expiresAt, after.limits.tokensPerDay],
  [true, false, true, null, null]);
  assert.equal(await says('set', before.id, '--priority', '3'), `Key ${before.id} changed.\n`);
  const text = await says('show', before.id);
  for (const line of [/^name +new name$/m, /^key +sk-cg-\w{12}-\.\.\.$/m, /^priority +3$/m,
    /^tokens per day +unlimited$/m, /^cost per day +5\.5 USD$/m, /^models +a, b\*$/m]) {
    assert.match(text, line);
  }
  const { key: secret2, ...untouched } = other;
  assert.deepEqual(await change('show', other.id), untouched);
  assert.ok(!text.includes(secret.slice(19)) && secret2);
});

test('what cannot be set is refused with the reason', LIMIT, async () => {
  const key = await createKey();
  for (const [args, wanted, error] of [
    [['set', key.id], 2, /^claudegate: key set: needs at least one option/],
    [['set', key.id, '--priority', '11'], 2, /^claudegate: --priority: must be .*got '11'\n$/],
    [['set', key.id, '--name', ''], 2, /^claudegate: --name: /],
    [['set', key.id, '--expires', '1999-01-01'], 2, /^claudegate: --expires: .*in the past/],
    [['set', key.id, '--tokens-per-day', '-1'], 2, /^claudegate: --tokens-per-day: must be /],
    [['set', key.id, '--user', 'x'], 2, /unrecognized option '--user'\nUsage: /],
    [['set', '--priority', '5'], 2, /^Usage: /],
    [['set', key.id, key.id, '--priority', '5'], 2, /^Usage: /],
    [['set', 'nosuchkey000', '--priority', '5'], 1, /^claudegate: there is no such key\n$/],
    [['show', 'nosuchkey000'], 1, /^claudegate: there is no such key\n$/],
    [['disable', 'nosuchkey000'], 1, /^claudegate: there is no such key\n$/],
    [['rotate', 'nosuchkey000'], 1, /^claudegate: there is no such key\n$/],
    ...['soon', '-1h', '91d', '1', 'h', '1w', ''].map((overlap) => [
      ['rotate', key.id, '--overlap', overlap], 2, /^claudegate: --overlap: must be 0, or .*at most 90d; got '/]),
    [['rotate', key.id, '--name', 'x'], 2, /unrecognized option '--name'\nUsage: /],
    [['list', 'x'], 2, /^Usage: /],
    [['nonsense'], 2, /^Usage: /],
    [[], 2, /^Usage: /],
  ]) {
    const { code, stdout, stderr } = await gw.cli(['key', ...args]);
    assert.deepEqual([code, stdout], [wanted, ''], `${args}: ${stderr}`);
    assert.match(stderr, error, String(args));
  }
  const { key: secret, ...described } = key;
  assert.deepEqual(await change('show', key.id), described, secret && 'unchanged');
});

const status = async (key) => {
  const reply = await gw.chat({ message: 'hello' }, { key });
  return reply.status === 200 ? 200 : `${reply.status} ${reply.body.error}`;
};

test('disable, enable, revoke: seen within two seconds, and revoked is final', LIMIT, async () => {
  const { key, id } = await createKey();
  assert.equal(await status(key), 200);
  assert.equal(await says('disable', id), `Key ${id} disabled.\n`);
  await eventually(async () => await status(key) === '401 API key disabled', { ms: 2000 });
  assert.equal((await change('show', id)).status, 'disabled');
  await change('set', id, '--name', 'still disabled');
  assert.equal((await change('show', id)).status, 'disabled');
  assert.equal(await says('enable', id), `Key ${id} enabled.\n`);
  await eventually(async () => await status(key) === 200, { ms: 2000 });
  assert.equal((await change('revoke', id)).status, 'revoked');
  await eventually(async () => await status(key) === '401 API key revoked', { ms: 2000 });
  for (const args of [['enable', id], ['disable', id], ['set', id, '--priority', '2'], ['rotate', id]]) {
    const { code, stdout, stderr } = await gw.cli(['key', ...args]);
    assert.deepEqual([code, stdout], [1, '']);
    assert.equal(stderr, `claudegate: key ${id} is revoked, and that is final\n`);
  }
  assert.equal(await says('revoke', id), `Key ${id} revoked.\n`);
});

test('rotate: the old secret works until the overlap ends, then only the new one', LIMIT, async () => {
  const { key, id, publicId } = await createKey();
  assert.equal(await status(key), 200);
  const second = await change('rotate', id, '--overlap', '4s');
  const until = Date.parse(second.oldSecretUntil);
  assert.ok(Math.abs(until - Date.now() - 4000) < 3000, second.oldSecretUntil);
  assert.equal(KEY.exec(second.key)[1], publicId, 'the same key');
  await eventually(async () => await status(second.key) === 200, { ms: 2000 });
  assert.equal(await status(key), 200);
  assert.match(await status(`${key.slice(0, -1)}${key.endsWith('A') ? 'B' : 'A'}`), /^401 /);
  await sleep(until - Date.now() + 50);
  assert.equal(await status(key), '401 Invalid API key', 'at once, nothing is told');
  assert.equal(await status(second.key), 200);

  const third = await change('rotate', id); // a day; the first one is out of the game
  assert.ok(Math.abs(Date.parse(third.oldSecretUntil) - Date.now() - 86_400_000) < 60_000);
  await eventually(async () => await status(third.key) === 200, { ms: 2000 });
  assert.deepEqual([await status(second.key), await status(key)], [200, '401 Invalid API key']);
  const text = await says('rotate', id, '--overlap', '0');
  assert.match(text, /^Key 'test' has a new secret\. It is shown only now:\n\n {2}sk-cg-\S+\n\nWhat it had does not work any more\.\n$/);
  const fourth = /sk-cg-\S+/.exec(text)[0];
  made.push(fourth);
  await eventually(async () => await status(third.key) === '401 Invalid API key', { ms: 2000 });
  assert.deepEqual([await status(fourth), await status(second.key)], [200, '401 Invalid API key']);
});

test('rotate before the key was ever used, and with the old one first', LIMIT, async () => {
  const { key, id } = await createKey();
  const second = await change('rotate', id, '--overlap', '1h');
  assert.deepEqual([await status(key), await status(second.key)], [200, 200]);
  const third = await change('rotate', id, '--overlap', '1h');
  await eventually(async () => await status(key) === '401 Invalid API key', { ms: 2000 });
  assert.deepEqual([await status(third.key), await status(second.key)], [200, 200]);
});

test('with Redis every change is told to the servers; without it they look', LIMIT, async (t) => {
  const redis = await Redis.start();
  t.after(() => redis.stop());
  const one = await Gateway.start({ test: t, env: { REDIS_URL: redis.url } });
  const { key, id } = await one.createKey([]);
  const two = await Gateway.start({ test: t, postgres: one.postgres, env: { ...one.env,
    CLAUDEGATE_DATA_DIR: `${one.dataDir}-two`,
    ...(one.postgres ? {} : { DATABASE_URL: `sqlite:${one.dataDir}/claudegate.db` }) } });
  const heard = net.connect(redis.port, '127.0.0.1').setEncoding('utf8');
  t.after(() => heard.destroy());
  let told = '';
  heard.on('data', (data) => { told += data; });
  heard.write('PSUBSCRIBE *\r\n');
  await eventually(() => told.includes('psubscribe'));
  const delays = [];
  for (const [what, wanted] of [['disable', 401], ['enable', 200], ['disable', 401],
    ['enable', 200], ['revoke', 401]]) {
    told = '';
    const { code, stderr } = await one.cli(['key', what, id]);
    const from = Date.now();
    assert.equal(code, 0, stderr);
    await eventually(() => told.includes('keys-changed'));
    for (const server of [one, two]) {
      await eventually(async () =>
        (await server.chat({ message: 'hello' }, { key })).status === wanted, { ms: 2000, every: 5 });
    }
    delays.push(Date.now() - from);
  }
  t.diagnostic(`seen by both after ${delays.join(', ')} ms`);
  await redis.kill(); // without it the poll still sees it
  const other = await one.createKey([]);
  assert.equal((await two.chat({ message: 'hello' }, { key: other.key })).status, 200);
  assert.equal((await one.cli(['key', 'revoke', other.id])).code, 0);
  await eventually(async () =>
    (await two.chat({ message: 'hello' }, { key: other.key })).status === 401, { ms: 2000 });
});

/** N requests of each key at once, one worker: whose the first N answers were. */
async function race(one, keys, n) {
  const order = [];
  const ask = async (key) => {
    const reply = await one.chat({ message: 'fake:{"start_delay_ms":60}' }, { key: key.key });
    assert.equal(reply.status, 200, reply.text);
    order.push(key);
  };
  await Promise.all(Array.from({ length: n }, () => keys.map(ask)).flat());
  return keys.map((key) => order.slice(0, n).filter((k) => k === key).length);
}

test('a running server notices a new priority within a second', LIMIT, async (t) => {
  const one = await Gateway.start({
    test: t, config: { pool: { max_workers: 1, min_spare: 1, isolation: 'shared' } },
  });
  const keys = [await one.createKey([]), await one.createKey([])];
  await race(one, keys, 20); // the queue knows by now how long turns take
  const [a, b] = await race(one, keys, 20);
  assert.ok(Math.abs(a - b) <= 4, `equal: ${a} and ${b} of the first 20`);
  const { code, stderr } = await one.cli(['key', 'set', keys[1].id, '--priority', '10']);
  assert.equal(code, 0, stderr);
  await sleep(1500);
  const [low, high] = await race(one, keys, 20);
  assert.ok(high >= 15, `one to ten: ${low} and ${high} of the first 20`);
});

// --- checking --------------------------------------------------------------------------------

/** METHOD path of every route that needs a key, from the table itself. */
function keyRoutes() {
  const table = readFileSync(join(ROOT, 'src/api/routes.c'), 'utf8');
  const all = [...table.matchAll(/\{\s*"([A-Z]+)",\s*"([^"]+)",\s*(SCOPE_\w+)/g)];
  assert.ok(all.length >= 4);
  return all.filter(([, , , scope]) => scope === 'SCOPE_KEY')
    .map(([, method, path]) => [method, path.replace(/:\w+/g, 'x')]);
}

test('no route that needs a key answers without a good one', LIMIT, async () => {
  const { key, publicId } = await createKey();
  const other = (await createKey()).key;
  const routes = keyRoutes();
  assert.ok(routes.length >= 1);
  const flipped = key.slice(0, -1) + (key.endsWith('A') ? 'B' : 'A');
  const bearer = (text) => ({ authorization: `Bearer ${text}` });
  const bad = {
    none: {},
    'an empty Bearer': { authorization: 'Bearer ' },
    'no scheme': { authorization: key },
    Basic: { authorization: `Basic ${Buffer.from(`x:${key}`).toString('base64')}` },
    'not ours': bearer('sk-ant-api03-abcdefghijklmnop'),
    'too short': bearer(`sk-cg-${publicId}`),
    'too long': bearer(`${key}A`),
    'one character wrong': bearer(flipped),
    'another case': bearer(key.toUpperCase()),
    'unknown id': bearer(`sk-cg-AAAAAAAAAAAA-${key.slice(19)}`),
    "another key's secret": bearer(`sk-cg-${publicId}-${other.slice(19)}`),
    'SQL': bearer("sk-cg-' OR 1=1 -----------------------------------------------------"),
    'x-api-key wrong': { 'x-api-key': flipped },
    'x-api-key empty': { 'x-api-key': '' },
    'both, different': { authorization: `Bearer ${key}`, 'x-api-key': other },
  };
  for (const [method, path] of routes) {
    for (const [what, headers] of Object.entries(bad)) {
      const body = method === 'POST' ? { message: 'hello' } : undefined;
      const reply = await gw.request(method, path, { body, headers });
      assert.equal(reply.status, 401, `${method} ${path}, ${what}: ${reply.text}`);
      assert.equal(reply.headers['www-authenticate'], 'Bearer', what);
      const { success, code, requestId, error } = reply.body;
      if (path.startsWith('/api/')) {
        assert.deepEqual([success, code, requestId],
          [false, 'unauthenticated', reply.headers['request-id']]);
        assert.ok(error.length > 0);
      } else {
        const said = error.code ?? error.type; // OpenAI's, Anthropic's
        assert.match(said, /^(invalid_api_key|authentication_error)$/, `${path}: ${reply.text}`);
        assert.ok(error.message.length > 0);
      }
    }
    const inQuery = await gw.request(method, `${path}?key=${key}&api_key=${key}&x-api-key=${key}`,
      { body: method === 'POST' ? { message: 'hello' } : undefined });
    assert.equal(inQuery.status, 401, 'a key in the query string does not count');
  }
});

test('each good way of showing a key', LIMIT, async () => {
  const { key } = await createKey();
  for (const headers of [
    { authorization: `Bearer ${key}` }, { authorization: `bearer ${key}` },
    { 'x-api-key': key }, { authorization: `Bearer ${key}`, 'x-api-key': key },
  ]) {
    const { status, text } = await gw.chat({ message: 'hello' }, { key: null, headers });
    assert.equal(status, 200, text);
  }
});

test('a revoked key is refused within two seconds, by id or public id', LIMIT, async () => {
  for (const name of ['id', 'publicId']) {
    const key = await createKey();
    assert.equal((await gw.chat({ message: 'hello' }, { key: key.key })).status, 200);
    const { code, stdout } = await gw.cli(['key', 'revoke', key[name]]);
    assert.deepEqual([code, stdout], [0, `Key ${key[name]} revoked.\n`]);
    await eventually(async () =>
      (await gw.chat({ message: 'hello' }, { key: key.key })).status === 401, { ms: 2000 });
    assert.equal((await list()).find((k) => k.id === key.id).status, 'revoked');
  }
  const { code, stderr } = await gw.cli(['key', 'revoke', 'nosuchkey000']);
  assert.equal(code, 1);
  assert.match(stderr, /^claudegate: .*nosuchkey000|^claudegate: .*no such key/i);
});

test('a key that was wrong before it was made works at once', LIMIT, async () => {
  const { key } = await createKey();
  assert.equal((await gw.chat({ message: 'hello' }, { key })).status, 200);
});

test('a key ends at its time', LIMIT, async () => {
  const at = new Date(Math.ceil(Date.now() / 1000) * 1000 + 3000);
  const { key } = await createKey('--expires', at.toISOString().replace('.000Z', 'Z'));
  assert.equal((await gw.chat({ message: 'hello' }, { key })).status, 200);
  await sleep(at - Date.now() + 100);
  const reply = await gw.chat({ message: 'hello' }, { key });
  assert.equal(reply.status, 401, reply.text);
});

test('the last use is remembered', LIMIT, async () => {
  const key = await createKey();
  assert.equal((await gw.chat({ message: 'hello' }, { key: key.key })).status, 200);
  for (const end = Date.now() + 9000; ; await sleep(200)) {
    const { lastUsedAt } = (await list()).find((k) => k.id === key.id);
    if (lastUsedAt) {
      assert.ok(Math.abs(Date.parse(lastUsedAt) - Date.now()) < 15_000);
      break;
    }
    assert.ok(Date.now() < end, 'within 9 s');
  }
});

// --- permissions -----------------------------------------------------------------------------

test('permissions: models, streaming, tokens', LIMIT, async () => {
  const { key } = await plainCreate('--models', 'claude-sonnet-*,exact', '--no-streaming',
    '--max-tokens', '50', '--requests-per-minute', 'unlimited');
  for (const [body, status, error] of [
    [{ model: 'claude-sonnet-4-5' }, 200],
    [{ model: 'exact' }, 200],
    [{}, 200],
    [{ maxTokens: 50 }, 200],
    [{ stream: false }, 200],
    [{ model: 'claude-opus-4-1' }, 403, /^model: this key may not use 'claude-opus-4-1'$/],
    [{ model: 'exactly' }, 403, /^model: /],
    [{ model: 'xclaude-sonnet-4-5' }, 403, /^model: /],
    [{ model: 'CLAUDE-SONNET-4-5' }, 403, /^model: /],
    [{ stream: true }, 403, /^stream: this key may not stream$/],
    [{ maxTokens: 51 }, 403, /^max.?tokens: this key allows at most 50 per request\. The operator can raise that: claudegate key set \S+ --max-tokens 51$/i],
  ]) {
    const reply = await gw.chat({ message: 'hello', ...body }, { key });
    assert.equal(reply.status, status, `${JSON.stringify(body)}: ${reply.text}`);
    if (error) {
      assert.match(reply.body.error, error);
      assert.equal(reply.body.code, 'permission_denied');
    }
  }
});

test('the default model needs permission too, and a session keeps its rules', LIMIT, async () => {
  const { key } = await createKey('--models', 'claude-haiku-*');
  assert.equal((await gw.chat({ message: 'hello' }, { key })).status, 403);
  const first = await gw.chat({ message: 'hello', model: 'claude-haiku-4-5' }, { key });
  assert.equal(first.status, 200);
  const { sessionId } = first.body;
  const second = await gw.chat({ message: 'again', sessionId }, { key });
  assert.equal(second.status, 200);
  assert.equal(second.body.model, 'claude-haiku-4-5', "the session's model, not the default");
  const third = await gw.chat({ message: 'x', sessionId, model: 'claude-opus-4-1' }, { key });
  assert.equal(third.status, 403);
});

// --- limits ----------------------------------------------------------------------------------

test('requests per minute: of N at once exactly L are served', LIMIT, async () => {
  const { key } = await plainCreate('--requests-per-minute', '7');
  const { count, refused } = await volley(40, key);
  assert.deepEqual([count(200), count(429)], [7, 33]);
  for (const reply of refused) {
    assert.equal(reply.body.code, 'rate_limited');
    const wait = Number(reply.headers['retry-after']);
    assert.ok(Number.isInteger(wait) && wait >= 1 && wait <= 60, reply.headers['retry-after']);
    assert.match(reply.body.error, /7 requests per minute/);
  }
});

test('retry-after is true: who waits that long is served', LIMIT, async () => {
  const { key } = await createKey('--requests-per-minute', '30');
  const { count, refused } = await volley(35, key);
  assert.ok(count(200) >= 30 && count(200) <= 32, `${count(200)} served`);
  const wait = Number(refused.at(-1).headers['retry-after']);
  assert.ok(wait <= 3, `${wait} s`);
  await sleep(wait * 1000);
  assert.equal((await gw.chat({ message: 'hello' }, { key })).status, 200);
});

test('requests that are refused for another reason cost nothing', LIMIT, async () => {
  const { key } = await plainCreate('--requests-per-minute', '2');
  for (let i = 0; i < 5; i++) {
    assert.equal((await gw.chat({ message: 1 }, { key })).status, 400);
    assert.equal((await gw.chat({ message: 'x', model: 'gpt-4' }, { key })).status, 403);
  }
  const { count } = await volley(4, key);
  assert.deepEqual([count(200), count(429)], [2, 2]);
});

test('limit headers tell what is left', LIMIT, async () => {
  const { key } = await plainCreate('--requests-per-minute', '3');
  const seen = [];
  for (let i = 0; i < 4; i++) {
    const { status, headers } = await gw.chat({ message: 'hello' }, { key });
    assert.equal(headers['ratelimit-limit'], '3');
    seen.push([status, headers['ratelimit-remaining']]);
    assert.ok(Number(headers['ratelimit-reset']) >= 1 && Number(headers['ratelimit-reset']) <= 60);
  }
  assert.deepEqual(seen, [[200, '2'], [200, '1'], [200, '0'], [429, '0']]);
});

test('requests per day: exact at once, and over a restart', LIMIT, async (t) => {
  const one = await Gateway.start();
  const { key } = await one.createKey(['--requests-per-day', '4']);
  const replies = await Promise.all(
    Array.from({ length: 12 }, () => one.chat({ message: 'hello' }, { key })));
  const refused = replies.filter((r) => r.status === 429);
  assert.deepEqual([replies.filter((r) => r.status === 200).length, refused.length], [4, 8]);
  for (const reply of refused) {
    assert.equal(reply.body.code, 'quota_exceeded');
    assert.match(reply.body.error, /4 requests per day.*resets at \d{4}-\d\d-\d\dT00:00:00/);
  }
  await one.kill9();
  const two = await one.restart({ test: t });
  const again = await two.chat({ message: 'hello' }, { key });
  assert.deepEqual([again.status, again.body.code], [429, 'quota_exceeded']);
});

test('tokens per day: reserved while running, trued up afterwards', LIMIT, async () => {
  // an answer of the fake costs 15; a request reserves its text and maxTokens
  const { key } = await createKey('--tokens-per-day', '100');
  const body = { message: 'hi', maxTokens: 50 };
  const statuses = [];
  for (let i = 0; i < 6; i++) statuses.push((await gw.chat(body, { key })).status);
  assert.deepEqual(statuses, [200, 200, 200, 200, 429, 429]);
  const reply = await gw.chat(body, { key });
  assert.equal(reply.body.code, 'quota_exceeded');
  assert.match(reply.body.error, /100 tokens per day/);
  const smaller = await gw.chat({ message: 'hi', maxTokens: 20 }, { key });
  assert.equal(smaller.status, 200, 'a smaller one still fits');
  const two = await createKey('--tokens-per-day', '100');
  const { count } = await volley(5, two.key, body);
  assert.deepEqual([count(200), count(429)], [1, 4], 'two at once could spend too much');
});

// --- secrets ---------------------------------------------------------------------------------

function files(dir) {
  return readdirSync(dir).flatMap((name) => {
    const path = join(dir, name);
    const stat = statSync(path);
    return stat.isDirectory() ? files(path) : stat.isFile() ? [path] : [];
  });
}

test('no secret is in a log, the database or the journal', LIMIT, async () => {
  await gw.chat({ message: 'hello' }, { key: made[0] });
  await gw.usageRows();
  assert.ok(made.length > 15);
  const all = files(gw.dataDir);
  assert.ok(gw.postgres || all.some((path) => path.endsWith('claudegate.db')));
  assert.ok(all.some((path) => path.endsWith('combined.log')));
  for (const path of all) {
    const content = readFileSync(path, 'latin1');
    const found = made.filter((key) => content.includes(KEY.exec(key)[2]));
    assert.deepEqual(found, [], `a secret is in ${path}`);
  }
  const rows = JSON.stringify(await gw.sql('SELECT * FROM api_keys'));
  for (const key of made) assert.ok(!`${gw.stderr} ${rows}`.includes(KEY.exec(key)[2]));
  const [{ hash }] = await gw.sql('SELECT secret_hash AS hash FROM api_keys LIMIT 1');
  assert.match(hash, /^\$2b\$\d\d\$/);
  assert.equal(statSync(gw.dataDir).mode & 0o077, 0, 'the data directory is private');
});
