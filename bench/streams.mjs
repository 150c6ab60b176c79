// streams.mjs - many streams at once on one server.
//
//   k  N streams that wait for a worker: what each costs in memory, and the longest silence of any
//      of them; against the memory of as many idle kept-alive connections
//   l  N streams that are all being written, each from a worker of its own: memory with and without
//      its worker, and the longest pause of any of them against the pause it was told to make
//   m  CPU time of the server for each delta of one long stream, against what the real claude
//      program needs for the same delta
//
// In k and l the workers are the fake program, in l with real calls to the stand-in, which writes at a
// given pace. BENCH_STREAMS says how many there are in k, BENCH_ACTIVE in l, where descriptors are the
// limit: eight for each.
import fs from 'node:fs';
import net from 'node:net';

import {
  add, CLAUDE, cpuSeconds, FAKE, ms, quantile, sleep, startGateway, startStandin, stop,
} from './lib.mjs';

const STREAMS = Number(process.env.BENCH_STREAMS ?? 5000);
const ACTIVE = Number(process.env.BENCH_ACTIVE ?? 2000);
const DELTAS = Number(process.env.BENCH_DELTAS ?? 5000);
const LONG_TURNS = 5;
const PAUSE_MS = 1000;
const KEEPALIVE_MS = 2000;
const OPEN_AT_ONCE = 200;

/** Bytes of the process that are its own. */
function ownMemory(pid) {
  const text = fs.readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
  const kib = (name) => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(text)[1]);
  return 1024 * (kib('Private_Dirty') + kib('Private_Clean'));
}

const kib = (bytes) => `${(bytes / 1024).toFixed(1)} KiB`;

/** One request on a socket of its own; what matters of the answer: when bytes came. */
class Stream {
  constructor(gw, request) {
    this.last = performance.now();
    this.longest = 0;
    this.bytes = 0;
    this.tail = '';
    this.ended = new Promise((resolve, reject) => {
      const [host, port] = gw.address.split(':');
      this.socket = net.connect({ host, port: Number(port), noDelay: true }, () => request && this.socket.write(request));
      this.opened = new Promise((first) => { this.first = first; });
      if (!request) this.socket.once('connect', this.first);
      this.socket.on('data', (data) => this.onData(data, resolve));
      this.socket.on('error', reject);
      this.socket.on('close', () => reject(new Error(`closed after ${this.bytes} bytes: ${this.tail}`)));
    });
    this.ended.catch(() => this.first());
  }

  onData(data, resolve) {
    const now = performance.now();
    if (this.bytes === 0) this.first();
    else this.longest = Math.max(this.longest, now - this.last);
    this.last = now;
    this.bytes += data.length;
    this.tail = (this.tail + data.toString('latin1')).slice(-60);
    if (this.tail.includes('[DONE]') || this.tail.endsWith('0\r\n\r\n')) {
      if (this.tail.includes('[DONE]')) resolve();
      this.socket.destroy();
    }
  }
}

function chatRequest(gw, message) {
  const body = JSON.stringify({ message, stream: true });
  return `POST /api/chat HTTP/1.1\r\nHost: ${gw.address}\r\nAuthorization: Bearer ${gw.key}\r\n`
    + `Content-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`;
}

/** n of them, opened a few at a time, each of which has had its first bytes. */
async function open(gw, n, request) {
  const all = [];
  while (all.length < n) {
    const some = Array.from({ length: Math.min(OPEN_AT_ONCE, n - all.length) }, () => new Stream(gw, request));
    all.push(...some);
    await Promise.all(some.map((s) => s.opened));
  }
  return all;
}

const startFake = (name, workers, extra) => startGateway(name, {
  CLAUDEGATE_CLAUDE_BIN: FAKE, ANTHROPIC_BASE_URL: 'http://127.0.0.1:9', CLAUDEGATE_CLAUDE_HISTORY: 'inject',
  CLAUDEGATE_SANDBOX_MODE: 'off', CLAUDEGATE_POOL_MAX_WORKERS: String(workers),
  CLAUDEGATE_SERVER_KEEPALIVE_MS: String(KEEPALIVE_MS), CLAUDEGATE_SERVER_MAX_CONNECTIONS: '100000',
  CLAUDEGATE_POOL_QUEUE_MAX: '100000', CLAUDEGATE_POOL_QUEUE_MAX_PER_KEY: '0',
  CLAUDEGATE_POOL_QUEUE_TIMEOUT_MS: '600000', CLAUDEGATE_POOL_MAX_REQUESTS: '1000000', ...extra,
});

const longestOf = (streams) => quantile(streams.map((s) => s.longest), 1);

// --- k ---------------------------------------------------------------------------------------

/** Of a server that has done nothing else: what ended streams leave to the heap would be used again. */
async function idleConnection() {
  const gw = await startFake('idle', 1);
  const before = ownMemory(gw.p.pid);
  const idle = await open(gw, STREAMS);
  await sleep(1000);
  const each = (ownMemory(gw.p.pid) - before) / STREAMS;
  for (const s of idle) s.socket.destroy();
  await stop(gw.p);
  return each;
}

export async function waitingStreams() {
  const connection = await idleConnection();
  const gw = await startFake('waiting', 64);
  const slow = `fake:${JSON.stringify({ text: 'word '.repeat(10), chunk: 5, delay_ms: 30 })}`;
  await Promise.all((await open(gw, 64, chatRequest(gw, slow))).map((s) => s.ended));
  await sleep(1000);
  const before = ownMemory(gw.p.pid);
  const held = `fake:${JSON.stringify({ text: 'x', start_delay_ms: 15000 })}`;
  const holders = Array.from({ length: 64 }, () => new Stream(gw, chatRequest(gw, held)));
  await sleep(500);
  const streams = await open(gw, STREAMS, chatRequest(gw, slow));
  const each = (ownMemory(gw.p.pid) - before) / STREAMS;
  await Promise.all([...holders, ...streams].map((s) => s.ended));
  add(`k  memory of each of ${STREAMS} waiting streams`, kib(each), `${kib(connection)}  an idle connection`, `${(each / connection).toFixed(1)}x`);
  add('k  longest silence of any of them', ms(longestOf(streams)), `${ms(KEEPALIVE_MS)}  the pause after which a comment is due`, `${(longestOf(streams) / KEEPALIVE_MS).toFixed(2)} of it`);
  await stop(gw.p);
}

async function workersOf(gw) {
  return (await (await fetch(`${gw.url}/readyz`)).json()).workers;
}

// --- l ---------------------------------------------------------------------------------------

export async function activeStreams() {
  const up = await startStandin();
  const steps = [{
    match: { text: 'paced' }, repeat: -1, word_delay_ms: PAUSE_MS,
    blocks: [{ type: 'text', text: 'word '.repeat(60) }],
  }];
  await fetch(`${up.url}/_standin/script`, { method: 'POST', body: JSON.stringify(steps) });
  const gw = await startFake('active', ACTIVE, {
    ANTHROPIC_BASE_URL: up.url, FAKE_UPSTREAM: '1', CLAUDEGATE_CLAUDE_PASS_ENV: 'FAKE_UPSTREAM',
    CLAUDEGATE_POOL_MIN_SPARE: String(ACTIVE),
  });
  const empty = ownMemory(gw.p.pid);
  while ((await workersOf(gw)).spare < ACTIVE) await sleep(500);
  const workers = ownMemory(gw.p.pid) - empty;
  const streams = await open(gw, ACTIVE, chatRequest(gw, 'paced'));
  await sleep(8 * PAUSE_MS);
  const all = ownMemory(gw.p.pid) - empty;
  const { busy } = await workersOf(gw);
  if (busy !== ACTIVE) throw new Error(`${busy} workers are busy, not ${ACTIVE}`);
  await Promise.all(streams.map((s) => s.ended));
  add(`l  memory of each of ${ACTIVE} streams being written`, kib((all - workers) / ACTIVE), `${kib(workers / ACTIVE)}  its worker, idle`, `${kib(all / ACTIVE)} together`);
  add('l  longest pause of any of them', ms(longestOf(streams)), `${ms(PAUSE_MS)}  the pause the upstream makes`, `${(longestOf(streams) / PAUSE_MS).toFixed(2)} of it`);
  await stop(gw.p);
  await stop(up.p);
}

// --- m ---------------------------------------------------------------------------------------

/** CPU seconds of all that a process has started. */
function childrenCpu(pid) {
  const text = fs.readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8');
  return text.split(' ').filter(Boolean).reduce((sum, child) => sum + cpuSeconds(child) + childrenCpu(child), 0);
}

const dialects = [
  ['/api/chat', { message: 'count' }],
  ['/v1/messages', { model: 'claude-sonnet-4-5', max_tokens: 4096, messages: [{ role: 'user', content: 'count' }] }],
  ['/v1/chat/completions', { model: 'claude-sonnet-4-5', messages: [{ role: 'user', content: 'count' }] }],
  ['/v1/responses', { model: 'claude-sonnet-4-5', input: 'count', store: false }],
];

async function readStream(gw, path, body) {
  const res = await fetch(gw.url + path, {
    method: 'POST', body: JSON.stringify({ ...body, stream: true }),
    headers: { authorization: `Bearer ${gw.key}`, 'content-type': 'application/json' },
  });
  if (!res.ok) throw new Error(`${path}: ${res.status} ${await res.text()}`);
  await res.arrayBuffer();
}

export async function deltaCost() {
  const up = await startStandin();
  await fetch(`${up.url}/_standin/script`, {
    method: 'POST',
    body: JSON.stringify([{ repeat: -1, blocks: [{ type: 'text', text: 'word '.repeat(DELTAS), chunk: 5 }] }]),
  });
  const gw = await startGateway('deltas', {
    ANTHROPIC_BASE_URL: up.url, CLAUDEGATE_CLAUDE_BIN: CLAUDE, CLAUDEGATE_POOL_MAX_WORKERS: '1',
    CLAUDEGATE_POOL_MIN_SPARE: '0',
  });
  for (const [path, body] of dialects) {
    await readStream(gw, path, body);
    const ours = cpuSeconds(gw.p.pid);
    const theirs = childrenCpu(gw.p.pid);
    for (let i = 0; i < LONG_TURNS; i++) await readStream(gw, path, body);
    const perDelta = (seconds) => (1e6 * seconds) / (LONG_TURNS * DELTAS);
    const us = perDelta(cpuSeconds(gw.p.pid) - ours);
    const claude = perDelta(childrenCpu(gw.p.pid) - theirs);
    add(`m  CPU of the server for a delta, ${path}`, `${us.toFixed(1)} us`, `${claude.toFixed(1)} us  the claude program for the same`, `${(100 * us / claude).toFixed(0)} % of it`);
  }
  await stop(gw.p);
  await stop(up.p);
}
