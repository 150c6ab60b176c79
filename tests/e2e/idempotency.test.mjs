// Idempotency-Key with the real claude program and the stand-in, which counts calls: a request that
// is repeated gets the one answer that was paid for.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, beforeEach, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import Anthropic from '@anthropic-ai/sdk';
import OpenAI from 'openai';

import { eventually, tempDir } from './lib/gateway.mjs';
import {
  ask, CutProxy, DIALECTS, events, idOf, MODEL, open, readAndLeave, say, startReal,
} from './lib/replays.mjs';
import { Upstream } from './lib/upstream.mjs';

const LIMIT = { timeout: 120_000 };
const LEASE_MS = 6000;
const DOUBT_MS = 5000;

let up;
let gw;
before(async () => {
  up = await Upstream.start();
  gw = await start();
});
after(async () => {
  await gw.stop();
  await up.stop();
});
beforeEach(() => up.reset());

const start = (options) => startReal(up, options);

let keys = 0;
const fresh = () => ({ 'idempotency-key': `key-${process.pid}-${++keys}` });
const calls = async () => (await up.requests()).length;
const replayed = (reply) => reply.headers['idempotent-replayed'];

for (const dialect of Object.keys(DIALECTS)) {
  for (const stream of [false, true]) {
    const what = `${dialect}, ${stream ? 'streaming' : 'plain'}`;
    test(`${what}: asked again, the same answer and one turn`, LIMIT, async () => {
      const headers = fresh();
      const before = (await gw.usageRows()).length;
      const first = await ask(gw, dialect, 'hello', { stream, headers });
      assert.equal(first.status, 200, first.text);
      assert.equal(replayed(first), undefined);
      for (let i = 0; i < 2; i++) {
        const again = await ask(gw, dialect, 'hello', { stream, headers });
        assert.equal(again.status, 200, again.text);
        assert.equal(again.text, first.text);
        assert.equal(replayed(again), 'true');
        assert.equal(again.headers['content-type'], first.headers['content-type']);
        assert.notEqual(again.headers['request-id'], first.headers['request-id']);
      }
      assert.equal(await calls(), 1);
      assert.equal((await gw.usageRows()).length, before + 1);
      const { key } = await gw.createKey(); // another key's is another one
      const other = await ask(gw, dialect, 'hello', { stream, headers, key });
      assert.equal(replayed(other), undefined);
      assert.equal(await calls(), 2);
    });

    test(`${what}: asked twice at once, one turn`, LIMIT, async () => {
      await up.script(say('one two three four five six', { word_delay_ms: 50 }));
      const headers = fresh();
      const replies = await Promise.all([1, 2, 3].map(() =>
        ask(gw, dialect, 'hello', { stream, headers })));
      assert.deepEqual(replies.map((r) => r.status), [200, 200, 200]);
      const [a, b, c] = replies.map((r) => events(r.text).join(''));
      assert.equal(b, a);
      assert.equal(c, a);
      assert.deepEqual(replies.map(replayed).sort(), ['true', 'true', undefined]);
      assert.equal(await calls(), 1);
    });
  }
}

test('a key that was used for something else: 422, in each shape', LIMIT, async () => {
  const shapes = {
    native: ({ body }) => [body.success, body.code],
    anthropic: ({ body }) => [body.type, body.error.type],
    chat: ({ body }) => [body.error.type, body.error.code, body.error.param],
    responses: ({ body }) => [body.error.type, body.error.code, body.error.param],
  };
  const openai = ['invalid_request_error', 'idempotency_key_reused', 'Idempotency-Key'];
  const expected = {
    native: [false, 'idempotency_key_reused'], anthropic: ['error', 'invalid_request_error'],
    chat: openai, responses: openai,
  };
  for (const dialect of Object.keys(DIALECTS)) {
    const headers = fresh();
    assert.equal((await ask(gw, dialect, 'one', { headers })).status, 200);
    for (const changed of [ask(gw, dialect, 'two', { headers }),
      ask(gw, dialect, 'one', { headers, stream: true }),
      ask(gw, dialect, 'one', { headers: { ...headers, 'anthropic-beta': 'x-2026-01-01' } })]) {
      const reply = await changed;
      assert.equal(reply.status, 422, reply.text);
      assert.deepEqual(shapes[dialect](reply), expected[dialect]);
      assert.match(reply.text, /Idempotency-Key: this key was used for a different request/);
    }
  }
  const headers = fresh(); // over dialects, and while the first one still runs
  await up.script(say('slow', { delay_ms: 500 }));
  const running = ask(gw, 'native', 'one', { headers });
  await up.waitFor((list) => list.length === 5);
  assert.equal((await ask(gw, 'anthropic', 'one', { headers })).status, 422);
  assert.equal((await ask(gw, 'native', 'other', { headers })).status, 422);
  assert.equal((await running).status, 200);
  assert.equal(await calls(), 5);
});

test('a key that is none: 400, and nothing is run', LIMIT, async () => {
  for (const value of ['', ' ', 'two words', 'x'.repeat(256), 'caf\u00e9', 'a\tb']) {
    const reply = await ask(gw, 'native', 'hello', { headers: { 'idempotency-key': value } });
    assert.equal(reply.status, 400, value);
    assert.match(reply.body.error, /^Idempotency-Key: must be 1 to 255 visible ASCII characters/);
  }
  const twice = await ask(gw, 'native', 'hello', { headers: { 'idempotency-key': ['a', 'b'] } });
  assert.equal(twice.status, 400);
  const longest = { 'idempotency-key': '~'.repeat(255) };
  assert.equal((await ask(gw, 'chat', 'hello', { headers: longest })).status, 200);
  assert.equal(await calls(), 1);
  const get = await gw.request('GET', '/api/me', { // what costs nothing does not look at it
    headers: { authorization: `Bearer ${await gw.key()}`, 'idempotency-key': 'two words' },
  });
  assert.equal(get.status, 200);
});

test('what fails is not kept', LIMIT, async () => {
  for (const [dialect, stream] of [['native', false], ['anthropic', true], ['responses', false]]) {
    const headers = fresh();
    await up.script([{ status: 500, error: { type: 'api_error', message: 'no' } }]);
    const failed = await ask(gw, dialect, 'hello', { headers, stream });
    assert.equal(failed.status, 500, failed.text);
    const again = await ask(gw, dialect, 'hello', { headers, stream });
    assert.equal(again.status, 200);
    assert.equal(replayed(again), undefined);
  }
  assert.equal(await calls(), 6);
  const headers = fresh(); // half-way, behind a 200
  await up.script(say('one two three four', { cut_after: 5 }));
  const half = await ask(gw, 'anthropic', 'hello', { headers, stream: true });
  assert.equal(half.status, 200);
  assert.match(half.text, /event: error/);
  const whole = await ask(gw, 'anthropic', 'hello', { headers, stream: true });
  assert.match(whole.text, /event: message_stop/);
  assert.equal(await calls(), 8);
  const bad = fresh(); // a mistake in the request
  const refused = await ask(gw, 'chat', '', { headers: bad, body: { model: MODEL } });
  assert.equal(refused.status, 400);
  assert.equal((await ask(gw, 'chat', 'hello', { headers: bad })).status, 200);
  const rows = await gw.sql("SELECT COUNT(*) AS n FROM replies WHERE state = 'running'");
  assert.equal(Number(rows[0].n), 0);
});

test('a replay does not count against limits', LIMIT, async () => {
  const { key } = await gw.createKey(['--requests-per-minute', '1', '--requests-per-day', '1']);
  const headers = fresh();
  const first = await ask(gw, 'native', 'hello', { headers, key });
  assert.equal(first.status, 200);
  assert.equal(first.headers['ratelimit-remaining'], '0');
  for (let i = 0; i < 3; i++) {
    const again = await ask(gw, 'native', 'hello', { headers, key });
    assert.equal(again.text, first.text);
    assert.equal(again.headers['ratelimit-remaining'], undefined, 'as it was then');
  }
  const other = await ask(gw, 'native', 'hello', { headers: fresh(), key });
  assert.equal(other.status, 429);
});

test('an answer that is too large to be kept', LIMIT, async (t) => {
  const small = await start({ test: t, config: { idempotency: { max_bytes: 2000 } } });
  const long = 'word '.repeat(600);
  for (const [dialect, stream] of [['native', false], ['chat', true]]) {
    await up.reset();
    await up.script(say(long));
    const headers = fresh();
    const first = await ask(small, dialect, 'hello', { stream, headers });
    assert.equal(first.status, 200, 'who asked first has it');
    await eventually(async () =>
      (await small.sql("SELECT id FROM replies WHERE state = 'lost'")).length > (stream ? 1 : 0));
    for (let i = 0; i < 2; i++) {
      const again = await ask(small, dialect, 'hello', { stream, headers });
      assert.equal(again.status, 409, again.text);
      assert.equal(again.headers['x-should-retry'], 'false');
      assert.equal(again.headers['retry-after'], undefined);
    }
    assert.equal(await calls(), 1);
  }
  await small.stop();
  const later = await small.restart({ test: t });
  const headers = { 'idempotency-key': `key-${process.pid}-${keys}` };
  const again = await ask(later, 'chat', 'hello', { stream: true, headers });
  assert.equal(again.status, 409);
  assert.match(again.body.error.message, /too large to be kept \(2000 bytes at most\)/);
  assert.equal(await calls(), 1);
});

test('a client that leaves and comes back', LIMIT, async () => {
  for (const [dialect, stream] of [['native', false], ['anthropic', true]]) {
    await up.reset();
    await up.script(say('one two three four five six seven', { word_delay_ms: 100 }));
    const headers = fresh();
    const leave = new AbortController();
    const lost = ask(gw, dialect, 'hello', { stream, headers, signal: leave.signal }).catch(() => {});
    await up.waitFor((list) => list.length === 1);
    leave.abort();
    await lost;
    await eventually(async () => await gw.metrics('claudegate_replay_detached') === 1);
    const back = await ask(gw, dialect, 'hello', { stream, headers });
    assert.equal(back.status, 200);
    assert.match(back.text, /seven/);
    assert.equal(replayed(back), 'true');
    assert.equal(await calls(), 1);
    assert.equal((await up.requests())[0].aborted ?? false, false);
    assert.equal(await gw.metrics('claudegate_replay_detached'), 0);
  }
});

test('a client that does not come back', LIMIT, async (t) => {
  const hasty = await start({ test: t, config: { resume: { grace: 1 } } });
  await up.script(say('word '.repeat(200), { word_delay_ms: 100 }));
  const headers = fresh();
  const leave = new AbortController();
  const lost = ask(hasty, 'native', 'hello', { stream: true, headers, signal: leave.signal })
    .catch(() => {});
  await up.waitFor((list) => list.length === 1);
  await sleep(300);
  leave.abort();
  await lost;
  await sleep(500);
  assert.equal((await hasty.usageRows()).length, 0, 'it still runs');
  const [row] = await eventually(async () => {
    const rows = await hasty.usageRows();
    return rows.length === 1 && rows;
  });
  assert.equal(row.status_code, 499);
  assert.ok(row.output_tokens > 0 && row.output_tokens < 100, 'it was interrupted');
  await eventually(async () => (await hasty.sql('SELECT id FROM replies')).length === 0);
  const again = await ask(hasty, 'native', 'hello', { stream: true, headers });
  assert.equal(again.status, 200);
  assert.equal(await calls(), 2);
  // without the header a client that leaves is not waited for
  await up.reset();
  await up.script(say('word '.repeat(200), { word_delay_ms: 100 }));
  const plain = await open(hasty, 'native', 'hello');
  await readAndLeave(plain, 2);
  await eventually(async () => (await hasty.usageRows()).length === 3, { ms: 900 });
});

test('kept over a restart, sealed, and sealed anew', LIMIT, async (t) => {
  const masterKey = (seed) => createHash('sha256').update(seed).digest('hex');
  const file = join(tempDir(), 'keys');
  writeFileSync(file, masterKey('one'));
  const first = await start({ test: t, env: { CLAUDEGATE_VAULT_MASTER_KEY_FILE: file } });
  await up.script(say('the secret answer', { repeat: 2 }));
  const [plain, streamed] = [fresh(), fresh()];
  const a = await ask(first, 'native', 'hello', { headers: plain });
  const b = await ask(first, 'responses', 'hello', { headers: streamed, stream: true });
  await first.stop();
  const stored = await first.sql('SELECT content, sealed_with, fingerprint FROM replies');
  assert.equal(stored.length, 2);
  for (const { content, sealed_with: key } of stored) {
    assert.match(content, /^v1:/);
    assert.doesNotMatch(content, /secret answer/);
    assert.match(key, /^[0-9a-f]{8}$/);
  }
  writeFileSync(file, `${masterKey('two')}\n${masterKey('one')}`);
  const second = await first.restart({ test: t });
  assert.equal((await second.cli(['vault', 'status'])).code, 1);
  const rotated = await second.cli(['vault', 'rotate']);
  assert.equal(rotated.code, 0, rotated.stdout + rotated.stderr);
  assert.match(rotated.stdout, /replies: 2 sealed with/);
  await second.stop();
  writeFileSync(file, masterKey('two'));
  const third = await second.restart({ test: t });
  assert.equal((await ask(third, 'native', 'hello', { headers: plain })).text, a.text);
  const again = await ask(third, 'responses', 'hello', { headers: streamed, stream: true });
  assert.equal(again.text, b.text);
  const [, second_event] = events(b.text); // a stored stream can be resumed, too
  const rest = await ask(third, 'responses', '', {
    body: '', headers: { ...streamed, 'last-event-id': idOf(second_event) },
  });
  assert.equal(rest.text, events(b.text).slice(2).join(''));
  assert.equal(await calls(), 2);
  assert.equal((await third.usageRows()).length, 2);
});

test('kept for idempotency.ttl', LIMIT, async (t) => {
  const brief = await start({ test: t, config: { idempotency: { ttl: 1 }, resume: { grace: 0 } } });
  const headers = fresh();
  await ask(brief, 'native', 'hello', { headers });
  await sleep(1100);
  const again = await ask(brief, 'native', 'hello', { headers });
  assert.equal(replayed(again), undefined);
  assert.equal(await calls(), 2);
});

test('killed in the middle of an answer: the retry waits no longer than the lease', LIMIT,
  async (t) => {
    const first = await start({ test: t });
    await up.script(say('slow', { delay_ms: 60_000 }));
    const headers = fresh();
    const lost = ask(first, 'native', 'hello', { headers }).catch(() => {});
    await up.waitFor((list) => list.length === 1);
    await first.kill9();
    await lost;
    const killed = Date.now();
    const second = await first.restart({ test: t });
    const soon = await ask(second, 'native', 'hello', { headers });
    assert.equal(soon.status, 409, soon.text);
    assert.equal(soon.headers['retry-after'], '1');
    assert.match(soon.body.error, /still being answered by another server/);
    await eventually(async () => (await ask(second, 'native', 'hello', { headers })).status === 200,
      { ms: LEASE_MS + DOUBT_MS + 5000, every: 300 });
    assert.ok(Date.now() - killed < LEASE_MS + DOUBT_MS + 3000);
    assert.equal(await calls(), 2);
  });

test('stopped while the client is away: the answer is finished and kept', LIMIT, async (t) => {
  const first = await start({ test: t });
  await up.script(say('one two three four five six', { word_delay_ms: 200 }));
  const headers = fresh();
  const leave = new AbortController();
  const lost = ask(first, 'anthropic', 'hello', { headers, signal: leave.signal }).catch(() => {});
  await up.waitFor((list) => list.length === 1);
  leave.abort();
  await lost;
  await eventually(async () => await first.metrics('claudegate_replay_detached') === 1);
  await first.stop();
  const second = await first.restart({ test: t });
  const back = await ask(second, 'anthropic', 'hello', { headers });
  assert.equal(replayed(back), 'true');
  assert.match(back.text, /five six/);
  assert.equal(await calls(), 1);
  const rows = await second.usageRows();
  assert.deepEqual(rows.map((row) => row.status_code), [200]);
});

test('the deadline of a stop does not wait for clients that are away', LIMIT, async (t) => {
  const first = await start({ test: t, config: { server: { drain_timeout: 1 } } });
  await up.script(say('word '.repeat(300), { word_delay_ms: 100 }));
  const headers = fresh();
  await readAndLeave(await open(first, 'chat', 'hello', { headers }), 2);
  const before = Date.now();
  await first.stop();
  assert.ok(Date.now() - before < 6000);
  const rows = await first.usageRows();
  assert.deepEqual(rows.map((row) => row.status_code), [503]);
  assert.deepEqual(await first.sql('SELECT id FROM replies'), [], 'to be run anew');
});

// --- the official SDKs -----------------------------------------------------------------------

test('the OpenAI SDK over a connection that breaks', LIMIT, async () => {
  const proxy = await CutProxy.start(gw, 0);
  await up.script(say('the one answer', { delay_ms: 200 }));
  const client = new OpenAI({ baseURL: `${proxy.url}/v1`, apiKey: await gw.key(), maxRetries: 2 });
  client.idempotencyHeader = 'Idempotency-Key'; // then each request has a key of its own
  const answer = await client.chat.completions.create(
    { model: MODEL, messages: [{ role: 'user', content: 'hello' }] });
  assert.equal(answer.choices[0].message.content, 'the one answer');
  assert.equal(proxy.cuts, 1);
  assert.ok(proxy.connections >= 2);
  assert.equal(await calls(), 1);
  proxy.close();
});

test('the OpenAI SDK, a stream that breaks half-way', LIMIT, async () => {
  const proxy = await CutProxy.start(gw, 1500);
  await up.script(say('one two three four five six seven eight nine ten', { word_delay_ms: 30 }));
  const client = new OpenAI({ baseURL: `${proxy.url}/v1`, apiKey: await gw.key(), maxRetries: 2 });
  const request = () => client.chat.completions.create(
    { model: MODEL, stream: true, messages: [{ role: 'user', content: 'hello' }] },
    { headers: { 'Idempotency-Key': `sdk-${process.pid}` } });
  const collect = async () => {
    let text = '';
    for await (const chunk of await request()) text += chunk.choices[0]?.delta?.content ?? '';
    return text;
  };
  await assert.rejects(collect());
  assert.equal(proxy.cuts, 1);
  assert.equal(await collect(), 'one two three four five six seven eight nine ten');
  assert.equal(await calls(), 1);
  proxy.close();
});

test('the Anthropic SDK over a connection that breaks', LIMIT, async () => {
  for (const stream of [false, true]) {
    await up.reset();
    const proxy = await CutProxy.start(gw, 0);
    await up.script(say('the one answer', { delay_ms: 200 }));
    const client = new Anthropic({ baseURL: proxy.url, apiKey: await gw.key(), maxRetries: 2 });
    const params = { model: MODEL, max_tokens: 100, messages: [{ role: 'user', content: 'hello' }] };
    const options = { headers: fresh() };
    const message = stream
      ? await client.messages.stream(params, options).finalMessage()
      : await client.messages.create(params, options);
    assert.equal(message.content[0].text, 'the one answer');
    assert.equal(proxy.cuts, 1);
    assert.equal(await calls(), 1);
    proxy.close();
  }
});

test('the SDKs try again after a 409 of another server, and not after a 422', LIMIT, async () => {
  const options = { headers: fresh() };
  const client = new Anthropic({ baseURL: gw.url, apiKey: await gw.key(), maxRetries: 2 });
  const openai = new OpenAI({ baseURL: `${gw.url}/v1`, apiKey: await gw.key(), maxRetries: 2 });
  const messages = (content) => ({ model: MODEL, max_tokens: 9, messages: [{ role: 'user', content }] });
  await client.messages.create(messages('one'), options);
  const refused = await client.messages.create(messages('two'), options).catch((error) => error);
  assert.equal(refused.status, 422);
  const also = await openai.chat.completions.create(messages('one'), options).catch((e) => e);
  assert.equal(also.status, 422);
  assert.ok(also instanceof OpenAI.UnprocessableEntityError);
  assert.equal(await gw.metrics('claudegate_http_requests_total', { status: '422', route: '/v1/messages' }) > 0, true);
  assert.equal(await calls(), 1);
});
