// run.mjs - reproducible comparisons, all in one run, printed as a table with ratios.
//
//   a  one warm turn through /api/chat against the same turn driven over the CLI's stdin
//   b  the same turn through /api/chat against `claude -p` started for every request
//   c  requests per second of the whole path with the fake CLI, per core of the server
//   d  turns per second with several workers against as many processes driven directly
//   e  request accepted to question on the worker's stdin, against one GET /healthz
//   f  eight requests at once against a wrapper that starts a process for each
//   g  one decision about limits in memory against a look at a hash table
//   h  the same with Redis against its smallest round trip
//   i  usage rows made durable against plain batched inserts, and 10,000 of them a second
//   j  a year of one key among ten million rows against the same sum over the rows (not by default:
//      it takes minutes and 10 GB of disk)
//   k  thousands of streams that wait, l that are being written: memory and the longest silence
//   m  CPU of the server for each delta against that of the claude program
//   n  a request and an event through the relay against the straight way
//
// `node bench/run.mjs abc` runs some of them. Everything runs on this machine against the stand-in
// upstream: no credential, no internet. Speeds are compared with something else in the same run;
// nothing here passes or fails.
import fs from 'node:fs';
import path from 'node:path';

import {
  add, BENCH_LIMITS, BENCH_RELAY, BENCH_USAGE, chat, CLAUDE, CLAUDEGATE, claudePrint, cleanEnv, cpuSeconds, Direct,
  FAKE, median, ms, printTable, sleep, STANDIN, start, startGateway, startStandin, stop, tidy, tmp,
} from './lib.mjs';
import { decisionsInMemory, decisionsWithRedis } from './limits.mjs';
import { relayCost } from './relay.mjs';
import { activeStreams, deltaCost, waitingStreams } from './streams.mjs';
import { usageSums, usageWrites } from './usage.mjs';
import { compareBurst, comparePools, dispatchTime } from './workers.mjs';

const TURNS = Number(process.env.BENCH_TURNS ?? 150);
const COLD = Number(process.env.BENCH_COLD ?? 7);
const SECONDS = Number(process.env.BENCH_SECONDS ?? 8);

// --- a, b: one turn -------------------------------------------------------------------------

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

// --- c: the whole path without a model ------------------------------------------------------

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

const parts = [
  ['ab', compareTurns, [CLAUDE]],
  ['c', throughput, [FAKE]],
  ['d', comparePools, [CLAUDE]],
  ['e', dispatchTime, [CLAUDE]],
  ['f', compareBurst, [CLAUDE]],
  ['g', decisionsInMemory, [BENCH_LIMITS]],
  ['h', decisionsWithRedis, [BENCH_LIMITS]],
  ['i', usageWrites, [BENCH_USAGE]],
  ['j', usageSums, [FAKE]],
  ['k', waitingStreams, [FAKE]],
  ['l', activeStreams, [FAKE]],
  ['m', deltaCost, [CLAUDE]],
  ['n', relayCost, [BENCH_RELAY]],
];

async function main() {
  const which = process.argv[2] ?? 'abcdefghiklmn';
  const chosen = parts.filter(([letters]) => [...letters].some((letter) => which.includes(letter)));
  for (const p of [CLAUDEGATE, STANDIN, ...chosen.flatMap(([, , needed]) => needed)]) {
    fs.accessSync(p, fs.constants.X_OK);
  }
  for (const [letters, run] of chosen) {
    process.stderr.write(`bench: ${[...letters].join(', ')}\n`);
    await run();
  }
  printTable();
}

try {
  await main();
} finally {
  tidy();
}
