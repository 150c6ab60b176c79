// The long soak (`make soak`): 10,000 requests with all workers busy, or with --real 500 with the
// real claude program against the stand-in. What is checked stands in tests/e2e/lib/soak.mjs.
//
//   --cycles N   --seed N   --workers N   --clients N   --keys N   --minutes N   --real
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseArgs } from 'node:util';

import { soak } from '../e2e/lib/soak.mjs';

const number = { type: 'string' };
const { values } = parseArgs({
  options: {
    real: { type: 'boolean', default: false },
    cycles: number, seed: number, workers: number, clients: number, keys: number, minutes: number,
  },
});
const { real, ...numbers } = values;
const given = Object.fromEntries(Object.entries(numbers).map(([name, value]) => {
  assert.match(value, /^\d+$/, `--${name} must be a whole number`);
  return [name, Number(value)];
}));

// Each worker of the real program takes a core for a second when it starts: with fewer keys than
// workers most of the time goes into turns.
const usual = real
  ? { cycles: 500, every: 100, workers: 4, clients: 8, keys: 2 }
  : { cycles: 10_000, every: 1000, workers: 8, clients: 20, keys: 10 };
// Caches fill first: 2000 sessions, 16 MiB of database pages. That takes some 5000 requests; a
// shorter run can only be looked at coarsely.
const memoryOf = (cycles) => ({ warmUp: 0.55, growthMb: cycles >= 9000 ? 8 : 32 });

const { minutes = 30, ...options } = given;
const limitMs = minutes * 60_000;

test('soak', { timeout: limitMs + 120_000 }, async () => {
  const chosen = { ...usual, seed: Date.now() % 1_000_000, ...options };
  const { violations } = await soak({
    ...chosen, ...memoryOf(chosen.cycles), real, limitMs, say: (line) => console.log(line),
  });
  assert.equal(violations.length, 0, `${violations.length} violations, see above`);
});
