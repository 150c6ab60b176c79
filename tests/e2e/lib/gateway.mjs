// `claudegate serve` as its own process, driven from a test.
//
//   const gw = await Gateway.start({ upstream: up, claude: 'fake' });
//   const { status, body } = await gw.chat({ message: 'hi' });
//   for await (const event of gw.stream({ message: 'hi' })) ...
//   await gw.stop();                            // SIGTERM; throws unless it exits 0, in silence
//
// It runs with a clean environment and a data directory of its own. Whatever a test leaves running
// is ended when the file's tests are over, and a server that did not end well fails them.
//
// With TEST_DATABASE=postgres each data directory has its database in PostgreSQL (postgres.mjs).
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import { closeShared, sharedPostgres } from './postgres.mjs';

const fromRoot = (path) => fileURLToPath(new URL(`../../../${path}`, import.meta.url));
export const ROOT = fromRoot('');
export const BIN = process.env.CLAUDEGATE_BIN ?? fromRoot('build/claudegate');
export const programs = {
  fake: process.env.FAKE_CLAUDE_BIN ?? fromRoot('build/tests/fakes/fake-claude'),
  real: process.env.CLAUDE_BIN ?? fromRoot('node_modules/.bin/claude'),
};

export const UPSTREAM_KEY = 'sk-ant-dummy-credential-for-tests-0123456789';
export const UNLIMITED = ['--requests-per-minute', 'unlimited', '--requests-per-day', 'unlimited',
  '--tokens-per-day', 'unlimited'];
// A fake program needs the files of its test, and no trial of what it can do.
const NOT_REAL = { CLAUDEGATE_SANDBOX_MODE: 'off', CLAUDEGATE_CLAUDE_HISTORY: 'inject' };
const NOWHERE = 'http://127.0.0.1:9'; // the discard port: nothing listens
const START_MS = 30_000;
const STOP_MS = 40_000;
const STDERR_MAX = 4 << 20;
const BROKEN = /AddressSanitizer|LeakSanitizer|UndefinedBehaviorSanitizer|runtime error:|BUG at/;

const alive = new Set();
const urls = new Map(); // of databases in PostgreSQL, by data directory
const dirs = new Set();

export function tempDir() {
  const dir = mkdtempSync(join(tmpdir(), 'cg-e2e-'));
  dirs.add(dir);
  return dir;
}

after(async () => {
  const faults = [];
  for (const gw of [...alive]) {
    await gw.stop().catch((error) => faults.push(error.message));
  }
  await closeShared();
  for (const dir of dirs) rmSync(dir, { recursive: true, force: true, maxRetries: 5 });
  assert.deepEqual(faults, []);
});
process.on('exit', () => {
  for (const gw of alive) gw.signal('SIGKILL');
});

/** Polls `test` until it is truthy and returns that; throws after `ms`. */
export async function eventually(test, { ms = 5000, every = 20, what = String(test) } = {}) {
  const end = Date.now() + ms;
  for (;;) {
    const value = await test();
    if (value) return value;
    assert.ok(Date.now() < end, `not within ${ms} ms: ${what}`);
    await sleep(every);
  }
}

/** The options with what makes the server use PostgreSQL, if these tests are to run on it. */
async function withDatabase(options) {
  const pg = options.postgres ?? await sharedPostgres();
  if (!pg || options.env?.DATABASE_URL || options.config?.database) return options;
  const dataDir = options.dataDir ?? join(tempDir(), 'data');
  if (!urls.has(dataDir)) urls.set(dataDir, await pg.createDatabase());
  return { ...options, postgres: pg, dataDir, env: { ...options.env, DATABASE_URL: urls.get(dataDir) } };
}

/** Runs `claudegate ARGS` to its end. */
export async function cli(args, { env = {}, input = '', cwd, timeout = 30_000 } = {}) {
  const child = execFile(BIN, args, {
    env: { ...cleanEnv(), ...env }, cwd, timeout, maxBuffer: 16 << 20, killSignal: 'SIGKILL',
  });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (data) => { stdout += data; });
  child.stderr.on('data', (data) => { stderr += data; });
  child.stdin.on('error', () => {});
  child.stdin.end(input);
  const [code, signal] = await once(child, 'close');
  assert.doesNotMatch(stderr, BROKEN);
  return { code: code ?? signal, stdout, stderr };
}

function cleanEnv() {
  const env = { PATH: '/usr/local/bin:/usr/bin:/bin', LANG: 'C.UTF-8' };
  for (const name of ['ASAN_OPTIONS', 'UBSAN_OPTIONS', 'LSAN_OPTIONS']) {
    if (process.env[name]) env[name] = process.env[name];
  }
  return env;
}

/** Pid, parent, state and command line of every process that can be seen. */
export function processes() {
  const list = [];
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const stat = readFileSync(`/proc/${name}/stat`, 'utf8');
      const [state, ppid] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      const args = readFileSync(`/proc/${name}/cmdline`, 'utf8').split('\0').slice(0, -1);
      list.push({ pid: Number(name), ppid: Number(ppid), state, args });
    } catch {
      // it has ended meanwhile
    }
  }
  return list;
}

export function isRunning(pid) {
  return processes().some((p) => p.pid === pid && p.state !== 'Z');
}

/** An answer that is not a 200, thrown by stream(). */
export class HttpError extends Error {
  constructor(reply) {
    super(`HTTP ${reply.status}: ${reply.text}`);
    Object.assign(this, reply);
  }
}

/**
 * Splits server-sent events. Each `data:` becomes parsed JSON or, like "[DONE]", stays text;
 * comments and events with a name are refused unless `onComment` is given.
 */
class SseReader {
  #rest = '';

  feed(text) {
    this.#rest += text;
    const blocks = this.#rest.split('\n\n');
    this.#rest = blocks.pop();
    return blocks.flatMap((block) => this.#parse(block));
  }

  #parse(block) {
    if (block.startsWith(':')) return [];
    assert.match(block, /^data: [^\n]*$/, 'one data line per event');
    const data = block.slice(6);
    return [data.startsWith('[') ? data : JSON.parse(data)];
  }

  get rest() {
    return this.#rest;
  }
}

export class Gateway {
  #child;
  #closed;
  #env;
  #args;
  #owned;
  #key;
  #expectedExit;
  stdout = '';
  stderr = '';

  /**
   * env       more variables of the server
   * config    an object of settings, written as its configuration file
   * claude    'fake', 'real' or a path
   * upstream  what has a `url`, or a URL; null = no base URL and no credential either
   * args      more arguments of `serve`
   * dataDir   of an earlier run; its database comes with it
   * postgres  a server of postgres.mjs: the database is in it
   * ready     false: only wait for the address, not for the first worker
   * test      a test context: ended with that test instead of with the file
   */
  static async start(given = {}) {
    const options = await withDatabase(given);
    const gw = new Gateway(options);
    try {
      await gw.#started(options);
    } catch (error) {
      await gw.kill9();
      throw error;
    }
    return gw;
  }

  /** Starts, expecting that it refuses to; returns code, stdout and stderr. */
  static async refused(options = {}) {
    const gw = new Gateway(options);
    const timer = setTimeout(() => gw.signal('SIGKILL'), START_MS);
    const [code, signal] = await gw.#closed;
    clearTimeout(timer);
    gw.assertSound();
    return { code: code ?? signal, stdout: gw.stdout, stderr: gw.stderr };
  }

  constructor({ env = {}, config, claude = 'fake', upstream = NOWHERE, args = [], dataDir, postgres,
    test }) {
    this.postgres = postgres;
    this.dataDir = dataDir ?? join(tempDir(), 'data');
    this.#env = {
      ...cleanEnv(),
      HOME: tempDir(),
      CLAUDEGATE_LISTEN: '127.0.0.1:0',
      CLAUDEGATE_DATA_DIR: this.dataDir,
      CLAUDEGATE_CLAUDE_BIN: programs[claude] ?? claude,
      ...(claude !== 'real' && NOT_REAL),
      CLAUDEGATE_AUTH_MAX_FAILURES: '0', // throttle.test.mjs has its own
      ...(upstream !== null && {
        ANTHROPIC_API_KEY: UPSTREAM_KEY,
        ANTHROPIC_BASE_URL: upstream.url ?? upstream,
      }),
      ...env,
    };
    for (const name of Object.keys(this.#env)) {
      if (this.#env[name] === undefined) delete this.#env[name];
    }
    this.#args = ['serve', ...args];
    if (config) {
      const file = join(tempDir(), 'claudegate.yaml');
      writeFileSync(file, JSON.stringify(config)); // JSON is YAML
      this.#env.CLAUDEGATE_CONFIG = file;
    }
    this.#spawn();
    test?.after(() => this.stop());
  }

  #spawn() {
    this.#child = spawn(BIN, this.#args, {
      env: this.#env, cwd: this.#env.HOME, stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#closed = once(this.#child, 'close');
    this.#child.stdout.setEncoding('utf8').on('data', (text) => { this.stdout += text; });
    this.#child.stderr.setEncoding('utf8').on('data', (text) => {
      this.stderr = (this.stderr + text).slice(-STDERR_MAX);
    });
    alive.add(this);
    this.#closed.then(() => alive.delete(this));
  }

  async #started({ ready = true }) {
    const match = await eventually(() => {
      assert.ok(this.running, `the server ended: ${this.stderr.slice(-4000)}`);
      return /\bready address="([^"]+)"/.exec(this.stderr);
    }, { ms: START_MS, what: 'the ready line' });
    this.address = match[1];
    this.url = `http://${match[1]}`;
    if (ready) await this.ready();
  }

  get pid() {
    return this.#child.pid;
  }

  get running() {
    return this.#child.exitCode === null && this.#child.signalCode === null;
  }

  get env() {
    return { ...this.#env };
  }

  async ready(ms = START_MS) {
    await eventually(async () => (await this.request('GET', '/readyz')).status === 200,
      { ms, what: `ready; ${this.stderr.slice(-2000)}` });
  }

  // --- HTTP ----------------------------------------------------------------------------------

  /** One request on a connection of its own: {status, headers, text, body (parsed JSON)}. */
  async request(method, path, { body, headers = {}, signal } = {}) {
    const response = await this.open(method, path, { body, headers, signal });
    const chunks = [];
    for await (const chunk of response) chunks.push(chunk);
    return finishReply(response, Buffer.concat(chunks).toString());
  }

  /** The response as a stream, headers read. Its `request` is the ClientRequest. */
  async open(method, path, { body, headers = {}, signal } = {}) {
    const payload = body === undefined || typeof body === 'string' || Buffer.isBuffer(body)
      ? body : JSON.stringify(body);
    const request = http.request(this.url + path, {
      method,
      agent: false,
      signal,
      headers: {
        ...(payload !== undefined && { 'content-type': 'application/json' }),
        ...(payload !== undefined && { 'content-length': Buffer.byteLength(payload) }),
        ...headers,
      },
    });
    request.on('error', () => {}); // told by the promise or by the response
    request.end(payload);
    const [response] = await once(request, 'response');
    response.request = request;
    return response;
  }

  /** A key without limits, made at the first use. */
  async key() {
    this.#key ??= (async () => (await this.createKey([])).key)();
    return this.#key;
  }

  async #auth(key, headers) {
    if (key === null) return headers;
    return { authorization: `Bearer ${key ?? await this.key()}`, ...headers };
  }

  /** POST /api/chat. key: null = none, undefined = one without limits. */
  async chat(body, { key, headers, signal } = {}) {
    return this.request('POST', '/api/chat', {
      body, signal, headers: await this.#auth(key, headers),
    });
  }

  /** chat() that must succeed; returns the body. */
  async ask(message, more = {}, options = {}) {
    const reply = await this.chat({ message, ...more }, options);
    assert.equal(reply.status, 200, reply.text);
    return reply.body;
  }

  /** POST /api/chat with stream:true: yields events as they come. Throws HttpError unless 200. */
  async* stream(body, { key, headers, signal, onOpen } = {}) {
    const response = await this.open('POST', '/api/chat', {
      body: { ...body, stream: true }, signal, headers: await this.#auth(key, headers),
    });
    response.setEncoding('utf8');
    if (response.statusCode !== 200) {
      let text = '';
      for await (const chunk of response) text += chunk;
      throw new HttpError(finishReply(response, text));
    }
    assert.match(response.headers['content-type'], /^text\/event-stream/);
    onOpen?.(response);
    const reader = new SseReader();
    try {
      for await (const chunk of response) yield* reader.feed(chunk);
      assert.equal(reader.rest, '', 'the stream ends with a whole event');
    } finally {
      response.destroy();
    }
  }

  /** A whole stream: {events, text, end, done, error, at (ms of each event)}. */
  async collect(body, options) {
    const from = performance.now();
    const events = [];
    const at = [];
    for await (const event of this.stream(body, options)) {
      events.push(event);
      at.push(performance.now() - from);
    }
    return {
      events,
      at,
      text: events.filter((e) => e.type === 'delta').map((e) => e.delta).join(''),
      start: events.find((e) => e.type === 'start'),
      end: events.find((e) => e.type === 'end'),
      error: events.find((e) => e.error !== undefined),
      done: events.at(-1) === '[DONE]',
    };
  }

  // --- looking at it -------------------------------------------------------------------------

  /** `claudegate ARGS` with this server's settings. */
  async cli(args, options = {}) {
    return cli(args, { ...options, env: { ...this.#env, ...options.env }, cwd: this.#env.HOME });
  }

  /** `claudegate key create`: the printed object. Without limits unless `flags` say so. */
  async createKey(flags = []) {
    const has = (name) => flags.some((flag) => flag === name || flag.startsWith(`${name}=`));
    const args = ['key', 'create', '--json'];
    if (!has('--name')) args.push('--name', 'test');
    for (let i = 0; i < UNLIMITED.length; i += 2) {
      if (!has(UNLIMITED[i])) args.push(UNLIMITED[i], UNLIMITED[i + 1]);
    }
    const { code, stdout, stderr } = await this.cli([...args, ...flags]);
    assert.equal(code, 0, stderr);
    return JSON.parse(stdout);
  }

  /** The lines of a log file, parsed. */
  logs(name = 'combined.log') {
    return readFileSync(join(this.dataDir, 'logs', name), 'utf8').split('\n').filter(Boolean)
      .map((line) => JSON.parse(line));
  }

  async logged(test, ms = 5000) {
    return eventually(() => this.logs().find(test), { ms, what: `log line ${test}` });
  }

  /** Every series of the metrics page: [{name, labels, value}]. */
  async series() {
    const { status, text } = await this.request('GET', '/metrics');
    assert.equal(status, 200, text);
    return parseMetrics(text);
  }

  /** The sum of all series of that name that have these labels; undefined when there is none. */
  async metrics(name, labels = {}) {
    const found = (await this.series()).filter((s) => s.name === name &&
      Object.entries(labels).every(([key, value]) => s.labels[key] === value));
    return found.length ? found.reduce((sum, s) => sum + s.value, 0) : undefined;
  }

  /** The table usage_logs, once the journal has nothing left. */
  async usageRows() {
    if (this.running) {
      await eventually(async () => await this.metrics('claudegate_usage_journal_pending') === 0,
        { ms: 10_000, what: 'an empty usage journal' });
    }
    return this.sql('SELECT * FROM usage_logs ORDER BY timestamp, id');
  }

  async usageRow(requestId) {
    return eventually(async () =>
      (await this.usageRows()).find((row) => row.request_id === requestId),
    { what: `usage row of ${requestId}` });
  }

  /** Rows of a query on the database. */
  async sql(query) {
    return this.postgres ? this.postgres.query(this.#env.DATABASE_URL, query) : this.#sqlite(query);
  }

  /** The file is opened for reading only. */
  async #sqlite(query) {
    const file = join(this.dataDir, 'claudegate.db');
    const child = execFile('sqlite3', ['-readonly', '-json', '-cmd', '.timeout 10000', file, query],
      { maxBuffer: 64 << 20 });
    let text = '';
    let fault = '';
    child.stdout.on('data', (data) => { text += data; });
    child.stderr.on('data', (data) => { fault += data; });
    const [code] = await once(child, 'close');
    assert.equal(code, 0, fault);
    return text.trim() ? JSON.parse(text) : [];
  }

  /** Child processes. */
  workers() {
    return processes().filter((p) => p.ppid === this.pid);
  }

  /** How many workers are in each state, and what waits. */
  async pool() {
    return (await this.request('GET', '/readyz')).body;
  }

  fds() {
    return readdirSync(`/proc/${this.pid}/fd`).length;
  }

  rssKb() {
    const status = readFileSync(`/proc/${this.pid}/status`, 'utf8');
    return Number(/^VmRSS:\s+(\d+)/m.exec(status)[1]);
  }

  // --- ending it -----------------------------------------------------------------------------

  signal(name) {
    if (this.running) this.#child.kill(name);
  }

  /** Waits for the end; [code, signal]. */
  async ended(ms = STOP_MS) {
    const timer = setTimeout(() => this.signal('SIGKILL'), ms);
    const [code, signal] = await this.#closed;
    clearTimeout(timer);
    return [code, signal];
  }

  /** SIGTERM; throws unless it exits 0 and neither sanitizer nor assertion had something to say. */
  async stop() {
    if (this.#expectedExit === 'SIGKILL') return;
    const workers = this.running ? this.workers().map((p) => p.pid) : [];
    this.signal('SIGTERM');
    const [code, signal] = await this.ended();
    this.assertSound();
    assert.equal(code ?? signal, 0, `the server ended with ${code ?? signal}: ` +
      this.stderr.slice(-4000));
    assert.deepEqual(workers.filter(isRunning), [], 'workers outlived the server');
  }

  async kill9() {
    this.#expectedExit = 'SIGKILL';
    this.signal('SIGKILL');
    await this.ended();
    this.assertSound();
  }

  /** Neither a sanitizer nor an assertion of the server had something to say. */
  assertSound() {
    const at = this.stderr.search(BROKEN);
    assert.ok(at < 0, this.stderr.slice(Math.max(0, at - 200), at + 4000));
  }

  /** A new process on the same data directory, with the same environment. */
  async restart(options = {}) {
    assert.ok(!this.running);
    const again = await Gateway.start({
      args: this.#args.slice(1), ...options, upstream: null, dataDir: this.dataDir,
      postgres: this.postgres,
      env: { ...this.#env, ...options.env },
    });
    again.#key = this.#key;
    return again;
  }
}

function finishReply(response, text) {
  const reply = { status: response.statusCode, headers: response.headers, text };
  if (/^application\/json/.test(response.headers['content-type'] ?? '') && text) {
    reply.body = JSON.parse(text);
  }
  return reply;
}

const NUMBER = /^(?:[+-]?(?:\d+\.?\d*(?:e[+-]?\d+)?|\.\d+)|[+-]?Inf|NaN)$/i;

/** Strict reading of the Prometheus text format 0.0.4: what it cannot read is an error. */
export function parseMetrics(text) {
  const series = [];
  const types = new Map();
  assert.ok(text.endsWith('\n'), 'the last line ends');
  for (const line of text.split('\n').slice(0, -1)) {
    const type = /^# TYPE ([a-zA-Z_:][\w:]*) (counter|gauge|histogram)$/.exec(line);
    if (type) {
      assert.ok(!types.has(type[1]), `${type[1]} is described twice`);
      types.set(type[1], type[2]);
      continue;
    }
    if (/^# HELP [a-zA-Z_:][\w:]* \S/.test(line)) continue;
    const match = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/.exec(line);
    assert.ok(match, `not a metric: ${line}`);
    assert.match(match[3], NUMBER, line);
    const base = match[1].replace(/_(bucket|sum|count)$/, '');
    assert.ok(types.has(match[1]) || types.get(base) === 'histogram', `${match[1]} has no TYPE`);
    series.push({
      name: match[1],
      labels: parseLabels(match[2] ?? ''),
      value: Number(match[3].replace('Inf', 'Infinity')),
    });
  }
  return series;
}

function parseLabels(text) {
  const labels = {};
  const one = /([a-zA-Z_]\w*)="((?:[^"\\\n]|\\[\\"n])*)"(,|$)/y;
  while (one.lastIndex < text.length) {
    const match = one.exec(text);
    assert.ok(match, `bad labels: ${text}`);
    labels[match[1]] = match[2].replace(/\\(.)/g, (_, c) => (c === 'n' ? '\n' : c));
  }
  return labels;
}
