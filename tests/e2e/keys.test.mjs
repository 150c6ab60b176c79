// API keys: making, changing, checking, revoking, and what each may do and spend.
import assert from 'node:assert/strict';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { Gateway, ROOT } from './lib/gateway.mjs';

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
    limits: { requestsPerMinute: 10, requestsPerDay: 1000, tokensPerDay: 100_000,
      maxConcurrent: null, costPerDay: null, costPerMonth: null },
    permissions: { models: ['claude-*'], maxTokens: 4096, allowStreaming: true, allowAgent: false },
  });
});

test('each flag does what it says', LIMIT, async () => {
  const key = await plainCreate('--name', 'Zoë "x" \\', '--user', 'zoe', '--requests-per-minute',
    '7', '--requests-per-day=unlimited', '--tokens-per-day', '0', '--max-tokens', '99',
    '--models', 'claude-sonnet-*, claude-haiku-4-5', '--no-streaming', '--allow-agent', '--expires',
    '30d', '--priority', '10', '--max-concurrent', '5', '--cost-per-day', '2.50',
    '--cost-per-month', 'unlimited');
  assert.equal(key.priority, 10);
  assert.equal(key.name, 'Zoë "x" \\');
  assert.deepEqual(key.limits, { requestsPerMinute: 7, requestsPerDay: null, tokensPerDay: 0,
    maxConcurrent: 5, costPerDay: 2.5, costPerMonth: null });
  assert.deepEqual(key.permissions,
    { models: ['claude-sonnet-*', 'claude-haiku-4-5'], maxTokens: 99, allowStreaming: false,
      allowAgent: true });
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

test('set changes the priority, by id or public id', LIMIT, async () => {
  const other = await createKey();
  for (const [name, priority] of [['id', 3], ['publicId', 10]]) {
    const key = await createKey();
    const { code, stdout, stderr } = await gw.cli(['key', 'set', key[name], '--priority', priority]);
    assert.deepEqual([code, stdout, stderr], [0, `Key ${key[name]} has priority ${priority}.\n`, '']);
    const keys = await list();
    const { key: secret, ...described } = key;
    assert.deepEqual(keys.find((k) => k.id === key.id), { ...described, priority });
    assert.equal(keys.find((k) => k.id === other.id).priority, 1);
    const text = (await gw.cli(['key', 'list'])).stdout;
    assert.match(text, new RegExp(`^${key.publicId} +active +priority ${priority} `, 'm'));
  }
  for (const [args, wanted, error] of [
    [[other.id], 2, /^claudegate: key set: needs --priority\n$/],
    [[other.id, '--priority', '11'], 2, /^claudegate: --priority: must be .*got '11'\n$/],
    [['--priority', '5'], 2, /^Usage: /],
    [[other.id, other.id, '--priority', '5'], 2, /^Usage: /],
    [['nosuchkey000', '--priority', '5'], 1, /^claudegate: .*no such key/],
  ]) {
    const { code, stdout, stderr } = await gw.cli(['key', 'set', ...args]);
    assert.deepEqual([code, stdout], [wanted, ''], `${args}`);
    assert.match(stderr, error);
  }
  assert.equal((await list()).find((k) => k.id === other.id).priority, 1);
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
      assert.equal(reply.body.success, false);
      assert.equal(reply.body.code, 'unauthenticated');
      assert.equal(reply.body.requestId, reply.headers['request-id']);
      assert.ok(reply.body.error.length > 0);
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
    await sleep(2000);
    const reply = await gw.chat({ message: 'hello' }, { key: key.key });
    assert.equal(reply.status, 401, reply.text);
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
    [{ maxTokens: 51 }, 403, /^max.?tokens: this key allows at most 50 per request$/i],
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
