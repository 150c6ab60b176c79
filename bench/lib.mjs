// lib.mjs - what the measurements share: the parties that are compared, statistics, the table.
//
// Everything runs on this machine against the stand-in upstream: no credential, no internet.
import { spawn, execFileSync } from 'node:child_process';
import fs from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { randomUUID } from 'node:crypto';

import { directEnv } from './env.mjs';

const root = path.resolve(import.meta.dirname ?? path.dirname(new URL(import.meta.url).pathname), '..');
const bin = (env, rel) => process.env[env] ?? path.join(root, rel);
export const CLAUDEGATE = bin('CLAUDEGATE_BIN', 'build/claudegate');
export const CLAUDE = bin('CLAUDE_BIN', 'node_modules/.bin/claude');
export const FAKE = bin('FAKE_CLAUDE_BIN', 'build/tests/fakes/fake-claude');
export const STANDIN = bin('STANDIN_BIN', 'build/tests/fakes/standin');
export const BENCH_LIMITS = bin('BENCH_LIMITS_BIN', 'build/bench/bench-limits');
export const BENCH_RELAY = bin('BENCH_RELAY_BIN', 'build/bench/bench-relay');
export const BENCH_USAGE = bin('BENCH_USAGE_BIN', 'build/bench/bench-usage');

export const tmp = fs.mkdtempSync(path.join(os.tmpdir(), 'cg-bench-'));
const running = new Set();
export const cleanEnv = (extra) => ({ PATH: process.env.PATH, HOME: tmp, LANG: 'C.UTF-8', ...extra });

export function start(cmd, args, opts = {}) {
  const p = spawn(cmd, args, { stdio: ['pipe', 'pipe', 'pipe'], ...opts });
  running.add(p);
  p.on('exit', () => running.delete(p));
  return p;
}

export function waitFor(stream, pattern, what) {
  return new Promise((resolve, reject) => {
    let text = '';
    const timer = setTimeout(() => reject(new Error(`${what} did not start: ${text}`)), 60000);
    stream.on('data', (d) => {
      text += d;
      const m = pattern.exec(text);
      if (m) {
        clearTimeout(timer);
        resolve(m[1]);
      }
    });
  });
}

export async function stop(p, signal = 'SIGTERM') {
  if (p.exitCode !== null || p.signalCode !== null) return;
  const gone = new Promise((r) => p.once('exit', r));
  p.kill(signal);
  await gone;
}

export const sleep = (ms) => new Promise((r) => setTimeout(r, ms));
const sorted = (xs) => [...xs].sort((a, b) => a - b);
export const quantile = (xs, q) => sorted(xs)[Math.min(xs.length - 1, Math.floor(xs.length * q))];
export const median = (xs) => quantile(xs, 0.5);
export const ms = (x) => `${x.toFixed(1)} ms`;

/** CPU seconds of a process, or of its first thread (the event loop) alone. */
export function cpuSeconds(pid, loopOnly = false) {
  const f = fs.readFileSync(loopOnly ? `/proc/${pid}/task/${pid}/stat` : `/proc/${pid}/stat`, 'utf8');
  const fields = f.slice(f.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

// --- the parties -----------------------------------------------------------------------------

export async function startStandin() {
  const p = start(STANDIN, ['--listen', '127.0.0.1:0', '--word-delay-ms', '0'], { env: cleanEnv() });
  return { p, url: await waitFor(p.stdout, /"url":"([^"]+)"/, 'stand-in') };
}

export async function startGateway(name, extra) {
  const dir = path.join(tmp, name);
  const env = cleanEnv({
    CLAUDEGATE_DATA_DIR: dir, CLAUDEGATE_LISTEN: '127.0.0.1:0', ANTHROPIC_API_KEY: 'bench-dummy',
    CLAUDEGATE_LOG_CONSOLE: 'false', ...extra, // a terminal's price is not the server's
  });
  const p = start(CLAUDEGATE, ['serve'], { env });
  p.stderr.resume();
  const address = await waitFor(p.stdout, /claudegate \S+ on http:\/\/(\S+)/, 'claudegate');
  const json = execFileSync(CLAUDEGATE, ['key', 'create', '--name', 'bench', '--json',
    '--requests-per-minute', 'unlimited', '--requests-per-day', 'unlimited',
    '--tokens-per-day', 'unlimited'], { env });
  return { p, url: `http://${address}`, address, key: JSON.parse(json).key };
}

export const agent = new http.Agent({ keepAlive: true, maxSockets: 64 });

/** One streamed turn; times from the call to the first text and to the last byte. */
export function chat(gw, message) {
  return new Promise((resolve, reject) => {
    const t0 = performance.now();
    let first = 0;
    let text = '';
    const req = http.request(`${gw.url}/api/chat`, {
      method: 'POST', agent,
      headers: { authorization: `Bearer ${gw.key}`, 'content-type': 'application/json' },
    }, (res) => {
      res.setEncoding('utf8');
      res.on('data', (d) => {
        text += d;
        if (!first && text.includes('"type":"delta"')) first = performance.now();
      });
      res.on('end', () => {
        if (res.statusCode !== 200 || !text.includes('[DONE]')) reject(new Error(`${res.statusCode}: ${text}`));
        else resolve({ first: first - t0, total: performance.now() - t0 });
      });
    });
    req.on('error', reject);
    req.end(JSON.stringify({ message, stream: true }));
  });
}

/** The bare driver: the real CLI, spoken to directly, connected straight to the upstream. */
export class Direct {
  constructor(upstream, name = 'direct') {
    const home = path.join(tmp, name);
    fs.mkdirSync(home, { recursive: true });
    this.p = start(CLAUDE, ['-p', '--input-format', 'stream-json', '--output-format', 'stream-json',
      '--verbose', '--include-partial-messages', '--strict-mcp-config', '--setting-sources', '',
      '--tools', '', '--no-session-persistence', '--permission-mode', 'dontAsk',
      '--model', 'claude-sonnet-4-5'], { cwd: home, env: directEnv(home, upstream) });
    this.p.stderr.resume();
    this.rest = '';
    this.onLine = () => {};
    this.p.stdout.setEncoding('utf8');
    this.p.stdout.on('data', (d) => {
      const lines = (this.rest + d).split('\n');
      this.rest = lines.pop();
      for (const line of lines) this.onLine(line);
    });
  }

  send(o) {
    this.p.stdin.write(`${JSON.stringify(o)}\n`);
  }

  async init() {
    const answered = new Promise((r) => {
      this.onLine = (line) => line.includes('"request_id":"b"') && r();
    });
    this.send({ type: 'control_request', request_id: 'a', request: { subtype: 'initialize', systemPrompt: '', title: 'bench' } });
    this.send({ type: 'control_request', request_id: 'b', request: { subtype: 'set_max_thinking_tokens', max_thinking_tokens: 0 } });
    await answered;
  }

  turn(message) {
    return new Promise((resolve) => {
      const t0 = performance.now();
      let first = 0;
      this.onLine = (line) => {
        if (!first && line.includes('"text_delta"')) first = performance.now();
        if (line.startsWith('{"type":"result"')) resolve({ first: first - t0, total: performance.now() - t0 });
      };
      this.send({ type: 'system', subtype: 'compact_boundary', compact_metadata: { trigger: 'manual', pre_tokens: 0 }, uuid: randomUUID(), session_id: '' });
      this.send({ type: 'user', message: { role: 'user', content: [{ type: 'text', text: message }, { type: 'text', text: '' }] }, parent_tool_use_id: null, session_id: '' });
    });
  }
}

/** What process-per-request wrappers do. */
export function claudePrint(upstream, message) {
  const home = path.join(tmp, 'print');
  fs.mkdirSync(home, { recursive: true });
  const t0 = performance.now();
  execFileSync(CLAUDE, ['-p', '--output-format', 'json', '--model', 'claude-sonnet-4-5', '--tools', '',
    '--setting-sources', '', '--strict-mcp-config', '--no-session-persistence', message],
  { cwd: home, env: directEnv(home, upstream), stdio: ['ignore', 'pipe', 'ignore'] });
  return performance.now() - t0;
}

// --- the table -------------------------------------------------------------------------------

const rows = [];
export const add = (what, here, there, ratio) => rows.push({ what, here, there, ratio });

export function printTable() {
  const width = (k) => Math.max(...rows.map((r) => r[k].length), k.length);
  const w = { what: width('what'), here: width('here'), there: width('there') };
  const line = (r) => `${r.what.padEnd(w.what)}  ${r.here.padStart(w.here)}  ${r.there.padEnd(w.there)}  ${r.ratio}`;
  console.log(`\n${os.cpus().length} cores, ${os.cpus()[0].model}, node ${process.version}`);
  console.log(line({ what: '', here: 'claudegate', there: 'against', ratio: 'ratio' }));
  for (const r of rows) console.log(line(r));
}

/** Ends whatever still runs and removes what was written. */
export function tidy() {
  for (const p of running) p.kill('SIGKILL');
  agent.destroy();
  fs.rmSync(tmp, { recursive: true, force: true, maxRetries: 5 });
}
