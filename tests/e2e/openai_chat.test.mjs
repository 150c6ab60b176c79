// POST /v1/chat/completions with the openai package, the real claude program and the stand-in: what
// the client gets, what upstream was asked, and how failures look.
import assert from 'node:assert/strict';
import { after, before, beforeEach, test } from 'node:test';

import OpenAI from 'openai';
import { zodFunction, zodResponseFormat } from 'openai/helpers/zod';
import { z } from 'zod';

import { conversation, system, texts } from './lib/asked.mjs';
import { eventually, Gateway } from './lib/gateway.mjs';
import { Upstream } from './lib/upstream.mjs';

const LIMIT = { timeout: 60_000 };
const MODEL = 'claude-sonnet-4-5';
const PNG = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4' +
  'z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC';

let up;
let gw;
let client;
before(async () => {
  up = await Upstream.start();
  gw = await Gateway.start({
    claude: 'real', upstream: up,
    config: {
      upstream: { max_retries: 0 }, pool: { max_workers: 2 },
      models: { aliases: 'gpt-4o=claude-sonnet-4-5, gpt-5*=claude-haiku-4-5' },
    },
  });
  const { key } = await gw.createKey(['--max-tokens', '8192']);
  client = new OpenAI({ baseURL: `${gw.url}/v1`, apiKey: key, maxRetries: 0 });
});
after(async () => {
  await gw.stop();
  await up.stop();
});
beforeEach(() => up.reset());

const say = (text, more = {}) => ({ blocks: [{ type: 'text', text }], ...more });
const call = (id, name, input) => ({ type: 'tool_use', id, name, input });
const user = (content) => [{ role: 'user', content }];
const WEATHER = {
  type: 'function',
  function: {
    name: 'weather', description: 'The weather.',
    parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
  },
};

async function only() {
  const list = await up.requests();
  assert.equal(list.length, 1, 'one upstream call');
  return list[0].body;
}

async function collect(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

// --- answers ---------------------------------------------------------------------------------

test('a plain answer', LIMIT, async () => {
  const usage = {
    input_tokens: 100, output_tokens: 20, cache_creation_input_tokens: 5,
    cache_read_input_tokens: 7,
  };
  await up.script([say('Grüße 🎉', { usage })]);
  const { data, response } = await client.chat.completions.create({
    model: 'gpt-4o', temperature: 0.25, top_p: 0.5, stop: ['END', 'STOP'], max_tokens: 77,
    user: 'u-1', seed: 3,
    messages: [{ role: 'system', content: 'Be brief.' }, ...user('hello')],
  }).withResponse();
  const { id, created, system_fingerprint: fingerprint, ...rest } = data;
  assert.match(id, /^chatcmpl-[0-9A-Za-z]{24}$/);
  assert.match(fingerprint, /^fp_[0-9a-f]{10}$/);
  assert.ok(Math.abs(created - Date.now() / 1000) < 60);
  assert.deepEqual(rest, {
    object: 'chat.completion', model: MODEL, service_tier: 'default',
    choices: [{
      index: 0, logprobs: null, finish_reason: 'stop',
      message: { role: 'assistant', content: 'Grüße 🎉', refusal: null, annotations: [] },
    }],
    usage: {
      prompt_tokens: 112, completion_tokens: 20, total_tokens: 132,
      prompt_tokens_details: { cached_tokens: 7, audio_tokens: 0 },
      completion_tokens_details: {
        reasoning_tokens: 0, audio_tokens: 0, accepted_prediction_tokens: 0,
        rejected_prediction_tokens: 0,
      },
    },
  });
  assert.match(response.headers.get('openai-processing-ms'), /^\d+$/);
  assert.match(response.headers.get('x-request-id'), /^req_/);
  assert.equal(response.headers.get('x-claudegate-ignored-params'), 'seed');
  assert.equal(`chatcmpl-${response.headers.get('x-request-id').slice(4)}`, id);
  const asked = await only();
  assert.equal(asked.model, MODEL);
  assert.deepEqual([asked.temperature, asked.top_p, asked.stop_sequences, asked.max_tokens],
    [0.25, 0.5, ['END', 'STOP'], 77]);
  assert.equal(asked.metadata.user_id, 'u-1');
  assert.deepEqual(system(asked), ['Be brief.']);
  assert.deepEqual(texts(asked), [['user', 'hello']]);
});

test('finish reasons', LIMIT, async () => {
  const rows = [['end_turn', 'stop'], ['stop_sequence', 'stop'], ['max_tokens', 'length'],
    ['refusal', 'content_filter'], ['model_context_window_exceeded', 'length']];
  for (const [upstream, finish] of rows) {
    await up.reset();
    await up.script([say('so', { stop_reason: upstream }), say('so', { stop_reason: upstream })]);
    const whole = await client.chat.completions.create({ model: MODEL, messages: user('q') });
    assert.equal(whole.choices[0].finish_reason, finish, upstream);
    const chunks = await collect(await client.chat.completions.create({
      model: MODEL, messages: user('q'), stream: true,
    }));
    assert.equal(chunks.at(-1).choices[0].finish_reason, finish, upstream);
    assert.equal((await up.requests()).length, 2);
  }
});

test('a stream, chunk by chunk', LIMIT, async () => {
  await up.script([say('one two three', { usage: { input_tokens: 9, output_tokens: 3 } })]);
  const chunks = await collect(await client.chat.completions.create({
    model: MODEL, messages: user('go'), stream: true, stream_options: { include_usage: true },
  }));
  const [first, ...others] = chunks;
  const last = others.pop();
  const finish = others.pop();
  assert.deepEqual(first.choices, [{
    index: 0, delta: { role: 'assistant', content: '', refusal: null }, logprobs: null,
    finish_reason: null,
  }]);
  assert.equal(others.map((c) => c.choices[0].delta.content).join(''), 'one two three');
  assert.ok(others.length > 1);
  assert.deepEqual(finish.choices,
    [{ index: 0, delta: {}, logprobs: null, finish_reason: 'stop' }]);
  assert.deepEqual(last.choices, []);
  assert.equal(last.usage.total_tokens, 12);
  for (const chunk of chunks) {
    assert.equal(chunk.object, 'chat.completion.chunk');
    assert.deepEqual([chunk.id, chunk.created, chunk.model, chunk.system_fingerprint],
      [first.id, first.created, MODEL, first.system_fingerprint]);
    if (chunk !== last) assert.equal(chunk.usage, null);
  }
});

test('the stream on the wire ends with [DONE]', LIMIT, async () => {
  await up.script([say('x')]);
  const reply = await gw.request('POST', '/v1/chat/completions', {
    body: { model: MODEL, messages: user('go'), stream: true },
    headers: { authorization: `Bearer ${client.apiKey}` },
  });
  assert.match(reply.headers['content-type'], /^text\/event-stream/);
  const lines = reply.text.split('\n\n');
  assert.deepEqual(lines.slice(-2), ['data: [DONE]', '']);
  for (const line of lines.slice(0, -2)) {
    assert.equal(JSON.parse(line.replace(/^data: /, '')).usage, undefined);
  }
});

test('a whole conversation with images', LIMIT, async () => {
  const png = `data:image/png;base64,${PNG}`;
  await client.chat.completions.create({
    model: MODEL,
    messages: [{ role: 'developer', content: 'A' }, { role: 'user', content: 'first' },
      { role: 'assistant', content: 'yes' },
      { role: 'user', content: [{ type: 'text', text: 'look' },
        { type: 'image_url', image_url: { url: png } },
        { type: 'image_url', image_url: { url: 'https://example.com/a.png' } }] }],
  });
  const asked = await only();
  const blocks = asked.messages.at(-1).content.filter((b) => b.type === 'image');
  assert.deepEqual(blocks.map((b) => b.source), [
    { type: 'base64', media_type: 'image/png', data: PNG },
    { type: 'url', url: 'https://example.com/a.png' }]);
  assert.deepEqual(system(asked), ['A']);
  assert.deepEqual(asked.messages.map((m) => m.role), ['user', 'assistant', 'user']);
});

test('90 images, over a conversation', LIMIT, async () => {
  const png = { type: 'image_url', image_url: { url: `data:image/png;base64,${PNG}` } };
  const half = Array.from({ length: 45 }, () => png);
  await client.chat.completions.create({ model: MODEL, messages: [
    { role: 'user', content: half }, { role: 'assistant', content: 'yes' }, { role: 'user', content: half }] });
  const asked = await only();
  assert.deepEqual(asked.messages.map((m) => m.content.length), [45, 1, 45]);
  assert.ok(asked.messages[0].content.every((b) => b.source.data === PNG && !b.cache_control));
  assert.equal(asked.messages[2].content.at(-1).cache_control.type, 'ephemeral');
});

// --- tools -----------------------------------------------------------------------------------

test('tool calls, whole and streamed, and their results', LIMIT, async () => {
  const step = {
    blocks: [{ type: 'text', text: 'Wait.' }, call('toolu_1', 'weather', { city: 'Köln' }),
      call('toolu_2', 'weather', { city: 'Bonn' })],
    stop_reason: 'tool_use',
  };
  await up.script([step, step, say('Rain.')]);
  const ask = { model: MODEL, messages: user('weather?'), tools: [WEATHER] };
  const whole = await client.chat.completions.create(ask);
  assert.equal(whole.choices[0].finish_reason, 'tool_calls');
  const { message } = whole.choices[0];
  assert.equal(message.content, 'Wait.');
  assert.deepEqual(message.tool_calls.map((c) => [c.id, c.type, c.function.name,
    JSON.parse(c.function.arguments)]), [
    ['toolu_1', 'function', 'weather', { city: 'Köln' }],
    ['toolu_2', 'function', 'weather', { city: 'Bonn' }]]);
  const streamed = await client.chat.completions.stream(ask).finalChatCompletion();
  assert.deepEqual(streamed.choices[0].message.tool_calls.map((c) => [c.id, c.function.arguments]),
    message.tool_calls.map((c) => [c.id, c.function.arguments]));
  const last = await client.chat.completions.create({
    ...ask,
    messages: [...ask.messages, message,
      { role: 'tool', tool_call_id: 'toolu_2', content: 'sun' },
      { role: 'tool', tool_call_id: 'toolu_1', content: 'rain' }],
  });
  assert.equal(last.choices[0].message.content, 'Rain.');
  const list = await up.requests();
  assert.equal(list.length, 3, 'no hidden upstream call');
  const asked = list[2].body;
  assert.deepEqual(asked.tools.map(({ name, description, input_schema: schema }) =>
    [name, description, schema]),
  [['weather', 'The weather.', WEATHER.function.parameters]]);
  assert.deepEqual(asked.messages[1].content.filter((b) => b.type === 'tool_use')
    .map((b) => [b.id, b.name, b.input]),
  [['toolu_1', 'weather', { city: 'Köln' }], ['toolu_2', 'weather', { city: 'Bonn' }]]);
  assert.deepEqual(asked.messages[2].content.filter((b) => b.type === 'tool_result')
    .map((b) => [b.tool_use_id, [b.content].flat().map((x) => x.text ?? x).join('')]),
  [['toolu_2', 'sun'], ['toolu_1', 'rain']]);
});

test('tool_choice and parallel_tool_calls reach upstream', LIMIT, async () => {
  const rows = [[{ tool_choice: 'required' }, { type: 'any' }],
    [{ tool_choice: 'none' }, { type: 'none' }],
    [{ tool_choice: { type: 'function', function: { name: 'weather' } } },
      { type: 'tool', name: 'weather' }],
    [{ parallel_tool_calls: false }, { type: 'auto', disable_parallel_tool_use: true }]];
  for (const [given, expected] of rows) {
    await up.reset();
    await client.chat.completions.create({
      model: MODEL, messages: user('q'), tools: [WEATHER], ...given,
    });
    assert.deepEqual((await only()).tool_choice, expected);
  }
});

test('functions, as there were before tools', LIMIT, async () => {
  const step = { blocks: [call('toolu_9', 'weather', { city: 'Ulm' })], stop_reason: 'tool_use' };
  await up.script([step, step, say('Fog.')]);
  const ask = { model: MODEL, functions: [WEATHER.function], function_call: 'auto' };
  const { choices } = await client.chat.completions.create({ ...ask, messages: user('weather?') });
  assert.equal(choices[0].finish_reason, 'function_call');
  assert.deepEqual(choices[0].message.function_call,
    { name: 'weather', arguments: '{"city":"Ulm"}' });
  const chunks = await collect(await client.chat.completions.create({
    ...ask, messages: user('weather?'), stream: true,
  }));
  assert.equal(chunks.map((c) => c.choices[0].delta.function_call?.arguments ?? '').join(''),
    '{"city":"Ulm"}');
  const done = await client.chat.completions.create({
    ...ask, messages: [...user('weather?'), choices[0].message,
      { role: 'function', name: 'weather', content: 'fog' }],
  });
  assert.equal(done.choices[0].message.content, 'Fog.');
});

test('the tool runner of the package', LIMIT, async () => {
  await up.script([
    { blocks: [call('toolu_1', 'add', { a: 2, b: 3 })], stop_reason: 'tool_use' },
    { blocks: [call('toolu_2', 'add', { a: 5, b: 4 })], stop_reason: 'tool_use' },
    say('Nine.'),
  ]);
  const asked = [];
  const runner = client.chat.completions.runTools({
    model: MODEL, stream: true, messages: user('2+3+4?'),
    tools: [zodFunction({
      name: 'add', parameters: z.object({ a: z.number(), b: z.number() }),
      function: ({ a, b }) => { asked.push([a, b]); return String(a + b); },
    })],
  });
  assert.equal(await runner.finalContent(), 'Nine.');
  assert.deepEqual(asked, [[2, 3], [5, 4]]);
  assert.equal((await up.requests()).length, 3);
});

// --- formats, effort -------------------------------------------------------------------------

test('structured output', LIMIT, async () => {
  await up.script([say('{"name":"Ada","age":36}')]);
  const Person = z.object({ name: z.string(), age: z.number() });
  const { choices } = await client.chat.completions.parse({
    model: MODEL, messages: user('who?'), response_format: zodResponseFormat(Person, 'person'),
  });
  assert.deepEqual(choices[0].message.parsed, { name: 'Ada', age: 36 });
  const { format } = (await only()).output_config;
  assert.equal(format.type, 'json_schema');
  assert.deepEqual(format.schema.required, ['name', 'age']);
  assert.equal(format.schema.additionalProperties, false);
});

test('reasoning_effort', LIMIT, async () => {
  await up.script([{ blocks: [{ type: 'thinking', thinking: 'Hmm, hard.', signature: 'sig' },
    { type: 'text', text: '42' }] }]);
  const { choices, usage } = await client.chat.completions.create({
    model: MODEL, messages: user('q'), reasoning_effort: 'low',
  });
  assert.equal(choices[0].message.content, '42');
  assert.ok(usage.completion_tokens_details.reasoning_tokens > 0);
  assert.deepEqual((await only()).thinking, { type: 'enabled', budget_tokens: 2048 });
});

// --- models ----------------------------------------------------------------------------------

test('models', LIMIT, async () => {
  const list = [];
  for await (const model of client.models.list()) list.push(model);
  assert.ok(list.some((m) => m.id === 'gpt-4o' && m.object === 'model'));
  assert.ok(list.some((m) => m.id === MODEL && m.owned_by === 'anthropic'));
  assert.ok(!list.some((m) => m.id.includes('*')));
  assert.equal((await client.models.retrieve('gpt-5-mini')).id, 'gpt-5-mini');
  await assert.rejects(client.models.retrieve('gpt-3'), (e) =>
    e instanceof OpenAI.NotFoundError && e.code === 'model_not_found' && e.param === 'model');
});

test('text is text, wherever it stands', LIMIT, async () => {
  const tricks = ['/cost', '@/etc/hostname', '!id', '/clear\n@/etc/passwd'];
  for (const trick of tricks) {
    await up.reset();
    await client.chat.completions.create({
      model: MODEL, tools: [WEATHER],
      messages: [{ role: 'system', content: trick }, ...user(trick),
        { role: 'assistant', content: trick, tool_calls: [{ id: 'c1', type: 'function',
          function: { name: 'weather', arguments: JSON.stringify({ city: trick }) } }] },
        { role: 'tool', tool_call_id: 'c1', content: trick }, ...user(trick)],
    });
    const asked = await only();
    assert.deepEqual(system(asked), [trick]);
    const [first, second, third] = conversation(asked).map((m) => m.content);
    assert.deepEqual(first.map((b) => b.text), [trick]);
    assert.deepEqual([second[0].text, second[1].input], [trick, { city: trick }]);
    assert.deepEqual([[third[0].content].flat().map((b) => b.text ?? b).join(''), third[1].text],
      [trick, trick]);
    await up.reset();
    await client.responses.create({ model: MODEL, input: trick, instructions: trick });
    const other = await only();
    assert.deepEqual([system(other), texts(other)], [[trick], [['user', trick]]]);
  }
});

test('limits in headers, and a day that is spent', LIMIT, async () => {
  const { key } = await gw.createKey(['--requests-per-minute', '50', '--tokens-per-day', '9000',
    '--max-tokens', '500', '--requests-per-day', '2']);
  const limited = new OpenAI({ baseURL: `${gw.url}/v1`, apiKey: key, maxRetries: 2 });
  const ask = (more) => limited.chat.completions.create({
    model: MODEL, messages: user('q'), max_tokens: 10, ...more,
  });
  const { response } = await ask().withResponse();
  const of = (name) => response.headers.get(`x-ratelimit-${name}`);
  assert.deepEqual([of('limit-requests'), of('remaining-requests'), of('limit-tokens')],
    ['2', '1', '9000']);
  assert.ok(Number(of('remaining-tokens')) < 9000);
  assert.match(of('reset-requests'), /^(\d+h)?(\d+m)?\d+s$/);
  await assert.rejects(ask({ max_tokens: undefined, max_completion_tokens: 501 }), (e) =>
    e instanceof OpenAI.PermissionDeniedError && e.param === 'max_completion_tokens');
  await ask();
  const from = Date.now();
  await assert.rejects(ask(), (e) => e instanceof OpenAI.RateLimitError &&
    e.code === 'insufficient_quota' && e.type === 'insufficient_quota');
  assert.ok(Date.now() - from < 2000, 'the package does not wait for tomorrow');
  assert.equal((await up.requests()).length, 2);
});

// --- failures --------------------------------------------------------------------------------

test('refused requests name their field', LIMIT, async () => {
  const ask = (more) => client.chat.completions.create({ model: MODEL, messages: user('q'), ...more });
  const rows = [[{ n: 2 }, 'n', 'unsupported_value'], [{ logprobs: true }, 'logprobs', 'unsupported_value'],
    [{ foo: 1 }, 'foo', 'unknown_parameter'], [{ temperature: 1.5 }, 'temperature', 'unsupported_value'],
    [{ messages: [{ role: 'user', content: [{ type: 'text' }] }] }, 'messages[0].content[0].text',
      'invalid_value']];
  for (const [more, param, code] of rows) {
    await assert.rejects(ask(more), (e) => {
      assert.ok(e instanceof OpenAI.BadRequestError, String(e));
      assert.deepEqual([e.type, e.param, e.code], ['invalid_request_error', param, code]);
      assert.match(e.requestID, /^req_/);
      return true;
    });
  }
  assert.equal((await up.requests()).length, 0);
});

test('a wrong key, a model that is not allowed', LIMIT, async () => {
  const stranger = new OpenAI({ baseURL: `${gw.url}/v1`, apiKey: 'sk-no', maxRetries: 0 });
  await assert.rejects(stranger.chat.completions.create({ model: MODEL, messages: user('q') }),
    (e) => e instanceof OpenAI.AuthenticationError && e.code === 'invalid_api_key');
  await assert.rejects(client.chat.completions.create({ model: 'gpt-3', messages: user('q') }),
    (e) => e instanceof OpenAI.PermissionDeniedError && e.param === 'model');
});

test('what upstream says, in the words of OpenAI', LIMIT, async () => {
  const rows = [
    [529, 'overloaded_error', 'Overloaded', 503, 'overloaded', 'server_error'],
    [429, 'rate_limit_error', 'slow down', 429, 'rate_limit_exceeded', 'requests'],
    [400, 'invalid_request_error', 'prompt is too long: 210000 tokens > 200000 maximum', 400,
      'context_length_exceeded', 'invalid_request_error'],
    [404, 'not_found_error', 'model: claude-x', 404, 'model_not_found', 'invalid_request_error'],
    [500, 'api_error', 'Internal server error', 500, null, 'server_error'],
  ];
  for (const [status, type, message, expected, code, kind] of rows) {
    for (const stream of [false, true]) {
      await up.reset();
      await up.script([{ status, error: { type, message }, headers: { 'retry-after': '7' } }]);
      await assert.rejects(client.chat.completions.create({
        model: MODEL, messages: user('q'), stream,
      }), (e) => {
        assert.deepEqual([e.status, e.code, e.type], [expected, code, kind], message);
        assert.ok(e.message.includes(message), e.message);
        if (status === 429) assert.equal(e.headers.get('retry-after'), '7');
        return true;
      });
    }
  }
});

test('an error inside a stream has no [DONE]', LIMIT, async () => {
  await up.script([say('one two three four', {
    sse_error: { type: 'overloaded_error', message: 'Overloaded', after: 4 },
  }), say('one two three four', {
    sse_error: { type: 'overloaded_error', message: 'Overloaded', after: 4 },
  })]);
  const seen = [];
  await assert.rejects(async () => {
    const stream = await client.chat.completions.create({
      model: MODEL, messages: user('q'), stream: true,
    });
    for await (const chunk of stream) seen.push(chunk);
  }, (e) => e instanceof OpenAI.APIError && e.code === 'overloaded');
  assert.ok(seen.length > 1);
  const { text } = await gw.request('POST', '/v1/chat/completions', {
    body: { model: MODEL, messages: user('go'), stream: true },
    headers: { authorization: `Bearer ${client.apiKey}` },
  });
  assert.doesNotMatch(text, /\[DONE\]/);
  assert.match(text, /data: \{"error":\{"message":[^\n]*\n\n$/);
});

test('the package repeats what it may, and an abort stops the turn', LIMIT, async () => {
  await up.script([{ status: 529, error: { type: 'overloaded_error', message: 'Overloaded' } },
    say('second try')]);
  const patient = new OpenAI({ baseURL: `${gw.url}/v1`, apiKey: client.apiKey, maxRetries: 2 });
  const { choices } = await patient.chat.completions.create({ model: MODEL, messages: user('q') });
  assert.equal(choices[0].message.content, 'second try');
  assert.equal((await up.requests()).length, 2);

  await up.reset();
  await up.script([say('a b c d e f g h i j k l m n o p', { word_delay_ms: 200 })]);
  const stream = await client.chat.completions.create({
    model: MODEL, messages: user('q'), stream: true,
  });
  for await (const chunk of stream) {
    if (chunk.choices[0].delta.content) break; // leaves the loop: the package aborts
  }
  await eventually(async () => (await gw.usageRows()).some((row) =>
    row.endpoint === '/v1/chat/completions' && row.error?.startsWith('client_gone')));
});
