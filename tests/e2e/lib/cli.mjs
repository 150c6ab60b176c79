// The claude program's stream-json protocol spoken from a test: one process, its lines, waiting
// for the right one. Made for the fake program; the real one understands it as well.
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const fromRoot = (path) => fileURLToPath(new URL(`../../../${path}`, import.meta.url));
export const FAKE = process.env.FAKE_CLAUDE_BIN ?? fromRoot('build/tests/fakes/fake-claude');
export const REAL = process.env.CLAUDE_BIN ?? fromRoot('node_modules/.bin/claude');
export const ARGS = ['-p', '--input-format', 'stream-json', '--output-format', 'stream-json',
  '--verbose',
  '--include-partial-messages', '--strict-mcp-config', '--setting-sources', '', '--model',
  'claude-sonnet-4-5', '--tools', '', '--no-session-persistence', '--permission-mode', 'dontAsk',
  '--allowedTools', 'mcp__client'];
export const ENV = {
  LANG: 'C.UTF-8', PATH: `/usr/bin:/bin:${dirname(process.execPath)}`,
  ANTHROPIC_API_KEY: 'sk-test-dummy', ANTHROPIC_BASE_URL: 'http://127.0.0.1:9',
  CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: '1', DISABLE_AUTOUPDATER: '1',
  CLAUDE_AGENT_SDK_MCP_NO_PREFIX: '1', ENABLE_TOOL_SEARCH: 'false', CLAUDE_CODE_MAX_RETRIES: '0',
  CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK: '1', DISABLE_COMPACT: '1',
  ASAN_OPTIONS: process.env.ASAN_OPTIONS ?? '',
};
const WAIT_MS = 10_000;

export const dir = mkdtempSync(join(tmpdir(), 'fake-cli-'));
export const running = new Set();
after(() => {
  for (const child of running) child.kill('SIGKILL');
  rmSync(dir, { recursive: true, force: true, maxRetries: 5 });
});
let files = 0;
export const file = (name = 'f') => join(dir, `${name}${files++}`);
export const jsonl = (path) => readFileSync(path, 'utf8').trim().split('\n').map((line) =>
  JSON.parse(line));

/** One process of the program (the fake one unless told), spoken to over its pipes. */
export class Cli {
  lines = []; // as text
  stderr = '';
  tools = []; // what tools/list is told
  onCall = (call, answer) => answer({ content: [{ type: 'text',
    text: `did ${call.params.name}` }] });
  answerMcp = true;
  exit = null; // [code, signal] once gone
  #seen = 0;
  #ids = 0;
  #wake = () => {};

  constructor({ env = {}, bin = FAKE, args = ARGS, autoRead = true } = {}) {
    this.child = spawn(bin, args, { cwd: dir, env: { ...ENV, HOME: dir, ...env } });
    running.add(this.child);
    let rest = '';
    if (autoRead) {
      this.child.stdout.setEncoding('utf8').on('data', (text) => {
        const parts = (rest + text).split('\n');
        rest = this.rest = parts.pop();
        for (const line of parts) this.#line(line);
      });
    }
    this.child.stderr.setEncoding('utf8').on('data', (text) => { this.stderr += text; });
    this.child.stdin.on('error', () => {});
    this.gone = once(this.child, 'exit').then((how) => {
      running.delete(this.child);
      this.exit = how;
      this.#wake();
      return how;
    });
    this.closed = once(this.child, 'close');
  }

  #line(text) {
    this.lines.push(text);
    if (text.startsWith('{"type":"control_request"')) this.#mcp(JSON.parse(text));
    this.#wake();
  }

  #mcp({ request_id: id, request: { message: m } }) {
    if (!this.answerMcp) return;
    const answer = (result) => this.answer(id, { jsonrpc: '2.0', id: m.id, result });
    if (m.method === 'initialize') {
      answer({ protocolVersion: m.params.protocolVersion, capabilities: { tools: {} },
        serverInfo: { name: 'client', version: '1' } });
    } else if (m.method === 'tools/list') answer({ tools: this.tools });
    else if (m.method === 'tools/call') this.onCall(m, answer, id);
    else this.answer(id, { jsonrpc: '2.0', result: {}, id: 0 });
  }

  answer(id, mcp_response) {
    this.send({ type: 'control_response',
      response: { subtype: 'success', request_id: id, response: { mcp_response } } });
  }

  /** Lines sent in one go arrive in one go: which comes first is not left to chance. */
  send(message) {
    const { stdin } = this.child;
    stdin.cork();
    process.nextTick(() => stdin.uncork());
    stdin.write(`${typeof message === 'string' ? message : JSON.stringify(message)}\n`);
  }

  user(content, more = {}) {
    this.send({ type: 'user', message: { role: 'user', content: typeof content === 'string'
      ? [{ type: 'text', text: content }, { type: 'text', text: '' }] : content },
    parent_tool_use_id: null, session_id: '', ...more });
  }

  /** String content: commands and "@path" work. */
  typed(content, more = {}) {
    this.send({ type: 'user', message: { role: 'user', content }, parent_tool_use_id: null,
      session_id: '', ...more });
  }

  boundary() {
    this.send({ type: 'system', subtype: 'compact_boundary',
      compact_metadata: { trigger: 'manual', pre_tokens: 0 }, uuid: randomUUID(), session_id: '' });
  }

  assistant(text, id = `msg_h_${randomUUID()}`) {
    this.send({ type: 'assistant', message: { id, type: 'message', role: 'assistant', model: 'm',
      content: typeof text === 'string' ? [{ type: 'text', text }] : text, stop_reason: null,
      stop_sequence: null, usage: { input_tokens: 0, output_tokens: 0 } },
    uuid: randomUUID(), parent_tool_use_id: null, session_id: '' });
  }

  /** The next line (after the last one waited for) that fits. */
  async until(fits, ms = WAIT_MS) {
    for (const end = Date.now() + ms; ;) {
      while (this.#seen < this.lines.length) {
        const line = JSON.parse(this.lines[this.#seen++]);
        if (fits(line)) return line;
      }
      assert.ok(!this.exit, `ended with ${this.exit} instead; stderr: ${this.stderr}`);
      assert.ok(Date.now() < end, `no such line in ${ms} ms: ${fits}`);
      await Promise.race([new Promise((resolve) => { this.#wake = resolve; }),
        sleep(Math.max(1, end - Date.now()), null, { ref: false })]);
    }
  }

  result(ms) { return this.until((m) => m.type === 'result', ms); }
  delta() { return this.until((m) => m.event?.type === 'content_block_delta'); }
  ended() { return this.until((m) => m.event?.type === 'message_stop'); }

  ask(content, more) { this.user(content, more); return this.result(); }
  step(step, ms) { this.user(`fake:${JSON.stringify(step)}`); return this.result(ms); }
  async history() { return JSON.parse((await this.step({ echo_history: true })).result); }

  request(subtype, fields = {}) {
    const request_id = `r${this.#ids++}`;
    this.send({ type: 'control_request', request_id, request: { subtype, ...fields } });
    return request_id;
  }

  async control(subtype, fields) {
    const id = this.request(subtype, fields);
    return (await this.until((m) => m.response?.request_id === id)).response;
  }

  env(env) { return this.control('apply_flag_settings', { settings: { env } }); }

  /** What happens between now and the end of `act`, parsed. */
  async during(act) {
    const from = this.lines.length;
    await act();
    return this.lines.slice(from).map((line) => JSON.parse(line));
  }

  async silent(ms = 120) {
    const n = this.lines.length;
    await sleep(ms);
    assert.deepEqual(this.lines.slice(n), []);
  }

  /** Ends stdin; the exit code. */
  async end() {
    this.child.stdin.end();
    const late = sleep(WAIT_MS, 'late', { ref: false });
    const how = await Promise.race([this.gone, late]);
    if (how === 'late') this.child.kill('SIGKILL');
    assert.notEqual(how, 'late', 'did not end at the end of its input');
    await this.closed;
    assert.doesNotMatch(this.stderr, /Sanitizer|runtime error|: bug:/);
    return how[0];
  }
}

/** Runs `body` with a process and ends it well. */
export async function withCli(options, body) {
  const cli = new Cli(options);
  try {
    await body(cli);
    if (!cli.exit) await cli.end();
  } finally {
    cli.child.kill('SIGKILL');
  }
  assert.doesNotMatch(cli.stderr, /Sanitizer|runtime error|: bug:/);
}

export const run = (args, env = {}) => new Promise((resolve) => {
  execFile(FAKE, args, { env: { ...ENV, ...env }, timeout: WAIT_MS },
    (error, stdout, stderr) => resolve({ code: error ? error.code : 0, stdout, stderr }));
});
export const shape = (m) => (m.type === 'stream_event' ? m.event.type
  : m.subtype ? `${m.type}/${m.subtype}` : m.type);
export const textOf = (lines) => lines.map((m) => m.event?.delta?.text ?? '').join('');

export const PLAIN_TURN = ['system/init', 'system/status', 'message_start', 'content_block_start',
  'content_block_delta', 'assistant', 'content_block_stop', 'message_delta', 'message_stop',
  'result/success'];
