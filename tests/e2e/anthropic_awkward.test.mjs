// Conversations that the claude program would alter, or choke on: with the real program, what
// reaches upstream is what the client wrote, in one call, and the answer comes back as ever.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { after, before, beforeEach, test } from 'node:test';
import { crc32, deflateSync } from 'node:zlib';

import { asAsked, asWritten, client, post, rawEvents } from './lib/anthropic.mjs';
import { household } from './lib/books.mjs';
import { Gateway } from './lib/gateway.mjs';
import { Upstream } from './lib/upstream.mjs';

let up, gw;

before(async () => {
  up = await Upstream.start();
  gw = await Gateway.start({ upstream: up, claude: 'real',
    env: { CLAUDEGATE_KEYS_TOKENS_PER_DAY: '-1', CLAUDEGATE_KEYS_REQUESTS_PER_MINUTE: '-1' } });
});
after(async () => {
  await gw.stop();
  await up.stop();
});
beforeEach(() => up.reset());

const MODEL = 'claude-sonnet-4-5';
const PIXEL = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==';
const text = (t, more = {}) => ({ type: 'text', text: t, ...more });
const user = (content) => ({ role: 'user', content });
const assistant = (content) => ({ role: 'assistant', content });
const system = (content) => ({ role: 'system', content });
const thinking = { type: 'thinking', thinking: 'hm', signature: 'c2ln' };
const call = (id, input = { n: 0.30000000000000004, big: 1e21, deep: [null, 'x'] }) =>
  ({ type: 'tool_use', id, name: 'look', input });
const result = (id, content, more = {}) => ({ type: 'tool_result', tool_use_id: id, content, ...more });
const png64 = (data) => ({ type: 'image', source: { type: 'base64', media_type: 'image/png', data } });
const tools = [{ name: 'look', description: 'looks', input_schema: { type: 'object', properties: {} } }];
const ask = (messages, more = {}) => ({ model: MODEL, max_tokens: 64, messages, ...more });

/** A PNG of these pixels, whose bytes nobody can make smaller when they are random. */
function png(width, height, row) {
  const chunk = (type, data) => {
    const body = Buffer.concat([Buffer.from(type), data]);
    const out = Buffer.alloc(body.length + 8);
    out.writeUInt32BE(data.length);
    body.copy(out, 4);
    out.writeUInt32BE(crc32(body) >>> 0, body.length + 4);
    return out;
  };
  const head = Buffer.alloc(13);
  head.writeUInt32BE(width);
  head.writeUInt32BE(height, 4);
  head.set([8, 2], 8);
  const rows = Buffer.concat(Array.from({ length: height }, () => Buffer.concat([Buffer.from([0]), row(width * 3)])));
  return Buffer.concat([Buffer.from('\x89PNG\r\n\x1a\n', 'latin1'), chunk('IHDR', head),
    chunk('IDAT', deflateSync(rows, { level: 1 })), chunk('IEND', Buffer.alloc(0))]).toString('base64');
}

const cases = {
  'a prefill': ask([user('JSON please'), assistant('{"answer":')]),
  'a prefill of blocks, after a history': ask([user('one'), assistant('two'), user('/clear'), assistant([text('thr')])], { system: 'be brief' }),
  'an empty prefill': ask([user('x'), assistant([])]),
  'a prefill after a tool\'s result': ask([user('x'), assistant([call('toolu_1')]), user([result('toolu_1', 'seen')]), assistant('It')], { tools }),
  'a paused turn, sent back': ask([user('search'), assistant([text('I search'),
    { type: 'server_tool_use', id: 'srvtoolu_1', name: 'web_search', input: { query: 'q' } }])],
  { tools: [{ type: 'web_search_20250305', name: 'web_search' }] }),
  'an assistant that begins': ask([assistant('Hello, I am here.'), user('good')]),
  'a system message in between': ask([user('one'), assistant('two'), user('three'), system('answer in French')]),
  'system messages between tools and a prefill': ask([system([text('first')]), user('x'), assistant([text('I look'), call('toolu_1')]),
    user([result('toolu_1', 'seen')]), system([text('now be brief', { cache_control: { type: 'ephemeral' } })]), assistant('So')], { tools }),
  'neighbours of one role, one of them a system message': ask([user('a'), user('b'), system('s'), user('c')]),
  'a message of thinking alone': ask([user('x'), assistant([thinking]), user('go on')]),
  'redacted thinking alone': ask([user('x'), assistant([{ type: 'redacted_thinking', data: 'cmVk' }, thinking]), user('go on')]),
  'a server\'s call without a result': ask([user('x'), assistant([{ type: 'server_tool_use', id: 'srvtoolu_1', name: 'web_search', input: {} }, text('nothing')]), user('go on')]),
  'a result that does not come first': ask([user('x'), assistant([call('toolu_1'), call('toolu_2')]),
    user([text('this is it:'), result('toolu_1', 'seen'), text('and'), result('toolu_2', [text('more')])])], { tools }),
  'a failed result with an image': ask([user('x'), assistant([call('toolu_1')]),
    user([result('toolu_1', [text('broken'), { type: 'image', source: { type: 'url', url: 'https://example.com/a.png' } }], { is_error: true })])], { tools }),
  '100 images': ask([user([...Array.from({ length: 100 }, () => png64(PIXEL)), text('how many?')])]),
  '120 images by their addresses, over a conversation': ask([
    user([...Array.from({ length: 60 }, (_, i) => ({ type: 'image', source: { type: 'url', url: `https://example.com/${i}` } })), text('look')]),
    assistant([call('toolu_1')]),
    user([result('toolu_1', Array.from({ length: 60 }, (_, i) => ({ type: 'image', source: { type: 'url', url: `https://example.com/r${i}` } })))])], { tools }),
  'a large picture': ask([user([png64(png(3000, 3000, (n) => Buffer.alloc(n, 7))), text('what is it?')])]),
  'a picture of 6 MB': ask([user([png64(png(1500, 1400, randomBytes)), text('what is it?')])]),
  'an image under another type than its own': ask([user([{ type: 'image', source: { type: 'base64', media_type: 'image/jpeg', data: PIXEL } }, text('?')])]),
  'cache marks': ask([user([text('q', { cache_control: { type: 'ephemeral', ttl: '1h' } })]), assistant('a'),
    user([png64(PIXEL), text('now', { cache_control: { type: 'ephemeral' } })])], { system: [text('s', { cache_control: { type: 'ephemeral' } })], tools }),
  'two megabytes of text': ask([user('long '.repeat(400_000)), assistant('yes'), user('and?')]),
  'blocks that are not known here': ask([user('x'), assistant([{ type: 'compaction', content: 'it was about x' }, text('y')]),
    user([{ type: 'hologram', data: { a: [1, 2.5] } }, text('z')])]),
};

for (const [name, body] of Object.entries(cases)) {
  test(`upstream sees: ${name}`, async () => {
    const reply = await post(gw, '/v1/messages', body, { headers: { 'anthropic-version': '2026-10-21' } });
    assert.equal(reply.status, 200, reply.text.slice(0, 500));
    assert.equal(reply.body.stop_reason, 'end_turn');
    const requests = await up.requests();
    assert.equal(requests.length, 1, 'one question, one call');
    assert.equal(requests[0].headers['anthropic-version'], '2026-10-21');
    assert.deepEqual(asAsked(requests[0].body, { told: false }), asWritten(body));
  });
}

const prefill = (more = {}) => ask([user('JSON please'), assistant('{"answer":')], more);

test('the answer to a prefill goes on where that ended, whole and streamed', async () => {
  const step = { blocks: [text('42}'), { type: 'tool_use', id: 'toolu_9', name: 'look', input: { a: 1 } }] };
  await up.script([step, step, { blocks: [text('4')], stop_reason: 'max_tokens' }, { blocks: [text('4')], stop_sequence: '2' }]);
  const api = await client(gw);
  const whole = await api.messages.create(prefill({ tools }));
  const streamed = await api.messages.stream(prefill({ tools })).finalMessage();
  for (const message of [whole, streamed]) {
    assert.deepEqual(message.content, [text('42}'), { type: 'tool_use', id: 'toolu_9', name: 'look', input: { a: 1 } }]);
    assert.equal(message.stop_reason, 'tool_use');
  }
  const response = await gw.open('POST', '/v1/messages', { body: prefill({ stream: true }),
    headers: { 'x-api-key': await gw.key(), 'anthropic-version': '2023-06-01' } });
  const events = await rawEvents(response);
  assert.deepEqual(events.filter((e) => e.event !== 'ping').map((e) => e.event), ['message_start',
    'content_block_start', 'content_block_delta', 'content_block_stop', 'message_delta', 'message_stop']);
  assert.deepEqual(events.at(-2).data.delta, { stop_reason: 'max_tokens', stop_sequence: null });
  assert.equal((await api.messages.create(prefill({ stop_sequences: ['2'] }))).stop_sequence, '2');
  assert.equal((await up.stats()).calls, 4, 'no hidden call');
});

test('what the API thinks of such a conversation is its own to say', async () => {
  const message = 'This model does not support assistant message prefill. The conversation must end with a user message.';
  await up.script({ status: 400, error: { type: 'invalid_request_error', message } });
  const { status, body } = await post(gw, '/v1/messages', prefill({ model: 'claude-opus-4-6' }));
  assert.equal(status, 400);
  assert.deepEqual(body.error, { type: 'invalid_request_error', message });
  assert.equal((await up.stats()).calls, 1);
});

for (const history of ['auto', 'resume']) {
  test(`one process after the other kind of conversation, history by ${history}`, async (t) => {
    const small = await Gateway.start({ upstream: up, claude: 'real', test: t,
      config: { pool: { max_workers: 1, min_spare: 1 }, claude: { history } } });
    const told = ask([user('one'), assistant('two'), user('three')]);
    const bodies = [prefill(), told, cases['a message of thinking alone'], told, prefill({ system: 's' })];
    for (const body of bodies) assert.equal((await post(small, '/v1/messages', body)).status, 200);
    const requests = await up.requests();
    assert.deepEqual(requests.map((r) => asAsked(r.body, { told: r.body.messages.at(-1).content.at(-1).text === 'three' })),
      bodies.map(asWritten));
    assert.doesNotMatch(JSON.stringify(requests), /conversation is in the request/, 'nothing of the stand-in');
  });
}

/** What each process of the workers has read and written so far. */
function moved(server) {
  return new Map(household(server).map(({ pid }) => {
    const io = existsSync(`/proc/${pid}/io`) ? readFileSync(`/proc/${pid}/io`, 'utf8') : '';
    return [pid, [...io.matchAll(/^[rw]char: (\d+)$/gm)].reduce((sum, [, n]) => sum + Number(n), 0)];
  }));
}

test('30 MB of conversation, and no more than the API takes', async () => {
  const pdf = { type: 'document', source: { type: 'base64', media_type: 'application/pdf', data: randomBytes(15 << 20).toString('base64') } };
  const body = ask([user([pdf, text('sum up')]), assistant('it is long'), user('word '.repeat(2 << 20)), assistant('So')]);
  const before = moved(gw);
  const reply = await post(gw, '/v1/messages', body);
  assert.equal(reply.status, 200, reply.text.slice(0, 500));
  for (const [pid, bytes] of moved(gw)) {
    assert.ok(bytes - (before.get(pid) ?? 0) < 20 << 20, `not told to the program: ${bytes} bytes`);
  }
  const [request] = await up.requests();
  assert.deepEqual(asAsked(request.body, { told: false }), asWritten(body));
  const more = await post(gw, '/v1/messages', ask([user('x'.repeat(32 << 20))]));
  assert.equal(more.status, 413);
  assert.equal((await up.stats()).calls, 1);
});

/** Seconds of CPU that the server's own process has used so far. */
function cpuOf(server) {
  const stat = readFileSync(`/proc/${server.pid}/stat`, 'utf8');
  const [user, system] = stat.slice(stat.lastIndexOf(')') + 2).split(' ').slice(11, 13).map(Number);
  return (user + system) / 100;
}

test('large bodies that come at the same time cost little to take in, also of nobody\'s key', async () => {
  const body = Buffer.alloc(30 << 20, ' ');
  const before = cpuOf(gw);
  const replies = await Promise.all(Array.from({ length: 8 }, () => fetch(`${gw.url}/v1/messages`, { method: 'POST', body,
    headers: { 'x-api-key': 'sk-cg-none', 'anthropic-version': '2023-06-01', 'content-type': 'application/json' } })));
  assert.deepEqual(replies.map((r) => r.status), Array(8).fill(401));
  const used = cpuOf(gw) - before;
  assert.ok(used < 4, `${used} s of CPU`); // when each piece was looked for from the body's beginning: 15 and more
});

test('a body of millions of small values is refused before it is built, by each API', async () => {
  const nothing = `[${'{},'.repeat(2_000_000)}{}]`; // half a gigabyte in memory
  const body = `{"model":"${MODEL}","max_tokens":9,"tools":[{"name":"t","input_schema":{"enum":${nothing}}}],"messages":[{"role":"user","content":"x"}]}`;
  const headers = { authorization: `Bearer ${await gw.key()}`, 'content-type': 'application/json', 'anthropic-version': '2023-06-01' };
  for (const path of ['/v1/messages', '/v1/messages/count_tokens', '/v1/chat/completions', '/v1/responses', '/api/chat']) {
    const reply = await fetch(gw.url + path, { method: 'POST', headers, body });
    assert.equal(reply.status, 413, path);
    assert.match(await reply.text(), /more than 1000000 commas and opening brackets/);
  }
  const calls = Array.from({ length: 3 }, (_, i) => ({ id: `c${i}`, type: 'function',
    function: { name: 't', arguments: `{"a":[${'{},'.repeat(200_000)}{}]}` } }));
  const reply = await fetch(`${gw.url}/v1/chat/completions`, { method: 'POST', headers, body: JSON.stringify({ model: MODEL,
    messages: [{ role: 'user', content: 'x' }, { role: 'assistant', tool_calls: calls }, ...calls.map(({ id }) => ({ role: 'tool', tool_call_id: id, content: 'y' }))] }) });
  assert.equal(reply.status, 413, 'JSON within strings counts, all together');
});

test('a history of 1,000 messages goes around the program; its beginning did not', async () => {
  const list = (n) => Array.from({ length: n }, (_, i) => (i % 2 ? assistant : user)(`/clear ${i}`));
  for (const [n, told] of [[41, true], [43, false], [1001, false]]) {
    await up.reset();
    const body = ask(list(n), { system: 's', tools });
    assert.equal((await post(gw, '/v1/messages', body)).status, 200);
    const requests = await up.requests();
    assert.equal(requests.length, 1);
    assert.deepEqual(asAsked(requests[0].body, { told }), asWritten(body));
  }
});
