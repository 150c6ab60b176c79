// Input at the edges of what the three APIs allow: it is taken as it is, or refused by name. Tools of
// every shape in OpenAI's words (in Anthropic's: anthropic_fields.test.mjs).
import assert from 'node:assert/strict';
import { after, before, beforeEach, test } from 'node:test';

import { conversation, system } from './lib/asked.mjs';
import { Gateway } from './lib/gateway.mjs';
import { Upstream } from './lib/upstream.mjs';

const MODEL = 'claude-sonnet-4-5';
const PNG = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC';
let up, gw, key;
before(async () => {
  up = await Upstream.start();
  gw = await Gateway.start({ upstream: up, claude: 'real', config: { pool: { max_workers: 2 } },
    env: { CLAUDEGATE_UPSTREAM_MAX_RETRIES: '0' } });
  key = await gw.key();
});
after(async () => {
  await gw.stop();
  await up.stop();
});
beforeEach(() => up.reset());

const user = (content) => ({ role: 'user', content });
const paths = { messages: '/v1/messages', chat: '/v1/chat/completions', responses: '/v1/responses' };
const base = {
  messages: { model: MODEL, max_tokens: 64, messages: [user('q')] },
  chat: { model: MODEL, messages: [user('q')] },
  responses: { model: MODEL, input: 'q' },
};
const send = (api, body) => gw.request('POST', paths[api], {
  body: typeof body === 'string' || Buffer.isBuffer(body) ? body : { ...base[api], ...body },
  headers: { authorization: `Bearer ${key}` } });

/** The field an error names, of either dialect. */
const fieldOf = (body) => (body.type === 'error' ? /^([\w.]+): /.exec(body.error.message)?.[1] : body.error.param);

async function refused(api, body, field, message = /./) {
  const reply = await send(api, body);
  assert.equal(reply.status, 400, reply.text);
  assert.equal(reply.body.error.type, 'invalid_request_error');
  if (field !== null) assert.equal(fieldOf(reply.body), field, reply.text);
  assert.match(reply.body.error.message, message);
  assert.doesNotMatch(reply.body.error.message, /: :|\.:|^:/, 'a message that reads well');
  assert.equal(reply.headers['x-should-retry'], 'false');
  assert.equal((await up.requests()).length, 0);
}

async function passed(api, body) {
  const reply = await send(api, body);
  assert.equal(reply.status, 200, reply.text);
  const requests = await up.requests();
  assert.equal(requests.length, 1, 'one call');
  return { reply, asked: requests[0].body, ignored: reply.headers['x-claudegate-ignored-params'] };
}

const rawOf = (api, text) => {
  const body = JSON.stringify({ ...base[api], ...(api === 'responses' ? { input: 'MARK' } : { messages: [user('MARK')] }) });
  return body.replace('MARK', text);
};

// --- text ----------------------------------------------------------------------------------------

const odd = '\u{1F600} \u2028\u2029\u0085\u00a0 \u202e\ufeff a\u0000b\u001b[31m \u{10FFFF} e\u0301 "\\/';
for (const api of Object.keys(paths)) {
  test(`${api}: text arrives, whatever it is made of`, async () => {
    await up.script({ blocks: [{ type: 'text', text: odd }], repeat: 2 });
    const body = api === 'responses' ? { input: odd, instructions: odd } :
      { messages: [...(api === 'chat' ? [{ role: 'system', content: odd }] : []), user(odd)], ...(api === 'messages' && { system: odd }) };
    const { reply, asked } = await passed(api, body);
    assert.deepEqual([conversation(asked)[0].content[0].text, system(asked)], [odd, [odd]]);
    const text = { messages: (b) => b.content[0].text, chat: (b) => b.choices[0].message.content,
      responses: (b) => b.output[0].content[0].text }[api](reply.body);
    assert.equal(text, odd);
    const streamed = await send(api, { ...body, stream: true });
    const data = streamed.text.split('\n').filter((line) => line.startsWith('data: {')).map((line) => JSON.parse(line.slice(6)));
    const delta = { messages: (e) => e.delta?.text, chat: (e) => e.choices[0].delta.content,
      responses: (e) => e.type === 'response.output_text.delta' && e.delta }[api];
    assert.equal(data.map((e) => delta(e) || '').join(''), odd);
  });

  test(`${api}: bodies that are no JSON, or say a thing twice`, async () => {
    const bodies = ['', '[]', 'null', '{"model":', rawOf(api, 'a\\ud800b'), rawOf(api, '\\udc00'),
      Buffer.from(rawOf(api, '\xff'), 'latin1'), rawOf(api, 'x').replace('{', '{"model":"other",'),
      '['.repeat(100_000), `${JSON.stringify(base[api])} x`,
      rawOf(api, 'x').replace('{', '{"top_p":1e999,'), rawOf(api, 'x').replace('{', '{"top_p":99999999999999999999,')];
    for (const body of bodies) await refused(api, body, null, /JSON/);
    await refused(api, { model: 'claude\u0000x' }, 'model');
    await refused(api, { model: '' }, 'model');
    await refused(api, { model: 7 }, 'model');
  });
}

// --- histories -----------------------------------------------------------------------------------

test('a history of 1,000 messages', async () => {
  const list = (n) => Array.from({ length: n }, (_, i) => ({ role: i % 2 ? 'assistant' : 'user', content: `m${i}` }));
  for (const [api, name, length] of [['chat', 'messages', 1001], ['messages', 'messages', 1001], ['responses', 'input', 1001]]) {
    await up.reset();
    const messages = list(length), body = { [name]: messages };
    const { asked } = await passed(api, body);
    assert.deepEqual(conversation(asked).map((m) => m.content[0].text), messages.map((m) => m.content));
  }
});

const call = (id, args = '{}', name = 't') => ({ id, type: 'function', function: { name, arguments: args } });
const calling = (...calls) => ({ role: 'assistant', content: null, tool_calls: calls });
const result = (id, content) => ({ role: 'tool', tool_call_id: id, content });

test('system and developer texts, wherever they stand, in their order', async () => {
  const { asked } = await passed('chat', { messages: [{ role: 'system', content: 'A' }, user('one'),
    { role: 'developer', content: [{ type: 'text', text: 'B' }] }, { role: 'assistant', content: 'two' },
    { role: 'system', content: 'C' }, { role: 'system', content: ' ' }, user('three')] });
  assert.deepEqual(system(asked), ['A', 'B', 'C']);
  assert.deepEqual(conversation(asked).map((m) => m.content.map((b) => b.text).join()), ['one', 'two', 'three']);
});

test('calls without content, without arguments, with odd ids; results in another order', async () => {
  const { asked } = await passed('chat', { messages: [user('q'),
    calling(call('call|1', ''), call('call 2', '{"n":12345678901234,"x":0.1,"deep":{"a":[null,true]}}')),
    result('call 2', ''), result('call|1', 'one'), user('and?')] });
  const [, calls, results] = conversation(asked);
  assert.deepEqual(calls.content.map((b) => [b.id, b.input]),
    [['call_1', {}], ['call_2', { n: 12345678901234, x: 0.1, deep: { a: [null, true] } }]]);
  assert.deepEqual(results.content.slice(0, 2).map((b) => b.tool_use_id), ['call_2', 'call_1']);
});

test('images in results', async () => {
  const url = 'data:image/gif;base64,R0lGODlhAQABAAAAACw=';
  const { asked } = await passed('chat', { messages: [user('q'), calling(call('c1')),
    result('c1', [{ type: 'text', text: 'seen' }, { type: 'image_url', image_url: { url } }])] });
  const [{ content }] = conversation(asked)[2].content;
  assert.deepEqual(content.map((b) => b.type), ['text', 'image']);
  assert.equal(content[1].source.media_type, 'image/gif');
});

const part = (type, value) => ({ messages: [user([{ type, ...value }])] });
const image = (url) => part('image_url', { image_url: { url } });
const inImage = 'messages[0].content[0].image_url.url';
const inFile = 'messages[0].content[0].file.file_data';
const toolOf = (name, more) => ({ tools: [{ type: 'function', function: { name, ...more } }] });
const rows = {
  'an image over http': ['chat', image('http://example.com/a.png'), inImage],
  'an image that is text': ['chat', image('data:text/plain;base64,AAAA'), inImage],
  'an image of a kind nobody reads': ['chat', image('data:image/bmp;base64,AAAA'), inImage],
  'an image that is no base64': ['chat', image('data:image/png;base64,A*A'), inImage],
  'an image without data': ['chat', image('data:image/png;base64,'), inImage],
  'an image as a string': ['chat', part('image_url', { image_url: 'https://example.com/a.png' }), 'messages[0].content[0].image_url'],
  'an image in responses over http': ['responses', { input: [user([{ type: 'input_image', image_url: 'http://example.com/a' }])] },
    'input[0].content[0].image_url', /^input\[0\]\.content\[0\]\.image_url: /],
  'a file that is no PDF': ['chat', part('file', { file: { file_data: 'data:text/html;base64,AAAA' } }), inFile],
  'a file without its kind': ['chat', part('file', { file: { file_data: 'AAAA', filename: 'a.pdf' } }), inFile],
  'arguments that are no JSON': ['chat', { messages: [user('q'), calling(call('c', '{nope')), result('c', 'x')] },
    'messages[1].tool_calls[0].function.arguments'],
  'arguments that are a list': ['chat', { messages: [user('q'), calling(call('c', '[]')), result('c', 'x')] },
    'messages[1].tool_calls[0].function.arguments'],
  'a result before its call': ['chat', { messages: [result('c', 'x')] }, 'messages[0].tool_call_id'],
  'a result twice': ['chat', { messages: [user('q'), calling(call('c')), result('c', 'x'), result('c', 'y')] }, 'messages[3].tool_call_id'],
  'a call without its result': ['chat', { messages: [user('q'), calling(call('c')), user('x')] }, 'messages[2]'],
  'a result before its call, in responses': ['responses', { input: [{ type: 'function_call_output', call_id: 'c', output: 'x' }] }, 'input[0].call_id'],
  'an assistant that says nothing': ['chat', { messages: [user('q'), { role: 'assistant', content: null }, user('x')] }, 'messages[1].content'],
  'an empty question': ['chat', { messages: [user('')] }, 'messages[0].content'],
  'an empty input': ['responses', { input: ' ' }, 'input'],
  'both limits of tokens': ['chat', { max_tokens: 5, max_completion_tokens: 5 }, 'max_tokens'],
  'a limit of 0': ['chat', { max_completion_tokens: 0 }, 'max_completion_tokens'],
  'a limit that is no integer': ['messages', { max_tokens: 10.5 }, 'max_tokens'],
  'five stops': ['chat', { stop: ['a', 'b', 'c', 'd', 'e'] }, 'stop'],
  'a stop that is empty': ['chat', { stop: [''] }, 'stop'],
  'two answers': ['chat', { n: 2 }, 'n'],
  'no answer': ['chat', { n: 0 }, 'n'],
  'functions beside tools': ['chat', { functions: [{ name: 't' }], ...toolOf('t') }, 'functions'],
  'a function call without functions': ['chat', { function_call: 'auto' }, 'function_call'],
  'a choice without tools': ['chat', { tool_choice: 'required' }, 'tool_choice'],
  'a choice that is no tool': ['chat', { tool_choice: { type: 'function', function: { name: 'x' } }, ...toolOf('t') }, 'tool_choice'],
  '129 tools': ['chat', { tools: Array.from({ length: 129 }, (_, i) => toolOf(`t${i}`).tools[0]) }, 'tools'],
  'a tool with odd characters': ['chat', toolOf('my tool.é'), 'tools[0].function.name'],
  'a tool with a NUL': ['chat', toolOf('a\u0000b'), 'tools[0].function.name'],
  'a tool without a name': ['chat', toolOf(''), 'tools[0].function.name'],
  'a tool of 65 letters': ['responses', { tools: [{ type: 'function', name: 'x'.repeat(65) }] }, 'tools[0].name'],
  'two tools of one name': ['chat', { tools: [toolOf('t').tools[0], toolOf('t').tools[0]] }, 'tools'],
  'a tool that is no object': ['responses', { tools: ['t'] }, 'tools[0]'],
  'options of a stream that is none': ['chat', { stream_options: { include_usage: true } }, 'stream_options'],
  'a message that is no object': ['messages', { messages: ['q'] }, 'messages.0'],
  'a role nobody has': ['chat', { messages: [{ role: 'root', content: 'x' }] }, 'messages[0].role'],
};
for (const [name, row] of Object.entries(rows)) test(`refused: ${name}`, () => refused(...row));

test('what asks for nothing is fine', async () => {
  const { ignored } = await passed('chat', { n: 1, logprobs: false, top_logprobs: 0, logit_bias: {}, presence_penalty: 0,
    frequency_penalty: 0.0, stop: [], tools: [], functions: null, modalities: ['text'], verbosity: 'medium', store: false,
    seed: null, user: null, moderation: null, response_format: { type: 'text' }, tool_choice: 'auto', metadata: {}, temperature: null });
  assert.equal(ignored, undefined);
});

test('hints are listed, each once', async () => {
  const { ignored } = await passed('chat', { seed: 0, metadata: { a: 'b' }, prompt_cache_key: 'k', messages: [
    { role: 'user', name: 'ann', content: [{ type: 'text', text: 'q' },
      { type: 'image_url', image_url: { url: 'https://example.com/a', detail: 'high' } },
      { type: 'image_url', image_url: { url: 'https://example.com/b', detail: 'low' } }] }] });
  assert.deepEqual(ignored.split(',').map((s) => s.trim()).sort(),
    ['image_url.detail', 'messages.name', 'metadata', 'prompt_cache_key', 'seed']);
});

test('documents and images reach upstream', async () => {
  const pdf = 'data:application/pdf;base64,JVBERi0=';
  const { asked } = await passed('responses', { input: [user([{ type: 'input_file', file_data: pdf, filename: 'a.pdf' },
    { type: 'input_file', file_url: 'https://example.com/b.pdf' }, { type: 'input_image', image_url: `data:image/PNG;base64,${PNG}` },
    { type: 'input_text', text: 'q' }])] });
  assert.deepEqual(conversation(asked)[0].content.slice(0, 3).map((b) => [b.type, b.title, b.source.media_type ?? b.source.url]),
    [['document', 'a.pdf', 'application/pdf'], ['document', undefined, 'https://example.com/b.pdf'], ['image', undefined, 'image/png']]);
});

// --- tools in OpenAI's words ---------------------------------------------------------------------

const ANY_OF = { anyOf: [{ type: 'object', properties: { a: {} } }, { type: 'object' }] };
const REFS = { type: 'object', properties: { node: { $ref: '#/$defs/node' } }, required: ['node'], additionalProperties: false,
  $defs: { node: { type: 'object', properties: { next: { anyOf: [{ $ref: '#/$defs/node' }, { type: 'null' }] }, limit: { type: 'number', maximum: 0.1 } },
    required: ['next', 'limit'], additionalProperties: false } } };
const nested = (depth) => (depth ? { type: 'object', properties: { down: nested(depth - 1) } } : { type: 'string' });
const functions = [
  ...['Bash', 'Read', 'Task', 'WebSearch', 'StructuredOutput', 'mcp__x__y', 'a-b_C9'].map((name) => ({ name, parameters: { type: 'object', properties: {} } })),
  { name: 'any', parameters: ANY_OF }, { name: 'refs', strict: true, parameters: REFS }, { name: 'deep', parameters: nested(100) },
  { name: 'long', description: 'd'.repeat(10_240), parameters: { type: 'object', properties: {} } }, { name: 'none' },
];
const many = [...functions, ...Array.from({ length: 128 - functions.length }, (_, i) => ({ name: `t_${i}`, parameters: { type: 'object', properties: {} } }))];
const asTools = { chat: (list) => list.map((f) => ({ type: 'function', function: f })), responses: (list) => list.map((f) => ({ type: 'function', ...f })) };
const args = { command: 'ls', node: { next: null, limit: 0.1 }, big: 9007199254740991, text: 'ä"\\\n' };
const called = {
  chat: (b) => b.choices[0].message.tool_calls.map((c) => [c.id, c.function.name, c.function.arguments]),
  responses: (b) => b.output.map((o) => [o.call_id, o.name, o.arguments]),
};

/** [id, name, arguments] of the calls in a stream, and in how many pieces the arguments came. */
function calledInStream(api, text) {
  const data = text.split('\n').filter((line) => line.startsWith('data: {')).map((line) => JSON.parse(line.slice(6)));
  if (api === 'responses') {
    return { calls: called.responses(data.at(-1).response), pieces: data.filter((e) => e.type === 'response.function_call_arguments.delta').length };
  }
  const calls = [];
  const deltas = data.flatMap((chunk) => chunk.choices[0].delta.tool_calls ?? []);
  for (const { index, id, function: f } of deltas) {
    calls[index] ??= [id, f.name, ''];
    calls[index][2] += f.arguments;
  }
  return { calls, pieces: deltas.length - calls.length };
}

for (const api of ['chat', 'responses']) {
  test(`${api}: 128 tools of every shape; parallel calls, whole and in a stream`, async () => {
    await up.script({ repeat: 2, blocks: [{ type: 'tool_use', id: 'toolu_1', name: 'Bash', input: args, chunk: 7 },
      { type: 'tool_use', id: 'toolu_2', name: 'refs', input: {} }] });
    const body = { tools: asTools[api](many) };
    const { reply, asked } = await passed(api, body);
    assert.deepEqual(asked.tools.map((t) => t.name), many.map((f) => f.name));
    const tools = Object.fromEntries(asked.tools.map((t) => [t.name, t]));
    assert.deepEqual(tools.refs, { name: 'refs', strict: true, input_schema: REFS });
    assert.deepEqual(tools.any.input_schema, { ...ANY_OF, type: 'object' });
    assert.deepEqual(tools.deep.input_schema, nested(100));
    assert.equal(tools.long.description.length, 10_240);
    assert.deepEqual(tools.none.input_schema, { type: 'object', properties: {} });
    const calls = called[api](reply.body);
    assert.deepEqual(calls.map(([id, name, json]) => [id, name, JSON.parse(json)]), [['toolu_1', 'Bash', args], ['toolu_2', 'refs', {}]]);
    assert.match(calls[0][2], /"limit":0\.1\}/, 'numbers as they were written');
    const stream = await send(api, { ...body, stream: true });
    const { calls: again, pieces } = calledInStream(api, stream.text);
    assert.deepEqual(again.map(([id, name, json]) => [id, name, JSON.parse(json)]), [['toolu_1', 'Bash', args], ['toolu_2', 'refs', {}]]);
    assert.ok(pieces > 4, 'partial JSON');
    assert.equal((await up.stats()).calls, 2, 'no hidden call');
  });
}
