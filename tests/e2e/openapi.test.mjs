// docs/openapi.yaml is true: the document is valid, and every answer that it promises was seen live
// and is what it says, to the last field and header. tests/unit/test_api.c compares it with the
// route table.
import { Validator } from '@seriousme/openapi-schema-validator';
import assert from 'node:assert/strict';
import http from 'node:http';
import { once } from 'node:events';
import { after, before, test } from 'node:test';
import { gunzipSync } from 'node:zlib';

import { Contract } from './lib/contract.mjs';
import { eventually, Gateway } from './lib/gateway.mjs';
import { Postgres } from './lib/postgres.mjs';
import { Upstream } from './lib/upstream.mjs';

const LIMIT = { timeout: 120_000 };
const MODEL = 'claude-sonnet-4-5';
const NOBODY = '00000000-0000-4000-8000-000000000000';

let up, gw, contract, key;

before(async () => {
  up = await Upstream.start();
  gw = await Gateway.start({ upstream: up, claude: 'real', config: {
    upstream: { max_retries: 0 }, server: { max_body_bytes: 14 << 20 },
    agent: { enabled: true, require_sandbox: false }, models: { aliases: `gpt-4o=${MODEL}` },
  } });
  contract = await Contract.of(gw);
  key = (await gw.createKey(['--requests-per-minute', '10000', '--tokens-per-day', '1000000000',
    '--models', 'claude-*', '--allow-agent'])).key;
});
after(async () => {
  await gw.stop();
  await up.stop();
});

const bearer = (k = key) => ({ authorization: `Bearer ${k}` });
const send = (method, path, body, headers = bearer()) =>
  contract.send(gw, method, path, { body, headers });

/** The same, and the status is this one. */
async function expect(status, method, path, body, headers) {
  const reply = await send(method, path, body, headers);
  assert.equal(reply.status, status, reply.text);
  return reply;
}

// What asks the model, in each API: the path, the smallest body, and how a body is made longer.
const asking = {
  '/api/chat': { message: 'hi', model: MODEL },
  '/v1/messages': { model: MODEL, max_tokens: 200, messages: [{ role: 'user', content: 'hi' }] },
  '/v1/chat/completions': { model: MODEL, messages: [{ role: 'user', content: 'hi' }] },
  '/v1/responses': { model: MODEL, input: 'hi' },
};
const counting = { model: MODEL, messages: [{ role: 'user', content: 'hi' }] };
const posts = { ...asking, '/v1/messages/count_tokens': counting };

/** How Anthropic's clients are known, and all others: [headers, the shape they get]. */
const clients = (k = key) => [[{ 'x-api-key': k }, 'Anthropic'],
  [{ ...bearer(k), 'anthropic-version': '2023-06-01' }, 'Anthropic'], [bearer(k), 'OpenAI']];

/** An error is of this API's shape, with its headers. */
function shaped(reply, api) {
  const of = reply.body.success === false ? 'Native' : reply.body.type === 'error' ? 'Anthropic' : 'OpenAI';
  assert.equal(of, api, reply.text);
  assert.equal(reply.headers['openai-version'] !== undefined, api === 'OpenAI', reply.text);
}

/** The API of a path. */
const apiOf = (path) => (path.startsWith('/api') ? 'Native' : path.startsWith('/v1/messages') ? 'Anthropic' : 'OpenAI');

/** A path of the document with something in its parameters. */
const target = (path) => path.replace('{id}', path.startsWith('/v1/models') ? MODEL
  : path.startsWith('/v1/responses') ? `resp_${'0'.repeat(32)}` : NOBODY);

const keyed = () => contract.operations().filter(({ operation }) => !operation.security);

// --- the document itself -----------------------------------------------------------------------

test('it is valid OpenAPI 3.1', async () => {
  const validator = new Validator();
  const { valid, errors } = await validator.validate(structuredClone(contract.doc));
  assert.ok(valid, JSON.stringify(errors));
  assert.equal(validator.version, '3.1');
  const health = await send('GET', '/healthz');
  assert.equal(contract.doc.info.version, health.body.version);
  assert.equal(contract.doc['x-parts'], undefined);
  const ids = contract.operations().map(({ operation }) => operation.operationId);
  assert.equal(new Set(ids).size, ids.length);
});

test('its schemas compile, its examples fit them, nothing is left over', () => {
  const unused = new Set(Object.keys(contract.doc.components.schemas));
  const visit = (node, place) => {
    if (node === null || typeof node !== 'object') return;
    if (node.$ref) {
      assert.ok(contract.at(node.$ref.slice(1)).node, `${place}: ${node.$ref}`);
      unused.delete(node.$ref.split('/').at(-1));
    }
    if (node.schema && !place.includes('/schemas/')) {
      const examples = node.examples ? Object.values(node.examples).map(({ value }) => value) : [];
      if (node.example !== undefined) examples.push(node.example);
      if (node.schema.default !== undefined) examples.push(node.schema.default);
      for (const example of examples) contract.validate(`${place}/schema`, example, 'the example');
    }
    for (const [name, value] of Object.entries(node)) {
      visit(value, `${place}/${name.replaceAll('~', '~0').replaceAll('/', '~1')}`);
    }
  };
  visit(contract.doc, '');
  assert.deepEqual([...unused], []);
  for (const name of Object.keys(contract.doc.components.schemas)) {
    try {
      contract.validate(`/components/schemas/${name}`, undefined, name);
    } catch (error) {
      assert.equal(error.code, 'ERR_ASSERTION', `${name}: ${error.message}`);
    }
  }
});

test('its example requests are answered as they stand', LIMIT, async () => {
  await up.reset();
  let sent = 0;
  for (const { method, path, operation } of contract.operations()) {
    const content = operation.requestBody?.content['application/json'];
    for (const { value } of Object.values(content?.examples ?? {})) {
      const reply = await expect(200, method, path, value);
      assert.equal(reply.events !== undefined, value.stream === true, path);
      sent++;
    }
    assert.ok(!operation.requestBody || content.examples, `${path} has an example`);
  }
  const { parameters } = contract.doc.paths['/api/usage'].get;
  const query = new URLSearchParams(parameters.filter((p) => p.example).map((p) => [p.name, p.example]));
  await expect(200, 'GET', `/api/usage?${query}`);
  assert.ok(sent >= 14, `${sent} were sent`);
});

test('the server knows every field that it has, and no other', LIMIT, async () => {
  const { key: poor } = await gw.createKey(['--models', 'claude-nothing']); // so that nothing runs
  for (const [path, body] of Object.entries(posts)) {
    const ref = contract.doc.paths[path].post.requestBody.content['application/json'].schema.$ref;
    const { properties } = contract.at(ref.slice(1)).node;
    for (const name of [...Object.keys(properties), 'surprise']) {
      const reply = await send('POST', path, { ...body, [name]: null }, bearer(poor));
      assert.ok([400, 403].includes(reply.status), reply.text);
      assert.equal(/unknown field|Extra inputs/.test(reply.text), name === 'surprise', `${path} ${name}: ${reply.text}`);
    }
  }
});

// --- answers -----------------------------------------------------------------------------------

test('sessions, usage, models, the key', LIMIT, async () => {
  await up.reset();
  const { body: { sessionId } } = await expect(200, 'POST', '/api/chat', { message: 'hi' });
  await expect(200, 'POST', '/api/chat', { message: 'and now?', sessionId });
  const first = await expect(200, 'GET', '/api/sessions?limit=1');
  await expect(200, 'GET', `/api/sessions?limit=1&before=${first.body.next}`);
  await expect(400, 'GET', '/api/sessions?limit=0');
  const { body: { session } } = await expect(200, 'GET', `/api/sessions/${sessionId}`);
  assert.equal(session.messages.length, 4);
  await expect(204, 'DELETE', `/api/sessions/${sessionId}`);
  await expect(404, 'DELETE', `/api/sessions/${sessionId}`);
  await expect(404, 'GET', `/api/sessions/${sessionId}`);
  await expect(404, 'POST', '/api/chat', { message: 'hi', sessionId: NOBODY });
  for (const group of ['day', 'hour', 'model']) await expect(200, 'GET', `/api/usage?group=${group}`);
  await expect(400, 'GET', '/api/usage?group=week');
  await expect(200, 'POST', '/v1/messages/count_tokens', counting);
  const counted = await eventually(async () => (await expect(200, 'GET', '/api/usage/requests')).body
    .requests.find(({ endpoint }) => endpoint === '/v1/messages/count_tokens'));
  assert.deepEqual([counted.totalTokens, counted.costUsd, counted.upstreamCalls], [0, 0, 1]);
  await expect(400, 'GET', '/api/usage/requests?limit=x');
  await expect(200, 'GET', '/api/me');
  await expect(200, 'GET', '/api/me', undefined, bearer(await gw.key()));
  await expect(200, 'GET', '/api/models');
});

test('models in both shapes', LIMIT, async () => {
  for (const [headers, api] of clients()) {
    const list = await expect(200, 'GET', '/v1/models?limit=1', undefined, headers);
    assert.deepEqual([list.body.object, list.body.has_more],
      api === 'OpenAI' ? ['list', undefined] : [undefined, true]);
    const { body: one } = await expect(200, 'GET', `/v1/models/${MODEL}`, undefined, headers);
    assert.equal(one.object ?? one.type, 'model');
    assert.equal(one.owned_by !== undefined, api === 'OpenAI');
    shaped(await expect(404, 'GET', '/v1/models/nothing', undefined, headers), api);
    if (api === 'Anthropic') await expect(400, 'GET', '/v1/models?limit=0', undefined, headers);
  }
  const aliases = (await expect(200, 'GET', '/v1/models?limit=0')).body.data.map(({ id }) => id);
  assert.ok(aliases.includes('gpt-4o'));
  await expect(200, 'GET', '/v1/models/gpt-4o');
});

const text = (t = 'one two three') => ({ type: 'text', text: t });
const call = (id, input = { city: 'Paris' }) => ({ type: 'tool_use', id, name: 'get_weather', input });
const thought = { type: 'thinking', thinking: 'let me see', signature: 'c2ln' };
const schema = { type: 'object', properties: { city: { type: 'string' } } };

test('tools and thoughts, whole and streamed', LIMIT, async () => {
  await up.reset();
  const ask = async (path, blocks, more) => {
    for (const stream of [false, true]) {
      await up.script({ blocks });
      await expect(200, 'POST', path, { ...asking[path], ...more, stream });
    }
  };
  const functions = [{ name: 'get_weather', parameters: schema }];
  await ask('/v1/messages', [text(), call('toolu_1')],
    { tools: [{ name: 'get_weather', input_schema: schema }] });
  await ask('/v1/messages', [thought, text()],
    { max_tokens: 2048, thinking: { type: 'enabled', budget_tokens: 1024 } });
  await ask('/v1/chat/completions', [text(), call('toolu_2'), call('toolu_3', {})],
    { tools: [{ type: 'function', function: functions[0] }] });
  await ask('/v1/chat/completions', [call('toolu_4')], { functions });
  await ask('/v1/chat/completions', [thought, text()],
    { reasoning_effort: 'low', seed: 1, max_completion_tokens: 3000 });
  await ask('/v1/responses', [text(), call('toolu_5')],
    { tools: [{ type: 'function', ...functions[0] }], metadata: { a: 'b' }, user: 'me' });
  await ask('/v1/responses', [thought, text()], { max_output_tokens: 3000, prompt_cache_key: 'x',
    reasoning: { effort: 'low', summary: 'auto' }, include: ['reasoning.encrypted_content'] });
});

test('prefills, system messages in between and blocks that are not known', LIMIT, async () => {
  await up.reset();
  for (const messages of [
    [{ role: 'user', content: 'a colour' }, { role: 'assistant', content: '{"colour":' }],
    [{ role: 'user', content: 'a colour' }, { role: 'assistant', content: '' }],
    [{ role: 'user', content: 'hi' }, { role: 'system', content: 'be brief' }, { role: 'user', content: 'well?' }],
    [{ role: 'user', content: [text(), { type: 'hologram', data: { a: 1 } }] }],
  ]) {
    await expect(200, 'POST', '/v1/messages', { ...asking['/v1/messages'], messages });
    await expect(200, 'POST', '/v1/messages', { ...asking['/v1/messages'], messages, stream: true });
  }
});

test('an answer that was cut short, and a response that is read again', LIMIT, async () => {
  for (const [path, body] of Object.entries(asking)) {
    for (const stream of [false, true]) {
      await up.script({ blocks: [text()], stop_reason: 'max_tokens' });
      await expect(200, 'POST', path, { ...body, stream });
    }
  }
  const { body: { id } } = await expect(200, 'POST', '/v1/responses', asking['/v1/responses']);
  assert.equal((await expect(200, 'GET', `/v1/responses/${id}`)).body.id, id);
  await expect(200, 'POST', '/v1/responses', { ...asking['/v1/responses'], previous_response_id: id });
  await expect(200, 'DELETE', `/v1/responses/${id}`);
  await expect(404, 'DELETE', `/v1/responses/${id}`);
  await expect(404, 'GET', `/v1/responses/resp_${'0'.repeat(32)}`);
});

// --- answers that were made before ---------------------------------------------------------------

test('a request that is repeated, and a stream that is resumed', LIMIT, async () => {
  await up.reset();
  for (const [path, body] of Object.entries(asking)) {
    const headers = { ...bearer(), 'idempotency-key': `again:${path}` };
    const first = await expect(200, 'POST', path, body, headers);
    const again = await expect(200, 'POST', path, body, headers);
    assert.deepEqual([first, again].map((r) => r.headers['idempotent-replayed']), [undefined, 'true']);
    assert.equal(again.text, first.text);
    shaped(await expect(422, 'POST', path, { ...body, stream: true }, headers), apiOf(path));
    shaped(await expect(400, 'POST', path, body, { ...bearer(), 'idempotency-key': 'two words' }), apiOf(path));

    const whole = await expect(200, 'POST', path, { ...body, stream: true },
      { ...bearer(), 'x-claudegate-resumable': 'true' });
    assert.deepEqual(whole.events.map(({ id }) => Number(id.split(':')[1])), whole.events.map((_, n) => n + 1));
    const rest = (id) => ({ ...bearer(), 'last-event-id': id });
    const resumed = await expect(200, 'POST', path, { ...body, stream: true }, rest(whole.events[1].id));
    assert.deepEqual(resumed.events, whole.events.slice(2));
    const gone = `req_${'0'.repeat(24)}:1`;
    shaped(await expect(404, 'POST', path, { ...body, stream: true }, rest(gone)), apiOf(path));
    shaped(await expect(400, 'POST', path, { ...body, stream: true }, rest('17')), apiOf(path));
  }
});

test('an answer that is too large to be kept', LIMIT, async (t) => {
  const small = await Gateway.start({ test: t, upstream: up, claude: 'real',
    config: { idempotency: { max_bytes: 2000 }, resume: { max_bytes: 2000 } } });
  const auth = bearer(await small.key());
  await up.script({ blocks: [text('word '.repeat(600))], repeat: -1 });
  for (const [path, body] of Object.entries(asking)) {
    const headers = { ...auth, 'idempotency-key': 'once' + path };
    const ask = (more) => contract.send(small, 'POST', path, { body, headers, ...more });
    assert.equal((await ask()).status, 200);
    const again = await eventually(async () => { // the row says so in a moment
      const reply = await ask();
      return reply.status === 409 && reply.headers['x-should-retry'] && reply;
    });
    shaped(again, apiOf(path));
    const whole = await ask({ body: { ...body, stream: true }, headers: { ...auth, 'x-claudegate-resumable': 'true' } });
    const late = await ask({ headers: { ...auth, 'last-event-id': whole.events[0].id } });
    assert.equal(late.status, 410, late.text);
    shaped(late, apiOf(path));
  }
  await up.reset();
});

test('the response cache', LIMIT, async () => {
  await up.reset();
  const { key: caching } = await gw.createKey(['--response-cache']);
  const { body: me } = await expect(200, 'GET', '/api/me', undefined, bearer(caching));
  assert.equal(me.permissions.responseCache, true);
  const paths = Object.keys(asking).filter((path) => path.startsWith('/v1'));
  for (const [i, path] of paths.entries()) { // OpenAI's two would be given one answer
    const ask = async (stream, headers) => (await expect(200, 'POST', path,
      { ...asking[path], temperature: 0, top_p: 1 - i / 10, stream }, { ...bearer(caching), ...headers })).headers['x-claudegate-cache'];
    assert.deepEqual([await ask(false), await ask(false), await ask(true),
      await ask(false, { 'cache-control': 'no-cache' })], ['miss', 'hit', 'hit', 'bypass'], path);
  }
  await eventually(async () => (await expect(200, 'GET', '/api/usage', undefined, bearer(caching)))
    .body.totals.cachedRequests === 2 * paths.length);
  const { body } = await expect(200, 'GET', '/api/usage/requests', undefined, bearer(caching));
  assert.equal(body.requests.filter(({ cached }) => cached).length, 2 * paths.length);
});

test('a response that is still being made', LIMIT, async () => {
  const path = '/v1/responses';
  await up.script({ blocks: [text('slow '.repeat(40))], word_delay_ms: 100 });
  const running = await gw.open('POST', path, { body: { ...asking[path], stream: true }, headers: bearer() });
  let began = '';
  for await (const chunk of running.setEncoding('utf8').iterator({ destroyOnReturn: false })) {
    began += chunk;
    if (began.includes('response.created')) break;
  }
  const [id] = /resp_[0-9a-f]{32}/.exec(began);
  await expect(404, 'GET', `${path}/${id}`);
  await expect(404, 'DELETE', `${path}/${id}`);
  const reply = await expect(409, 'POST', path, { ...asking[path], previous_response_id: id });
  assert.deepEqual([reply.body.error.param, reply.headers['retry-after']], ['previous_response_id', '1']);
  assert.match(reply.body.error.message, new RegExp(id));
  await running.toArray();
  const reads = await Promise.all([1, 2, 3].map(() => send('GET', `${path}/${id}`)));
  assert.deepEqual(reads.map(({ status }) => status), [200, 200, 200]);
});

test('an agent tells what it does', LIMIT, async () => {
  const bash = { type: 'tool_use', id: 'toolu_b', name: 'Bash', input: { command: 'true', description: 'x' } };
  await up.script([{ blocks: [bash] }, { blocks: [text('done')] }]);
  await expect(200, 'POST', '/api/chat', { message: 'go', profile: 'agent', stream: true });
});

test('an error in the middle of a stream', LIMIT, async () => {
  for (const [path, body] of Object.entries(asking)) {
    await up.script({ blocks: [text()], sse_error: { type: 'overloaded_error', message: 'Overloaded', after: 4 } });
    const { events } = await expect(200, 'POST', path, { ...body, stream: true });
    const { name, data } = events.at(-1);
    assert.ok(data.error ?? data.message, `${path} ends with the error`);
    assert.equal(name, { '/v1/messages': 'error', '/v1/responses': 'error' }[path]);
  }
});

// --- errors ------------------------------------------------------------------------------------

test('without a key, and with a wrong one', LIMIT, async () => {
  for (const { method, path } of keyed()) {
    shaped(await expect(401, method, target(path), posts[path], {}), apiOf(path));
    await expect(401, method, target(path), posts[path], bearer(`sk-cg-${'0'.repeat(12)}-${'x'.repeat(43)}`));
  }
  for (const [headers, api] of clients('sk-cg-nobody')) {
    for (const path of ['/v1/models', `/v1/models/${MODEL}`]) {
      shaped(await expect(401, 'GET', path, undefined, headers), api);
    }
  }
  await expect(401, 'GET', '/metrics', undefined, { 'x-forwarded-for': '192.0.2.1' });
});

test('what is refused before anything runs', LIMIT, async () => {
  const { key: poor } = await gw.createKey(['--models', 'claude-nothing']);
  for (const [path, body] of Object.entries(posts)) {
    await expect(400, 'POST', path, '{');
    await expect(400, 'POST', path, { ...body, model: 5 });
    await expect(403, 'POST', path, body, bearer(poor));
    shaped(await expect(413, 'POST', path, ' '.repeat(15 << 20)), apiOf(path));
  }
  await expect(413, 'POST', '/api/chat', { message: 'x'.repeat((10 << 20) + 1) });
  await expect(400, 'POST', '/v1/messages', asking['/v1/messages'], { ...bearer(), 'anthropic-version': '1999-01-01' });
  await expect(400, 'POST', '/v1/messages', { ...asking['/v1/messages'], thread: {} });
});

test('limits of the key', LIMIT, async () => {
  const once = async (limit) => {
    const { key: limited } = await gw.createKey([limit, '1']);
    await expect(200, 'POST', '/api/chat', asking['/api/chat'], bearer(limited));
    return bearer(limited);
  };
  const [minute, day] = [await once('--requests-per-minute'), await once('--requests-per-day')];
  for (const [path, body] of Object.entries(posts)) {
    const wait = await expect(429, 'POST', path, body, minute);
    assert.ok(Number(wait.headers['retry-after']) > 0, path);
    const never = await expect(429, 'POST', path, body, day);
    assert.equal(never.headers['x-should-retry'], 'false', path);
  }
});

test('a session with a turn still running', LIMIT, async () => {
  const { body: { sessionId } } = await expect(200, 'POST', '/api/chat', { message: 'hi' });
  await up.script({ blocks: [text('slow '.repeat(30))], word_delay_ms: 50 });
  const running = send('POST', '/api/chat', { message: 'more', sessionId });
  await eventually(async () => (await gw.pool()).workers.busy === 1);
  await expect(409, 'POST', '/api/chat', { message: 'too soon', sessionId });
  await expect(409, 'DELETE', `/api/sessions/${sessionId}`);
  assert.equal((await running).status, 200);
});

const failing = (status, type, message) => ({ status, error: { type, message } });
const detailed = { type: 'invalid_request_error', message: 'no', details: { n: [1.5, null] }, hint: 'x' };
const upstreamErrors = [
  [failing(400, 'invalid_request_error', 'prompt is too long: 5 tokens'), [400]],
  [{ status: 400, headers: { 'content-type': 'application/json' }, body: JSON.stringify({ error: detailed }) }, [400]],
  [{ ...failing(429, 'rate_limit_error', 'later'), headers: { 'x-should-retry': 'true' } }, [429]],
  [failing(401, 'authentication_error', 'invalid x-api-key'), [502]],
  [failing(404, 'not_found_error', 'model: claude-nothing'), [404]],
  [failing(413, 'request_too_large', 'Request exceeds the maximum size'), [413]],
  [{ ...failing(429, 'rate_limit_error', 'slow down'), headers: { 'retry-after': '7' } }, [429]],
  [failing(500, 'api_error', 'Internal server error'), [500]],
  [failing(529, 'overloaded_error', 'Overloaded'), [529, 503]],
  [{ cut_after: -1 }, [502]],
];

for (const [step, statuses] of upstreamErrors) {
  test(`upstream fails: ${JSON.stringify(step)}`, LIMIT, async () => {
    for (const [path, body] of Object.entries(asking)) {
      await up.reset();
      await up.script({ ...step, repeat: -1 });
      const reply = await send('POST', path, body);
      assert.ok(statuses.includes(reply.status), `${path}: ${reply.status} ${reply.text}`);
      shaped(reply, apiOf(path));
      if (step.body && path === '/v1/messages') assert.deepEqual(reply.body.error, detailed);
      assert.equal(reply.headers['x-should-retry'], step.headers?.['x-should-retry'], path);
    }
    await up.reset();
  });
}

test('upstream falls silent', LIMIT, async (t) => {
  const other = await Gateway.start({ test: t, upstream: up, claude: 'real',
    config: { pool: { silence_timeout_ms: 1000 } } });
  const headers = bearer(await other.key());
  await up.script({ stall_after: -1, repeat: -1 });
  for (const [path, body] of Object.entries(asking)) {
    const reply = await contract.send(other, 'POST', path, { body, headers });
    assert.equal(reply.status, 504, `${path}: ${reply.text}`);
  }
  await up.reset();
});

/** An upstream that answers everything with this status; null: not at all. */
async function failingUpstream(t, status) {
  const server = http.createServer((_, response) => {
    if (status === null) return;
    response.writeHead(status, { 'content-type': 'application/json' });
    response.end(JSON.stringify({ type: 'error', error: { type: 'api_error', message: 'no' } }));
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => server.closeAllConnections());
  t.after(() => server.close());
  return `http://127.0.0.1:${server.address().port}`;
}

for (const status of [404, 500, 502, 503, 504, 529, null]) {
  test(`upstream answers ${status ?? 'nothing'} to small questions`, LIMIT, async (t) => {
    const other = await Gateway.start({ test: t, upstream: await failingUpstream(t, status),
      config: { upstream: { connect_timeout_ms: 300, first_byte_timeout_ms: 300 } } });
    const headers = bearer((await other.createKey()).key);
    const want = { null: 504 }[status] ?? status;
    const count = await contract.send(other, 'POST', '/v1/messages/count_tokens', { body: counting, headers });
    assert.equal(count.status, want, count.text);
    if (status === 404) return; // an API without a list of models: the configured one counts
    for (const path of ['/v1/models', `/v1/models/${MODEL}`]) {
      const anthropic = await contract.send(other, 'GET', path, { headers: { ...headers, 'anthropic-version': '2023-06-01' } });
      assert.equal(anthropic.status, want, anthropic.text);
      const openai = await contract.send(other, 'GET', path, { headers });
      assert.equal(openai.status, want === 529 ? 503 : want, openai.text);
    }
  });
}

test('too many wrong keys', LIMIT, async (t) => {
  const other = await Gateway.start({ test: t, env: { CLAUDEGATE_AUTH_MAX_FAILURES: '1' } });
  const { key: fresh } = await other.createKey();
  const ask = (method, path, k) => contract.send(other, method, target(path), { body: posts[path], headers: bearer(k) });
  await ask('GET', '/api/me', `sk-cg-${'0'.repeat(12)}-${'x'.repeat(43)}`);
  await ask('GET', '/api/me', `sk-cg-${'1'.repeat(12)}-${'x'.repeat(43)}`);
  for (const { method, path } of keyed()) assert.equal((await ask(method, path, fresh)).status, 429, path);
});

test('the database is away', LIMIT, async (t) => {
  const pg = await Postgres.start();
  t.after(() => pg.close());
  const other = await Gateway.start({ postgres: pg, env: { DATABASE_URL: await pg.createDatabase() },
    config: { database: { connect_timeout_ms: 300, query_timeout_ms: 1000 } } });
  const { key: stranger } = await other.createKey(); // one that the server has not seen
  await pg.control('stop');
  for (const { method, path } of keyed()) {
    const reply = await contract.send(other, method, target(path), { body: posts[path], headers: bearer(stranger) });
    assert.equal(reply.status, 503, `${path}: ${reply.text}`);
  }
  await pg.control('start');
  await other.stop();
});

test('not ready, and not found', LIMIT, async (t) => {
  const other = await Gateway.start({ test: t, claude: 'real', ready: false });
  assert.equal((await contract.send(other, 'GET', '/readyz')).status, 503);
  await expect(200, 'GET', '/readyz');
  await expect(200, 'GET', '/metrics', undefined, {});
  const refused = async (status, api, name, method, path, options) => {
    const reply = await gw.request(method, path, options);
    assert.equal(reply.status, status, reply.text);
    shaped(reply, api);
    contract.checkResponse(`/components/responses/${name}`, reply, `${method} ${path}`);
    return reply;
  };
  await refused(404, 'Native', 'NativeNotFound', 'GET', '/nothing');
  for (const [headers, api] of clients()) {
    await refused(404, api, `${api}NotFound`, 'GET', '/v1/nothing', { headers });
    await refused(405, api, 'MethodNotAllowed', 'PUT', '/v1/models', { headers });
    await refused(415, api, `${api}Invalid`, 'POST', '/v1/nothing', { body: 'x', headers: { ...headers, 'content-encoding': 'gzip' } });
  }
  for (const path of Object.keys(asking)) {
    const reply = await refused(405, apiOf(path), 'MethodNotAllowed', 'PUT', path);
    assert.equal(reply.headers.allow, 'POST, OPTIONS');
    // what HTTP itself forbids
    await refused(415, apiOf(path), `${apiOf(path)}Invalid`, 'POST', path, { body: 'x', headers: { 'content-encoding': 'gzip' } });
    await refused(417, apiOf(path), `${apiOf(path)}Invalid`, 'POST', path, { headers: { expect: 'coffee' } });
    await refused(414, apiOf(path), `${apiOf(path)}Invalid`, 'POST', `${path}?${'x'.repeat(8192)}`);
  }
});

test('readiness tells each upstream credential', LIMIT, async (t) => {
  const other = await Gateway.start({ test: t, upstream: null, claude: 'real', config: { upstream: { max_retries: 0,
    targets: [{ name: 'a', base_url: up.url, api_key: 'sk-ant-a' }, { name: 'b', base_url: up.url, api_key: 'sk-ant-b', weight: 0 }] } } });
  const headers = bearer(await other.key());
  const targets = async () => (await contract.send(other, 'GET', '/readyz')).body.upstreamTargets;
  assert.deepEqual((await targets()).map(({ name, state, weight }) => [name, state, weight]), [['a', 'ok', 1], ['b', 'ok', 0]]);
  for (const [step, state] of [[failing(401, 'authentication_error', 'no'), 'credential refused'],
    [{ ...failing(429, 'rate_limit_error', 'slow'), headers: { 'retry-after': '9' } }, 'limited']]) {
    await up.script(step);
    const reply = await contract.send(other, 'POST', '/api/chat', { body: asking['/api/chat'], headers });
    assert.ok([200, 429].includes(reply.status), reply.text);
    assert.ok((await targets()).some((target) => target.state === state && target.coolingMs > 0), state);
  }
  await up.reset();
});

// --- the document and its page as files ----------------------------------------------------------

test('files, plain and compressed, and only when they are new', LIMIT, async () => {
  const files = contract.operations().filter(({ operation }) => operation.tags.includes('reference'));
  for (const { path } of files) {
    const plain = await expect(200, 'GET', path, undefined, {});
    assert.equal(plain.headers['content-encoding'], undefined);
    assert.match(plain.headers['content-security-policy'], /^default-src 'none'; script-src 'self';/);
    for (const [accept, gzip] of [['gzip', true], ['br, GZIP;q=0.5', true], ['gzip;q=0', false],
      ['gzip; q=0.000', false], ['identity', false], ['gzipped', false], ['', false]]) {
      const raw = await gw.open('GET', path, { headers: { 'accept-encoding': accept } });
      const bytes = Buffer.concat(await raw.toArray());
      assert.equal(raw.headers['content-encoding'], gzip ? 'gzip' : undefined, accept);
      assert.equal((gzip ? gunzipSync(bytes) : bytes).toString(), plain.text, `${path} ${accept}`);
      assert.equal(raw.headers.vary, 'Accept-Encoding');
      const again = { 'accept-encoding': accept, 'if-none-match': `"x", ${raw.headers.etag}` };
      await expect(304, 'GET', path, undefined, again);
      assert.notEqual(raw.headers.etag === plain.headers.etag, gzip);
    }
    await expect(200, 'GET', path, undefined, { 'if-none-match': '"0123456789abcdef"' });
    const zipped = await gw.request('HEAD', path, { headers: { 'accept-encoding': 'gzip' } });
    contract.check(contract.find('GET', path), { ...zipped, text: 'none',
      body: path === '/openapi.json' ? contract.doc : undefined });
  }
  assert.equal(files.length, 5);
});

test('everything that the document promises was seen', () => {
  assert.deepEqual(contract.missing(), []);
});
