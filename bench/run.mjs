// run.mjs - reproducible comparisons, all in one run, printed as a table with ratios.
//
//   a  one warm turn through /api/chat against the same turn driven over the CLI's stdin
//   b  the same turn through /api/chat against `claude -p` started for every request
//   c  requests per second of the whole path with the fake CLI, per core of the server
//
// Everything runs on this machine against the stand-in upstream: no credential, no internet.
// Speeds are compared with something else in the same run; nothing here passes or fails.
import { spawn, execFileSync } from 'node:child_process';
import fs from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { randomUUID } from 'node:crypto';

const root = path.resolve(import.meta.dirname ?? path.dirname(new URL(import.meta.url).pathname), '..');
const bin = (env, rel) => process.env[env] ?? path.join(root, rel);
const CLAUDEGATE = bin('CLAUDEGATE_BIN', 'build/claudegate');
const CLAUDE = bin('CLAUDE_BIN', 'node_modules/.bin/claude');
const FAKE = bin('FAKE_CLAUDE_BIN', 'build/tests/fakes/fake-claude');
const STANDIN = bin('STANDIN_BIN', 'build/tests/fakes/standin');
const TURNS = Number(process.env.BENCH_TURNS ?? 150);
const COLD = Number(process.env.BENCH_COLD ?? 7);
const SECONDS = Number(process.env.BENCH_SECONDS ?? 8);

const tmp = fs.mkdtempSync(path.join(os.tmpdir(), 'cg-bench-'));
const running = new Set();
const cleanEnv = (extra) => ({ PATH: process.env.PATH, HOME: tmp, LANG: 'C.UTF-8', ...extra });

function start(cmd, args, opts = {}) {
  const p = spawn(cmd, args, { stdio: ['pipe', 'pipe', 'pipe'], ...opts });
  running.add(p);
  p.on('exit', () => running.delete(p));
  return p;
}

function waitFor(stream, pattern, what) {
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

async function stop(p, signal = 'SIGTERM') {
  if (p.exitCode !== null || p.signalCode !== null) return;
  const gone = new Promise((r) => p.once('exit', r));
  p.kill(signal);
  await gone;
}

const sleep = (ms) => new Promise((r) => setTimeout(r, ms));
const sorted = (xs) => [...xs].sort((a, b) => a - b);
const quantile = (xs, q) => sorted(xs)[Math.min(xs.length - 1, Math.floor(xs.length * q))];
const median = (xs) => quantile(xs, 0.5);
const ms = (x) => `${x.toFixed(1)} ms`;

// --- the parties -----------------------------------------------------------------------------

async function startStandin() {
  const p = start(STANDIN, ['--listen', '127.0.0.1:0', '--word-delay-ms', '0'], { env: cleanEnv() });
  return { p, url: await waitFor(p.stdout, /"url":"([^"]+)"/, 'stand-in') };
}

async function startGateway(name, extra) {
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

const agent = new http.Agent({ keepAlive: true, maxSockets: 64 });

/** One streamed turn; times from the call to the first text and to the last byte. */
function chat(gw, message) {
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
class Direct {
  constructor(upstream) {
    const home = path.join(tmp, 'direct');
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

const directEnv = (home, upstream) => ({
  PATH: '/usr/local/bin:/usr/bin:/bin', LANG: 'C.UTF-8', HOME: home,
  ANTHROPIC_BASE_URL: upstream, ANTHROPIC_API_KEY: 'bench-dummy',
  CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: '1', DISABLE_AUTOUPDATER: '1',
  CLAUDE_CODE_DISABLE_ATTACHMENTS: '1', CLAUDE_CODE_MAX_RETRIES: '0',
  CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK: '1', DISABLE_COMPACT: '1',
});

/** What process-per-request wrappers do. */
function claudePrint(upstream, message) {
  const home = path.join(tmp, 'print');
  fs.mkdirSync(home, { recursive: true });
  const t0 = performance.now();
  execFileSync(CLAUDE, ['-p', '--output-format', 'json', '--model', 'claude-sonnet-4-5', '--tools', '',
    '--setting-sources', '', '--strict-mcp-config', '--no-session-persistence', message],
  { cwd: home, env: directEnv(home, upstream), stdio: ['ignore', 'pipe', 'ignore'] });
  return performance.now() - t0;
}

// --- the comparisons -------------------------------------------------------------------------

const rows = [];
const add = (what, here, there, ratio) => rows.push({ what, here, there, ratio });

async function compareTurns() {
  const up = await startStandin();
  const gw = await startGateway('real', { ANTHROPIC_BASE_URL: up.url, CLAUDEGATE_CLAUDE_BIN: CLAUDE });
  const direct = new Direct(up.url);
  await direct.init();
  for (let i = 0; i < 30; i++) { // both past their first, slower turns
    await chat(gw, `warm-up ${i}`);
    await direct.turn(`warm-up ${i}`);
  }
  await sleep(3000); // the spare worker's start is over
  const via = [];
  const bare = [];
  for (let i = 0; i < TURNS; i++) {
    if (i % 50 === 0) process.stderr.write(`bench: turn ${i} of ${TURNS}\n`);
    via.push(await chat(gw, `question ${i}`));
    bare.push(await direct.turn(`question ${i}`));
  }
  const cold = [];
  for (let i = 0; i < COLD; i++) cold.push(claudePrint(up.url, `question ${i}`));
  for (const [key, name] of [['first', 'a  warm turn, time to first text'], ['total', 'a  warm turn, total']]) {
    const a = median(via.map((t) => t[key]));
    const b = median(bare.map((t) => t[key]));
    add(`${name} (median of ${TURNS})`, ms(a), `${ms(b)}  CLI's stdin driven directly`, `${(a - b >= 0 ? '+' : '') + (a - b).toFixed(1)} ms`);
  }
  const total = median(via.map((t) => t.total));
  add(`b  one request, total (median of ${COLD} cold)`, ms(total), `${ms(median(cold))}  claude -p per request`, `${(median(cold) / total).toFixed(1)}x less`);
  await stop(direct.p, 'SIGKILL');
  await stop(gw.p);
  await stop(up.p);
}

/** CPU seconds of a process, or of its first thread (the event loop) alone. */
function cpuSeconds(pid, loopOnly = false) {
  const f = fs.readFileSync(loopOnly ? `/proc/${pid}/task/${pid}/stat` : `/proc/${pid}/stat`, 'utf8');
  const fields = f.slice(f.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

function wrk(gw, pathName, script) {
  return new Promise((resolve, reject) => {
    const args = ['-t1', '-c48', `-d${SECONDS}s`, '--latency', ...(script ? ['-s', script] : []), `${gw.url}${pathName}`];
    const p = start('wrk', args, { env: cleanEnv() });
    let out = '';
    p.stdout.on('data', (d) => { out += d; });
    p.stderr.on('data', (d) => { out += d; });
    p.on('close', (code) => {
      const rps = /Requests\/sec:\s+([\d.]+)/.exec(out);
      const bad = /Non-2xx or 3xx responses: (\d+)/.exec(out);
      if (code !== 0 || !rps) reject(new Error(`wrk: ${out}`));
      else resolve({ rps: Number(rps[1]), bad: bad ? Number(bad[1]) : 0, p99: /99%\s+(\S+)/.exec(out)?.[1] });
    });
  });
}

async function throughput() {
  const gw = await startGateway('fake', {
    CLAUDEGATE_CLAUDE_BIN: FAKE, ANTHROPIC_BASE_URL: 'http://127.0.0.1:9',
    CLAUDEGATE_POOL_MAX_REQUESTS: '1000000', CLAUDEGATE_POOL_MAX_RSS_MB: '4096',
  });
  const script = path.join(tmp, 'chat.lua');
  fs.writeFileSync(script, `wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer ${gw.key}"
wrk.body = '{"message":"hello"}'
`);
  await Promise.all(Array.from({ length: 48 }, () => chat(gw, 'warm')));
  await sleep(1000);
  const c0 = cpuSeconds(gw.p.pid);
  const l0 = cpuSeconds(gw.p.pid, true);
  const t0 = performance.now();
  const r = await wrk(gw, '/api/chat', script);
  const wall = (performance.now() - t0) / 1000;
  const cpu = cpuSeconds(gw.p.pid) - c0;
  const loop = cpuSeconds(gw.p.pid, true) - l0;
  const base = await wrk(gw, '/healthz');
  if (r.bad) throw new Error(`${r.bad} requests failed`);
  const perCore = (r.rps * wall) / cpu;
  add('c  whole path, fake CLI, requests/s', r.rps.toFixed(0), `${base.rps.toFixed(0)}  GET /healthz on the same server`, `${(r.rps / base.rps).toFixed(2)} of it, p99 ${r.p99}`);
  const perLoop = (r.rps * wall) / loop;
  add('c  requests per CPU second of the event loop', perLoop.toFixed(0), `${(1e6 / perLoop).toFixed(0)} us of CPU each, one thread`, `${(loop / wall).toFixed(2)} cores used`);
  add('c  requests per CPU second of the server', perCore.toFixed(0), `${(1e6 / perCore).toFixed(0)} us of CPU each, all threads`, `${(cpu / wall).toFixed(2)} cores used`);
  await stop(gw.p);
}

async function main() {
  for (const p of [CLAUDEGATE, CLAUDE, FAKE, STANDIN]) if (p !== FAKE || (process.argv[2] ?? "c").includes("c")) fs.accessSync(p, fs.constants.X_OK);
  const which = process.argv[2] ?? 'abc';
  if (/[ab]/.test(which)) await compareTurns();
  if (/c/.test(which)) await throughput();
  const width = (k) => Math.max(...rows.map((r) => r[k].length), k.length);
  const w = { what: width('what'), here: width('here'), there: width('there') };
  const line = (r) => `${r.what.padEnd(w.what)}  ${r.here.padStart(w.here)}  ${r.there.padEnd(w.there)}  ${r.ratio}`;
  console.log(`\n${os.cpus().length} cores, ${os.cpus()[0].model}, node ${process.version}`);
  console.log(line({ what: '', here: 'claudegate', there: 'against', ratio: 'ratio' }));
  for (const r of rows) console.log(line(r));
}

try {
  await main();
} finally {
  for (const p of running) p.kill('SIGKILL');
  agent.destroy();
  fs.rmSync(tmp, { recursive: true, force: true });
}
