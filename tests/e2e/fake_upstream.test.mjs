// The fake claude program with FAKE_UPSTREAM=1, which asks for its turns over HTTP.
//
// The first test drives it and the real program side by side through one long conversation, each
// against the same upstream, and compares every line and every request.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, mkdtempSync } from 'node:fs';
import http from 'node:http';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Cli, FAKE, PLAIN_TURN, REAL, dir, file, shape, withCli } from './lib/cli.mjs';

const startOf = (n, model) => ({ type: 'message_start', message: { id: `msg_m${n}`, type: 'message',
  role: 'assistant', model, content: [], stop_reason: null, stop_sequence: null,
  usage: { input_tokens: 10, cache_creation_input_tokens: 0, cache_read_input_tokens: 0,
    output_tokens: 1 } } });
const blockStart = (block, index = 0) =>
  ({ type: 'content_block_start', index, content_block: block });
const blockDelta = (delta, index = 0) => ({ type: 'content_block_delta', index, delta });
const blockStop = (index = 0) => ({ type: 'content_block_stop', index });
const endOf = (reason) => [{ type: 'message_delta', delta: { stop_reason: reason,
  stop_sequence: null }, usage: { output_tokens: 5 } }, { type: 'message_stop' }];
const textBlock = (text, index = 0) => [blockStart({ type: 'text', text: '' }, index),
  blockDelta({ type: 'text_delta', text }, index), blockStop(index)];
const toolBlock = ({ id, name, input }, index) => [
  blockStart({ type: 'tool_use', id, name, input: {} }, index),
  blockDelta({ type: 'input_json_delta', partial_json: JSON.stringify(input) }, index),
  blockStop(index)];
/** A reply: an event stream, ended by "end" (default), "cut" or "open". */
const stream = (events, how = 'end') => ({ events, how });
const says = (text, reason = 'end_turn') => stream([...textBlock(text), ...endOf(reason)]);
const uses = (...tools) => stream([...tools.flatMap(toolBlock), ...endOf('tool_use')]);
const fails = (status, type, message) => ({ status, body: { type: 'error', error: { type,
  message } } });

class Upstream {
  requests = [];
  closed = 0;
  #count = 0;

  static async start(replies, listen = { port: 0, host: '127.0.0.1' }) {
    const up = new Upstream();
    up.replies = replies;
    up.server = http.createServer((req, res) => up.#serve(req, res));
    up.server.listen(listen);
    await once(up.server, 'listening');
    return up;
  }

  get url() { return `http://127.0.0.1:${this.server.address().port}`; }

  stop() {
    this.server.closeAllConnections();
    this.server.close();
  }

  async #serve(req, res) {
    let body = '';
    for await (const chunk of req.setEncoding('utf8')) body += chunk;
    if (req.method === 'HEAD') return void res.end();
    const n = ++this.#count;
    const reply = this.replies[Math.min(n, this.replies.length) - 1];
    const json = JSON.parse(body);
    this.requests.push({ url: req.url, headers: req.headers, body: json });
    res.on('close', () => { if (!res.writableFinished) this.closed++; });
    if (reply === 'reset') return void res.destroy();
    if (reply === 'silence') return undefined;
    const id = { 'request-id': `req_x${n}` };
    if (reply.status) {
      res.writeHead(reply.status, { 'content-type': 'application/json', ...id, ...reply.headers });
      return void res.end(JSON.stringify(reply.body));
    }
    res.writeHead(200, { 'content-type': 'text/event-stream', ...id });
    const write = (e) => res.write(`event: ${e.type}\ndata: ${JSON.stringify(e)}\n\n`);
    if (reply.events[0]?.type !== 'error') write(startOf(n, json.model));
    for (const e of reply.events) write(e);
    if (reply.how === 'cut') setTimeout(() => res.destroy(), 30);
    if (reply.how === 'end') res.end();
    return undefined;
  }
}

// ---- side by side with the real program ----

const MASKED = new Set(['uuid', 'session_id', 'timestamp', 'duration_ms', 'duration_api_ms',
  'ttft_ms', 'ttft_stream_ms', 'time_to_request_ms', 'pid', 'refused_user_message_uuid',
  'retry_delay_ms', 'memory_paths', 'user_id', 'commands', 'agents', 'models']);
function mask(value, key) {
  if (MASKED.has(key)) return '*';
  if (Array.isArray(value)) return value.map((v) => mask(v));
  if (value && typeof value === 'object') {
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, mask(v, k)]));
  }
  if (/^(request_id|id)$/.test(key) && /^[0-9a-f]{8}-/.test(value)) return '*';
  if (typeof value === 'number') return Number(value.toFixed(9));
  return typeof value === 'string' ? value.replace(/cc_version=[^;]*/, 'cc_version=*')
    .replace(/127\.0\.0\.1:\d+|relay\.invalid/, 'HOST') : value;
}

const TWO = [{ name: 'alpha', input: { a: 1 }, id: 'toolu_2' },
  { name: 'beta', input: {}, id: 'toolu_3' }];
const CONVERSATION = [
  says('one'), // plain turn
  stream([blockStart({ type: 'thinking', thinking: '', signature: '' }),
    blockDelta({ type: 'thinking_delta', thinking: 'let me think about it. ' }),
    blockDelta({ type: 'signature_delta', signature: 'SIG' }), blockStop(),
    ...textBlock('answer', 1), ...endOf('end_turn')]),
  stream(textBlock('part').slice(0, 2), 'open'), // interrupted
  says('two'), says('three'), // after /clear and settings; after the boundary
  uses({ id: 'toolu_1', name: 'nosuch', input: { a: 1 } }), uses(...TWO), says('done'),
  uses({ id: 'toolu_4', name: 'alpha', input: {} }), // interrupted while the tool is called
  says('cut off', 'max_tokens'), says('cut off', 'max_tokens'), says('cut off', 'max_tokens'),
  says('cut off', 'max_tokens'),
  says('no', 'refusal'), says('ok', 'pause_turn'),
  fails(400, 'invalid_request_error', 'bad thing'), fails(429, 'rate_limit_error', 'slow down'),
  fails(529, 'overloaded_error', 'Overloaded'),
  fails(400, 'invalid_request_error', 'prompt is too long: 2 > 1'), 'reset',
  stream(textBlock('part').slice(0, 2), 'cut'), stream(textBlock('part'), 'cut'),
  stream([...endOf('end_turn')]), stream([...endOf('end_turn')]), // empty: nudged once
  says('last'),
];

async function converse(cli) {
  cli.tools = ['alpha', 'beta'].map((name) => ({ name, description: `d ${name}`,
    inputSchema: { type: 'object' }, annotations: { readOnlyHint: true } }));
  cli.onCall = (call, answer) => setTimeout(() => answer(call.params.name === 'alpha'
    ? { content: [{ type: 'text', text: 'A' }] }
    : { content: [{ type: 'text', text: 'bad' }], isError: true }), call.params.name === 'alpha'
      ? 90 : 20);
  await cli.control('initialize', { systemPrompt: ['SYS', 'TWO'], title: 't',
    sdkMcpServers: ['client'] });
  await cli.ask('hello');
  await cli.ask('think');
  cli.user('long');
  await cli.delta();
  await cli.control('interrupt');
  await cli.result();
  await cli.control('interrupt');
  cli.typed('/clear');
  await cli.result();
  await cli.env({ CLAUDE_CODE_EXTRA_BODY: '{"temperature":0.3,"max_tokens":50}' });
  await cli.control('set_model', { model: 'claude-opus-4-5' });
  await cli.control('set_max_thinking_tokens', { max_thinking_tokens: 0 });
  await cli.control('no_such_request');
  await cli.control('get_settings');
  await cli.ask('after clear');
  await cli.env({ CLAUDE_CODE_EXTRA_BODY: '' });
  cli.typed('/nope arg');
  await cli.result();
  cli.boundary();
  await cli.ask('h1', { shouldQuery: false });
  cli.assistant([{ type: 'text', text: 'a1' },
    { type: 'tool_use', id: 'toolu_h', name: 'w', input: { a: 1 } }]);
  await cli.ask([{ type: 'tool_result', tool_use_id: 'toolu_h', content: [{ type: 'text',
    text: 'r' }] },
    { type: 'text', text: 'and' }, { type: 'text', text: '' }]);
  await cli.ask('use tools');
  cli.onCall = () => {};
  cli.user('park');
  await cli.ended();
  await cli.control('interrupt');
  await cli.result();
  for (const text of ['max', 'refuse', 'pause', '400', '429', '529', 'long', 'reset', 'cut',
    'cut after', 'empty', 'last']) await cli.ask(text);
}

test('line for line like the real program', { skip: !existsSync(REAL) && 'no claude program',
  timeout: 120_000 }, async () => {
  const seen = {};
  for (const [name, bin] of [['real', REAL], ['fake', FAKE]]) {
    const up = await Upstream.start(CONVERSATION);
    const cli = new Cli({ bin, env: { ANTHROPIC_BASE_URL: up.url, FAKE_UPSTREAM: '1',
      HOME: mkdtempSync(join(dir, 'home')) } });
    try {
      await converse(cli);
      const code = await cli.end();
      seen[name] = { code, lines: cli.lines.map((line) => JSON.stringify(mask(JSON.parse(line)))),
        requests: up.requests.map(({ body }) => JSON.stringify(mask(body))) };
    } finally {
      cli.child.kill('SIGKILL');
      up.stop();
    }
  }
  for (const what of ['lines', 'requests']) {
    for (const [i, real] of seen.real[what].entries()) {
      assert.equal(seen.fake[what][i], real, `${what} ${i}`);
    }
    assert.equal(seen.fake[what].length, seen.real[what].length);
  }
  assert.equal(seen.fake.code, seen.real.code);
});

describe('FAKE_UPSTREAM', () => {
  const over = async (replies, body, env = {}) => {
    const path = file('s');
    const up = await Upstream.start(replies, { path });
    try {
      await withCli({ env: { FAKE_UPSTREAM: '1', ANTHROPIC_UNIX_SOCKET: path,
        ANTHROPIC_BASE_URL: 'http://relay.invalid', ...env } }, (cli) => body(cli, up));
    } finally {
      up.stop();
    }
  };

  test('asks over the unix socket and shows what comes', async () => {
    await over([says('from upstream')], async (cli, up) => {
      await cli.env({ ANTHROPIC_CUSTOM_HEADERS: 'x-req: 9' });
      const lines = await cli.during(() => cli.ask('hi'));
      assert.deepEqual(lines.map(shape), PLAIN_TURN);
      assert.deepEqual([lines.at(-1).result, lines.at(-1).usage.input_tokens], ['from upstream',
        10]);
      const [{ url, headers, body }] = up.requests;
      assert.equal(url, '/v1/messages?beta=true');
      assert.deepEqual([headers['x-req'], headers.host, headers['x-api-key'],
        headers['anthropic-version']],
        ['9', 'relay.invalid', 'sk-test-dummy', '2023-06-01']);
      assert.equal(headers['x-claude-code-session-id'], lines.at(-1).session_id);
      assert.deepEqual([body.stream, body.messages[0].content[1].text], [true, 'hi']);
      assert.equal((await cli.ask('again')).result, 'from upstream');
      assert.equal(up.requests[1].body.messages.length, 3);
    });
  });
  test('any split of the bytes, unknown events and pings left out', async () => {
    const events = [{ type: 'ping' }, ...textBlock('aé😀'), { type: 'new_thing' },
      blockStart({ type: 'redacted_thinking', data: 'zz' }, 1), blockStop(1), ...endOf('end_turn')];
    const bytes = Buffer.from([startOf(1, 'm'), ...events].map((e, i) =>
      `${i % 2 ? ': note\r\n' : ''}event: ${e.type}\r\ndata: ${JSON.stringify(e)}\r\n\r\n`).join(''));
    const path = file('s');
    const server = http.createServer((req, res) => {
      req.resume().on('end', async () => {
        if (req.method === 'HEAD') return res.end();
        res.writeHead(200, { 'content-type': 'text/event-stream' });
        for (let i = 0; i < bytes.length; i += 3) {
          res.write(bytes.subarray(i, i + 3));
          if (i % 60 === 0) await sleep(1);
        }
        return res.end();
      });
    }).listen(path);
    await once(server, 'listening');
    await withCli({ env: { FAKE_UPSTREAM: '1', ANTHROPIC_UNIX_SOCKET: path } }, async (cli) => {
      const lines = await cli.during(() => cli.ask('x'));
      assert.equal(lines.at(-1).result, 'aé😀');
      assert.ok(!lines.some((m) => ['ping', 'new_thing'].includes(m.event?.type)));
      assert.deepEqual(lines.filter((m) => m.type === 'assistant').at(-1).message.content,
        [{ type: 'redacted_thinking', data: 'zz' }]);
    });
    server.closeAllConnections();
    server.close();
  });
  test('an interrupt closes the connection', async () => {
    await over([stream(textBlock('part').slice(0, 2), 'open'), says('ok')], async (cli, up) => {
      cli.user('x');
      await cli.delta();
      await cli.control('interrupt');
      assert.equal((await cli.result()).terminal_reason, 'aborted_streaming');
      for (let i = 0; i < 100 && !up.closed; i++) await sleep(10);
      assert.equal(up.closed, 1);
      assert.equal((await cli.ask('y')).result, 'ok');
    });
  });
  test('tools go round', async () => {
    await over([uses({ id: 't1', name: 'go', input: { n: 1 } }), says('end')], async (cli, up) => {
      cli.tools = [{ name: 'go', inputSchema: { type: 'object' } }];
      await cli.control('initialize', { sdkMcpServers: ['client'] });
      assert.equal((await cli.ask('x')).result, 'end');
      assert.deepEqual(up.requests[1].body.messages[2].content[0].content, [{ type: 'text',
        text: 'did go' }]);
    });
  });
  test('errors, retries, cuts', async () => {
    await over([fails(429, 'rate_limit_error', 'slow'), 'reset', says('third time')], async (cli,
      up) => {
      const lines = await cli.during(() => cli.ask('x'));
      assert.deepEqual(lines.filter((m) => m.subtype === 'api_retry').map((m) => [m.attempt,
        m.max_retries, m.error_status]),
        [[1, 2, 429], [2, 2, null]]);
      assert.equal(lines.at(-1).result, 'third time');
      assert.equal(up.requests.length, 3);
    }, { CLAUDE_CODE_MAX_RETRIES: '2' });
    await over([{ ...fails(503, 'api_error', 'x'), headers: { 'x-should-retry': 'false' } },
      stream(textBlock('a').slice(0, 2), 'cut'), stream([{ type: 'error', error: { type: 'o',
        message: 'Overloaded' } }]),
      stream([{ type: 'error', error: { type: 'o', message: 'Overloaded' } }]), says('after')],
        async (cli) => {
      assert.equal((await cli.ask('x')).api_error_status, 503);
      assert.match((await cli.ask('x')).result, /Connection to the API was lost/);
      // a first event that is an error: again, in silence
      assert.equal((await cli.ask('x')).result, 'after');
    }, { CLAUDE_CODE_MAX_RETRIES: '2' });
    await withCli({ env: { FAKE_UPSTREAM: '1', ANTHROPIC_UNIX_SOCKET: join(dir, 'nobody') } },
      async (cli) => {
      assert.match((await cli.ask('x')).result, /ConnectionRefused/);
    });
    await over(['silence'], async (cli) => {
      assert.match((await cli.ask('x')).result, /Request timed out/);
    }, { API_TIMEOUT_MS: '150' });
  });
});
