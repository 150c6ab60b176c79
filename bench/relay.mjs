// relay.mjs - what a worker's way to the API costs.
//
//   n  the same question over a kept connection to the stand-in, straight and through the relay:
//      time to the first byte and to the last, and what CPU the relay takes for an event
import { execFile } from 'node:child_process';
import path from 'node:path';
import { promisify } from 'node:util';

import { add, BENCH_RELAY, cleanEnv, startStandin, stop, tmp } from './lib.mjs';

const run = promisify(execFile);
const DELTAS = 5000;

const words = (text, n) => ({
  match: { text }, repeat: -1, blocks: [{ type: 'text', text: 'word '.repeat(n), chunk: 5 }],
});

export async function relayCost() {
  const up = await startStandin();
  await fetch(`${up.url}/_standin/script`, {
    method: 'POST', body: JSON.stringify([words('short answer', 1), words('long answer', DELTAS)]),
  });
  const { stdout } = await run(BENCH_RELAY, [up.url, path.join(tmp, 'relay.sock')], { env: cleanEnv(), timeout: 300_000 });
  const { short, long } = JSON.parse(stdout);
  for (const [key, what] of [['first', 'first byte'], ['last', 'last byte']]) {
    const [a, b] = [short.relay[key], short.straight[key]];
    add(`n  a request through the relay, ${what}`, `${a.toFixed(0)} us`, `${b.toFixed(0)} us  straight to the API`, `+${(a - b).toFixed(0)} us`);
  }
  const event = (long.relay.cpu - short.relay.cpu) / (long.events - short.events);
  const straight = (long.straight.last - short.straight.last) / (long.events - short.events);
  add('n  CPU of the relay for an event of a stream', `${event.toFixed(2)} us`, `${straight.toFixed(2)} us  for the API and its client, straight`, `${(event / straight).toFixed(2)} of it`);
  await stop(up.p);
}
