// How an answer ends reaches the client as the real service would say it: a table over streams and
// whole messages, with the real claude program in between; and that program as the client.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach, test } from 'node:test';

import { post, rawEvents } from './lib/anthropic.mjs';
import { Gateway, programs } from './lib/gateway.mjs';
import { Upstream } from './lib/upstream.mjs';

let up, gw;

before(async () => {
  up = await Upstream.start();
  gw = await Gateway.start({ upstream: up, claude: 'real', env: { CLAUDEGATE_UPSTREAM_MAX_RETRIES: '0' } });
});
after(async () => {
  await gw.stop();
  await up.stop();
});
beforeEach(() => up.reset());

const ask = (more = {}) =>
  ({ model: 'claude-opus-4-5', max_tokens: 256, messages: [{ role: 'user', content: 'question' }], ...more });
const text = (t) => ({ type: 'text', text: t });

async function stream(body) {
  const response = await gw.open('POST', '/v1/messages', { body: { ...body, stream: true },
    headers: { 'x-api-key': await gw.key(), 'anthropic-version': '2023-06-01' } });
  if (response.statusCode !== 200) {
    let all = '';
    for await (const chunk of response) all += chunk;
    return { status: response.statusCode, headers: response.headers, body: JSON.parse(all) };
  }
  return { status: 200, headers: response.headers, events: await rawEvents(response) };
}

const endings = {
  'max_tokens': { step: { blocks: [text('cut o')], stop_reason: 'max_tokens' } },
  'a stop sequence': { step: { blocks: [text('one')], stop_sequence: 'END' }, sequence: 'END', reason: 'stop_sequence' },
  'refusal': { step: { blocks: [text('no')], stop_reason: 'refusal' } },
  'pause_turn': { step: { blocks: [text('wait')], stop_reason: 'pause_turn' } },
  'model_context_window_exceeded': { step: { blocks: [text('full')], stop_reason: 'model_context_window_exceeded' } },
  'end_turn without content': { step: { empty: true }, reason: 'end_turn' },
  'max_tokens inside a tool\'s input': { step: { blocks: [{ type: 'tool_use', id: 'toolu_9', name: 't', input: { a: 1 } }], stop_reason: 'max_tokens' } },
};
for (const [name, { step, reason = name.split(' ')[0], sequence = null }] of Object.entries(endings)) {
  test(`ending: ${name}`, async () => {
    const tools = [{ name: 't', input_schema: { type: 'object' } }];
    await up.script([step, step]);
    const whole = await post(gw, '/v1/messages', ask({ tools }));
    assert.equal(whole.status, 200, whole.text);
    assert.equal(whole.body.stop_reason, reason);
    assert.equal(whole.body.stop_sequence, sequence);
    const { events } = await stream(ask({ tools }));
    assert.equal(events.at(-1).event, 'message_stop');
    assert.deepEqual(events.at(-2).data.delta, { stop_reason: reason, stop_sequence: sequence });
    assert.equal(whole.body.content.length, events.filter((e) => e.event === 'content_block_start').length);
    assert.equal((await up.stats()).calls, 2, 'no hidden call');
  });
}

const error = (status, type, message, headers) => ({ status, error: { type, message }, ...(headers && { headers }) });
const failures = {
  'an invalid request': { step: error(400, 'invalid_request_error', 'tools.0: whatever') },
  'context overflow': { step: error(400, 'invalid_request_error', 'prompt is too long: 210000 tokens > 200000 maximum') },
  'an unknown model': { step: error(404, 'not_found_error', 'model: claude-opus-4-5') },
  'too large': { step: error(413, 'request_too_large', 'Request exceeds the maximum size') },
  'a rate limit': { step: error(429, 'rate_limit_error', 'Slow down', { 'retry-after': '77' }), after: '77' },
  'an internal error': { step: error(500, 'api_error', 'Internal server error') },
  'overload': { step: error(529, 'overloaded_error', 'Overloaded') },
  'our own credential': { step: error(401, 'authentication_error', 'invalid x-api-key'), status: 502, type: 'api_error',
    message: "The upstream API refused this server's credential (401)" },
  'an error as the first event': { step: { sse_error: { type: 'overloaded_error', message: 'Overloaded' } }, status: 529, type: 'overloaded_error', message: 'Overloaded' },
};
for (const [name, { step, after: wait, ...want }] of Object.entries(failures)) {
  test(`failure: ${name}`, async () => {
    await up.script([step, step]);
    for (const reply of [await post(gw, '/v1/messages', ask()), await stream(ask())]) {
      assert.equal(reply.status, want.status ?? step.status);
      assert.deepEqual(reply.body, { type: 'error',
        error: { type: want.type ?? step.error.type, message: want.message ?? step.error.message },
        request_id: reply.headers['request-id'] });
      assert.equal(reply.headers['retry-after'], wait);
    }
    assert.equal((await up.stats()).calls, 2, 'no hidden call');
  });
}

const broken = {
  'overload': { step: { blocks: [text('one two three four')], sse_error: { type: 'overloaded_error', message: 'Overloaded', after: 5 } },
    status: 529, error: { type: 'overloaded_error', message: 'Overloaded' } },
  'an internal error': { step: { blocks: [text('one two three four')], sse_error: { type: 'api_error', message: 'Oh no', after: 5 } },
    status: 500, error: { type: 'api_error', message: 'Oh no' } },
  'a cut': { step: { blocks: [text('one two three four')], cut_after: 5 },
    status: 502, error: { type: 'api_error', message: 'The upstream API broke off in the middle of its answer' } },
};
for (const [name, { step, status, error: want }] of Object.entries(broken)) {
  test(`in the middle of an answer: ${name}`, async () => {
    await up.script([step, step]);
    const whole = await post(gw, '/v1/messages', ask());
    assert.equal(whole.status, status);
    assert.deepEqual(whole.body.error, want);
    const { status: head, events, headers } = await stream(ask());
    assert.equal(head, 200);
    assert.equal(events[0].event, 'message_start');
    assert.ok(events.some((e) => e.data.delta?.text === ' two' || e.data.delta?.text === 'one'));
    assert.deepEqual(events.at(-1), { event: 'error', data: { type: 'error', error: want, request_id: headers['request-id'] } });
    assert.ok(!events.some((e) => e.event === 'message_stop'));
    assert.equal((await up.stats()).calls, 2, 'no hidden call');
  });
}

test('a silent stream gets pings', async (t) => {
  const quiet = await Gateway.start({ upstream: up, claude: 'real', test: t, config: { server: { keepalive_ms: 700 } } });
  await up.script({ blocks: [text('late')], delay_ms: 2500 });
  const response = await quiet.open('POST', '/v1/messages', { body: ask({ stream: true }),
    headers: { 'x-api-key': await quiet.key(), 'anthropic-version': '2023-06-01' } });
  const events = (await rawEvents(response)).map((e) => e.event);
  const start = events.indexOf('message_start');
  assert.ok(start >= 1, events.join(' '));
  assert.ok(events.slice(0, start).every((name) => name === 'ping'));
  assert.equal(events.at(-1), 'message_stop');
});

// --- the claude program as a client -------------------------------------------------------------

async function claude(args, env) {
  const home = mkdtempSync(join(tmpdir(), 'cg-client-'));
  const child = spawn(programs.real, args, { cwd: home, stdio: ['ignore', 'pipe', 'pipe'], timeout: 60_000,
    env: { PATH: '/usr/local/bin:/usr/bin:/bin', HOME: home, LANG: 'C.UTF-8', DISABLE_AUTOUPDATER: '1',
      CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: '1', IS_SANDBOX: '1', ...env } });
  let out = '';
  let fault = '';
  child.stdout.on('data', (data) => { out += data; });
  child.stderr.on('data', (data) => { fault += data; });
  const [code] = await once(child, 'close');
  rmSync(home, { recursive: true, force: true });
  return { code, out, fault };
}

test('the claude program itself as a client', async () => {
  const { key } = await gw.createKey(['--max-tokens', '64000']);
  await up.script([
    { blocks: [text('I look.'), { type: 'tool_use', id: 'toolu_c1', name: 'Bash', input: { command: 'echo seen-by-client', description: 'echo' } }] },
    { blocks: [text('It said: seen-by-client.')] },
  ]);
  const { code, out, fault } = await claude(['-p', 'run echo', '--model', 'claude-sonnet-4-5', '--allowedTools', 'Bash(echo:*)'],
    { ANTHROPIC_BASE_URL: gw.url, ANTHROPIC_API_KEY: key });
  assert.equal(code, 0, `${out}\n${fault}`);
  assert.equal(out.trim(), 'It said: seen-by-client.');
  const requests = (await up.requests()).filter((r) => r.path === '/v1/messages');
  assert.equal(requests.length, 2);
  const result = requests[1].body.messages.at(-1).content.find((b) => b.type === 'tool_result');
  assert.equal(result.tool_use_id, 'toolu_c1');
  assert.match(JSON.stringify(result.content), /seen-by-client/);
  assert.ok(requests[0].body.tools.some((t) => t.name === 'Bash'));
});
