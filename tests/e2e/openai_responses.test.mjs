// POST /v1/responses with the openai package, the real claude program and the stand-in.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, beforeEach, test } from 'node:test';

import OpenAI from 'openai';
import { zodTextFormat } from 'openai/helpers/zod';
import { z } from 'zod';

import { system, texts } from './lib/asked.mjs';
import { eventually, Gateway } from './lib/gateway.mjs';
import { Upstream } from './lib/upstream.mjs';

const LIMIT = { timeout: 60_000 };
const MODEL = 'claude-sonnet-4-5';
const PNG = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AA' +
  'AAMBAQDJ/pLvAAAAAElFTkSuQmCC';

let up;
let gw;
let client;
before(async () => {
  up = await Upstream.start();
  gw = await Gateway.start({
    claude: 'real', upstream: up,
    config: { upstream: { max_retries: 0 }, pool: { max_workers: 2 } },
  });
  const { key } = await gw.createKey(['--max-tokens', '8192']);
  client = new OpenAI({ baseURL: `${gw.url}/v1`, apiKey: key, maxRetries: 0 });
});
after(async () => {
  await gw.stop();
  await up.stop();
});
beforeEach(() => up.reset());

const text = (t) => ({ type: 'text', text: t });
const call = (id, name, input) => ({ type: 'tool_use', id, name, input });
const say = (t, more = {}) => ({ blocks: [text(t)], ...more });
const WEATHER = {
  type: 'function', name: 'weather', description: 'The weather.', strict: false,
  parameters: { type: 'object', properties: { city: { type: 'string' } } },
};
const ask = (input, more = {}) => client.responses.create({ model: MODEL, input, ...more });

async function only() {
  const list = await up.requests();
  assert.equal(list.length, 1, 'one upstream call');
  return list[0].body;
}

test('a plain response', LIMIT, async () => {
  await up.script([say('Grüße 🎉', { usage: {
    input_tokens: 100, output_tokens: 20, cache_read_input_tokens: 7 } })]);
  const data = await ask('hello', {
    instructions: 'Be brief.', temperature: 0.5, max_output_tokens: 99, metadata: { a: 'b' },
  });
  assert.equal(data.output_text, 'Grüße 🎉');
  const { id, created_at: created, output, output_text: _, ...rest } = data;
  assert.match(id, /^resp_[0-9a-f]{32}$/);
  assert.ok(Math.abs(created - Date.now() / 1000) < 60);
  assert.deepEqual(output, [{
    id: `msg_${id.slice(5)}_0`, type: 'message', status: 'completed', role: 'assistant',
    content: [{ type: 'output_text', text: 'Grüße 🎉', annotations: [], logprobs: [] }],
  }]);
  assert.deepEqual(rest, {
    object: 'response', status: 'completed', error: null, incomplete_details: null, model: MODEL,
    background: false, instructions: 'Be brief.', max_output_tokens: 99, max_tool_calls: null,
    parallel_tool_calls: true, previous_response_id: null, prompt_cache_key: null,
    reasoning: { effort: null, summary: null }, safety_identifier: null, service_tier: 'default',
    store: true, temperature: 0.5, text: { format: { type: 'text' }, verbosity: 'medium' },
    tool_choice: 'auto', tools: [], top_logprobs: 0, top_p: 1, truncation: 'disabled', user: null,
    metadata: { a: 'b' },
    usage: {
      input_tokens: 107, input_tokens_details: { cached_tokens: 7 }, output_tokens: 20,
      output_tokens_details: { reasoning_tokens: 0 }, total_tokens: 127,
    },
  });
  const asked = await only();
  assert.deepEqual([asked.temperature, asked.max_tokens], [0.5, 99]);
  assert.deepEqual(system(asked), ['Be brief.']);
  assert.deepEqual(texts(asked), [['user', 'hello']]);
  assert.deepEqual(await client.responses.retrieve(id), data);
  await assert.rejects(client.responses.retrieve(`resp_${'0'.repeat(32)}`), OpenAI.NotFoundError);
});

test('a stream: every event in its place', LIMIT, async () => {
  await up.script([{
    blocks: [{ type: 'thinking', thinking: 'Hmm.', signature: 'sig', chunk: 2 },
      { ...text('one two'), chunk: 4 }, call('toolu_1', 'weather', { city: 'Ulm' }),
      call('toolu_2', 'weather', {})],
    stop_reason: 'tool_use',
  }]);
  const events = [];
  for await (const event of await ask('go', {
    stream: true, tools: [WEATHER], reasoning: { effort: 'low', summary: 'auto' },
  })) events.push(event);
  assert.deepEqual(events.map((e) => e.sequence_number), events.map((_, i) => i));
  const names = events.map((e) => e.type.replace(/^response\./, ''));
  assert.deepEqual(names.filter((name, i) => name !== names[i - 1]), [
    'created', 'in_progress',
    'output_item.added', 'reasoning_summary_part.added', 'reasoning_summary_text.delta',
    'reasoning_summary_text.done', 'reasoning_summary_part.done', 'output_item.done',
    'output_item.added', 'content_part.added', 'output_text.delta', 'output_text.done',
    'content_part.done', 'output_item.done',
    'output_item.added', 'function_call_arguments.delta', 'function_call_arguments.done',
    'output_item.done',
    'output_item.added', 'function_call_arguments.delta', 'function_call_arguments.done',
    'output_item.done', 'completed']);
  const of = (type) => events.filter((e) => e.type === `response.${type}`);
  assert.equal(of('output_text.delta').map((e) => e.delta).join(''), 'one two');
  assert.equal(of('output_text.done')[0].text, 'one two');
  assert.deepEqual(of('function_call_arguments.done').map((e) => [e.output_index, e.arguments]),
    [[2, '{"city":"Ulm"}'], [3, '{}']]);
  const { response } = of('completed')[0];
  assert.deepEqual(of('output_item.done').map((e) => e.item), response.output);
  for (const [i, e] of of('output_item.done').entries()) assert.equal(e.output_index, i);
  for (const e of events.filter((x) => x.item_id)) {
    assert.equal(e.item_id, response.output[e.output_index].id);
  }
  assert.deepEqual(response.output.map((o) => o.type),
    ['reasoning', 'message', 'function_call', 'function_call']);
  assert.equal(of('created')[0].response.status, 'in_progress');
  assert.equal(of('created')[0].response.id, response.id);
});

test('the streaming helper of the package', LIMIT, async () => {
  await up.script([say('one two three')]);
  const stream = client.responses.stream({ model: MODEL, input: 'go' });
  let seen = '';
  stream.on('response.output_text.delta', (e) => { seen += e.delta; });
  const final = await stream.finalResponse();
  assert.equal(final.output_text, 'one two three');
  assert.equal(seen, 'one two three');
  assert.equal(final.status, 'completed');
});

test('previous_response_id: a conversation, and two ways to go on from one place', LIMIT, async () => {
  await up.script([say('I am A.'), say('I am B.'), say('I am C.'), say('I am D.')]);
  const first = await ask('one', { instructions: 'Old rules.' });
  const second = await ask('two', { previous_response_id: first.id });
  const third = await ask('three', { previous_response_id: second.id, stream: true });
  let last;
  for await (const event of third) last = event;
  const other = await ask('elsewhere', { previous_response_id: first.id, store: false });
  const asked = (await up.requests()).map((r) => texts(r.body));
  assert.deepEqual(asked[2], [['user', 'one'], ['assistant', 'I am A.'], ['user', 'two'],
    ['assistant', 'I am B.'], ['user', 'three']]);
  assert.deepEqual(asked[3], [['user', 'one'], ['assistant', 'I am A.'], ['user', 'elsewhere']]);
  assert.deepEqual(system((await up.requests())[1].body), [], 'instructions are not carried on');
  assert.equal(last.response.previous_response_id, second.id);
  assert.equal(last.response.output[0].content[0].text, 'I am C.');
  assert.equal(other.store, false);
  for (const id of [other.id, 'resp_x', `resp_${'0'.repeat(32)}`]) {
    await assert.rejects(ask('x', { previous_response_id: id }), (e) =>
      e.status === 400 && e.code === 'previous_response_not_found' &&
      e.param === 'previous_response_id');
  }
  const { key } = await gw.createKey();
  const stranger = new OpenAI({ baseURL: `${gw.url}/v1`, apiKey: key, maxRetries: 0 });
  await assert.rejects(stranger.responses.create({
    model: MODEL, input: 'x', previous_response_id: first.id,
  }), (e) => e.code === 'previous_response_not_found');
  await assert.rejects(stranger.responses.retrieve(first.id), OpenAI.NotFoundError);
});

test('what is stored is what was said: system texts too, whoever began', LIMIT, async () => {
  await up.script([say('A.'), say('B.'), say('C.')]);
  const first = await ask([
    { role: 'developer', content: 'Speak French.' }, { role: 'assistant', content: 'Bonjour.' },
    { role: 'user', content: 'one' }], { instructions: 'Only now.' });
  const second = await ask([{ role: 'system', content: 'And be brief.' }, { role: 'user', content: 'two' }],
    { previous_response_id: first.id, instructions: 'Only then.' });
  await ask('three', { previous_response_id: second.id });
  const asked = (await up.requests()).map((r) => r.body);
  assert.deepEqual(asked.map(system), [['Only now.', 'Speak French.'],
    ['Only then.', 'Speak French.', 'And be brief.'], ['Speak French.', 'And be brief.']]);
  assert.deepEqual(texts(asked[2]), [['assistant', 'Bonjour.'], ['user', 'one'], ['assistant', 'A.'],
    ['user', 'two'], ['assistant', 'B.'], ['user', 'three']]);
});

test('a response is deleted, and what was built on it stays', LIMIT, async () => {
  await up.script([say('I am A.'), say('I am B.'), say('I am C.')]);
  const first = await ask('one');
  const second = await ask('two', { previous_response_id: first.id });
  const { key } = await gw.createKey();
  const stranger = new OpenAI({ baseURL: `${gw.url}/v1`, apiKey: key, maxRetries: 0 });
  await assert.rejects(stranger.responses.delete(first.id), OpenAI.NotFoundError);
  const { status, body } = await gw.request('DELETE', `/v1/responses/${first.id}`, {
    headers: { authorization: `Bearer ${client.apiKey}` },
  });
  assert.equal(status, 200);
  assert.deepEqual(body, { id: first.id, object: 'response', deleted: true });
  await assert.rejects(client.responses.retrieve(first.id), OpenAI.NotFoundError);
  for (const id of [first.id, 'resp_x', `resp_${'0'.repeat(32)}`]) {
    await assert.rejects(client.responses.delete(id), (e) => {
      assert.ok(e instanceof OpenAI.NotFoundError);
      assert.deepEqual([e.type, e.param], ['invalid_request_error', null]);
      assert.ok(e.message.includes(id));
      return true;
    });
  }
  await assert.rejects(ask('x', { previous_response_id: first.id }), (e) =>
    e.code === 'previous_response_not_found');
  assert.equal((await ask('three', { previous_response_id: second.id })).output_text, 'I am C.');
  assert.deepEqual(texts((await up.requests())[2].body).map(([, t]) => t),
    ['one', 'I am A.', 'two', 'I am B.', 'three']);
  await client.responses.delete(second.id);
});

test('a session of the native API is no response', LIMIT, async () => {
  const headers = { authorization: `Bearer ${client.apiKey}` };
  const { body } = await gw.request('POST', '/api/chat', { body: { message: 'hello' }, headers });
  const path = `/api/sessions/${body.sessionId}`;
  assert.equal((await gw.request('GET', path, { headers })).status, 200);
  const id = `resp_${body.sessionId.replaceAll('-', '')}`;
  await assert.rejects(client.responses.delete(id), OpenAI.NotFoundError);
  await assert.rejects(client.responses.retrieve(id), OpenAI.NotFoundError);
  assert.equal((await gw.request('GET', path, { headers })).status, 200);
});

test('a usage row names the stored response', LIMIT, async () => {
  const { key, id } = await gw.createKey();
  const own = new OpenAI({ baseURL: `${gw.url}/v1`, apiKey: key, maxRetries: 0 });
  await up.script([say('a'), say('b'), { status: 400, error: { type: 'invalid_request_error', message: 'no' } }]);
  const stored = await own.responses.create({ model: MODEL, input: 'x' });
  await own.responses.create({ model: MODEL, input: 'x', store: false });
  await assert.rejects(own.responses.create({ model: MODEL, input: 'x' }));
  const rows = await eventually(async () => {
    const all = (await gw.usageRows()).filter((row) => row.api_key_id === id);
    return all.length === 3 && all;
  }, { what: 'three rows' });
  const named = rows.filter((row) => row.session_id);
  assert.deepEqual(named.map((row) => `resp_${row.session_id.replaceAll('-', '')}`), [stored.id]);
  assert.equal(Number(named[0].status_code), 200);
});

test('a large picture, again in what is built on it', LIMIT, async () => {
  const data = randomBytes(4 << 20).toString('base64');
  const image = { type: 'image', source: { type: 'base64', media_type: 'image/png', data } };
  const mark = { cache_control: { type: 'ephemeral' } };
  const first = await ask([{ role: 'user', content: [
    { type: 'input_image', image_url: `data:image/png;base64,${data}` }, { type: 'input_text', text: 'what is it?' }] }],
  { instructions: 'Be brief.' });
  await ask('and now?', { previous_response_id: first.id });
  const asked = await up.requests();
  assert.equal(asked.length, 2);
  assert.deepEqual(asked[0].body.messages.map((m) => m.content.map(({ cache_control: _, ...b }) => b)),
    [[image, text('what is it?')]]);
  assert.deepEqual(asked[1].body.messages.map((m) => m.content.length), [2, 1, 1]);
  assert.deepEqual(asked[1].body.messages[0].content, [image, text('what is it?')]);
  assert.equal(asked[1].body.messages[2].content[0].text, 'and now?');
  for (const { body } of asked) { // it is cached by itself, as other conversations are
    const { cache_control: given } = body.messages.at(-1).content.at(-1);
    assert.equal(given?.type, mark.cache_control.type);
    assert.equal(JSON.stringify(body.messages).split('"cache_control"').length, 2);
  }
  assert.deepEqual(system(asked[0].body), ['Be brief.']);
});

test('function calls over two rounds, by id and without a stored response', LIMIT, async () => {
  const step = { blocks: [{ type: 'thinking', thinking: 'Look.', signature: 'c2ln' },
    call('toolu_1', 'weather', { city: 'Bonn' })], stop_reason: 'tool_use' };
  await up.script([step, say('Rain.'), step, say('Sun.')]);
  const first = await ask('weather?', { tools: [WEATHER], reasoning: { effort: 'low' } });
  const made = first.output.find((o) => o.type === 'function_call');
  assert.deepEqual([made.call_id, made.name, JSON.parse(made.arguments)],
    ['toolu_1', 'weather', { city: 'Bonn' }]);
  const result = { type: 'function_call_output', call_id: made.call_id, output: 'rain' };
  const second = await ask([result], {
    tools: [WEATHER], previous_response_id: first.id, reasoning: { effort: 'low' },
  });
  assert.equal(second.output_text, 'Rain.');
  // The client keeps the conversation.
  const input = [{ role: 'user', content: 'weather?' }];
  const third = await ask(input, {
    tools: [WEATHER], store: false, reasoning: { effort: 'low' },
    include: ['reasoning.encrypted_content'],
  });
  input.push(...third.output, { ...result, call_id: 'toolu_1', output: [
    { type: 'input_text', text: 'sun' },
    { type: 'input_image', image_url: `data:image/png;base64,${PNG}`, detail: 'auto' }] });
  const { data: fourth, response } = await ask(input, {
    tools: [WEATHER], store: false, reasoning: { effort: 'low' },
  }).withResponse();
  assert.equal(fourth.output_text, 'Sun.');
  assert.equal(response.headers.get('x-claudegate-ignored-params'), null);
  const list = (await up.requests()).map((r) => r.body);
  assert.equal(list.length, 4, 'no hidden upstream call');
  for (const asked of [list[1], list[3]]) {
    assert.deepEqual(asked.thinking, { type: 'enabled', budget_tokens: 2048 });
    const [thought, use] = asked.messages[1].content;
    assert.deepEqual([thought.type, thought.thinking, thought.signature],
      ['thinking', 'Look.', 'c2ln']);
    assert.deepEqual([use.id, use.input], ['toolu_1', { city: 'Bonn' }]);
    assert.equal(asked.messages[2].content.find((b) => b.type === 'tool_result').tool_use_id,
      'toolu_1');
  }
  await assert.rejects(ask('never mind', { previous_response_id: first.id }),
    (e) => e.status === 400 && e.param === 'input');
});

test('items by their ids', LIMIT, async () => {
  await up.script([{ blocks: [text('Wait.'), call('toolu_1', 'weather', { city: 'Bonn' })],
    stop_reason: 'tool_use' }, say('Rain.')]);
  const first = await ask('weather?', { tools: [WEATHER] });
  await ask([{ role: 'user', content: 'weather?' },
    ...first.output.map(({ id }) => ({ type: 'item_reference', id })),
    { type: 'function_call_output', call_id: 'toolu_1', output: 'rain' }], { tools: [WEATHER] });
  const { messages } = (await up.requests())[1].body;
  assert.deepEqual(messages.map((m) => m.role), ['user', 'assistant', 'user']);
  assert.deepEqual(messages[1].content.map((b) => b.text ?? b.id), ['Wait.', 'toolu_1']);
});

test('images, and structured output', LIMIT, async () => {
  await up.script([say('{"color":"red"}')]);
  const Answer = z.object({ color: z.string() });
  const parsed = await client.responses.parse({
    model: MODEL,
    input: [{ role: 'developer', content: 'Look closely.' }, { role: 'user', content: [
      { type: 'input_text', text: 'color?' },
      { type: 'input_image', image_url: `data:image/png;base64,${PNG}`, detail: 'auto' }] }],
    text: { format: zodTextFormat(Answer, 'answer') },
  });
  assert.deepEqual(parsed.output_parsed, { color: 'red' });
  const asked = await only();
  assert.equal(asked.output_config.format.type, 'json_schema');
  assert.deepEqual(system(asked), ['Look closely.']);
  assert.equal(asked.messages[0].content.find((b) => b.type === 'image').source.data, PNG);
});

test('an answer that was cut off is incomplete', LIMIT, async () => {
  await up.script([say('so', { stop_reason: 'max_tokens' }), say('so', { stop_reason: 'refusal' })]);
  const cut = await ask('q');
  assert.deepEqual([cut.status, cut.incomplete_details],
    ['incomplete', { reason: 'max_output_tokens' }]);
  let last;
  for await (const event of await ask('q', { stream: true })) last = event;
  assert.equal(last.type, 'response.incomplete');
  assert.deepEqual(last.response.incomplete_details, { reason: 'content_filter' });
});

test('failures', LIMIT, async () => {
  const rows = [[{ background: true }, 'background'], [{ truncation: 'auto' }, 'truncation'],
    [{ tools: [{ type: 'web_search' }] }, 'tools[0].type'], [{ foo: 1 }, 'foo'],
    [{ conversation: 'conv_1' }, 'conversation'],
    [{ input: [{ role: 'user', content: [{ type: 'input_image', file_id: 'f' }] }] },
      'input[0].content[0].file_id'],
    [{ input: [{ type: 'function_call_output', call_id: 'c', output: 'x' }] }, 'input[0].call_id'],
    [{ input: [{ type: 'web_search_call', id: 'x' }] }, 'input[0].type']];
  for (const [more, param] of rows) {
    await assert.rejects(ask('q', more), (e) => {
      assert.deepEqual([e.status, e.type, e.param], [400, 'invalid_request_error', param]);
      return true;
    });
  }
  await assert.rejects(ask([{ type: 'item_reference', id: `msg_${'0'.repeat(32)}_0` }]), (e) =>
    e instanceof OpenAI.NotFoundError && e.code === 'item_not_found' && e.param === 'input[0].id');
  assert.equal((await up.requests()).length, 0);
  await up.script([{ status: 529, error: { type: 'overloaded_error', message: 'Overloaded' } },
    say('one two three four', {
      sse_error: { type: 'overloaded_error', message: 'Overloaded', after: 4 } })]);
  await assert.rejects(ask('q'), (e) => e.status === 503 && e.code === 'overloaded');
  const seen = [];
  await assert.rejects(async () => {
    for await (const event of await ask('q', { stream: true })) seen.push(event.type);
  }, /Overloaded/);
  assert.equal(seen[0], 'response.created');
  assert.ok(!seen.includes('response.completed'));
});

test('a stored response outlives the server, which waits for the one it is writing', LIMIT, async () => {
  const first = await Gateway.start({ upstream: up });
  const key = await first.key();
  const of = (server) => new OpenAI({ baseURL: `${server.url}/v1`, apiKey: key, maxRetries: 0 });
  const stream = await of(first).responses.create({
    model: MODEL, input: '[[words 40]] [[delay 20]] hello', stream: true,
  });
  let last;
  let stopped;
  for await (const event of stream) {
    last = event;
    if (event.type === 'response.output_text.delta') stopped ??= first.stop();
  }
  await stopped;
  assert.equal(last.type, 'response.completed');
  const second = await first.restart();
  assert.deepEqual((await of(second).responses.retrieve(last.response.id)).output,
    last.response.output);
  const next = await of(second).responses.create({
    model: MODEL, input: 'go on', previous_response_id: last.response.id,
  });
  assert.equal(next.status, 'completed');
  await second.stop();
});
