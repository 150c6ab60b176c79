// The response cache: who gets a kept answer, how it is told in each API, what it costs, and what
// becomes of it in a fleet. The claude program is the real one, and the stand-in counts what it is
// asked.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import net from 'node:net';
import { join } from 'node:path';
import { after, before, beforeEach, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import OpenAI from 'openai';

import { client, post, rawEvents } from './lib/anthropic.mjs';
import { eventually, Gateway, tempDir } from './lib/gateway.mjs';
import { Redis } from './lib/redis.mjs';
import { Upstream } from './lib/upstream.mjs';

const LIMIT = { timeout: 120_000 };
const MODEL = 'claude-sonnet-4-5';
const WEATHER = { name: 'get_weather', description: 'the weather', input_schema: {
  type: 'object', properties: { city: { type: 'string' } }, required: ['city'] } };
const text = (t) => ({ type: 'text', text: t });
const use = (id, input) => ({ type: 'tool_use', id, name: 'get_weather', input });
const ask = (words, more = {}) => ({ model: MODEL, max_tokens: 256, temperature: 0,
  messages: [{ role: 'user', content: words }], ...more });

let up;
let gw;
let key;
before(async () => {
  up = await Upstream.start();
  gw = await Gateway.start({ upstream: up, claude: 'real' });
  ({ key } = await gw.createKey(['--response-cache']));
});
after(async () => {
  await gw.stop();
  await up.stop();
});
beforeEach(() => up.reset());

const calls = async () => (await up.requests()).length;
const cacheOf = (reply) => reply.headers['x-claudegate-cache'];

async function say(words, { on = gw, as = key, headers, ...more } = {}) {
  const reply = await post(on, '/v1/messages', ask(words, more), { key: as, headers });
  assert.equal(reply.status, 200, reply.text);
  return reply;
}

/** A stream of the Messages API: its headers, its events, and the message they make. */
async function stream(body, as = key) {
  const response = await gw.open('POST', '/v1/messages', { body: { ...body, stream: true },
    headers: { 'x-api-key': as, 'anthropic-version': '2026-10-21' } }); // as the SDK
  assert.equal(response.statusCode, 200);
  return { headers: response.headers, events: await rawEvents(response) };
}

const shape = (events) => events.map((e) => e.event).filter((name, i, all) => name !== all[i - 1]);

test('the same again is answered without upstream, and costs nothing', LIMIT, async () => {
  await up.script([{ blocks: [text('First answer.')], usage: { input_tokens: 100,
    output_tokens: 50, cache_creation_input_tokens: 0, cache_read_input_tokens: 0 } },
  { blocks: [text('Second answer.')] }]);
  const first = await say('What is it?');
  const again = await say('What is it?');
  assert.deepEqual([first, again].map(cacheOf), ['miss', 'hit']);
  assert.deepEqual(again.body, first.body, 'the message, with what the model said it took');
  assert.equal(again.body.content[0].text, 'First answer.');
  assert.equal(await calls(), 1);
  assert.notEqual(again.headers['request-id'], first.headers['request-id']);

  const row = await gw.usageRow(again.headers['request-id']);
  assert.deepEqual([row.cached, row.status_code, row.total_tokens, row.cost_nano, row.upstream_calls,
    row.ttft_ms, row.model], [1, 200, 0, 0, 0, null, MODEL]);
  const live = await gw.usageRow(first.headers['request-id']);
  assert.deepEqual([live.cached, live.input_tokens, live.output_tokens], [0, 100, 50]);
  const line = await gw.logged((l) => l.request_id === again.headers['request-id'] && l.outcome);
  assert.deepEqual([line.cached, line.outcome], [true, 'ok']);
});

test('who asks with another temperature, or with none, is never given a kept answer', LIMIT, async () => {
  for (const [i, more] of [{ temperature: 0.1 }, { temperature: undefined },
    { temperature: null }, { temperature: 1 }].entries()) {
    const replies = [await say(`warm ${i}`, more), await say(`warm ${i}`, more)];
    assert.deepEqual(replies.map(cacheOf), [undefined, undefined]);
    assert.equal(await calls(), 2 * (i + 1), JSON.stringify(more));
  }
  await say('warm 0'); // what was answered before is not there for temperature 0 either
  assert.equal(await calls(), 9);
});

test('any difference in what is asked is another request; the order of names is none', LIMIT, async () => {
  const base = { system: 'Be brief.', top_k: 5, stop_sequences: ['END'], tools: [WEATHER] };
  assert.equal(cacheOf(await say('differ', base)), 'miss');
  for (const more of [{ system: 'Be long.' }, { top_k: 6 }, { stop_sequences: [] }, { tools: [] },
    { max_tokens: 255 }, { model: 'claude-haiku-4-5' },
    { messages: [{ role: 'user', content: 'a' }, { role: 'assistant', content: 'b' },
      { role: 'user', content: 'differ' }] },
    { headers: { 'anthropic-beta': 'my-beta-1' } },
    { headers: { 'anthropic-version': '2026-10-21' } }]) {
    assert.equal(cacheOf(await say('differ', { ...base, ...more })), 'miss', JSON.stringify(more));
  }
  const before = await calls();
  const { name, ...rest } = WEATHER;
  const turned = Object.fromEntries(Object.entries({ ...ask('differ', base), temperature: 0.0,
    tools: [{ ...rest, name }], metadata: { user_id: 'somebody' } }).reverse());
  const reply = await post(gw, '/v1/messages', turned, { key });
  assert.equal(cacheOf(reply), 'hit', reply.text);
  assert.equal(await calls(), before);
});

test('another key never gets an answer of this one, and none without the permission', LIMIT, async () => {
  await say('mine');
  const { key: other } = await gw.createKey(['--response-cache']);
  const { key: plain, publicId } = await gw.createKey();
  assert.equal(cacheOf(await say('mine', { as: other })), 'miss');
  for (let i = 0; i < 2; i++) assert.equal(cacheOf(await say('mine', { as: plain })), undefined);
  assert.equal(await calls(), 4);
  assert.equal(cacheOf(await say('mine', { as: other })), 'hit');

  // switched on and off while the server runs
  const me = async () => (await gw.request('GET', '/api/me',
    { headers: { 'x-api-key': plain } })).body.permissions.responseCache;
  assert.equal(await me(), false);
  for (const [flag, shown, is] of [['--response-cache', 'yes', true], ['--no-response-cache', 'no', false]]) {
    const { code, stderr } = await gw.cli(['key', 'set', publicId, flag]);
    assert.equal(code, 0, stderr);
    await eventually(async () => await me() === is, { what: flag });
    assert.match((await gw.cli(['key', 'show', publicId])).stdout, new RegExp(`^response cache +${shown}$`, 'm'));
    const seen = [];
    for (let i = 0; i < 2; i++) seen.push(cacheOf(await say('switched', { as: plain })));
    assert.deepEqual(seen, is ? ['miss', 'hit'] : [undefined, undefined]);
  }
  const both = await gw.cli(['key', 'set', publicId, '--response-cache', '--no-response-cache']);
  assert.equal(both.code, 2);
  assert.match(both.stderr, /--response-cache: cannot be given together with --no-response-cache/);
});

test('a stream after a plain answer, and a plain answer after a stream', LIMIT, async () => {
  const blocks = [text('Ünï 🎉 a few words.'), use('toolu_1', { city: 'Paris', n: 12345678901234, deep: { a: [1.5, null] } }),
    use('toolu_2', {})];
  const usage = { input_tokens: 12, output_tokens: 34, cache_creation_input_tokens: 5, cache_read_input_tokens: 6 };
  await up.script([{ blocks, usage }, { blocks, usage }]);
  const api = await client(gw, { key });
  const body = ask('both ways', { tools: [WEATHER] });

  const plain = await api.messages.create(body);
  assert.equal(plain.stop_reason, 'tool_use');
  const { parsed_output: _parsed, stop_details: _details, ...put } = await api.messages.stream(body).finalMessage();
  assert.deepEqual(put, plain);
  const kept = await stream(body);
  assert.equal(kept.headers['x-claudegate-cache'], 'hit');
  assert.equal(await calls(), 1);

  const other = ask('both ways, the other way round', { tools: [WEATHER] });
  const live = await stream(other);
  assert.equal(live.headers['x-claudegate-cache'], 'miss');
  assert.deepEqual(shape(kept.events), shape(live.events), 'the events of a real stream');
  assert.deepEqual(kept.events.at(-2).data, live.events.at(-2).data, 'message_delta');
  const { usage: at, id: _, ...start } = live.events[0].data.message;
  const { usage: keptAt, id: __, ...keptStart } = kept.events[0].data.message;
  assert.deepEqual([keptStart, { ...keptAt, output_tokens: at.output_tokens }], [start, at], 'message_start');
  const { data, response } = await api.messages.create(other).withResponse();
  assert.equal(response.headers.get('x-claudegate-cache'), 'hit');
  assert.deepEqual(data.content, plain.content);
  assert.deepEqual(data.usage, plain.usage);
  assert.equal(await calls(), 2);
});

test('chat completions and responses, plain and streamed', LIMIT, async () => {
  const openai = new OpenAI({ baseURL: `${gw.url}/v1`, apiKey: key, maxRetries: 0 });
  const tool = { type: 'function', function: { name: 'get_weather', parameters: WEATHER.input_schema } };
  await up.script([{ blocks: [text('I look.'), use('toolu_9', { city: 'Rome' })] }, { blocks: [text('A response.')] }]);
  const chat = { model: MODEL, temperature: 0, messages: [{ role: 'user', content: 'weather?' }], tools: [tool] };
  const first = await openai.chat.completions.create(chat);
  const { data: again, response } = await openai.chat.completions.create(chat).withResponse();
  assert.equal(response.headers.get('x-claudegate-cache'), 'hit');
  assert.notEqual(again.id, first.id);
  assert.deepEqual([again.choices, again.usage], [first.choices, first.usage]);
  const streamed = await openai.chat.completions.stream({ ...chat, stream_options: { include_usage: true } }).finalChatCompletion();
  const [{ message, finish_reason: reason }] = streamed.choices;
  assert.deepEqual([message.content, reason, JSON.parse(message.tool_calls[0].function.arguments)],
    ['I look.', 'tool_calls', { city: 'Rome' }]);
  assert.equal(await calls(), 1);

  const wanted = { model: MODEL, temperature: 0, input: 'Say something.' };
  const told = await openai.responses.create(wanted);
  const { data: same, response: answer } = await openai.responses.create(wanted).withResponse();
  assert.equal(answer.headers.get('x-claudegate-cache'), 'hit');
  assert.equal(same.output_text, 'A response.');
  assert.notEqual(same.id, told.id, 'a response of its own');
  const events = [];
  for await (const event of await openai.responses.create({ ...wanted, store: false, stream: true })) events.push(event);
  assert.equal(events.at(-1).type, 'response.completed');
  assert.equal(events.at(-1).response.output[0].content[0].text, 'A response.');
  assert.equal(await calls(), 2);

  // the stored one can be looked up and continued like any other
  assert.equal((await openai.responses.retrieve(same.id)).output_text, 'A response.');
  await openai.responses.create({ model: MODEL, temperature: 0, input: 'And?', previous_response_id: same.id });
  assert.equal((await up.requests()).at(-1).body.messages.length, 3);
});

test('what the client says of caches is obeyed', LIMIT, async () => {
  const headers = (value) => ({ headers: { 'cache-control': value } });
  await up.script([1, 2, 3, 4].map((n) => ({ blocks: [text(`answer ${n}`)] })));
  const told = [];
  const one = async (value) => {
    const reply = await say('obey', value ? headers(value) : {});
    told.push([cacheOf(reply), reply.body.content[0].text]);
  };
  await one('no-store');
  await one();
  await one('max-age=5, No-Cache');
  await one();
  await one('no-store');
  await one('no-cache, no-store');
  await one();
  assert.deepEqual(told, [['miss', 'answer 1'], ['miss', 'answer 2'], ['bypass', 'answer 3'],
    ['hit', 'answer 3'], ['hit', 'answer 3'], ['bypass', 'answer 4'], ['hit', 'answer 3']]);
});

test('only a whole answer that ended well is kept', LIMIT, async () => {
  const long = 'x'.repeat(1 << 20);
  const cases = {
    refusal: { blocks: [text('No.')], stop_reason: 'refusal' },
    pause: { blocks: [text('Wait.')], stop_reason: 'pause_turn' },
    'too large': { blocks: [{ ...text(long), chunk: 65_536 }] },
    'an error': { status: 400, error: { type: 'invalid_request_error', message: 'no' } },
    'broken off': { blocks: [text('a b c d')], cut_after: 3 },
  };
  for (const [name, step] of Object.entries(cases)) {
    await up.script([step, { blocks: [text('fine')] }]);
    const first = await post(gw, '/v1/messages', ask(name), { key });
    assert.equal(cacheOf(first), 'miss', name);
    const second = await say(name);
    assert.deepEqual([cacheOf(second), second.body.content[0].text], ['miss', 'fine'], name);
    await up.reset();
  }
  for (const [stop, more] of [['max_tokens', {}], ['stop_sequence', { stop_sequence: 'END' }]]) {
    await up.script({ blocks: [text('cut')], stop_reason: stop, ...more });
    const first = await say(stop, { stop_sequences: ['END'] });
    const second = await say(stop, { stop_sequences: ['END'] });
    assert.equal(cacheOf(second), 'hit', stop);
    assert.deepEqual(second.body, first.body);
    assert.equal(second.body.stop_reason, stop);
  }
});

test('sessions have no part in it', LIMIT, async () => {
  for (let i = 0; i < 2; i++) {
    const reply = await gw.chat({ message: 'native', temperature: 0 }, { key });
    assert.equal(reply.status, 200, reply.text);
    assert.equal(cacheOf(reply), undefined);
  }
  assert.equal(await calls(), 2);
});

test('requests count against the limits, tokens and cost do not', LIMIT, async () => {
  await up.script({ blocks: [text('ok')], usage: { input_tokens: 300, output_tokens: 20,
    cache_creation_input_tokens: 0, cache_read_input_tokens: 0 } });
  const { key: tight } = await gw.createKey(['--response-cache', '--requests-per-day', '6',
    '--tokens-per-day', '1000', '--cost-per-day', '1']);
  const headers = { 'x-api-key': tight };
  for (let i = 0; i < 6; i++) assert.equal(cacheOf(await say('limits', { as: tight })), i ? 'hit' : 'miss');
  const { limits } = (await gw.request('GET', '/api/me', { headers })).body;
  assert.deepEqual([limits.requestsPerDay.remaining, limits.tokensPerDay.remaining], [0, 680]);
  assert.ok(limits.costPerDay.remaining > 0.99 && limits.costPerDay.remaining < 1);
  const refused = await post(gw, '/v1/messages', ask('limits'), { key: tight });
  assert.equal(refused.status, 429);

  await gw.usageRows();
  const { totals, usage } = (await gw.request('GET', '/api/usage', { headers })).body;
  assert.deepEqual([totals.requests, totals.cachedRequests, totals.totalTokens, totals.unpricedRequests],
    [6, 5, 320, 0]);
  assert.equal(usage[0].cachedRequests, 5);
  const { requests } = (await gw.request('GET', '/api/usage/requests', { headers })).body;
  assert.deepEqual(requests.map((r) => [r.cached, r.totalTokens, r.costUsd > 0]),
    [...Array(5).fill([true, 0, false]), [false, 320, true]]);
  const [rolled] = await gw.sql(`SELECT sum(cached) AS cached, sum(requests) AS requests FROM usage_hourly ` +
    `WHERE api_key_id = (SELECT id FROM api_keys WHERE public_id = '${tight.slice(6, 18)}')`);
  assert.deepEqual([Number(rolled.cached), Number(rolled.requests)], [5, 6]);
});

test('a model without a price costs nothing when its answer was kept', LIMIT, async () => {
  const { key: any } = await gw.createKey(['--response-cache', '--models', '*']);
  await say('mystery', { as: any, model: 'mystery-2' });
  const again = await say('mystery', { as: any, model: 'mystery-2' });
  assert.equal(cacheOf(again), 'hit');
  assert.equal((await gw.usageRow(again.headers['request-id'])).cost_nano, 0);
  assert.equal(await gw.metrics('claudegate_unpriced_turns_total', { model: 'mystery-2' }), 1);
});

test('the outcomes are counted', LIMIT, async () => {
  const of = async (outcome) => await gw.metrics('claudegate_cache_requests_total', { outcome }) ?? 0;
  const all = () => Promise.all(['hit', 'miss', 'bypass', 'unavailable'].map(of));
  const was = await all();
  await say('count');
  await say('count');
  await say('count');
  await say('count', { headers: { 'cache-control': 'no-cache' } });
  await say('count', { temperature: 0.5 });
  assert.deepEqual((await all()).map((n, i) => n - was[i]), [2, 1, 1, 0]);
});

test('an answer that a client has left behind is not kept', LIMIT, async () => {
  await up.script([{ blocks: [text('word '.repeat(2000))], word_delay_ms: 20 }, { blocks: [text('whole')] }]);
  const gone = new AbortController();
  const response = await gw.open('POST', '/v1/messages', { body: ask('leaving', { stream: true }),
    headers: { 'x-api-key': key, 'anthropic-version': '2023-06-01' }, signal: gone.signal });
  response.on('error', () => {});
  await new Promise((resolve) => { response.once('data', resolve); });
  gone.abort();
  const row = await gw.usageRow(response.headers['request-id']);
  assert.deepEqual([row.status_code, row.cached], [499, 0]);
  const next = await say('leaving');
  assert.deepEqual([cacheOf(next), next.body.content[0].text], ['miss', 'whole']);
});

test('an answer is forgotten when its time is over', LIMIT, async (t) => {
  const brief = await Gateway.start({ test: t, upstream: up, claude: 'real', env: { CLAUDEGATE_CACHE_TTL: '2' } });
  const { key: as } = await brief.createKey(['--response-cache']);
  await say('soon over', { on: brief, as });
  assert.equal(cacheOf(await say('soon over', { on: brief, as })), 'hit');
  await sleep(2200);
  assert.equal(cacheOf(await say('soon over', { on: brief, as })), 'miss');
});

// --- a fleet --------------------------------------------------------------------------------------

/** Two servers on one database and one Redis. */
async function fleet(t, redis, env = {}) {
  const all = [];
  for (let i = 0; i < 2; i++) {
    const dataDir = join(tempDir(), 'data');
    const url = all[0]?.env.DATABASE_URL ?? (all[0] && `sqlite:${all[0].dataDir}/claudegate.db`);
    all.push(await Gateway.start({ test: t, upstream: up, claude: 'real', dataDir, env: {
      REDIS_URL: redis.url, CLAUDEGATE_REDIS_TIMEOUT_MS: '500', ...env, ...(url && { DATABASE_URL: url }),
    } }));
  }
  for (const one of all) await redisIs(one, 'up');
  const { key: as } = await all[0].createKey(['--response-cache']);
  return { all, as };
}

const redisIs = (one, state) => eventually(async () => (await one.pool()).redis === state,
  { ms: 15_000, what: `redis ${state}` });
const names = async (redis) => (await redis.ask('KEYS', '*answer:*')).split('\n').filter(Boolean);

test('servers with one Redis have their answers together; without it nothing is kept, and nothing fails', LIMIT, async (t) => {
  const redis = await Redis.start();
  const { all: [a, b], as } = await fleet(t, redis);
  await up.script({ blocks: [text('A text to be found.')] });
  assert.equal(cacheOf(await say('together', { on: a, as })), 'miss');
  const kept = await eventually(async () => (await names(redis))[0]);
  assert.match(await redis.ask('GET', kept), /A text to be found\./);
  assert.ok(Number(await redis.ask('TTL', kept)) > 3500);
  const there = await say('together', { on: b, as });
  assert.deepEqual([cacheOf(there), there.body.content[0].text, await calls()], ['hit', 'A text to be found.', 1]);

  await redis.ask('SET', kept, '{"content":"no list"}');
  assert.equal(cacheOf(await say('together', { on: a, as })), 'miss', 'what cannot be read is none');

  await redis.kill();
  const before = await calls();
  const from = performance.now();
  for (const one of [a, b, a]) assert.equal(cacheOf(await say('together', { on: one, as })), 'miss');
  assert.ok(performance.now() - from < 10_000);
  assert.equal(await calls(), before + 3);
  assert.ok(await a.metrics('claudegate_cache_requests_total', { outcome: 'unavailable' }) >= 1);
  await redis.restart();
  for (const one of [a, b]) await redisIs(one, 'up');
  assert.equal(cacheOf(await say('together', { on: a, as })), 'miss', 'its memory is empty');
  await eventually(async () => (await names(redis))[0]);
  assert.equal(cacheOf(await say('together', { on: b, as })), 'hit');
});

/** A way to Redis on which questions for kept answers are never answered while `holding`. */
async function holdingProxy(t, redis) {
  const proxy = { holding: false, held: 0 };
  const server = net.createServer((inner) => {
    const outer = net.connect(redis.port, '127.0.0.1');
    inner.on('data', (data) => {
      if (proxy.holding && /\bGET\r\n[^*]*answer:/.test(data)) proxy.held++;
      else outer.write(data);
    });
    outer.on('data', (data) => inner.write(data));
    for (const [one, other] of [[inner, outer], [outer, inner]]) {
      one.on('error', () => {}).on('close', () => other.destroy());
    }
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => server.close());
  return Object.assign(proxy, { url: `redis://127.0.0.1:${server.address().port}` });
}

test('a look-up that hangs: a time-out is a miss, and who leaves is let go at once', LIMIT, async (t) => {
  const redis = await Redis.start();
  const proxy = await holdingProxy(t, redis);
  const { all: [a], as } = await fleet(t, proxy, { CLAUDEGATE_REDIS_TIMEOUT_MS: '3000' });
  await say('hanging', { on: a, as });
  assert.equal(cacheOf(await say('hanging', { on: a, as })), 'hit');

  proxy.holding = true;
  const gone = new AbortController();
  const left = post(a, '/v1/messages', ask('hanging'), { key: as, signal: gone.signal }).catch(() => 'left');
  await eventually(() => proxy.held === 1, { what: 'a look-up that is held' });
  gone.abort();
  assert.equal(await left, 'left');
  const row = await eventually(async () => (await a.usageRows()).find((r) => r.status_code === 499));
  assert.deepEqual([row.cached, row.total_tokens, row.upstream_calls], [0, 0, 0]);
  assert.ok(row.response_time_ms < 2500, `${row.response_time_ms} ms: it did not wait for Redis`);
  assert.equal(await calls(), 1);

  const from = performance.now();
  assert.equal(cacheOf(await say('hanging', { on: a, as })), 'miss');
  assert.ok(performance.now() - from < 10_000);
  assert.equal(await calls(), 2);
});

test('with a master key nothing can be read in Redis', LIMIT, async (t) => {
  const redis = await Redis.start();
  const { all: [a, b], as } = await fleet(t, redis, { CLAUDEGATE_MASTER_KEY: '11'.repeat(32) });
  await up.script({ blocks: [text('A secret answer.')] });
  await say('A secret question.', { on: a, as });
  const [one] = await eventually(async () => (await names(redis)).length && names(redis));
  const sealed = await redis.ask('GET', one);
  assert.match(sealed, /^v1:[0-9a-f]{8}:[\w-]+$/);
  for (const name of (await redis.ask('KEYS', '*')).split('\n')) {
    const dump = Buffer.from(await redis.ask('DUMP', name)).toString();
    assert.doesNotMatch(`${name} ${dump}`, /secret (answer|question)|claude-sonnet/);
  }
  assert.equal(cacheOf(await say('A secret question.', { on: b, as })), 'hit');

  // bound to its place: moved to another one, it does not open; neither does what is not sealed
  assert.equal(cacheOf(await say('Another question.', { on: a, as })), 'miss');
  const [other] = await eventually(async () => (await names(redis)).filter((name) => name !== one));
  for (const planted of [sealed, '{"content":[{"type":"text","text":"planted"}],"stop_reason":"end_turn"}']) {
    await redis.ask('SET', other, planted);
    assert.equal(cacheOf(await say('Another question.', { on: b, as })), 'miss');
    await eventually(async () => await redis.ask('GET', other) !== planted, { what: 'stored anew' });
  }
});
