// limits.mjs - what one decision about a key's limits costs.
//
//   g  in the memory of the process, against a look at a hash table with the same keys
//   h  with a Redis on this machine, against a GET of nothing over the same connection, and how
//      many decisions per second there are with 64 waiting at once
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import net from 'node:net';
import { promisify } from 'node:util';

import { add, BENCH_LIMITS, cleanEnv, start, stop, tmp, waitFor } from './lib.mjs';

const run = promisify(execFile);
const us = (ns) => `${(ns / 1000).toFixed(1)} us`;

async function measure(...args) {
  const { stdout } = await run(BENCH_LIMITS, args, { env: cleanEnv(), timeout: 120_000 });
  return JSON.parse(stdout);
}

function rows(name, times, least) {
  for (const key of ['median', 'p99']) {
    const [a, b] = [times.decision[key], times.least[key]];
    add(`${name}, ${key}`, us(a), `${us(b)}  ${least}`, `${(a / b).toFixed(1)}x`);
  }
}

export async function decisionsInMemory() {
  rows('g  limit decision in memory', await measure('memory'), 'look at a hash table');
}

async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

export async function decisionsWithRedis() {
  const port = await freePort();
  const redis = start('redis-server', ['--port', String(port), '--bind', '127.0.0.1', '--save', '',
    '--appendonly', 'no', '--dir', tmp], { env: cleanEnv() });
  redis.stderr.resume();
  await waitFor(redis.stdout, /(Ready to accept connections)/, 'redis-server');
  const times = await measure('redis', `redis://127.0.0.1:${port}`);
  rows('h  limit decision with Redis', times, 'GET of nothing, same connection');
  const alone = 1e9 / times.decision.mean;
  add('h  decisions/s with Redis, 64 at once', times.per_second.toFixed(0),
    `${alone.toFixed(0)}  one after the other`, `${(times.per_second / alone).toFixed(1)}x`);
  await stop(redis);
}
