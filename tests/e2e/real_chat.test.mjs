// POST /api/chat with the real claude program: what the client gets, what upstream was asked, and
// what every way of failing upstream becomes.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, beforeEach, test } from 'node:test';

import { conversation, settings, system, texts } from './lib/asked.mjs';
import { eventually, Gateway, UPSTREAM_KEY } from './lib/gateway.mjs';
import { Upstream } from './lib/upstream.mjs';

const LIMIT = { timeout: 60_000 };
const IDLE_MS = 700; // the gateway's patience with a silent upstream

let up;
let gw;
before(async () => {
  up = await Upstream.start();
  gw = await Gateway.start({
    claude: 'real', upstream: up,
    config: {
      upstream: { max_retries: 0, first_byte_timeout_ms: IDLE_MS, idle_timeout_ms: IDLE_MS },
      pool: { max_workers: 2 },
    },
  });
});
after(async () => {
  await gw.stop();
  await up.stop();
});
beforeEach(() => up.reset());

const say = (text, more = {}) => ({ blocks: [{ type: 'text', text }], ...more });
const bodies = async () => (await up.requests()).map((request) => request.body);

async function only() {
  const list = await bodies();
  assert.equal(list.length, 1, 'one upstream call');
  return list[0];
}

// --- answers ---------------------------------------------------------------------------------

test('a plain answer, with the usage that upstream told', LIMIT, async () => {
  const usage = {
    input_tokens: 321, output_tokens: 45, cache_creation_input_tokens: 6,
    cache_read_input_tokens: 7,
  };
  await up.script([say('Grüße, 世界 🎉 "quoted" \\ \u2028 end', { usage })]);
  const { status, headers, body } = await gw.chat({ message: 'hello' });
  assert.equal(status, 200);
  assert.match(headers['content-type'], /^application\/json/);
  const { sessionId, requestId, ...rest } = body;
  assert.match(sessionId, /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
  assert.equal(requestId, headers['request-id']);
  assert.deepEqual(rest, {
    success: true,
    model: 'claude-sonnet-4-5',
    response: 'Grüße, 世界 🎉 "quoted" \\ \u2028 end',
    stopReason: 'end_turn',
    usage: {
      promptTokens: 334, completionTokens: 45, totalTokens: 379, cacheCreationTokens: 6,
      cacheReadTokens: 7,
    },
  });
  assert.deepEqual(texts(await only()), [['user', 'hello']]);
  const row = await gw.usageRow(requestId);
  assert.deepEqual([row.input_tokens, row.output_tokens, row.cache_creation_tokens,
    row.cache_read_tokens, row.request_tokens, row.response_tokens, row.total_tokens],
  [321, 45, 6, 7, 334, 45, 379]);
  assert.deepEqual([row.status_code, row.error, row.estimated, row.upstream_calls, row.session_id],
    [200, null, 0, 1, sessionId]);
});

test('a stream arrives while upstream is still talking', LIMIT, async () => {
  const words = Array.from({ length: 12 }, (_, i) => `word${i}`).join(' ');
  const usage = { input_tokens: 9, output_tokens: 8 };
  await up.script([say(words, { word_delay_ms: 60, usage })]);
  let headers;
  const { events, at, text, start, end, done } = await gw.collect({ message: 'count' },
    { onOpen: (response) => { headers = response.headers; } });
  assert.equal(text, words);
  assert.ok(done, 'ends with [DONE]');
  assert.equal(headers['x-accel-buffering'], 'no');
  assert.match(headers['cache-control'], /no-cache/);
  assert.deepEqual(events.map((e) => e.type ?? e),
    ['start', ...Array(12).fill('delta'), 'end', '[DONE]']);
  assert.equal(start.requestId, headers['request-id']);
  assert.equal(start.model, 'claude-sonnet-4-5');
  const { type: _, sessionId, requestId, ...rest } = end;
  assert.deepEqual([sessionId, requestId], [start.sessionId, start.requestId]);
  assert.deepEqual(rest, {
    model: 'claude-sonnet-4-5',
    stopReason: 'end_turn',
    usage: {
      promptTokens: 9, completionTokens: 8, totalTokens: 17, cacheCreationTokens: 0,
      cacheReadTokens: 0,
    },
  });
  const deltas = at.slice(1, 13);
  assert.ok(deltas.at(-1) - deltas[0] >= 11 * 60 * 0.6, `spread over time: ${deltas}`);
  const gaps = deltas.slice(1).filter((ms, i) => ms - deltas[i] >= 20).length;
  assert.ok(gaps >= 4, `token by token, not in lumps: ${deltas}`);
  assert.equal((await gw.usageRow(requestId)).ttft_ms < at.at(-1), true);
});

test('max_tokens ends the answer, with one upstream call', LIMIT, async () => {
  const plain = await gw.ask('a long question', { maxTokens: 3 });
  assert.equal(plain.stopReason, 'max_tokens');
  assert.equal(plain.usage.completionTokens, 3);
  assert.equal((await only()).max_tokens, 3);
  await up.reset();
  const { end, text, done } = await gw.collect({ message: 'a long question', maxTokens: 3 });
  assert.equal(end.stopReason, 'max_tokens');
  assert.equal(text, plain.response);
  assert.ok(done);
  assert.equal((await only()).max_tokens, 3);
});

for (const reason of ['refusal', 'model_context_window_exceeded', 'pause_turn', 'stop_sequence']) {
  test(`stop reason ${reason} is told as it is`, LIMIT, async () => {
    await up.script([say('so far', { stop_reason: reason })]);
    const body = await gw.ask('hello');
    assert.deepEqual([body.stopReason, body.response], [reason, 'so far']);
    await only();
  });
}

for (const [what, step, text] of [
  ['nothing', { empty: true }, ''],
  ['only spaces', say(' \n '), ' \n '],
]) {
  test(`${what} as answer is an answer, with one upstream call`, LIMIT, async () => {
    await up.script([{ ...step, repeat: -1 }]);
    const body = await gw.ask('hello');
    assert.deepEqual([body.stopReason, body.response], ['end_turn', text]);
    await only();
    await up.reset();
    const next = await gw.ask('again', { sessionId: body.sessionId });
    assert.match(next.response, /again$/, 'the session that was returned goes on');
    await only();
  });
}

// --- what upstream is asked ------------------------------------------------------------------

test('each parameter reaches upstream, and nothing else changes', LIMIT, async () => {
  const image = {
    type: 'image',
    source: {
      type: 'base64', media_type: 'image/png',
      data: 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9' +
        'awAAAABJRU5ErkJggg==',
    },
  };
  const link = { type: 'image', source: { type: 'url', url: 'https://example.com/a.png?x=1&y=2' } };
  const asks = [
    { message: 'one' },
    { message: 'two' },
    { message: 'three', temperature: 0.3, maxTokens: 17, system: ' Be "kind".\n' },
    { message: 'four' },
    { message: [{ type: 'text', text: ' look: ' }, image, { type: 'text', text: 'and\n' }, link] },
    { message: 'six', temperature: 0 },
    { message: 'seven', temperature: 1, model: 'claude-opus-4-1' },
    { message: 'eight' },
  ];
  for (const body of asks) assert.equal((await gw.chat(body)).status, 200);
  const seen = await bodies();
  assert.equal(seen.length, asks.length, 'one upstream call per turn');
  const plain = settings(seen[0]);
  assert.equal(plain.max_tokens, 4096);
  assert.equal(plain.model, 'claude-sonnet-4-5');
  assert.equal(plain.system.length, 2);
  assert.deepEqual(plain.thinking, { type: 'disabled' });
  assert.deepEqual(settings(seen[1]), plain);
  assert.deepEqual(settings(seen[2]), {
    ...plain, temperature: 0.3, max_tokens: 17,
    system: [...plain.system, { type: 'text', text: ' Be "kind".\n' }],
  });
  for (const i of [3, 4, 7]) assert.deepEqual(settings(seen[i]), plain, asks[i].message);
  assert.deepEqual(settings(seen[5]), { ...plain, temperature: 0 });
  const { model, temperature, max_tokens: maxTokens } = seen[6];
  assert.deepEqual([model, temperature, maxTokens], ['claude-opus-4-1', 1, 4096]);
  assert.deepEqual(conversation(seen[4]), [{
    role: 'user',
    content: [{ type: 'text', text: ' look: ' }, image, { type: 'text', text: 'and\n' }, link],
  }]);
  for (const i of [0, 1, 2, 3, 5, 6, 7]) {
    assert.deepEqual(texts(seen[i]), [['user', asks[i].message]], 'nothing of other turns');
  }
});

test('upstream gets the credential; a worker has none and nothing of the server', LIMIT,
  async () => {
    const body = await gw.ask('hello');
    const [request] = await up.requests();
    assert.equal(request.headers['x-api-key'], UPSTREAM_KEY);
    assert.equal(request.headers.authorization, undefined);
    assert.doesNotMatch(JSON.stringify(request.body), new RegExp(UPSTREAM_KEY));
    const workers = gw.workers();
    assert.ok(workers.length >= 1);
    for (const { pid, args } of workers) {
      const environ = readFileSync(`/proc/${pid}/environ`, 'utf8');
      const memory = environ + args.join(' ');
      assert.ok(!memory.includes(UPSTREAM_KEY), 'the credential is in a worker');
      assert.ok(!memory.includes(up.url), 'a worker knows where upstream is');
      assert.ok(!memory.includes(body.sessionId));
      const names = environ.split('\0').filter(Boolean).map((pair) => pair.split('=')[0]).sort();
      assert.deepEqual(names, [
        'ANTHROPIC_API_KEY', 'ANTHROPIC_BASE_URL', 'ANTHROPIC_UNIX_SOCKET',
        'CLAUDE_AGENT_SDK_MCP_NO_PREFIX', 'CLAUDE_CODE_BLOCKING_LIMIT_OVERRIDE',
        'CLAUDE_CODE_DISABLE_ATTACHMENTS', 'CLAUDE_CODE_DISABLE_LEGACY_MODEL_REMAP',
        'CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC',
        'CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK', 'CLAUDE_CODE_MAX_RETRIES',
        'DISABLE_AUTOUPDATER', 'DISABLE_COMPACT', 'ENABLE_TOOL_SEARCH', 'HOME', 'LANG', 'PATH']);
      assert.notEqual(environ.split('\0').find((pair) => pair.startsWith('HOME=')),
        `HOME=${gw.env.HOME}`);
    }
  });

// --- sessions --------------------------------------------------------------------------------

test('a session goes on: history as real turns, in order, with exact texts', LIMIT, async () => {
  await up.script([say(' first answer\n'), say('second "answer"'), say('third')]);
  const { sessionId } = await gw.ask('  one ', { system: 'Be brief.' });
  const second = await gw.ask('two\n\n', { sessionId });
  assert.equal(second.sessionId, sessionId);
  const third = await gw.collect({ message: 'three', sessionId });
  assert.equal(third.end.sessionId, sessionId);
  const seen = await bodies();
  assert.equal(seen.length, 3, 'one upstream call per turn');
  assert.deepEqual(texts(seen[2]), [
    ['user', '  one '], ['assistant', ' first answer\n'], ['user', 'two\n\n'],
    ['assistant', 'second "answer"'], ['user', 'three']]);
  assert.deepEqual(seen.map(system), [['Be brief.'], ['Be brief.'], ['Be brief.']]);
});

test('two sessions of one key do not see each other', LIMIT, async () => {
  const a = await gw.ask('I am A');
  const b = await gw.ask('I am B');
  await gw.ask('still A', { sessionId: a.sessionId });
  await gw.ask('still B', { sessionId: b.sessionId });
  const seen = await bodies();
  assert.deepEqual(texts(seen[2]).map(([, text]) => text), ['I am A', a.response, 'still A']);
  assert.deepEqual(texts(seen[3]).map(([, text]) => text), ['I am B', b.response, 'still B']);
});

test('a session survives the death of its worker and a failed turn', LIMIT, async () => {
  const first = await gw.ask('remember 17');
  for (const { pid } of gw.workers()) process.kill(pid, 'SIGKILL');
  await eventually(async () => await gw.metrics('claudegate_worker_ends_total') >= 2);
  await up.script([{ status: 400, error: { type: 'invalid_request_error', message: 'no' } }]);
  const failed = await gw.chat({ message: 'lost', sessionId: first.sessionId });
  assert.equal(failed.status, 400, failed.text);
  await gw.ask('which number?', { sessionId: first.sessionId });
  const seen = await bodies();
  assert.equal(seen.length, 3);
  assert.deepEqual(texts(seen[2]),
    [['user', 'remember 17'], ['assistant', first.response], ['user', 'which number?']]);
});

test('a session survives a restart; a passing failure upstream is tried again', LIMIT,
  async (t) => {
    const one = await Gateway.start({ claude: 'real', upstream: up, test: t });
    const first = await one.ask('remember 23', { system: 'Be exact.' });
    await one.stop();
    const two = await one.restart({ test: t });
    await up.script([{ status: 529, error: { type: 'overloaded_error', message: 'Overloaded' } }]);
    const again = await two.ask('which?', { sessionId: first.sessionId });
    const seen = await bodies();
    assert.equal(seen.length, 3, 'one try more');
    assert.deepEqual(texts(seen[2]),
      [['user', 'remember 23'], ['assistant', first.response], ['user', 'which?']]);
    assert.deepEqual(system(seen[2]), ['Be exact.']);
    assert.deepEqual(texts(seen[1]), texts(seen[2]));
    const row = await two.usageRow(again.requestId);
    assert.deepEqual([row.retries, row.upstream_calls, row.status_code], [1, 1, 200]);
    assert.equal((await two.usageRows()).length, 2, 'each turn once, over both runs');
  });

// --- upstream fails --------------------------------------------------------------------------

const failures = {
  'status 400': {
    step: { status: 400, error: { type: 'invalid_request_error', message: 'bad thing' } },
    status: 400, error: /400.*bad thing/,
  },
  'a prompt too long': {
    step: { status: 400,
      error: { type: 'invalid_request_error', message: 'prompt is too long: 9 > 8 maximum' } },
    status: 400, error: /prompt is too long: 9 > 8 maximum/,
  },
  'status 404': {
    step: { status: 404, error: { type: 'not_found_error', message: 'model: claude-x' } },
    status: 404, error: /404.*model: claude-x/,
  },
  'status 413': {
    step: { status: 413, error: { type: 'request_too_large', message: 'too big' } },
    status: 413, error: /413.*too big/,
  },
  'status 429': {
    step: { status: 429, headers: { 'retry-after': '33' },
      error: { type: 'rate_limit_error', message: 'slow down' } },
    status: 429, error: /429.*slow down/, retryAfter: '33',
  },
  'status 500': {
    step: { status: 500, error: { type: 'api_error', message: 'oops' } },
    status: 500, error: /500.*oops/,
  },
  'status 529': {
    step: { status: 529, error: { type: 'overloaded_error', message: 'Overloaded' } },
    status: 529, error: /529.*Overloaded/,
  },
  'status 500 with a page': {
    step: { status: 500, body: '<html>gateway</html>' }, status: 500, error: /500/,
  },
  'status 401': {
    step: { status: 401, error: { type: 'authentication_error', message: 'invalid x-api-key' } },
    status: 502, error: /refused this server's credential/,
  },
  'status 403': {
    step: { status: 403, error: { type: 'permission_error', message: 'no' } },
    status: 502, error: /refused this server's credential/,
  },
  'a redirect': {
    step: { status: 302, headers: { location: 'http://127.0.0.1:9/' } },
    status: 502, error: /redirect/,
  },
  'a page with status 200': { step: { not_json: true }, status: 502 },
  'an empty stream': { step: { raw_events: [] }, status: 502, estimated: 1 },
  'an error as first event': {
    step: { sse_error: { type: 'overloaded_error', message: 'Overloaded' } },
    status: 529, error: /529.*Overloaded/,
  },
  'an error after some words': {
    step: { sse_error: { type: 'api_error', message: 'broke down', after: 6 } },
    status: 500, error: /broke down/, words: true,
  },
  'a cut after some words': {
    step: { cut_after: 6 }, status: 502, error: /^(?!.*could not be reached)/, words: true,
  },
  'a clean end after some words': {
    step: { cut_after: 6, cut_with: 'close' },
    status: 502, error: /^(?!.*could not be reached)/, words: true,
  },
  'silence instead of an answer': {
    step: { stall_after: -1 }, status: 504, error: /in time/, aborted: true,
  },
  'silence after some words': {
    step: { stall_after: 6 }, status: 504, error: /in time/, words: true, aborted: true,
  },
};

async function checkAfterwards(name, { words, aborted, status }, requestId) {
  const seen = await eventually(async () => {
    const list = await up.requests();
    return list.every((request) => request.done) && list;
  }, { what: 'upstream requests over' });
  const row = await gw.usageRow(requestId);
  assert.equal(row.status_code, status);
  assert.equal(row.upstream_calls, 1, 'upstream calls in the usage row');
  assert.ok(row.error);
  if (words) {
    assert.equal(row.estimated, 1);
    assert.equal(row.input_tokens, seen[0].usage.input_tokens);
    assert.ok(row.output_tokens > 0, 'what was streamed is counted');
  } else {
    assert.equal(row.output_tokens, 0);
  }
  if (aborted) assert.ok(seen[0].aborted, 'upstream was hung up on');
  assert.equal(seen.length, 1, 'one upstream call');
}

for (const [name, expected] of Object.entries(failures)) {
  const { step, status, error = /./, retryAfter, words } = expected;

  test(`upstream fails: ${name}`, LIMIT, async () => {
    await up.script([{ ...step, repeat: -1 }]);
    const reply = await gw.chat({ message: 'one two three four' });
    assert.equal(reply.status, status, reply.text);
    assert.equal(reply.headers['retry-after'], retryAfter);
    assert.equal(reply.body.success, false);
    assert.match(reply.body.error, error);
    assert.equal(reply.body.requestId, reply.headers['request-id']);
    assert.match(reply.body.code, /^[a-z_]+$/);
    assert.ok(!reply.text.includes(UPSTREAM_KEY));
    await checkAfterwards(name, expected, reply.body.requestId);
  });

  test(`upstream fails while streaming: ${name}`, LIMIT, async () => {
    await up.script([{ ...step, repeat: -1 }]);
    if (!words) {
      await assert.rejects(gw.collect({ message: 'one two three four' }), (fault) => {
        assert.equal(fault.status, status, fault.text);
        assert.equal(fault.headers['retry-after'], retryAfter);
        assert.match(fault.body.error, error);
        return true;
      });
      return;
    }
    const { events, text, error: told, end, done } =
      await gw.collect({ message: 'one two three four' });
    assert.match(text, /^This is/);
    assert.deepEqual([end, done], [undefined, false]);
    assert.equal(events.at(-1), told, 'the error is the last event');
    assert.equal(told.success, false);
    assert.match(told.error, error);
    assert.match(told.code, /^[a-z_]+$/);
    assert.equal(told.requestId, events[0].requestId);
    await checkAfterwards(name, expected, told.requestId);
  });
}

test('after all of that the workers are still good, and no call went astray', LIMIT, async () => {
  const body = await gw.ask('still there?');
  assert.match(body.response, /still there\?$/);
  assert.equal(await gw.metrics('claudegate_relay_refused_total') ?? 0, 0);
  assert.equal(await gw.metrics('claudegate_usage_dropped_total'), 0);
  assert.equal(await gw.metrics('claudegate_worker_ends_total', { reason: 'crash' }), 2,
    'only those that a test has killed');
});

test('upstream is not there at all', LIMIT, async () => {
  const other = await Upstream.start();
  const alone = await Gateway.start({
    claude: 'real', upstream: other, config: { upstream: { max_retries: 1 } },
  });
  await other.stop();
  const reply = await alone.chat({ message: 'anybody?' });
  assert.equal(reply.status, 502, reply.text);
  assert.equal(reply.body.code, 'upstream_unreachable');
  assert.match(reply.body.error, /could not be reached/);
  await assert.rejects(alone.collect({ message: 'anybody?' }), { status: 502 });
  const row = await alone.usageRow(reply.body.requestId);
  assert.deepEqual([row.status_code, row.output_tokens, row.estimated, row.retries],
    [502, 0, 0, 1]);
  await alone.stop();
});
