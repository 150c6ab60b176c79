// The stand-in upstream itself: what the other tests rely on when they talk to it.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import net from 'node:net';
import { after, before, beforeEach, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import { Upstream } from './lib/upstream.mjs';

const BIN = process.env.STANDIN_BIN ??
  fileURLToPath(new URL('../../build/tests/fakes/standin', import.meta.url));
const KEY = { 'x-api-key': 'sk-test', 'content-type': 'application/json' };
const LIMIT = { timeout: 30_000 };

let up;
before(async () => {
  up = await Upstream.start({ bin: BIN });
});
after(() => up.stop());
beforeEach(() => up.reset());

const question = (text, more = {}) => ({
  model: 'claude-test', max_tokens: 1000, messages: [{ role: 'user', content: text }], ...more,
});

function post(body, { path = '/v1/messages', headers = KEY, signal, base = up.url } = {}) {
  const text = typeof body === 'string' ? body : JSON.stringify(body);
  return fetch(base + path, { method: 'POST', headers, signal, body: text });
}

async function ask(text, more) {
  const response = await post(question(text, more));
  return { status: response.status, headers: response.headers, body: await response.json() };
}

/** Parses a stream and checks that `event:` and `data.type` agree. */
function parseEvents(text) {
  assert.ok(text === '' || text.endsWith('\n\n'), 'ends with a whole event');
  return text.split('\n\n').filter(Boolean).map((block) => {
    const [event, data, ...rest] = block.split('\n');
    assert.deepEqual(rest, []);
    assert.match(event, /^event: /);
    assert.match(data, /^data: /);
    const parsed = JSON.parse(data.slice(6));
    assert.equal(event.slice(7), parsed.type);
    return parsed;
  });
}

async function stream(text, more) {
  const response = await post(question(text, { stream: true, ...more }));
  assert.equal(response.status, 200);
  assert.match(response.headers.get('content-type'), /^text\/event-stream/);
  return parseEvents(await response.text());
}

const types = (events) => events.map((e) => e.type);
const deltas = (events, field) => events.filter((e) => e.type === 'content_block_delta')
  .map((e) => e.delta[field]).filter((v) => v !== undefined);

/** A client on a bare socket: sees what really comes over TCP, and may vanish at any moment. */
class RawClient {
  received = '';
  ended = null; // 'end' or the error's code

  constructor(body, { headers = '', base = up.url, send = true } = {}) {
    const url = new URL(base);
    const text = JSON.stringify(body);
    this.request = `POST /v1/messages HTTP/1.1\r\nHost: ${url.host}\r\nx-api-key: k\r\n` +
      `${headers}Content-Length: ${Buffer.byteLength(text)}\r\n\r\n${text}`;
    this.socket = net.connect(Number(url.port), url.hostname);
    this.socket.on('data', (data) => { this.received += data; });
    this.socket.on('end', () => { this.ended ??= 'end'; });
    this.socket.on('error', (error) => { this.ended ??= error.code; });
    this.closed = new Promise((resolve) => { this.socket.on('close', resolve); });
    if (send) this.socket.write(this.request);
  }

  get events() {
    return (this.received.match(/^event: /gm) ?? []).length;
  }

  async until(test, ms = 5000) {
    const end = Date.now() + ms;
    while (!test(this)) {
      assert.ok(Date.now() < end, `not in time; received: ${this.received.slice(-400)}`);
      await sleep(2);
    }
  }
}

const openFds = () => readdirSync(`/proc/${up.pid}/fd`).length;

// --- unscripted ------------------------------------------------------------------------------

test('unscripted answer says what it is and repeats the text', LIMIT, async () => {
  const { status, headers, body } = await ask('Grüße, 世界 🎉');
  assert.equal(status, 200);
  assert.match(headers.get('request-id'), /^req_[0-9A-Za-z]{24}$/);
  assert.equal([...headers.keys()].filter((k) => k.startsWith('anthropic-ratelimit')).length, 0);
  assert.match(body.id, /^msg_/);
  assert.equal(body.type, 'message');
  assert.equal(body.role, 'assistant');
  assert.equal(body.model, 'claude-test');
  assert.equal(body.stop_reason, 'end_turn');
  assert.equal(body.stop_sequence, null);
  assert.equal(body.content.length, 1);
  assert.match(body.content[0].text, /claudegate's demo upstream, not Claude/);
  assert.ok(body.content[0].text.endsWith('Grüße, 世界 🎉'));
  assert.equal(body.usage.input_tokens, Math.ceil(Buffer.byteLength('Grüße, 世界 🎉user') / 4));
  assert.equal(body.usage.output_tokens,
    Math.ceil(Buffer.byteLength(body.content[0].text) / 4));
});

test('unscripted stream has the real order of events', LIMIT, async () => {
  const events = await stream('one two\nthree');
  const t = types(events);
  assert.deepEqual(t.slice(0, 3), ['message_start', 'content_block_start', 'ping']);
  assert.deepEqual(t.slice(-3), ['content_block_stop', 'message_delta', 'message_stop']);
  assert.ok(t.slice(3, -3).length > 5);
  assert.ok(t.slice(3, -3).every((x) => x === 'content_block_delta'));
  const [start] = events;
  assert.deepEqual(start.message.content, []);
  assert.equal(start.message.stop_reason, null);
  assert.equal(start.message.usage.output_tokens, 1);
  assert.deepEqual(events[1].content_block, { type: 'text', text: '' });
  const parts = deltas(events, 'text');
  assert.ok(parts.join('').endsWith('You wrote: one two\nthree'));
  assert.ok(parts.every((p) => /^\s*\S+$/.test(p)), 'one word per delta');
  const end = events.at(-2);
  assert.deepEqual(end.delta, { stop_reason: 'end_turn', stop_sequence: null });
  assert.equal(end.usage.output_tokens, Math.ceil(Buffer.byteLength(parts.join('')) / 4));
  assert.equal(end.usage.input_tokens, start.message.usage.input_tokens);
});

test('the last user text is repeated, without reminders and within a limit', LIMIT, async () => {
  const reply = async (messages) =>
    (await ask('', { messages })).body.content[0].text.replace(/^.*You wrote: /, '');
  assert.equal(await reply([
    { role: 'user', content: 'first' }, { role: 'assistant', content: 'reply' },
    { role: 'user', content: [
      { type: 'text', text: '<system-reminder>\nhidden\n</system-reminder>' },
      { type: 'text', text: 'real' }, { type: 'text', text: '' }] },
  ]), 'real');
  assert.equal(await reply([{ role: 'user', content:
    '<system-reminder>a</system-reminder>\n<system-reminder>b</system-reminder>\nafter' }]),
  'after');
  assert.equal(await reply([
    { role: 'user', content: 'asked' },
    { role: 'assistant', content: [{ type: 'tool_use', id: 't', name: 'n', input: {} }] },
    { role: 'user', content: [{ type: 'tool_result', tool_use_id: 't', content: 'x' }] },
  ]), 'asked');
  const long = await reply([{ role: 'user', content: 'é'.repeat(1500) }]);
  assert.equal(long, `${'é'.repeat(1000)} [...]`);
  assert.match((await ask('', { messages: [{ role: 'user', content: [] }] })).body.content[0].text,
    /no text/);
});

test('max_tokens ends the unscripted text', LIMIT, async () => {
  const { body } = await ask('a long question', { max_tokens: 3 });
  assert.equal(body.stop_reason, 'max_tokens');
  assert.equal(body.usage.output_tokens, 3);
  assert.equal(Buffer.byteLength(body.content[0].text), 12);
  const events = await stream('a long question', { max_tokens: 3 });
  assert.equal(events.at(-2).delta.stop_reason, 'max_tokens');
  assert.equal(events.at(-2).usage.output_tokens, 3);
  assert.equal(deltas(events, 'text').join(''), body.content[0].text);
});

test('a stop sequence ends the unscripted text', LIMIT, async () => {
  const { body } = await ask('tick STOP tock', { stop_sequences: ['tock', 'STOP'] });
  assert.equal(body.stop_reason, 'stop_sequence');
  assert.equal(body.stop_sequence, 'STOP');
  assert.ok(body.content[0].text.endsWith('You wrote: tick '));
});

test('word_delay_ms spreads the unscripted words', LIMIT, async () => {
  const slow = await Upstream.start({ bin: BIN, args: ['--word-delay-ms', '20'] });
  try {
    const from = performance.now();
    const response = await post(question('a b c d e', { stream: true }), { base: slow.url });
    const chunks = [];
    for await (const chunk of response.body) chunks.push(chunk);
    assert.ok(performance.now() - from >= 12 * 20, 'about 14 words, 20 ms each');
    assert.ok(chunks.length >= 8, `${chunks.length} chunks`);
  } finally {
    await slow.stop();
  }
});

// --- the rest of the API ---------------------------------------------------------------------

test('bad requests get the API\'s errors', LIMIT, async () => {
  const q = question('x');
  const cases = [
    [{ ...q, model: undefined }, /^model: Field required/],
    [{ ...q, max_tokens: undefined }, /^max_tokens: Field required/],
    [{ ...q, max_tokens: 0 }, /^max_tokens: /],
    [{ ...q, max_tokens: '9' }, /^max_tokens: /],
    [{ ...q, messages: undefined }, /^messages: Field required/],
    [{ ...q, messages: [] }, /^messages: at least one/],
    [{ ...q, messages: ['x'] }, /^messages\.0: /],
    [{ ...q, messages: [{ role: 'user' }] }, /^messages\.0: content/],
    [{ ...q, stream: 'yes' }, /^stream: /],
    [[], /dictionary/],
    ['{"model":', /not valid JSON/],
    ['', /not valid JSON/],
  ];
  for (const [body, message] of cases) {
    const response = await post(body);
    const answer = await response.json();
    assert.equal(response.status, 400, JSON.stringify(body));
    assert.equal(answer.type, 'error');
    assert.equal(answer.error.type, 'invalid_request_error');
    assert.match(answer.error.message, message);
    assert.equal(answer.request_id, response.headers.get('request-id'));
  }
  assert.equal((await up.stats()).calls, 0);
});

test('a credential is asked for, either kind', LIMIT, async () => {
  const q = question('x');
  for (const path of ['/v1/messages', '/v1/messages/count_tokens', '/v1/models']) {
    const response = await post(q, { path, headers: {} });
    assert.equal(response.status, 401);
    assert.equal((await response.json()).error.type, 'authentication_error');
  }
  assert.equal((await post(q, { headers: { authorization: 'Bearer t' } })).status, 200);
  assert.equal((await post(q, { headers: { 'x-api-key': '' } })).status, 401);
});

test('models, count_tokens, HEAD / and unknown paths', LIMIT, async () => {
  const models = await (await fetch(`${up.url}/v1/models`, { headers: KEY })).json();
  assert.ok(models.data.length > 0 && models.data.every((m) => m.type === 'model'));
  assert.equal(models.has_more, false);
  const count = await post({ model: 'm', messages: [{ role: 'user', content: 'x'.repeat(396) }] },
    { path: '/v1/messages/count_tokens?beta=true' });
  assert.deepEqual(await count.json(), { input_tokens: 100 });
  const head = await fetch(`${up.url}/`, { method: 'HEAD' });
  assert.equal(head.status, 200);
  for (const path of ['/v1/nothing', '/nothing', '/', '/v1/messages/']) {
    const response = await fetch(up.url + path, { headers: KEY });
    assert.equal(response.status, 404, path);
    assert.equal((await response.json()).error.type, 'not_found_error');
  }
  assert.equal((await fetch(`${up.url}/v1/messages`, { headers: KEY })).status, 404);
});

// --- what a step can do ----------------------------------------------------------------------

test('steps are taken in order, then the demo answers again', LIMIT, async () => {
  await up.script([{ blocks: [{ type: 'text', text: 'one' }] }]);
  await up.script([{ blocks: [{ type: 'text', text: 'two' }], repeat: 2 }]);
  const texts = [];
  for (let i = 0; i < 4; i++) texts.push((await ask('q')).body.content[0].text);
  assert.deepEqual(texts.slice(0, 3), ['one', 'two', 'two']);
  assert.match(texts[3], /demo upstream/);
});

test('match picks the first step that fits; repeat -1 stays', LIMIT, async () => {
  await up.script([
    { match: { text: 'apple' }, blocks: [{ type: 'text', text: 'A' }] },
    { match: { model: 'big' }, blocks: [{ type: 'text', text: 'B' }], repeat: -1 },
    { blocks: [{ type: 'text', text: 'C' }] },
  ]);
  const say = async (text, model = 'claude-test') =>
    (await ask(text, { model })).body.content[0].text;
  assert.equal(await say('pear'), 'C');
  assert.equal(await say('an apple', 'big'), 'A');
  assert.equal(await say('an apple', 'big'), 'B');
  assert.equal(await say('x', 'big'), 'B');
  assert.match(await say('an apple'), /demo upstream/);
  assert.equal((await up.stats()).steps_left, 1);
});

test('blocks: text in chunks, thinking, tool use', LIMIT, async () => {
  const input = { path: '/tmp/ä', nested: { list: [1, 2.5, null, true] } };
  const step = { blocks: [
    { type: 'thinking', thinking: 'let me think', signature: 'c2ln' },
    { type: 'text', text: 'ab€def', chunk: 3 },
    { type: 'tool_use', id: 'toolu_1', name: 'read', input, chunk: 7 },
    { type: 'tool_use', name: 'none' },
  ] };
  await up.script([step, step]);
  const events = await stream('x');
  const of = (i) => events.filter((e) => e.index === i);
  assert.deepEqual(types(of(0)), ['content_block_start', 'content_block_delta',
    'content_block_delta', 'content_block_delta', 'content_block_delta', 'content_block_stop']);
  assert.deepEqual(of(0)[0].content_block, { type: 'thinking', thinking: '', signature: '' });
  assert.deepEqual(deltas(of(0), 'thinking'), ['let', ' me', ' think']);
  assert.deepEqual(of(0).at(-2).delta, { type: 'signature_delta', signature: 'c2ln' });
  assert.deepEqual(deltas(of(1), 'text'), ['ab€', 'def'], 'no character is split');
  assert.deepEqual(of(2)[0].content_block,
    { type: 'tool_use', id: 'toolu_1', name: 'read', input: {} });
  const json = deltas(of(2), 'partial_json');
  assert.equal(json[0], '');
  assert.ok(json.length > 5);
  assert.deepEqual(JSON.parse(json.join('')), input);
  assert.match(of(3)[0].content_block.id, /^toolu_/);
  assert.deepEqual(JSON.parse(deltas(of(3), 'partial_json').join('')), {});
  assert.equal(events.at(-2).delta.stop_reason, 'tool_use');
  assert.equal(types(events).filter((t) => t === 'ping').length, 1);

  const { body } = await ask('x');
  assert.deepEqual(body.content.slice(0, 3), [
    { type: 'thinking', thinking: 'let me think', signature: 'c2ln' },
    { type: 'text', text: 'ab€def' },
    { type: 'tool_use', id: 'toolu_1', name: 'read', input },
  ]);
});

test('stop_reason, stop_sequence and usage', LIMIT, async () => {
  const step = {
    blocks: [{ type: 'text', text: 'cut' }], stop_reason: 'max_tokens',
    usage: { input_tokens: 11, output_tokens: 22, cache_creation_input_tokens: 33,
      cache_read_input_tokens: 44 },
  };
  await up.script([step, step, { stop_sequence: 'END' }, { stop_reason: 'refusal' }]);
  const { body } = await ask('x');
  assert.equal(body.stop_reason, 'max_tokens');
  assert.deepEqual(body.usage, { ...step.usage, service_tier: 'standard' });
  const events = await stream('x');
  assert.deepEqual(events[0].message.usage,
    { ...step.usage, output_tokens: 1, service_tier: 'standard' });
  assert.deepEqual(events.at(-2).usage, step.usage);
  const stopped = (await ask('x')).body;
  assert.equal(stopped.stop_reason, 'stop_sequence');
  assert.equal(stopped.stop_sequence, 'END');
  assert.match(stopped.content[0].text, /demo upstream/);
  assert.equal((await ask('x')).body.stop_reason, 'refusal');
});

test('status, error, headers and body', LIMIT, async () => {
  await up.script([
    { status: 429, headers: { 'retry-after': '2', 'anthropic-ratelimit-requests-remaining': '0',
      'Request-Id': 'req_mine' }, error: { type: 'rate_limit_error', message: 'slow down' } },
    { status: 529 },
    { error: { type: 'permission_error', message: 'no' } },
    { status: 502, body: '<h1>Bad Gateway</h1>' },
    { status: 200, body: '{"odd":true}', headers: { 'content-type': 'application/json' } },
    { headers: { 'anthropic-ratelimit-tokens-limit': '5' } },
  ]);
  const first = await ask('x');
  assert.equal(first.status, 429);
  assert.equal(first.headers.get('retry-after'), '2');
  assert.equal(first.headers.get('anthropic-ratelimit-requests-remaining'), '0');
  assert.equal(first.headers.get('request-id'), 'req_mine');
  assert.deepEqual(first.body.error, { type: 'rate_limit_error', message: 'slow down' });
  const second = await post(question('x', { stream: true }));
  assert.equal(second.status, 529);
  assert.equal((await second.json()).error.type, 'overloaded_error');
  const third = await ask('x');
  assert.equal(third.status, 403);
  assert.equal(third.body.error.message, 'no');
  const fourth = await post(question('x'));
  assert.equal(fourth.status, 502);
  assert.match(fourth.headers.get('content-type'), /^text\/html/);
  assert.equal(await fourth.text(), '<h1>Bad Gateway</h1>');
  const fifth = await post(question('x'));
  assert.equal(fifth.headers.get('content-type'), 'application/json');
  assert.equal(await fifth.text(), '{"odd":true}');
  const sixth = await ask('x');
  assert.equal(sixth.status, 200);
  assert.equal(sixth.headers.get('anthropic-ratelimit-tokens-limit'), '5');
  assert.deepEqual((await up.requests()).map((r) => r.status), [429, 529, 403, 502, 200, 200]);
});

test('empty, not_json and raw_events', LIMIT, async () => {
  await up.script([
    { empty: true }, { empty: true }, { not_json: true },
    { raw_events: [{ event: 'message_start', data: { type: 'message_start', odd: [1] } },
      { data: 'not json at all' }, { event: 'x', data: null }] },
    { raw_events: [] },
  ]);
  assert.deepEqual((await ask('x')).body.content, []);
  assert.deepEqual(types(await stream('x')), ['message_start', 'message_delta', 'message_stop']);
  const html = await post(question('x', { stream: true }));
  assert.equal(html.status, 200);
  assert.match(html.headers.get('content-type'), /^text\/html/);
  assert.match(await html.text(), /^<html>/);
  const raw = await (await post(question('x', { stream: true }))).text();
  assert.equal(raw, 'event: message_start\ndata: {"type":"message_start","odd":[1]}\n\n' +
    'data: not json at all\n\nevent: x\ndata: null\n\n');
  assert.equal(await (await post(question('x', { stream: true }))).text(), '');
});

test('sse_error ends the stream where it is told to', LIMIT, async () => {
  const sse_error = { type: 'overloaded_error', message: 'Overloaded', after: 4 };
  await up.script([{ sse_error }, { sse_error: { type: 'api_error' } }, { sse_error }]);
  const events = await stream('x');
  assert.deepEqual(types(events), ['message_start', 'content_block_start', 'ping',
    'content_block_delta', 'error']);
  assert.deepEqual(events.at(-1).error, { type: 'overloaded_error', message: 'Overloaded' });
  assert.deepEqual(types(await stream('x')), ['error']);
  assert.equal((await ask('x')).status, 529, 'not streaming: as a status');
});

test('delay_ms and word_delay_ms', LIMIT, async () => {
  await up.script([{ delay_ms: 150, blocks: [{ type: 'text', text: 'a b c d' }],
    word_delay_ms: 60 }]);
  const from = performance.now();
  const response = await post(question('x', { stream: true }));
  const headersAt = performance.now() - from;
  const events = parseEvents(await response.text());
  const all = performance.now() - from;
  assert.ok(headersAt >= 145, `headers after ${headersAt} ms`);
  assert.ok(all - headersAt >= 180, `body in ${all - headersAt} ms`);
  assert.equal(deltas(events, 'text').join(''), 'a b c d');
});

test('stall_after keeps the connection open and sends nothing more', LIMIT, async () => {
  await up.script([{ stall_after: 4 }, { stall_after: 0 }, { stall_after: -1 },
    { stall_after: 0 }]);
  const clients = [];
  for (const streaming of [true, true, true, false]) {
    clients.push(new RawClient(question('x', { stream: streaming })));
    await up.waitFor((list) => list.length === clients.length);
  }
  await clients[0].until((c) => c.events === 4);
  await clients[1].until((c) => c.received.includes('\r\n\r\n'));
  await clients[3].until((c) => c.received.includes('"type":"message"'));
  await sleep(150);
  assert.equal(clients[0].events, 4);
  assert.equal(clients[1].events, 0);
  assert.equal(clients[2].received, '');
  const [head, half] = clients[3].received.split('\r\n\r\n');
  assert.equal(half.length, Math.floor(Number(/content-length: (\d+)/i.exec(head)[1]) / 2));
  assert.ok(clients.every((c) => c.ended === null));
  assert.equal((await up.stats()).open, 4);
  for (const c of clients) c.socket.destroy();
  const list = await up.waitFor((l) => l.every((r) => r.done));
  assert.ok(list.every((r) => r.aborted && !r.cut));
  assert.deepEqual(list.map((r) => r.status), [200, 200, 0, 200]);
});

test('cut_after breaks the connection, by reset or by closing', LIMIT, async () => {
  const cases = [
    [{ cut_after: 3 }, 'ECONNRESET', 3], [{ cut_after: 3, cut_with: 'close' }, 'end', 3],
    [{ cut_after: 0 }, 'ECONNRESET', 0], [{ cut_after: 0, cut_with: 'close' }, 'end', 0],
    [{ cut_after: -1 }, 'ECONNRESET', 0], [{ cut_after: -1, cut_with: 'close' }, 'end', 0],
    [{ cut_after: 2, delay_ms: 30 }, 'ECONNRESET', 2],
    [{ cut_after: 5, word_delay_ms: 5 }, 'ECONNRESET', 5],
  ];
  for (const [step, ended, events] of cases) {
    await up.script(step);
    const client = new RawClient(question('x', { stream: true }));
    await client.closed;
    assert.equal(client.ended, ended, JSON.stringify(step));
    assert.equal(client.events, events, JSON.stringify(step));
    assert.equal(client.received === '', step.cut_after === -1);
    assert.ok(!client.received.endsWith('0\r\n\r\n'), 'the stream is not complete');
  }
  await up.script({ cut_after: 0 });
  const whole = new RawClient(question('x'));
  await whole.closed;
  assert.equal(whole.ended, 'ECONNRESET');
  assert.match(whole.received, /content-length: \d+/i);
  assert.throws(() => JSON.parse(whole.received.split('\r\n\r\n')[1]));
  const list = await up.requests();
  assert.equal(list.length, cases.length + 1);
  assert.ok(list.every((r) => r.done && r.cut && !r.aborted));
  assert.equal((await up.stats()).aborted, 0);
});

test('a script with a mistake is refused as a whole', LIMIT, async () => {
  const ok = { blocks: [{ type: 'text', text: 'ok' }] };
  const cases = [
    [[ok, { blocsk: [] }], /\[1\]: blocsk: unknown field/],
    [[{ blocks: [{ type: 'txt' }] }], /\[0\]: blocks\[0\]: type: must be one of/],
    [[{ blocks: [{ type: 'text' }] }], /text: is required/],
    [[{ blocks: [7] }], /blocks\[0\]/],
    [[{ usage: { input: 3 } }], /usage: input: unknown field/],
    [[{ match: { txt: 'x' } }], /match: txt/],
    [[{ headers: { a: 1 } }], /headers/],
    [[{ headers: { a: 'x\r\nb: y' } }], /headers/],
    [[{ raw_events: [{ event: 'x' }] }], /data: is required/],
    [[{ cut_with: 'axe' }], /cut_with/],
    [[{ repeat: 0 }], /repeat/],
    [[{ status: 99 }], /status: must be between/],
    [['x'], /\[0\]: must be a JSON object/],
  ];
  for (const [steps, message] of cases) await assert.rejects(up.script(steps), message);
  const response = await fetch(`${up.url}/_standin/script`, { method: 'POST', body: '{}' });
  assert.equal(response.status, 400);
  assert.equal((await up.stats()).steps_left, 0);
});

// --- what is recorded ------------------------------------------------------------------------

test('the log holds what was sent, verbatim', LIMIT, async () => {
  const body = '{ "model":"m", "max_tokens": 1e1, "messages" :[]}';
  const from = Date.now();
  await post(body, { path: '/v1/messages?beta=true&x=%20', headers: { ...KEY, 'X-Mine': 'Ä b' } });
  await post('not json "\u0001é');
  await fetch(`${up.url}/v1/models`, { headers: KEY });
  await fetch(`${up.url}/`, { method: 'HEAD' });
  const [first, second, third, ...rest] = await up.requests();
  assert.deepEqual(rest, [], 'only /v1/');
  assert.equal(first.seq, 1);
  assert.equal(first.method, 'POST');
  assert.equal(first.path, '/v1/messages');
  assert.equal(first.query, 'beta=true&x=%20');
  assert.equal(first.headers['x-api-key'], 'sk-test');
  assert.ok(Object.keys(first.headers).every((k) => k === k.toLowerCase()));
  assert.deepEqual(first.body, { model: 'm', max_tokens: 10, messages: [] });
  assert.equal(first.status, 400);
  assert.equal(first.done, true);
  assert.equal(first.aborted, false);
  assert.ok(first.bytes_sent > 50);
  assert.ok(first.at_ms >= from - 1 && first.ended_at_ms >= first.at_ms);
  assert.equal(second.body, 'not json "\u0001é');
  assert.equal(third.method, 'GET');
  assert.equal(third.body, '');
  const text = await (await fetch(`${up.url}/_standin/requests`)).text();
  assert.ok(text.includes(`"body":${body}`), 'numbers and spacing as sent');
});

test('statistics add up to what clients were told', LIMIT, async () => {
  await up.script([
    { blocks: [{ type: 'text', text: 'x' }], usage: { input_tokens: 10, output_tokens: 20,
      cache_creation_input_tokens: 3, cache_read_input_tokens: 4 } },
    { blocks: [{ type: 'text', text: 'x' }], usage: { input_tokens: 100, output_tokens: 200 } },
    { blocks: [{ type: 'text', text: 'a b' }], usage: { input_tokens: 1000, output_tokens: 2000 },
      stall_after: 4 },
    { status: 500 },
    { delay_ms: 20_000, usage: { input_tokens: 7 } },
  ]);
  await ask('x');
  await stream('x');
  const stalled = new RawClient(question('x', { stream: true }));
  await stalled.until((c) => c.events === 4);
  await ask('x');
  const delayed = new RawClient(question('x', { stream: true }));
  await up.waitFor((list) => list.length === 5);
  assert.equal((await up.stats()).open, 2);
  stalled.socket.destroy();
  delayed.socket.destroy();
  await up.waitFor((list) => list.every((r) => r.done));
  assert.deepEqual(await up.stats(), {
    calls: 5, open: 0, requests: 5, aborted: 2,
    input_tokens: 1110, output_tokens: 221, cache_creation_input_tokens: 3,
    cache_read_input_tokens: 4, steps_left: 0, log_dropped: 0,
  });
  const list = await up.requests();
  assert.deepEqual(list.map((r) => r.usage.output_tokens), [20, 200, 1, 0, 0]);
  assert.deepEqual(list.map((r) => r.aborted), [false, false, true, false, true]);
});

test('reset forgets steps, log and totals, and what is still open', LIMIT, async () => {
  await up.script([{ stall_after: 2 }, { status: 500 }]);
  const client = new RawClient(question('x', { stream: true }));
  await client.until((c) => c.events === 2);
  await up.reset();
  client.socket.destroy();
  await sleep(50);
  assert.deepEqual(await up.requests(), []);
  const stats = await up.stats();
  assert.ok(Object.values(stats).every((n) => n === 0), JSON.stringify(stats));
  assert.equal((await ask('x')).status, 200);
  assert.equal((await up.requests())[0].seq, 1);
});

// --- clients that leave ----------------------------------------------------------------------

test('a client that leaves is noticed at once, at every point', LIMIT, async () => {
  const fds = openFds();
  const leave = [(s) => s.destroy(), (s) => s.resetAndDestroy(), (s) => s.end()];
  const total = 12;
  await up.script({ repeat: -1, word_delay_ms: 15, delay_ms: 40,
    blocks: [{ type: 'text', text: 'one two three four five six seven' }] });
  for (const go of leave) {
    await Promise.all(Array.from({ length: total }, async (_, n) => {
      const client = new RawClient(question('x', { stream: true }));
      if (n === 0) await once(client.socket, 'connect').then(() => sleep(15));
      else await client.until((c) => c.events >= n - 1 && c.received !== '');
      go(client.socket);
      client.left = Date.now();
    }));
  }
  const list = await up.waitFor((l) => l.length === 3 * total && l.every((r) => r.done));
  const aborted = list.filter((r) => r.aborted);
  assert.ok(aborted.length >= 3 * (total - 2), `${aborted.length} of ${list.length}`);
  assert.equal(aborted.filter((r) => r.status === 0).length, 3, 'before the headers');
  assert.equal((await up.stats()).open, 0);
  await sleep(50);
  assert.ok(openFds() <= fds + 2, 'sockets are closed');
});

test('an aborted request ends within 100 ms', LIMIT, async () => {
  await up.script([{ delay_ms: 20_000 }, { stall_after: 3 }, { delay_ms: 20_000 }]);
  for (const how of ['destroy', 'destroy', 'resetAndDestroy']) {
    const client = new RawClient(question('x', { stream: true }));
    await up.waitFor((l) => l.some((r) => !r.done));
    await sleep(30);
    const at = Date.now();
    client.socket[how]();
    const list = await up.waitFor((l) => l.every((r) => r.done));
    assert.ok(list.at(-1).ended_at_ms - at < 100, `${list.at(-1).ended_at_ms - at} ms`);
    assert.ok(list.at(-1).aborted);
  }
});

test('half a request, and a connection without any, leave nothing behind', LIMIT, async () => {
  const fds = openFds();
  for (const size of [0, 10, 90, -20]) {
    const client = new RawClient(question('x'), { send: false });
    await once(client.socket, 'connect');
    if (size) client.socket.write(client.request.slice(0, size));
    await sleep(20);
    client.socket.destroy();
  }
  await sleep(100);
  assert.deepEqual(await up.requests(), []);
  assert.ok(openFds() <= fds + 2);
});

test('requests on one connection, also sent ahead', LIMIT, async () => {
  await up.script([{ delay_ms: 60 }, { delay_ms: 60 }, { delay_ms: 20_000 }]);
  const client = new RawClient(question('x', { stream: true }), { send: false });
  client.socket.write(client.request.repeat(3));
  await client.until((c) => (c.received.match(/^event: message_stop$/gm) ?? []).length === 2);
  await up.waitFor((l) => l.length === 3);
  client.socket.destroy();
  const list = await up.waitFor((l) => l.every((r) => r.done));
  assert.deepEqual(list.map((r) => r.aborted), [false, false, true]);
});

test('Connection: close and HTTP/1.0 are answered completely', LIMIT, async () => {
  for (const streaming of [true, false]) {
    const client = new RawClient(question('x', { stream: streaming }),
      { headers: 'Connection: close\r\n' });
    await client.closed;
    assert.equal(client.ended, 'end');
    assert.match(client.received, streaming ? /event: message_stop/ : /"stop_reason":"end_turn"/);
  }
  const old = new RawClient(question('x', { stream: true }), { send: false });
  old.socket.write(old.request.replace('HTTP/1.1', 'HTTP/1.0'));
  await old.closed;
  assert.match(old.received, /event: message_stop\ndata: \{"type":"message_stop"\}\n\n$/);
  assert.ok((await up.requests()).every((r) => r.done && !r.aborted));
});

test('a client that does not read does not make it buffer without end', LIMIT, async () => {
  const text = 'word '.repeat(2_000_000); // 10 MB, and ten times that as events
  await up.script([{ blocks: [{ type: 'text', text }] },
    { blocks: [{ type: 'text', text, chunk: 65536 }] }]);
  const client = new RawClient(question('x', { stream: true }), { send: false });
  client.socket.pause();
  client.socket.write(client.request);
  await up.waitFor((l) => l[0]?.status === 200);
  await sleep(300);
  assert.equal((await up.requests())[0].done, false);
  client.socket.destroy();
  const [seen] = await up.waitFor((l) => l[0].done);
  assert.ok(seen.aborted);
  assert.ok(seen.bytes_sent < 20e6, `${seen.bytes_sent} bytes`);
  const events = await stream('x'); // and one that reads gets all of it
  assert.equal(deltas(events, 'text').join(''), text);
});

test('many at once', LIMIT, async () => {
  await up.script({ repeat: -1, delay_ms: 30, word_delay_ms: 1,
    blocks: [{ type: 'text', text: 'a b c d e f g h' }], usage: { input_tokens: 3,
      output_tokens: 8 } });
  const all = await Promise.all(Array.from({ length: 100 }, () => stream('x')));
  assert.ok(all.every((events) => deltas(events, 'text').join('') === 'a b c d e f g h'));
  const stats = await up.stats();
  assert.equal(stats.calls, 100);
  assert.equal(stats.input_tokens, 300);
  assert.equal(stats.output_tokens, 800);
  assert.equal(stats.aborted, 0);
});

// --- the process -----------------------------------------------------------------------------

test('ends with its standard input, also while it serves', LIMIT, async () => {
  const other = await Upstream.start({ bin: BIN });
  await other.script([{ stall_after: 3 }, { delay_ms: 20_000 }, { blocks: [], repeat: -1 }]);
  const clients = [
    new RawClient(question('x', { stream: true }), { base: other.url }),
    new RawClient(question('x', { stream: true }), { base: other.url }),
  ];
  await other.waitFor((l) => l.length === 2);
  await other.stop(); // rejects when the process did not end well
  await Promise.all(clients.map((c) => c.closed));
  await assert.rejects(fetch(other.url), 'nobody listens any more');
});

test('--demo serves no test interface', LIMIT, async () => {
  const demo = await Upstream.start({ bin: BIN, args: ['--demo'] });
  try {
    for (const [method, path] of [['GET', 'requests'], ['GET', 'stats'], ['DELETE', 'script']]) {
      assert.equal((await fetch(`${demo.url}/_standin/${path}`, { method })).status, 404);
    }
    const response = await post(question('hello'), { base: demo.url });
    assert.match((await response.json()).content[0].text, /demo upstream.*hello/);
  } finally {
    await demo.stop();
  }
});

test('bad arguments are refused', LIMIT, async () => {
  const run = async (args, stdin = 'pipe') => {
    const child = spawn(BIN, args, { stdio: [stdin, 'ignore', 'pipe'], env: {} });
    let stderr = '';
    child.stderr.on('data', (data) => { stderr += data; });
    const [code] = await once(child, 'close');
    return { code, stderr };
  };
  for (const [args, message] of [
    [['--listen', '0.0.0.0:0'], /not a loopback address/], [['--listen', 'x'], /not HOST:PORT/],
    [['--listen', '127.0.0.1:99999'], /not HOST:PORT/], [['--nope'], /usage/], [['x'], /usage/],
  ]) {
    const { code, stderr } = await run(args);
    assert.notEqual(code, 0);
    assert.match(stderr, message);
  }
  const taken = await run(['--listen', new URL(up.url).host]);
  assert.equal(taken.code, 1);
  assert.match(taken.stderr, /cannot listen/);
  assert.match((await run([], 'ignore')).stderr, /must be a pipe/);
});
