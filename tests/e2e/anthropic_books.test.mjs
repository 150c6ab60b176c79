// What a key may do on the Anthropic API and what is written down of it: counts of tokens, the
// length of answers; and upstream's errors, passed on whole.
import assert from 'node:assert/strict';
import { after, before, beforeEach, test } from 'node:test';

import OpenAI from 'openai';

import { post, rawEvents } from './lib/anthropic.mjs';
import { eventually, Gateway } from './lib/gateway.mjs';
import { Upstream } from './lib/upstream.mjs';

let up, gw;

before(async () => {
  up = await Upstream.start();
  gw = await Gateway.start({ upstream: up, claude: 'real', env: { CLAUDEGATE_UPSTREAM_MAX_RETRIES: '0' } });
});
after(async () => {
  await gw.stop();
  await up.stop();
});
beforeEach(() => up.reset());

const MODEL = 'claude-sonnet-4-5';
const COUNT = '/v1/messages/count_tokens';
const count = { model: MODEL, messages: [{ role: 'user', content: 'hello' }] };
const ask = (more = {}) => ({ ...count, max_tokens: 64, ...more });
const rowsOf = async (id) => (await gw.usageRows()).filter((row) => row.api_key_id === id);

test('a count of tokens is in the books, and costs nothing', async () => {
  const { key, id } = await gw.createKey();
  assert.equal((await post(gw, COUNT, count, { key })).status, 200);
  const bad = await post(gw, COUNT, { ...count, messages: 'none' }, { key });
  assert.equal(bad.status, 400);
  const rows = await eventually(async () => {
    const all = await rowsOf(id);
    return all.length === 2 && all;
  }, { what: 'two rows' });
  rows.sort((a, b) => a.status_code - b.status_code);
  for (const row of rows) {
    assert.deepEqual([row.endpoint, row.method, row.model, Number(row.upstream_calls)], [COUNT, 'POST', MODEL, 1]);
    assert.deepEqual([row.input_tokens, row.output_tokens, row.cache_creation_tokens, row.cache_read_tokens, row.cost_nano].map(Number), [0, 0, 0, 0, 0]);
    assert.notEqual(row.cost_nano, null, 'known to be nothing');
  }
  assert.deepEqual(rows.map((row) => [Number(row.status_code), row.error ?? '']),
    [[200, ''], [400, rows[1].error]]);
  assert.match(rows[1].error, /^upstream_error: /);
});

test('counts of tokens are limited by the minute and by the day', async (t) => {
  const { key: minute } = await gw.createKey(['--requests-per-minute', '2']);
  for (const status of [200, 200, 429]) assert.equal((await post(gw, COUNT, count, { key: minute })).status, status);
  assert.equal((await post(gw, '/v1/messages', ask(), { key: minute })).status, 429, 'one limit for both');
  const own = await Gateway.start({ upstream: up, claude: 'real', test: t });
  const { key: day } = await own.createKey(['--requests-per-day', '2']);
  await up.reset();
  for (const status of [200, 200, 429]) assert.equal((await post(own, COUNT, count, { key: day })).status, status);
  await own.stop();
  const again = await own.restart({ test: t });
  assert.equal((await post(again, COUNT, count, { key: day })).status, 429, 'from the books');
  assert.equal((await up.requests()).length, 2);
});

test('a key that may not ask for so much says who can raise that', async () => {
  const { key } = await gw.createKey();
  const { status, body } = await post(gw, '/v1/messages', ask({ max_tokens: 64000 }), { key });
  assert.equal(status, 403);
  const [, command] = /^max tokens: this key allows at most 4096 per request\. The operator can raise that: claudegate (key set \S+ --max-tokens 64000)$/
    .exec(body.error.message) ?? assert.fail(body.error.message);
  const done = await gw.cli(command.split(' '));
  assert.equal(done.code, 0, done.stderr);
  await eventually(async () => (await post(gw, '/v1/messages', ask({ max_tokens: 64000 }), { key })).status === 200,
    { what: 'the command works' });
});

const details = { error_code: 'thread_unsupported_request', unsupported: ['thread'], n: 1.5 };
const told = { type: 'invalid_request_error', message: 'm'.repeat(700), details, hint: { see: 'https://example.com' } };
const json = { 'content-type': 'application/json' };
const said = (error) => JSON.stringify({ type: 'error', error, request_id: 'req_upstream' });

async function stream() {
  return gw.open('POST', '/v1/messages', { body: ask({ stream: true }),
    headers: { 'x-api-key': await gw.key(), 'anthropic-version': '2023-06-01' } });
}

test('all that upstream says of an error reaches the client', async () => {
  const status = { status: 400, headers: json, body: said(told) };
  const first = { raw_events: [{ event: 'error', data: { type: 'error', error: told } }] };
  await up.script([status, first]);
  for (let i = 0; i < 2; i++) {
    const { status: code, body, headers } = await post(gw, '/v1/messages', ask());
    assert.equal(code, 400);
    assert.deepEqual(body, { type: 'error', error: told, request_id: headers['request-id'] });
  }
  await up.script([first]);
  const early = await stream();
  assert.equal(early.statusCode, 400);
  let text = '';
  for await (const chunk of early) text += chunk;
  assert.deepEqual(JSON.parse(text).error, told);
});

test('so it does in the middle of a stream', async () => {
  const start = { type: 'message_start', message: { id: 'msg_1', type: 'message', role: 'assistant', model: MODEL, content: [],
    stop_reason: null, stop_sequence: null, usage: { input_tokens: 1, output_tokens: 1 } } };
  const events = [start, { type: 'content_block_start', index: 0, content_block: { type: 'text', text: '' } },
    { type: 'content_block_delta', index: 0, delta: { type: 'text_delta', text: 'one' } }, { type: 'error', error: told }];
  await up.script({ raw_events: events.map((data) => ({ event: data.type, data })) });
  const all = await rawEvents(await stream());
  assert.equal(all[0].event, 'message_start');
  assert.deepEqual(all.at(-1).data.error, told);
});

test('an error that is very long is told by its type and the beginning of its message', async () => {
  await up.script({ status: 400, headers: json, body: said({ ...told, details: 'd'.repeat(5000) }) });
  const { status, body } = await post(gw, '/v1/messages', ask());
  assert.equal(status, 400);
  assert.deepEqual(body.error, { type: told.type, message: 'm'.repeat(299) });
});

test('nothing of an error about the server\'s own credential is told', async () => {
  await up.script({ status: 403, headers: json, body: said({ ...told, type: 'permission_error' }) });
  const { status, body } = await post(gw, '/v1/messages', ask());
  assert.equal(status, 502);
  assert.deepEqual(Object.keys(body.error), ['type', 'message']);
});

test('OpenAI\'s clients get message, type and code', async () => {
  await up.script({ status: 400, headers: json, body: said({ ...told, message: 'prompt is too long: 2 > 1' }) });
  const api = new OpenAI({ baseURL: `${gw.url}/v1`, apiKey: await gw.key(), maxRetries: 0 });
  await assert.rejects(api.chat.completions.create({ model: MODEL, messages: [{ role: 'user', content: 'x' }] }), (e) => {
    assert.deepEqual(e.error, { message: 'prompt is too long: 2 > 1', type: 'invalid_request_error', param: null, code: 'context_length_exceeded' });
    return true;
  });
});
