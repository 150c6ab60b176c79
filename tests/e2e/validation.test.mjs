// What POST /api/chat refuses, and how: one shape, the field named, and never a worker touched.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, test } from 'node:test';

import { eventually, Gateway } from './lib/gateway.mjs';

const LIMIT = { timeout: 60_000 };
const PNG = 'iVBORw0KGgo=';

let gw;
before(async () => {
  gw = await Gateway.start({ config: { pool: { max_workers: 3 } } });
});
after(() => gw.stop());

function check(reply, status, code, error) {
  assert.equal(reply.status, status, reply.text);
  assert.match(reply.headers['content-type'], /^application\/json/);
  assert.deepEqual(Object.keys(reply.body).sort(), ['code', 'error', 'requestId', 'success']);
  assert.equal(reply.body.success, false);
  assert.equal(reply.body.code, code);
  assert.equal(reply.body.requestId, reply.headers['request-id']);
  assert.match(reply.body.requestId, /^req_[0-9A-Za-z]{24}$/);
  if (error) assert.match(reply.body.error, error);
}

const text = (value) => [{ type: 'text', text: value }];
const image = (source) => [{ type: 'image', source }];
const nested = (depth) => `{"message":${'['.repeat(depth)}${']'.repeat(depth)}}`;

const bad = {
  // JSON itself
  'no body': ['', /JSON/],
  'not JSON': ['message=hello', /^not valid JSON/],
  'half of it': ['{"message":"hel', /^not valid JSON/],
  'something behind it': ['{"message":"x"} {}', /^not valid JSON/],
  'a trailing comma': ['{"message":"x",}', /^not valid JSON/],
  'an array': ['[1]', /object/],
  'a string': ['"hello"', /object/],
  null: ['null', /object/],
  'a name twice': ['{"message":"a","message":"b"}', /message|duplicate/i],
  'invalid UTF-8': [Buffer.from('{"message":"\xff\xfe"}', 'latin1'), /^not valid JSON/],
  'overlong UTF-8': [Buffer.from('{"message":"\xc0\xaf"}', 'latin1'), /^not valid JSON/],
  'a lone surrogate': ['{"message":"\\ud800"}', /^not valid JSON/],
  'a raw control character': ['{"message":"a\nb"}', /^not valid JSON/],
  'a number out of range': ['{"message":"x","temperature":1e999}', /./],
  'deep nesting': [nested(3000), /./],
  'very deep nesting': [nested(500_000), /./],
  // fields
  'no message': [{}, /^message: is required$/],
  'message null': [{ message: null }, /^message: /],
  'message a number': [{ message: 5 }, /^message: must be a string or an array of content blocks$/],
  'message an object': [{ message: { type: 'text', text: 'x' } }, /^message: must be a string or/],
  'message empty': [{ message: '' }, /^message: must not be empty$/],
  // upstream would drop it in silence, or refuse it
  'message only spaces': [{ message: ' \n\t ' }, /^message: must not be/],
  'a text block of only spaces': [{ message: [...text('a'), ...text(' \n')] },
    /^message\[1\]\.text: must not be/],
  'no blocks': [{ message: [] }, /^message: must hold 1 to 100 content blocks$/],
  'too many blocks': [{ message: Array(101).fill(text('x')[0]) },
    /^message: must hold 1 to 100 content blocks$/],
  'a block that is a string': [{ message: ['x'] }, /^message\[0\]: must be a JSON object$/],
  'a block without type': [{ message: [{ text: 'x' }] }, /^message\[0\]\.type: is required$/],
  'a block of another type': [{ message: [...text('x'), { type: 'tool_result' }] },
    /^message\[1\]\.type: must be "text" or "image"$/],
  'a text block without text': [{ message: [{ type: 'text' }] }, /^message\[0\]\.text: /],
  'a text block that is empty': [{ message: text('') }, /^message\[0\]\.text: must not be empty$/],
  'text a number': [{ message: text(5) }, /^message\[0\]\.text: must be a string$/],
  'an unknown field in a block': [{ message: [{ ...text('x')[0], cache_control: {} }] },
    /^message\[0\]\.cache_control: unknown field$/],
  'an image without source': [{ message: [{ type: 'image' }] },
    /^message\[0\]\.source: is required$/],
  'an image source of another type': [{ message: image({ type: 'file', data: 'x' }) },
    /^message\[0\]\.(source\.)?type: must be "base64" or "url"$/],
  'an image of another kind': [
    { message: image({ type: 'base64', media_type: 'image/svg+xml', data: PNG }) },
    /^message\[0\]\.(source\.)?media_type: must be image\/jpeg, image\/png, image\/gif or /],
  'image data that is not base64': [
    { message: image({ type: 'base64', media_type: 'image/png', data: 'no base64!' }) },
    /^message\[0\]\.(source\.)?data: must be base64$/],
  'no image data': [{ message: image({ type: 'base64', media_type: 'image/png' }) },
    /^message\[0\]\.(source\.)?data: /],
  'an image from a plain http URL': [{ message: image({ type: 'url', url: 'http://x/y.png' }) },
    /^message\[0\]\.(source\.)?url: must be an https URL$/],
  'an image from a file': [{ message: image({ type: 'url', url: 'file:///etc/passwd' }) },
    /^message\[0\]\.(source\.)?url: must be an https URL$/],
  'model a number': [{ message: 'x', model: 5 }, /^model: must be a string$/],
  'model empty': [{ message: 'x', model: '' }, /^model: must not be empty$/],
  'model too long': [{ message: 'x', model: 'a'.repeat(101) }, /^model: must be at most 100 bytes/],
  'model with a space': [{ message: 'x', model: 'claude x' }, /^model: may hold letters, digits/],
  'model with a newline': [{ message: 'x', model: 'claude-x\n' }, /^model: may hold/],
  'model "default"': [{ message: 'x', model: 'default' }, /^model: must name a model$/],
  'stream a string': [{ message: 'x', stream: 'true' }, /^stream: must be true or false$/],
  'temperature a string': [{ message: 'x', temperature: '0.5' }, /^temperature: must be a number$/],
  'temperature below 0': [{ message: 'x', temperature: -0.1 },
    /^temperature: must be between 0 and 1$/],
  'temperature above 1': [{ message: 'x', temperature: 1.1 },
    /^temperature: must be between 0 and 1$/],
  'maxTokens 0': [{ message: 'x', maxTokens: 0 }, /^maxTokens: must be between 1 and 200000$/],
  'maxTokens negative': [{ message: 'x', maxTokens: -5 }, /^maxTokens: must be between/],
  'maxTokens too many': [{ message: 'x', maxTokens: 200_001 }, /^maxTokens: must be between/],
  'maxTokens a fraction': [{ message: 'x', maxTokens: 1.5 }, /^maxTokens: must be an integer$/],
  'maxTokens beyond 64 bits': ['{"message":"x","maxTokens":99999999999999999999}', /./],
  'system a number': [{ message: 'x', system: 5 }, /^system: must be a string$/],
  'system an array': [{ message: 'x', system: text('x') }, /^system: must be a string$/],
  'system too long': [{ message: 'x', system: 'x'.repeat((1 << 20) + 1) },
    /^system: must be at most 1048576 bytes long$/],
  'message too long': [{ message: 'x'.repeat((8 << 20) + 1) },
    /^message: must be at most 8388608 bytes long$/],
  'sessionId a number': [{ message: 'x', sessionId: 5 }, /^sessionId: must be a string$/],
  'sessionId empty': [{ message: 'x', sessionId: '' }, /^sessionId: must not be empty$/],
  'sessionId not a UUID': [{ message: 'x', sessionId: '../../etc/passwd' },
    /^sessionId: must be a UUID/],
  'sessionId with a dash astray': [{ message: 'x', sessionId: randomUUID().replace('-', '0') },
    /^sessionId: must be a UUID/],
  'an unknown field': [{ message: 'x', max_tokens: 5 }, /^max_tokens: unknown field$/],
  'a field of the prototype': ['{"message":"x","__proto__":{}}', /^__proto__: unknown field$/],
  'an unknown field with a long name': [{ message: 'x', ['y'.repeat(5000)]: 1 },
    /^y{1,100}.*unknown field$/],
};

test('bad bodies: 400, with field and rule', LIMIT, async (t) => {
  for (const [name, [body, error]] of Object.entries(bad)) {
    await t.test(name, async () => {
      check(await gw.chat(body), 400, 'invalid_request', error);
      const asStream = typeof body === 'object' && !Buffer.isBuffer(body) && !('stream' in body);
      if (asStream) check(await gw.chat({ ...body, stream: true }), 400, 'invalid_request', error);
    });
  }
});

test('good bodies at the edge of the rules', LIMIT, async () => {
  for (const body of [
    '{"message":"x"}', ' \r\n\t{ "message" : "x" } \n', '{"m\\u0065ssage":"x"}',
    { message: 'x', temperature: 0 }, { message: 'x', temperature: 1 },
    '{"message":"x","temperature":1.0e0}',
    { message: 'x', maxTokens: 1 }, { message: 'x', stream: false },
    { message: 'x', system: '' },
    { message: 'x', model: null, stream: null, sessionId: null, temperature: null, maxTokens: null,
      system: null },
    { message: Array(100).fill(text('x')[0]) },
    { message: image({ type: 'base64', media_type: 'image/png', data: PNG }) },
    { message: image({ type: 'url', url: 'https://example.com/x.png' }) },
    { message: 'x'.repeat(1 << 20) },
  ]) {
    const { status, text: answer } = await gw.chat(body);
    assert.equal(status, 200, `${JSON.stringify(body).slice(0, 200)}: ${answer}`);
  }
});

test('content types', LIMIT, async () => {
  const send = (type) => gw.chat('{"message":"x"}', { headers: { 'content-type': type } });
  for (const type of ['application/json', 'application/json; charset=utf-8', 'Application/JSON']) {
    assert.equal((await send(type)).status, 200, type);
  }
  // a browser sends these from any page without asking first
  for (const type of ['application/x-www-form-urlencoded', 'multipart/form-data; boundary=x']) {
    const reply = await send(type);
    assert.ok([200, 400, 415].includes(reply.status), `${type}: ${reply.status}`);
    if (reply.status !== 200) assert.equal(reply.body.success, false);
  }
});

test('routes and methods', LIMIT, async () => {
  const key = await gw.key();
  const headers = { authorization: `Bearer ${key}` };
  for (const path of ['/', '/api', '/api/', '/api/chat/', '/API/chat', '/api/chat/x', '/v1']) {
    check(await gw.request('GET', path, { headers }), 404, 'not_found');
    check(await gw.request('POST', path, { headers, body: { message: 'x' } }), 404, 'not_found');
  }
  for (const method of ['GET', 'PUT', 'DELETE', 'PATCH']) {
    const body = method === 'GET' || method === 'DELETE' ? undefined : { message: 'x' };
    const reply = await gw.request(method, '/api/chat', { headers, body });
    check(reply, 405, 'method_not_allowed', new RegExp(method));
    assert.equal(reply.headers.allow, 'POST, OPTIONS');
  }
  const post = await gw.request('POST', '/healthz', { body: {} });
  check(post, 405, 'method_not_allowed');
  assert.equal(post.headers.allow, 'GET, HEAD, OPTIONS');
  const options = await gw.request('OPTIONS', '/api/chat');
  assert.deepEqual([options.status, options.headers.allow, options.text],
    [204, 'POST, OPTIONS', '']);
  const head = await gw.request('HEAD', '/healthz');
  assert.deepEqual([head.status, head.text], [200, '']);
  assert.ok(Number(head.headers['content-length']) > 0);
});

test('bodies that are too large: 413', LIMIT, async (t) => {
  const large = await gw.chat(`{"message":"${'x'.repeat(10 << 20)}"}`);
  check(large, 413, 'request_too_large');
  const small = await Gateway.start({ test: t, config: { server: { max_body_bytes: 2000 } } });
  assert.equal((await small.chat({ message: 'x'.repeat(1900) })).status, 200);
  const response = await small.chat({ message: 'x'.repeat(2000) });
  assert.equal(response.status, 413);
  assert.equal(response.body.code, 'request_too_large');
});

test('sessions: unknown, foreign, busy', LIMIT, async () => {
  check(await gw.chat({ message: 'x', sessionId: randomUUID() }), 404, 'not_found', /^sessionId: /);
  const { sessionId } = await gw.ask('hello');
  const other = (await gw.createKey(['--name', 'other'])).key;
  const foreign = await gw.chat({ message: 'x', sessionId }, { key: other });
  const unknown = await gw.chat({ message: 'x', sessionId: randomUUID() }, { key: other });
  check(foreign, 404, 'not_found', /^sessionId: /);
  assert.equal(foreign.body.error, unknown.body.error, 'a foreign session looks like none');
  const busy = gw.collect({
    sessionId, message: `fake:${JSON.stringify({ text: 'a b c d e', chunk: 2, delay_ms: 200 })}`,
  });
  await eventually(async () => (await gw.pool()).workers.busy === 1);
  for (const stream of [false, true]) {
    const reply = await gw.chat({ message: 'x', sessionId, stream });
    check(reply, 409, 'session_busy', /^sessionId: /);
    assert.equal(reply.headers['retry-after'], '1');
  }
  check(await gw.chat({ message: 'x', sessionId }, { key: other }), 404, 'not_found');
  assert.ok((await busy).done);
  assert.equal((await gw.chat({ message: 'x', sessionId })).status, 200, 'free again');
  assert.equal((await gw.chat({ message: 'x', sessionId: sessionId.toUpperCase() })).status, 200);
});

test('a session ends at its time', LIMIT, async (t) => {
  const brief = await Gateway.start({ test: t, config: { session: { ttl: 1 } } });
  const { sessionId } = await brief.ask('hello');
  await new Promise((resolve) => { setTimeout(resolve, 1200); });
  check(await brief.chat({ message: 'x', sessionId }), 404, 'not_found', /^sessionId: /);
});

test('a session that has grown too large: 413, and a new one works', LIMIT, async (t) => {
  const small = await Gateway.start({ test: t, config: { session: { max_bytes: 2000 } } });
  check(await small.chat({ message: 'x'.repeat(2500) }), 413, 'request_too_large', /2000 bytes/);
  const { sessionId } = await small.ask('x'.repeat(1500));
  check(await small.chat({ message: 'x'.repeat(800), sessionId }), 413, 'request_too_large',
    /2000 bytes/);
  assert.equal((await small.chat({ message: 'x' })).status, 200);
});

test('a failed first turn leaves no session', LIMIT, async () => {
  const failed = await gw.collect({
    message: `fake:${JSON.stringify({ text: 'a b', chunk: 2, exit_at: 'delta' })}`,
  });
  assert.equal(failed.error.code, 'worker_failed');
  check(await gw.chat({ message: 'x', sessionId: failed.start.sessionId }), 404, 'not_found');
});

test('nothing of this was held against a worker, and refusals are not billed', LIMIT, async () => {
  const rows = await gw.usageRows();
  assert.ok(rows.every((row) => row.status_code !== 400), 'bad requests have no usage row');
  assert.equal((await gw.pool()).workers.busy, 0);
});
