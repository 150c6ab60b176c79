// workers.mjs - what several workers at once achieve, and how soon one is put to work.
//
//   d  turns per second: claudegate with N real workers and N keep-alive clients, against a bare
//      driver that speaks to N processes of its own over stdin. Both put a boundary line between
//      unrelated questions. Rounds of the two take turns.
//   e  accepted request to question on stdin, one client, a worker ready: the server's own
//      histogram; against the round trip of GET /healthz as the client sees it
//   f  eight requests at once: until the last answer, against wrapper.mjs
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import {
  add, agent, chat, CLAUDE, cleanEnv, Direct, median, ms, quantile, sleep, start, startGateway,
  startStandin, stop, tmp, waitFor,
} from './lib.mjs';

const WORKERS = Number(process.env.BENCH_WORKERS ?? 4);
const ROUNDS = Number(process.env.BENCH_ROUNDS ?? 7);
const ROUND_TURNS = Number(process.env.BENCH_ROUND_TURNS ?? 200);
const DISPATCHES = Number(process.env.BENCH_DISPATCHES ?? 1000);
const BURSTS = Number(process.env.BENCH_BURSTS ?? 3);
const BURST = 8;

const range = (n) => Array.from({ length: n }, (_, i) => i);

/** n turns shared by the senders, each with one under way; seconds until the last has ended. */
async function share(senders, n) {
  let left = n;
  const t0 = performance.now();
  await Promise.all(senders.map(async (turn) => {
    while (left-- > 0) await turn(`question ${left}`);
  }));
  return (performance.now() - t0) / 1000;
}

const startPool = (name, up, workers) => startGateway(name, {
  ANTHROPIC_BASE_URL: up.url, CLAUDEGATE_CLAUDE_BIN: CLAUDE,
  CLAUDEGATE_POOL_MAX_WORKERS: String(workers), CLAUDEGATE_POOL_MIN_SPARE: '0',
  CLAUDEGATE_POOL_MAX_REQUESTS: '1000000', // the other side never replaces a process either
});

async function poolOf(gw) {
  return (await get(`${gw.url}/readyz`)).body.workers;
}

function get(url) {
  return new Promise((resolve, reject) => {
    const t0 = performance.now();
    http.get(url, { agent }, (res) => {
      let text = '';
      res.setEncoding('utf8');
      res.on('data', (d) => { text += d; });
      res.on('end', () => resolve({
        ms: performance.now() - t0, text, body: text.startsWith('{') ? JSON.parse(text) : undefined,
      }));
    }).on('error', reject);
  });
}

/** Questions that take long enough for each to need a worker, until there are so many. */
async function fill(gw, up, workers) {
  for (let i = 0; i < 10; i++) {
    const steps = [{ match: { text: 'warm-up' }, delay_ms: 2000, repeat: workers }];
    await fetch(`${up.url}/_standin/script`, { method: 'POST', body: JSON.stringify(steps) });
    await Promise.all(range(workers).map((n) => chat(gw, `warm-up ${n}`)));
    const { idle, spare, busy } = await poolOf(gw);
    if (idle + spare + busy >= workers) {
      await fetch(`${up.url}/_standin/script`, { method: 'DELETE' });
      return;
    }
  }
  throw new Error(`the pool never had ${workers} workers`);
}

// --- d -----------------------------------------------------------------------------------------

export async function comparePools() {
  const up = await startStandin();
  const gw = await startPool('pool', up, WORKERS);
  const direct = range(WORKERS).map((i) => new Direct(up.url, `direct-${i}`));
  await Promise.all(direct.map((d) => d.init()));
  const ours = range(WORKERS).map(() => (text) => chat(gw, text));
  const bare = direct.map((d) => (text) => d.turn(text));
  await fill(gw, up, WORKERS);
  for (const senders of [ours, bare]) await share(senders, WORKERS * 30); // the first are slow
  const via = [];
  const driven = [];
  for (let i = 0; i < ROUNDS; i++) {
    process.stderr.write(`bench: d, round ${i + 1} of ${ROUNDS}\n`);
    const order = [() => share(ours, ROUND_TURNS).then((s) => via.push(ROUND_TURNS / s)),
      () => share(bare, ROUND_TURNS).then((s) => driven.push(ROUND_TURNS / s))];
    for (const round of i % 2 ? order.reverse() : order) await round();
  }
  const ratio = median(via.map((rate, i) => rate / driven[i]));
  add(`d  turns/s with ${WORKERS} workers (median of ${ROUNDS} rounds)`, median(via).toFixed(1),
    `${median(driven).toFixed(1)}  ${WORKERS} processes driven directly`,
    `${(100 * ratio).toFixed(0)} % of it`);
  for (const d of direct) await stop(d.p, 'SIGKILL');
  await stop(gw.p);
  await stop(up.p);
}

// --- e -----------------------------------------------------------------------------------------

const METRIC = 'claudegate_dispatch_seconds';

/** Upper bounds (s) and cumulative counts. */
async function histogram(gw) {
  const { text } = await get(`${gw.url}/metrics`);
  const found = [...text.matchAll(new RegExp(`^${METRIC}_bucket\\{le="([^"]+)"\\} (\\d+)$`, 'gm'))];
  if (found.length === 0) throw new Error(`this server has no ${METRIC}`);
  return found.map(([, le, n]) => [le === '+Inf' ? Infinity : Number(le), Number(n)]);
}

/** In milliseconds, between the bounds of the bucket that holds it: [above, at most]. */
function bucketOf(before, after, q) {
  const counts = after.map(([le, n], i) => [le, n - before[i][1]]);
  const total = counts.at(-1)[1];
  const i = counts.findIndex(([, n]) => n >= q * total);
  return { total, above: i > 0 ? counts[i - 1][0] * 1000 : 0, most: counts[i][0] * 1000 };
}

export async function dispatchTime() {
  const up = await startStandin();
  const gw = await startPool('dispatch', up, 1);
  await fill(gw, up, 1);
  for (const i of range(50)) await chat(gw, `before ${i}`);
  const before = await histogram(gw);
  const health = [];
  for (let i = 0; i < DISPATCHES; i++) {
    if (i % 200 === 0) process.stderr.write(`bench: e, turn ${i} of ${DISPATCHES}\n`);
    await chat(gw, `question ${i}`);
    health.push((await get(`${gw.url}/healthz`)).ms);
  }
  const after = await histogram(gw);
  for (const q of [0.5, 0.99]) {
    const { above, most, total } = bucketOf(before, after, q);
    const trip = quantile(health, q);
    const bounds = most === Infinity ? `> ${above} ms` : `${above}-${most} ms`;
    add(`e  accepted to question on stdin, p${q * 100} of ${total}`, bounds,
      `${trip.toFixed(2)} ms  GET /healthz round trip`,
      most === Infinity ? '' : `at most ${(most / trip).toFixed(2)} of it`);
  }
  await stop(gw.p);
  await stop(up.p);
}

// --- f -----------------------------------------------------------------------------------------

async function startWrapper(up) {
  const home = path.join(tmp, 'wrapper');
  fs.mkdirSync(home, { recursive: true });
  const file = fileURLToPath(new URL('wrapper.mjs', import.meta.url));
  const p = start(process.execPath, [file, CLAUDE, up.url, home], { env: cleanEnv() });
  p.stderr.resume();
  return { p, url: await waitFor(p.stdout, /(http:\S+)/, 'the wrapper') };
}

async function askWrapper(wrapper, message) {
  const res = await fetch(wrapper.url, { method: 'POST', body: JSON.stringify({ message }) });
  const text = await res.text();
  if (!res.ok || !text.includes(message)) throw new Error(`the wrapper: ${res.status} ${text}`);
}

async function burst(ask) {
  const t0 = performance.now();
  await Promise.all(range(BURST).map((i) => ask(`question ${i}`)));
  return performance.now() - t0;
}

export async function compareBurst() {
  const up = await startStandin();
  const gw = await startPool('burst', up, BURST);
  const wrapper = await startWrapper(up);
  await fill(gw, up, BURST);
  for (let i = 0; i < 5; i++) await burst((text) => chat(gw, text)); // past the slow first turns
  await burst((text) => askWrapper(wrapper, text)); // its files are in the page cache now as well
  const via = [];
  const wrapped = [];
  for (let i = 0; i < BURSTS; i++) {
    process.stderr.write(`bench: f, round ${i + 1} of ${BURSTS}\n`);
    via.push(await burst((text) => chat(gw, text)));
    wrapped.push(await burst((text) => askWrapper(wrapper, text)));
  }
  add(`f  ${BURST} requests at once, total (median of ${BURSTS})`, ms(median(via)),
    `${ms(median(wrapped))}  a process per request`,
    `${(median(wrapped) / median(via)).toFixed(1)}x less`);
  await stop(wrapper.p);
  await stop(gw.p);
  await stop(up.p);
}
