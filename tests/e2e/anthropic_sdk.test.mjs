// The official SDK against POST /v1/messages, with the real claude program in between.
import Anthropic from '@anthropic-ai/sdk';
import assert from 'node:assert/strict';
import { after, before, beforeEach, test } from 'node:test';

import { client, post, rawEvents } from './lib/anthropic.mjs';
import { eventually, Gateway } from './lib/gateway.mjs';
import { Upstream } from './lib/upstream.mjs';

let up, gw, api;

before(async () => {
  up = await Upstream.start();
  gw = await Gateway.start({ upstream: up, claude: 'real' });
  api = await client(gw);
});
after(async () => {
  await gw.stop();
  await up.stop();
});
beforeEach(() => up.reset());

const MODEL = 'claude-opus-4-5';
const ask = (text, more = {}) =>
  ({ model: MODEL, max_tokens: 256, messages: [{ role: 'user', content: text }], ...more });
const weather = { name: 'get_weather', description: 'the weather', input_schema: {
  type: 'object', properties: { city: { type: 'string' } }, required: ['city'] } };
const text = (t) => ({ type: 'text', text: t });
const use = (id, input, name = 'get_weather') => ({ type: 'tool_use', id, name, input });

test('a message has the exact shape of the API', async () => {
  await up.script({ blocks: [text('Hello there.')], usage: { input_tokens: 11, output_tokens: 5,
    cache_creation_input_tokens: 7, cache_read_input_tokens: 3 } });
  const { data, response, request_id: id } = await api.messages.create(ask('hi')).withResponse();
  assert.match(data.id, /^msg_\w{24}$/);
  const { id: _, ...rest } = data;
  assert.deepEqual(rest, { type: 'message', role: 'assistant', model: MODEL,
    content: [{ type: 'text', text: 'Hello there.' }], stop_reason: 'end_turn', stop_sequence: null,
    usage: { input_tokens: 11, cache_creation_input_tokens: 7, cache_read_input_tokens: 3,
      output_tokens: 5, service_tier: 'standard' } });
  assert.match(id, /^req_/);
  assert.equal(response.headers.get('request-id'), id);
  const row = await gw.usageRow(id);
  assert.equal(row.endpoint, '/v1/messages');
  assert.equal(row.input_tokens, 11);
  assert.equal(row.output_tokens, 5);
});

test('a stream has the names and the order of the API', async () => {
  await up.script({ blocks: [text('Hello there.'), use('toolu_1', { city: 'Paris' })] });
  const response = await gw.open('POST', '/v1/messages', { body: ask('hi', { stream: true, tools: [weather] }),
    headers: { 'x-api-key': await gw.key(), 'anthropic-version': '2023-06-01' } });
  assert.equal(response.statusCode, 200);
  assert.match(response.headers['content-type'], /^text\/event-stream/);
  const events = await rawEvents(response);
  for (const { event, data } of events) assert.equal(data.type, event);
  assert.deepEqual(events.map((e) => e.event).filter((name, i, all) => name !== all[i - 1]), [
    'message_start', 'content_block_start', 'ping', 'content_block_delta', 'content_block_stop',
    'content_block_start', 'content_block_delta', 'content_block_stop', 'message_delta', 'message_stop']);
  const start = events[0].data.message;
  assert.deepEqual(start.content, []);
  assert.equal(start.stop_reason, null);
  const json = events.filter((e) => e.data.delta?.type === 'input_json_delta').map((e) => e.data.delta.partial_json);
  assert.ok(json.length > 1, 'partial JSON comes in parts');
  assert.deepEqual(JSON.parse(json.join('')), { city: 'Paris' });
  assert.equal(events.at(-2).data.delta.stop_reason, 'tool_use');
  assert.ok(events.at(-2).data.usage.output_tokens > 0);
});

test('the streaming helper assembles what upstream said', async () => {
  await up.script({ blocks: [{ type: 'thinking', thinking: 'let me see', signature: 'c2ln' }, text('Ünï 🎉 done')] });
  const stream = api.messages.stream(ask('hi', { max_tokens: 2048, thinking: { type: 'enabled', budget_tokens: 1024 } }));
  const seen = [];
  stream.on('text', (t) => seen.push(t));
  const message = await stream.finalMessage();
  assert.equal(seen.join(''), 'Ünï 🎉 done');
  assert.deepEqual(message.content.map(({ type, thinking, signature, text: t }) => [type, thinking ?? t, signature]),
    [['thinking', 'let me see', 'c2ln'], ['text', 'Ünï 🎉 done', undefined]]);
});

test('parallel tools, many rounds: one upstream call per request', async () => {
  await up.script([
    { blocks: [text('I look.'), use('toolu_a', { city: 'Paris' }), use('toolu_b', { city: 'Rome', n: 12345678901234 })] },
    { blocks: [use('toolu_c', {}, 'Bash')] },
    { blocks: [text('Both are sunny.')] },
  ]);
  const tools = [weather, { name: 'Bash', input_schema: { type: 'object' } }];
  const messages = [{ role: 'user', content: 'weather?' }];
  const first = await api.messages.create(ask('', { tools, messages }));
  assert.equal(first.stop_reason, 'tool_use');
  assert.deepEqual(first.content.slice(1).map((b) => [b.id, b.name, b.input]),
    [['toolu_a', 'get_weather', { city: 'Paris' }], ['toolu_b', 'get_weather', { city: 'Rome', n: 12345678901234 }]]);
  messages.push({ role: 'assistant', content: first.content }, { role: 'user', content: [
    { type: 'tool_result', tool_use_id: 'toolu_b', content: 'sunny' },
    { type: 'tool_result', tool_use_id: 'toolu_a', content: [text('sunny, too')] }] });
  const second = await api.messages.create(ask('', { tools, messages }));
  assert.deepEqual(second.content.map((b) => [b.id, b.name, b.input]), [['toolu_c', 'Bash', {}]]);
  messages.push({ role: 'assistant', content: second.content }, { role: 'user', content: [
    { type: 'tool_result', tool_use_id: 'toolu_c', is_error: true, content: 'no shell here' }] });
  const third = await api.messages.create(ask('', { tools, messages }));
  assert.equal(third.content[0].text, 'Both are sunny.');
  const requests = await up.requests();
  assert.equal(requests.length, 3);
  assert.equal(requests[2].body.messages.length, 5);
});

test('the tool runner works through its loop', async () => {
  await up.script([{ blocks: [use('toolu_1', { city: 'Paris' }), use('toolu_2', { city: 'Rome' })] }, { blocks: [text('21 and 30 degrees')] }]);
  const asked = [];
  const runner = api.beta.messages.toolRunner({ model: MODEL, max_tokens: 200,
    messages: [{ role: 'user', content: 'weather?' }],
    tools: [{ ...weather, type: 'custom', parse: (x) => x, run: async ({ city }) => { asked.push(city); return `${city}: 21`; } }] });
  const last = await runner.runUntilDone();
  assert.deepEqual(asked, ['Paris', 'Rome']);
  assert.equal(last.content[0].text, '21 and 30 degrees');
  assert.equal((await up.requests()).length, 2);
  assert.deepEqual((await up.requests())[1].body.messages.at(-1).content.map((b) => b.tool_use_id), ['toolu_1', 'toolu_2']);
});

test('the tool runner streams', async () => {
  await up.script([{ blocks: [use('toolu_1', { city: 'Paris' })] }, { blocks: [text('done')] }]);
  const runner = api.beta.messages.toolRunner({ model: MODEL, max_tokens: 200, stream: true,
    messages: [{ role: 'user', content: 'weather?' }],
    tools: [{ ...weather, type: 'custom', parse: (x) => x, run: async () => 'x' }] });
  const reasons = [];
  for await (const stream of runner) reasons.push((await stream.finalMessage()).stop_reason);
  assert.deepEqual(reasons, ['tool_use', 'end_turn']);
});

test('beta headers reach upstream beside those of the program', async () => {
  await api.beta.messages.create({ ...ask('hi'), betas: ['context-1m-2025-08-07', 'my-beta-1'] });
  const { headers, body } = (await up.requests())[0];
  const betas = headers['anthropic-beta'].split(',');
  for (const beta of ['context-1m-2025-08-07', 'my-beta-1', 'claude-code-20250219']) assert.ok(betas.includes(beta), beta);
  assert.equal(new Set(betas).size, betas.length);
  assert.equal(headers['anthropic-version'], '2026-10-21', 'that of the SDK');
  assert.equal(body.betas, undefined);
});

test('the SDK retries as it is told to', async () => {
  const patient = await client(gw, { maxRetries: 2 });
  const started = Date.now();
  await up.script([{ status: 529, error: { type: 'overloaded_error', message: 'Overloaded' }, repeat: 3 }, { blocks: [text('at last')] }]);
  const message = await patient.messages.create(ask('hi'));
  assert.equal(message.content[0].text, 'at last');
  assert.ok(Date.now() - started < 15_000);
});

test('an aborted stream stops upstream and is settled', async () => {
  await up.script({ blocks: [text('word '.repeat(2000))], word_delay_ms: 20 });
  const stream = await api.messages.create(ask('hi', { stream: true }));
  let deltas = 0;
  for await (const event of stream) {
    if (event.type === 'content_block_delta' && ++deltas === 5) stream.controller.abort();
  }
  const [request] = await up.waitFor((list) => list[0]?.aborted);
  assert.equal(request.aborted, true);
  await eventually(async () => (await gw.usageRows()).some((row) => /client_gone/.test(row.error ?? '')), { what: 'a row of the aborted turn' });
});

test('count_tokens and models', async () => {
  const { input_tokens: n } = await api.messages.countTokens({ model: MODEL, system: 'sys',
    messages: [{ role: 'user', content: 'hello world' }], tools: [weather] });
  assert.ok(n > 5);
  const [request] = await up.requests();
  assert.equal(request.path, '/v1/messages/count_tokens');
  assert.deepEqual(request.body, { model: MODEL, system: 'sys', messages: [{ role: 'user', content: 'hello world' }], tools: [weather] });
  const ids = [];
  for await (const model of api.models.list({ limit: 2 })) ids.push(model.id);
  assert.deepEqual(ids, ['claude-opus-4-5', 'claude-sonnet-4-5', 'claude-haiku-4-5']);
  assert.equal((await api.models.retrieve(MODEL)).type, 'model');
  await assert.rejects(api.models.retrieve('nothing'), Anthropic.NotFoundError);
  const only = await client(gw, { key: (await gw.createKey(['--models', 'claude-haiku-*'])).key });
  assert.deepEqual((await only.models.list()).data.map((m) => m.id), ['claude-haiku-4-5']);
  await assert.rejects(only.messages.countTokens({ model: MODEL, messages: [{ role: 'user', content: 'x' }] }), Anthropic.PermissionDeniedError);
});

test('errors are those of the SDK', async () => {
  const nobody = new Anthropic({ baseURL: gw.url, apiKey: 'sk-cg-nothing', maxRetries: 0 });
  await assert.rejects(nobody.messages.create(ask('x')), (error) => {
    assert.ok(error instanceof Anthropic.AuthenticationError);
    assert.equal(error.error.error.type, 'authentication_error');
    assert.match(error.requestID, /^req_/);
    return true;
  });
  await assert.rejects(api.messages.create(ask('x', { max_tokens: 5000 })), Anthropic.PermissionDeniedError);
  await assert.rejects(api.messages.create({ model: MODEL, messages: [] }), Anthropic.BadRequestError);
  const poor = await client(gw, { key: (await gw.createKey(['--requests-per-minute', '1'])).key });
  const { response } = await poor.messages.create(ask('x')).withResponse();
  assert.equal(response.headers.get('anthropic-ratelimit-requests-limit'), '1');
  assert.equal(response.headers.get('anthropic-ratelimit-requests-remaining'), '0');
  assert.match(response.headers.get('anthropic-ratelimit-requests-reset'), /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/);
  await assert.rejects(poor.messages.create(ask('x')), (error) => {
    assert.ok(error instanceof Anthropic.RateLimitError);
    assert.ok(Number(error.headers.get('retry-after')) <= 60);
    return true;
  });
  const spent = await client(gw, { key: (await gw.createKey(['--requests-per-day', '1'])).key, maxRetries: 2 });
  await spent.messages.create(ask('x'));
  const from = Date.now();
  await assert.rejects(spent.messages.create(ask('x')), (error) => {
    assert.equal(error.headers.get('x-should-retry'), 'false');
    return error instanceof Anthropic.RateLimitError;
  });
  assert.ok(Date.now() - from < 1000, 'not waited for');
});

test('a version of the API nobody knows', async () => {
  const { status, body } = await post(gw, '/v1/messages', ask('x'), { headers: { 'anthropic-version': '2020-01-01' } });
  assert.equal(status, 400);
  assert.equal(body.error.message, 'anthropic-version: "2020-01-01" is not a valid version');
});

const refused = {
  'an unknown role': [{ messages: [{ role: 'user', content: 'x' }, { role: 'tool', content: 'y' }, { role: 'user', content: 'z' }] }, /^messages\.1\.role: /],
  'an unknown parameter': [{ flavour: 1 }, 'flavour: Extra inputs are not permitted'],
  'another model as a fallback': [{ fallbacks: [{ model: 'claude-opus-4-5' }] }, /^fallbacks: is not supported/],
  'no max_tokens': [{ max_tokens: undefined }, 'max_tokens: Field required'],
  'no messages': [{ messages: [] }, 'messages: at least one message is required'],
  'an empty text': [{ messages: [{ role: 'user', content: '' }] }, 'messages.0.content: text content blocks must be non-empty'],
  'a blank block': [{ messages: [{ role: 'user', content: [text(' \n')] }] }, /^messages\.0\.content\.0: text content blocks must contain non-whitespace text/],
  'a block without a type': [{ messages: [{ role: 'user', content: [{ text: 'x' }] }] }, /^messages\.0\.content\.0\.type: /],
  'an unknown field of a block': [{ messages: [{ role: 'user', content: [{ ...text('x'), isMeta: true }] }] }, 'messages.0.content.0.isMeta: Extra inputs are not permitted'],
  'a source without data': [{ messages: [{ role: 'user', content: [{ type: 'image', source: { type: 'base64', media_type: 'image/png' } }] }] }, 'messages.0.content.0.source.data: Field required'],
  'five cache marks': [{ messages: [{ role: 'user', content: Array(5).fill({ ...text('x'), cache_control: { type: 'ephemeral' } }) }] }, /A maximum of 4 blocks with cache_control/],
  'a result without a call': [{ messages: [{ role: 'user', content: [{ type: 'tool_result', tool_use_id: 't', content: 'x' }] }] }, /unexpected `tool_use_id` found/],
  'a call without a result': [{ messages: [{ role: 'user', content: 'x' }, { role: 'assistant', content: [use('t', {})] }, { role: 'user', content: 'y' }] }, /^messages\.2: `tool_use` ids were found without `tool_result` blocks/],
  'tools of one name': [{ tools: [weather, weather] }, 'tools: Tool names must be unique.'],
};
for (const [name, [more, message]] of Object.entries(refused)) {
  test(`refused: ${name}`, async () => {
    const { status, body } = await post(gw, '/v1/messages', ask('x', more));
    assert.equal(status, 400);
    assert.equal(body.type, 'error');
    assert.equal(body.error.type, 'invalid_request_error');
    assert.match(body.request_id, /^req_/);
    if (typeof message === 'string') assert.equal(body.error.message, message);
    else assert.match(body.error.message, message);
    assert.equal((await up.requests()).length, 0);
  });
}
