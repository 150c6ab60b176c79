// How an answer ends reaches the client as the real service would say it: one table over the three
// APIs, as a stream and whole, with the real claude program in between.
import assert from 'node:assert/strict';
import { after, before, beforeEach, test } from 'node:test';

import { rawEvents } from './lib/anthropic.mjs';
import { Gateway } from './lib/gateway.mjs';
import { Upstream } from './lib/upstream.mjs';

const MODEL = 'claude-opus-4-5';

let up, gw;
before(async () => {
  up = await Upstream.start();
  gw = await Gateway.start({ upstream: up, claude: 'real', config: { pool: { max_workers: 2 } },
    env: { CLAUDEGATE_UPSTREAM_MAX_RETRIES: '0' } });
});
after(async () => {
  await gw.stop();
  await up.stop();
});
beforeEach(() => up.reset());

const text = (t) => ({ type: 'text', text: t });
const say = (t, more) => ({ blocks: [text(t)], ...more });

// --- the three APIs ------------------------------------------------------------------------------

const messages = [{ role: 'user', content: 'question' }];
const schema = { type: 'object' };

/** What a stream's data lines hold: parsed, but for [DONE]. */
function dataOf(raw) {
  return raw.split('\n\n').filter((part) => part && !part.startsWith(':')).map((part) => {
    const data = /^(?:event: .*\n)?data: (.*)$/.exec(part)?.[1];
    assert.ok(data, part);
    return data === '[DONE]' ? data : JSON.parse(data);
  });
}

const apis = {
  messages: {
    path: '/v1/messages',
    body: { model: MODEL, max_tokens: 256, messages, tools: [{ name: 't', input_schema: schema }] },
    ending: (reply) => [reply.body.stop_reason, reply.body.stop_sequence],
    endOfStream: (data) => {
      assert.equal(data.at(-1).type, 'message_stop');
      return [data.at(-2).delta.stop_reason, data.at(-2).delta.stop_sequence];
    },
    error: (reply) => {
      assert.equal(reply.body.type, 'error');
      assert.equal(reply.body.request_id, reply.headers['request-id']);
      return reply.body.error;
    },
    errorInStream: (data) => {
      assert.ok(!data.some((event) => event.type === 'message_stop'));
      assert.equal(data.at(-1).type, 'error');
      return data.at(-1).error;
    },
    textOf: (event) => event.delta?.text,
  },
  chat: {
    path: '/v1/chat/completions',
    body: { model: MODEL, messages, tools: [{ type: 'function', function: { name: 't' } }] },
    ending: (reply) => reply.body.choices[0].finish_reason,
    endOfStream: (data) => {
      assert.equal(data.at(-1), '[DONE]');
      return data.at(-2).choices[0].finish_reason;
    },
    error: (reply) => {
      assert.ok(reply.body.error.type);
      return reply.body.error;
    },
    errorInStream: (data) => {
      assert.ok(!data.includes('[DONE]'));
      assert.ok(!data.some((chunk) => chunk.choices?.[0].finish_reason));
      return data.at(-1).error;
    },
    textOf: (chunk) => chunk.choices?.[0].delta.content,
  },
  responses: {
    path: '/v1/responses',
    body: { model: MODEL, input: 'question', tools: [{ type: 'function', name: 't' }] },
    ending: (reply) => reply.body.incomplete_details?.reason ?? reply.body.status,
    endOfStream: (data) => {
      const { type, response } = data.at(-1);
      assert.equal(type, `response.${response.status}`);
      return response.incomplete_details?.reason ?? response.status;
    },
    error: (reply) => apis.chat.error(reply),
    errorInStream: (data) => {
      assert.ok(!data.some((event) => /^response\.(completed|incomplete)$/.test(event.type)));
      const { type, sequence_number: number, ...error } = data.at(-1);
      assert.deepEqual([type, number], ['error', data.length - 1]);
      return error; // its `type` is that of the event
    },
    textOf: (event) => (event.type === 'response.output_text.delta' ? event.delta : undefined),
  },
};

async function send({ path, body }, stream) {
  const key = await gw.key();
  const reply = await gw.request('POST', path, {
    body: { ...body, stream }, headers: { 'x-api-key': key, authorization: `Bearer ${key}` },
  });
  return /^text\/event-stream/.test(reply.headers['content-type']) ? { ...reply, data: dataOf(reply.text) } : reply;
}

// --- good endings --------------------------------------------------------------------------------

const endings = {
  'end_turn': [say('so'), ['end_turn', null], 'stop', 'completed'],
  'max_tokens': [say('cut o', { stop_reason: 'max_tokens' }), ['max_tokens', null], 'length', 'max_output_tokens'],
  'a stop sequence': [say('one', { stop_sequence: 'END' }), ['stop_sequence', 'END'], 'stop', 'completed'],
  'refusal': [say('no', { stop_reason: 'refusal' }), ['refusal', null], 'content_filter', 'content_filter'],
  'refusal without a word': [{ empty: true, stop_reason: 'refusal' }, ['refusal', null], 'content_filter', 'content_filter'],
  'pause_turn': [say('wait', { stop_reason: 'pause_turn' }), ['pause_turn', null], 'stop', 'completed'],
  'a full context': [say('full', { stop_reason: 'model_context_window_exceeded' }),
    ['model_context_window_exceeded', null], 'length', 'max_output_tokens'],
  'end_turn without content': [{ empty: true }, ['end_turn', null], 'stop', 'completed'],
  'a tool': [{ blocks: [{ type: 'tool_use', id: 'toolu_9', name: 't', input: { a: 1 } }] },
    ['tool_use', null], 'tool_calls', 'completed'],
  'max_tokens inside a tool\'s input': [{ stop_reason: 'max_tokens',
    blocks: [{ type: 'tool_use', id: 'toolu_9', name: 't', input: { a: 1 } }] }, ['max_tokens', null], 'length', 'max_output_tokens'],
  'a reason of the future': [say('so', { stop_reason: 'tired' }), ['tired', null], 'stop', 'completed'],
};
for (const [name, [step, ...wanted]] of Object.entries(endings)) {
  test(`ending: ${name}`, async () => {
    await up.script({ ...step, repeat: 6 });
    for (const [i, api] of Object.values(apis).entries()) {
      const whole = await send(api, false);
      assert.equal(whole.status, 200, whole.text);
      assert.deepEqual(api.ending(whole), wanted[i]);
      const streamed = await send(api, true);
      assert.deepEqual(api.endOfStream(streamed.data), wanted[i]);
    }
    assert.equal((await up.stats()).calls, 6, 'no hidden call');
  });
}

// --- failures before the first byte --------------------------------------------------------------

const error = (status, type, message, headers) => ({ status, error: { type, message }, ...(headers && { headers }) });
const BROKE_OFF = 'The upstream API broke off in the middle of its answer';
// status: [of the Anthropic API, of OpenAI's]; type and code: those of OpenAI's
const failures = {
  'an invalid request': { step: error(400, 'invalid_request_error', 'tools.0: whatever'), type: 'invalid_request_error' },
  'context overflow': { step: error(400, 'invalid_request_error', 'prompt is too long: 210000 tokens > 200000 maximum'),
    type: 'invalid_request_error', code: 'context_length_exceeded' },
  'an unknown model': { step: error(404, 'not_found_error', 'model: claude-opus-4-5'), type: 'invalid_request_error', code: 'model_not_found' },
  'too large': { step: error(413, 'request_too_large', 'Request exceeds the maximum size'), type: 'invalid_request_error', code: 'request_too_large' },
  'a rate limit': { step: error(429, 'rate_limit_error', 'Slow down', { 'retry-after': '77' }), type: 'requests', code: 'rate_limit_exceeded', wait: '77' },
  'a rate limit with a date': { step: error(429, 'rate_limit_error', 'Slow down', { 'retry-after': 'Sun, 06 Nov 2095 08:49:37 GMT' }),
    type: 'requests', code: 'rate_limit_exceeded', wait: '86400' },
  'an internal error': { step: error(500, 'api_error', 'Internal server error', { 'x-should-retry': 'true' }), type: 'server_error', retry: 'true' },
  'a time-out': { step: error(504, 'timeout_error', 'Too slow'), type: 'server_error', code: 'timeout' },
  'overload': { step: error(529, 'overloaded_error', 'Overloaded', { 'retry-after': '3', 'x-should-retry': 'false' }),
    status: [529, 503], type: 'server_error', code: 'overloaded', wait: '3', retry: 'false' },
  'our own credential': { step: error(401, 'authentication_error', 'invalid x-api-key', { 'x-should-retry': 'false' }), status: [502, 502],
    anthropic: 'api_error', message: "The upstream API refused this server's credential (401)", type: 'server_error' },
  'a proxy in between': { step: { status: 503, body: '<html>busy</html>' }, anthropic: 'overloaded_error', message: /503/,
    type: 'server_error', code: 'overloaded' },
  'an error as the first event': { step: { sse_error: { type: 'overloaded_error', message: 'Overloaded' } }, status: [529, 503],
    anthropic: 'overloaded_error', message: 'Overloaded', type: 'server_error', code: 'overloaded' },
  'no answer at all': { step: { cut_after: -1 }, status: [502, 502], anthropic: 'api_error', message: 'The upstream API could not be reached', type: 'server_error' },
  'an answer that ends before it begins': { step: { cut_after: 0 }, status: [502, 502], anthropic: 'api_error', message: BROKE_OFF, type: 'server_error' },
  'a page instead of an answer': { step: { not_json: true }, status: [502, 502], anthropic: 'api_error', message: /without receiving any events/, type: 'server_error' },
  'a stream without events': { step: { raw_events: [] }, status: [502, 502], anthropic: 'api_error', message: /without receiving any events/, type: 'server_error' },
  'an event that is no JSON': { step: { raw_events: [{ event: 'message_start', data: '{nope' }] }, status: [502, 502], anthropic: 'api_error',
    message: /JSON/, type: 'server_error' },
};

/** An error of either dialect against its row. */
function checkError(got, row, isOpenAI) {
  const want = row.step?.error ?? {};
  const message = row.message ?? want.message;
  if (message instanceof RegExp) assert.match(got.message, message);
  else assert.equal(got.message, message);
  const members = Object.keys(got).filter((name) => name !== 'type').sort();
  assert.deepEqual(members, isOpenAI ? ['code', 'message', 'param'] : ['message']);
  if ('type' in got) assert.equal(got.type, isOpenAI ? row.type : row.anthropic ?? want.type);
  if (isOpenAI) assert.deepEqual([got.code, got.param], [row.code ?? null, null]);
}

for (const [name, row] of Object.entries(failures)) {
  test(`failure: ${name}`, async () => {
    await up.script({ ...row.step, repeat: 6 });
    for (const [i, api] of Object.values(apis).entries()) {
      for (const stream of [false, true]) {
        const reply = await send(api, stream);
        assert.equal(reply.status, (row.status ?? [row.step.status, row.step.status])[Math.min(i, 1)], reply.text);
        checkError(api.error(reply), row, i > 0);
        assert.equal(reply.headers['retry-after'], row.wait);
        assert.equal(reply.headers['x-should-retry'], row.retry);
        assert.match(reply.headers['request-id'], /^req_/);
        assert.equal(reply.headers['x-request-id'], reply.headers['request-id']);
        assert.equal(reply.headers['openai-version'], i > 0 ? '2020-10-01' : undefined);
      }
    }
    assert.equal((await up.stats()).calls, 6, 'no hidden call');
  });
}

// --- in the middle of an answer ------------------------------------------------------------------

const event = (type, more) => ({ event: type, data: { type, ...more } });
const START = event('message_start', { message: { id: 'msg_1', type: 'message', role: 'assistant', model: MODEL,
  content: [], stop_reason: null, stop_sequence: null, usage: { input_tokens: 1, output_tokens: 1 } } });
const ONE = [event('content_block_start', { index: 0, content_block: text('') }),
  event('content_block_delta', { index: 0, delta: { type: 'text_delta', text: 'one' } })];
const END = [event('content_block_stop', { index: 0 }),
  event('message_delta', { delta: { stop_reason: 'end_turn', stop_sequence: null }, usage: { output_tokens: 5 } }), event('message_stop')];
const FOUR = 'one two three four';
// Where the connection breaks, a pause lets the words before it through: else there may be none yet.
const broken = {
  'overload': { step: say(FOUR, { sse_error: { type: 'overloaded_error', message: 'Overloaded', after: 5 } }),
    status: [529, 503], anthropic: 'overloaded_error', message: 'Overloaded', type: 'server_error', code: 'overloaded' },
  'a rate limit': { step: say(FOUR, { sse_error: { type: 'rate_limit_error', message: 'Slow down', after: 5 } }),
    status: [429, 429], anthropic: 'rate_limit_error', message: 'Slow down', type: 'requests', code: 'rate_limit_exceeded' },
  'an internal error': { step: say(FOUR, { sse_error: { type: 'api_error', message: 'Oh no', after: 5 } }),
    status: [500, 500], anthropic: 'api_error', message: 'Oh no', type: 'server_error' },
  'a cut': { step: say(FOUR, { word_delay_ms: 150, cut_after: 5 }), message: BROKE_OFF },
  'a polite end': { step: say(FOUR, { word_delay_ms: 150, cut_after: 5, cut_with: 'close' }), message: BROKE_OFF },
  'no message_delta': { step: { raw_events: [START, ...ONE, END[0], END[2]] }, message: BROKE_OFF },
  'an event that is no JSON': { step: { raw_events: [START, ...ONE, { event: 'content_block_delta', data: '{nope' }, ...END] }, message: /JSON/ },
};
const BAD_ANSWER = { status: [502, 502], anthropic: 'api_error', type: 'server_error' };
for (const [name, given] of Object.entries(broken)) {
  const row = { ...BAD_ANSWER, ...given };
  test(`in the middle of an answer: ${name}`, async () => {
    await up.script({ ...row.step, repeat: 6 });
    for (const [i, api] of Object.values(apis).entries()) {
      const whole = await send(api, false);
      assert.equal(whole.status, row.status[Math.min(i, 1)], whole.text);
      checkError(api.error(whole), row, i > 0);
      const { status, data } = await send(api, true);
      assert.equal(status, 200);
      assert.match(data.slice(0, -1).map((one) => api.textOf(one) ?? '').join(''), /^one/);
      checkError(api.errorInStream(data), row, i > 0);
    }
    assert.equal((await up.stats()).calls, 6, 'no hidden call');
  });
}

test('an answer without its beginning is no answer', async () => {
  await up.script({ raw_events: [...ONE, ...END], repeat: 6 });
  for (const [i, api] of Object.values(apis).entries()) {
    const row = { ...BAD_ANSWER, message: /Message not found/ };
    const whole = await send(api, false);
    assert.equal(whole.status, 502);
    checkError(api.error(whole), row, i > 0);
    const { data } = await send(api, true);
    checkError(api.errorInStream(data), row, i > 0);
    if (i > 0) assert.equal(data.length, 1, 'nothing that OpenAI\'s clients could not read');
  }
});

test('a silent stream gets pings', async (t) => {
  const quiet = await Gateway.start({ upstream: up, claude: 'real', test: t, config: { server: { keepalive_ms: 700 } } });
  await up.script({ blocks: [text('late')], delay_ms: 2500 });
  const response = await quiet.open('POST', '/v1/messages', { body: { ...apis.messages.body, stream: true },
    headers: { 'x-api-key': await quiet.key(), 'anthropic-version': '2023-06-01' } });
  const events = (await rawEvents(response)).map((e) => e.event);
  const start = events.indexOf('message_start');
  assert.ok(start >= 1, events.join(' '));
  assert.ok(events.slice(0, start).every((name) => name === 'ping'));
  assert.equal(events.at(-1), 'message_stop');
});
