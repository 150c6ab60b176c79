// Several upstream credentials: a call that fails before its first byte goes on with the next one,
// one that failed is left alone for a while, a conversation keeps its credential, and the books hold
// each question once.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import net from 'node:net';
import { join } from 'node:path';
import { after, before, beforeEach, test } from 'node:test';

import { cli, eventually, Gateway, tempDir } from './lib/gateway.mjs';
import { Upstream } from './lib/upstream.mjs';

const LIMIT = { timeout: 90_000 };
const FAKE = { CLAUDEGATE_CLAUDE_PASS_ENV: 'FAKE_UPSTREAM', FAKE_UPSTREAM: '1' };
const KEY_A = 'sk-ant-credential-of-target-a-0123456789';
const TOKEN_B = 'token-of-target-b-0123456789';
const DEAD = 'http://127.0.0.1:9'; // the discard port: nothing listens
const say = (text, more = {}) => ({ blocks: [{ type: 'text', text }], ...more });

/** Counts the connections to what it stands in front of. */
class Counter {
  connections = 0;
  #sockets = new Set();

  static async of(upstream) {
    const counter = new Counter();
    const { port } = new URL(upstream.url);
    counter.server = net.createServer((socket) => {
      counter.connections += 1;
      const onward = net.connect(Number(port), '127.0.0.1');
      for (const end of [socket, onward]) {
        counter.#sockets.add(end);
        end.on('error', () => {});
      }
      socket.on('close', () => onward.destroy());
      onward.on('close', () => socket.destroy());
      socket.pipe(onward).pipe(socket);
    });
    counter.server.listen(0, '127.0.0.1');
    await once(counter.server, 'listening');
    counter.url = `http://127.0.0.1:${counter.server.address().port}`;
    return counter;
  }

  stop() {
    for (const socket of this.#sockets) socket.destroy();
    this.server.close();
  }
}

let a;
let b;
before(async () => {
  a = await Upstream.start();
  b = await Upstream.start();
});
after(async () => {
  await a.stop();
  await b.stop();
});
beforeEach(async () => {
  await a.reset();
  await b.reset();
});

const list = (more = {}) => [
  { name: 'a', base_url: a.url, api_key: KEY_A, ...more.a },
  { name: 'b', base_url: b.url, auth_token: TOKEN_B, weight: 0, ...more.b },
];

/** A server whose calls go to `a`, and to `b` when `a` cannot be used. */
async function serve(t, { claude = 'fake', targets = list(), upstream = {}, env } = {}) {
  return Gateway.start({ upstream: null, claude, test: t,
    env: { ...(claude === 'fake' && FAKE), ...env },
    config: { upstream: { targets, ...upstream } } });
}

const states = async (gw) => Object.fromEntries(
  (await gw.pool()).upstreamTargets.map((target) => [target.name, target]));

/** Every call reached the target that its credential is of. */
async function credentialsAreKept() {
  for (const request of await a.requests()) {
    assert.equal(request.headers['x-api-key'], KEY_A);
    assert.ok(!JSON.stringify(request.headers).includes(TOKEN_B));
  }
  for (const request of await b.requests()) {
    assert.equal(request.headers.authorization, `Bearer ${TOKEN_B}`);
    assert.ok(!JSON.stringify(request.headers).includes(KEY_A));
  }
}

const counted = (gw, name, labels) =>
  gw.metrics(`claudegate_upstream_${name}`, labels).then((n) => n ?? 0);

test('the real program: its call goes on with the next credential, and is billed once', LIMIT,
  async (t) => {
    const gw = await serve(t, { claude: 'real' });
    await gw.ask('warm up');
    await a.reset();
    await a.script([{ status: 529 }]);
    await b.script([say('from b', { usage: { input_tokens: 21, output_tokens: 9 } })]);
    const body = await gw.ask('hello');
    assert.equal(body.response, 'from b');
    const row = await gw.usageRow(body.requestId);
    assert.deepEqual([row.status_code, row.upstream_calls, row.retries, row.input_tokens,
      row.output_tokens, row.estimated], [200, 1, 1, 21, 9, 0]);
    assert.equal((await gw.usageRows()).filter((r) => r.request_id === body.requestId).length, 1);
    assert.deepEqual([(await a.requests()).length, (await b.requests()).length], [1, 1]);
    await credentialsAreKept();
    assert.equal(await counted(gw, 'failovers_total', { target: 'a' }), 1);
    assert.equal(await counted(gw, 'requests_total', { target: 'a', status: '529' }), 1);
    assert.equal(await counted(gw, 'requests_total', { target: 'b', status: '200' }), 1);
    const after529 = await states(gw);
    assert.equal(after529.a.state, 'limited');
    assert.deepEqual([after529.b.state, after529.b.coolingMs], ['ok', 0]);
    assert.ok(await counted(gw, 'target_cooling_seconds', { target: 'a' }) > 0);
    const page = JSON.stringify(await gw.pool()) + gw.stderr + JSON.stringify(gw.logs());
    assert.ok(!page.includes(KEY_A) && !page.includes(TOKEN_B), 'credentials are told to nobody');
    await eventually(async () => (await states(gw)).a.coolingMs === 0, { ms: 8000 });
    assert.match((await gw.ask('and back')).response, /and back$/);
    assert.equal((await a.requests()).length, 2);
  });

for (const [name, step, state] of [
  ['429 with retry-after', { status: 429, headers: { 'retry-after': '2' } }, 'limited'],
  ['500', { status: 500 }, 'failing'],
  ['a connection that breaks', { cut_after: -1 }, 'failing'],
]) {
  test(`${name}: the other at once, and back after the pause`, LIMIT, async (t) => {
    const gw = await serve(t, { upstream: { max_retries: 0 } });
    await a.script([step]);
    const from = Date.now();
    const body = await gw.ask('hello');
    assert.ok(Date.now() - from < 1500, 'without a pause');
    assert.equal((await states(gw)).a.state, state);
    await gw.ask('second');
    assert.deepEqual([(await a.requests()).length, (await b.requests()).length], [1, 2]);
    const row = await gw.usageRow(body.requestId);
    assert.deepEqual([row.upstream_calls, row.retries, row.status_code], [1, 1, 200]);
    await eventually(async () => (await states(gw)).a.coolingMs === 0, { ms: 5000 });
    await gw.ask('third');
    assert.equal((await a.requests()).length, 2);
    assert.equal((await states(gw)).a.state, 'ok');
    await credentialsAreKept();
  });
}

test('a target where nothing listens', LIMIT, async (t) => {
  const gw = await serve(t, { targets: list({ a: { base_url: DEAD } }) });
  const body = await gw.ask('hello');
  assert.equal((await gw.usageRow(body.requestId)).retries, 1);
  assert.equal(await counted(gw, 'requests_total', { target: 'a', status: 'unreachable' }), 1);
  assert.equal((await states(gw)).a.state, 'failing');
  await credentialsAreKept();
});

test('a refused credential: told once, left alone, never told to the client', LIMIT, async (t) => {
  const gw = await serve(t);
  await a.script([{ status: 401, repeat: -1,
    error: { type: 'authentication_error', message: 'invalid x-api-key' } }]);
  for (const message of ['one', 'two', 'three']) await gw.ask(message);
  assert.equal((await a.requests()).length, 1);
  const told = gw.logs('error.log').filter((line) => /refuses the credential/.test(line.message));
  assert.deepEqual(told.map((line) => line.target), ['a']);
  const { a: state } = await states(gw);
  assert.equal(state.state, 'credential refused');
  assert.ok(state.coolingMs > 50_000 && state.coolingMs <= 60_000);
  assert.equal((await gw.request('GET', '/readyz')).status, 200);

  await b.script([{ status: 403, error: { type: 'permission_error', message: 'no' } }]);
  const reply = await gw.chat({ message: 'four' });
  assert.equal(reply.status, 502, reply.text);
  assert.doesNotMatch(reply.text, /invalid x-api-key|permission_error/);
});

test('questions that need no program go on as well: models, count_tokens', LIMIT, async (t) => {
  const gw = await serve(t, { targets: list({ a: { base_url: DEAD } }) });
  const headers = { 'x-api-key': await gw.key(), 'anthropic-version': '2023-06-01' };
  const models = await gw.request('GET', '/v1/models', { headers });
  assert.equal(models.status, 200, models.text);
  assert.ok(models.body.data.length > 0);
  const count = await gw.request('POST', '/v1/messages/count_tokens', { headers,
    body: { model: 'claude-sonnet-4-5', messages: [{ role: 'user', content: 'hello' }] } });
  assert.equal(count.status, 200, count.text);
  assert.ok(count.body.input_tokens > 0);
});

test('after the first byte nothing is asked again', LIMIT, async (t) => {
  const gw = await serve(t);
  await a.script([say('one two three four five six', { cut_after: 4 })]);
  const reply = await gw.collect({ message: 'hello' });
  assert.ok(reply.error && !reply.done);
  assert.ok(reply.text.length > 0);
  assert.deepEqual([(await a.requests()).length, (await b.requests()).length], [1, 0]);
  const row = await gw.usageRow(reply.start.requestId);
  assert.deepEqual([row.upstream_calls, row.retries, row.estimated], [1, 0, 1]);
});

test('what is wrong with the request is not asked of another', LIMIT, async (t) => {
  const gw = await serve(t);
  await a.script([{ status: 400, error: { type: 'invalid_request_error', message: 'bad' } }]);
  assert.equal((await gw.chat({ message: 'hello' })).status, 400);
  assert.equal((await b.requests()).length, 0);
  assert.equal((await states(gw)).a.state, 'ok');
});

test('a silent target is not given up for another: the model may be at work', LIMIT, async (t) => {
  const gw = await serve(t, { upstream: { first_byte_timeout_ms: 500 } });
  await a.script([say('late', { stall_after: -1 })]);
  const reply = await gw.chat({ message: 'hello' });
  assert.equal(reply.status, 504, reply.text);
  assert.equal((await b.requests()).length, 0);
});

test('all limited: the last one\'s error, with its time', LIMIT, async (t) => {
  const gw = await serve(t);
  await a.script([{ status: 429, headers: { 'retry-after': '70' } }]);
  await b.script([{ status: 429, headers: { 'retry-after': '50' } }]);
  const reply = await gw.chat({ message: 'hello' });
  assert.equal(reply.status, 429, reply.text);
  assert.equal(reply.headers['retry-after'], '50');
  const row = await gw.usageRow(reply.body.requestId);
  assert.deepEqual([row.upstream_calls, row.retries, row.output_tokens], [1, 1, 0]);
  await gw.ask('none is refused: who is free soonest'); // the script has ended
  assert.deepEqual([(await a.requests()).length, (await b.requests()).length], [1, 2]);
});

test('a conversation keeps its credential, conversations spread, connections are kept', LIMIT,
  async (t) => {
    const [front, back] = [await Counter.of(a), await Counter.of(b)];
    t.after(() => front.stop());
    t.after(() => back.stop());
    const gw = await serve(t, { targets: list({ a: { base_url: front.url },
      b: { base_url: back.url, weight: 1 } }) });
    const count = async () => [(await a.requests()).length, (await b.requests()).length];
    for (let n = 0; n < 16; n++) {
      const from = await count();
      const { sessionId } = await gw.ask(`conversation ${n}`);
      for (const more of ['go on', 'and on']) await gw.ask(more, { sessionId });
      const grown = (await count()).map((now, i) => now - from[i]).sort();
      assert.deepEqual(grown, [0, 3], `conversation ${n} met both`);
    }
    const [hitsA, hitsB] = await count();
    assert.ok(hitsA > 0 && hitsB > 0, `${hitsA} and ${hitsB}`); // one in 2^15 has bad luck
    assert.deepEqual([front.connections, back.connections], [1, 1]);
    await credentialsAreKept();
  });

test('a stateless conversation keeps its credential, whatever its cache marks do', LIMIT,
  async (t) => {
    const gw = await serve(t, { targets: list({ b: { weight: 1 } }) });
    const headers = { 'x-api-key': await gw.key(), 'anthropic-version': '2023-06-01' };
    const post = async (messages) => {
      const { status, text } = await gw.request('POST', '/v1/messages', { headers,
        body: { model: 'claude-sonnet-4-5', max_tokens: 50, system: 'Be brief.', messages } });
      assert.equal(status, 200, text);
    };
    for (let n = 0; n < 12; n++) {
      const from = (await a.requests()).length;
      const mark = { cache_control: { type: 'ephemeral' } };
      const first = { role: 'user', content: `question ${n}` };
      const rest = [{ role: 'assistant', content: 'yes' }, { role: 'user', content: 'more?' }];
      await post([{ role: 'user', content: [{ type: 'text', text: `question ${n}`, ...mark }] }]);
      await post([first, ...rest]);
      const grown = (await a.requests()).length - from;
      assert.ok(grown === 0 || grown === 2, `question ${n}: ${grown} of 2`);
    }
  });

test('doctor and config show name the targets, never a credential', LIMIT, async () => {
  const file = join(tempDir(), 'c.yaml');
  const secret = join(tempDir(), 'secret');
  writeFileSync(secret, `${KEY_A}\n`);
  writeFileSync(file, JSON.stringify({ upstream: { targets: [
    { name: 'first', api_key_file: secret, weight: 3 },
    { name: 'second', base_url: b.url, auth_token_env: 'SECOND', weight: 0 }] } }));
  const env = { SECOND: TOKEN_B, CLAUDEGATE_DATA_DIR: join(tempDir(), 'd') };
  const doctor = await cli(['doctor', '--config', file], { env });
  assert.match(doctor.stdout, /ok +credential +target 'first' has a key; its requests go to https:/);
  assert.match(doctor.stdout, /target 'second' has a token; .*; a backup/);
  const show = await cli(['config', 'show', '--config', file], { env });
  assert.match(show.stdout, /- name: "first"\n +api_key_file: "[^"]+"\n +weight: 3\n/);
  assert.ok(![doctor, show].some(({ stdout }) => stdout.includes(KEY_A) || stdout.includes(TOKEN_B)));
  const broken = await cli(['config', 'check', '--config', file], {});
  assert.equal(broken.code, 1);
  assert.match(broken.stdout + broken.stderr, /\[1\]\.auth_token_env: the variable 'SECOND' is not/);
});

test('a target of the API itself needs a credential', LIMIT, async () => {
  const { code, stderr } = await Gateway.refused({ upstream: null,
    env: { CLAUDEGATE_UPSTREAM_TARGETS: '[{"name": "x"}]' } });
  assert.equal(code, 1);
  assert.match(stderr, /the upstream target 'x' has no credential/);
});

test('the list can come from a variable', LIMIT, async (t) => {
  const gw = await Gateway.start({ upstream: null, test: t,
    env: { ...FAKE, CLAUDEGATE_UPSTREAM_TARGETS: JSON.stringify(list()) } });
  await gw.ask('hello');
  assert.equal((await a.requests()).length, 1);
  await credentialsAreKept();
});
