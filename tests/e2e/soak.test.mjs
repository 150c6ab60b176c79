// The short soak, and the proof that its bookkeeping notices what it is there to notice. The long
// one is `make soak`.
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { soak } from './lib/soak.mjs';
import { closeBooks } from './lib/soak_books.mjs';
import { mixes, planOf } from './lib/soak_mix.mjs';

test('600 requests that end in every way leave nothing behind', { timeout: 280_000 }, async (t) => {
  const seed = Number(process.env.SOAK_SEED ?? Date.now() % 1_000_000);
  const { violations, records } = await soak({
    cycles: 600, every: 300, seed, silenceMs: 1000, limitMs: 200_000,
    // sessions and database pages are still being cached: no more than a coarse look
    growthMb: 48, say: (text) => text.split('\n').forEach((line) => t.diagnostic(line)),
  });
  assert.deepEqual(violations, [], `SOAK_SEED=${seed}`);
  assert.equal(records.length, 600);
});

test('a seed names the same requests, and every kind is among many', () => {
  for (const mix of Object.values(mixes)) {
    const plans = Array.from({ length: 4000 }, (_, i) => planOf(mix, 5, i, `soak-${i}`, 'once'));
    for (const [i, { random: _, ...plan }] of plans.entries()) {
      const { random: __, ...again } = planOf(mix, 5, i, `soak-${i}`, 'once');
      assert.deepEqual(plan, again);
    }
    assert.deepEqual([...new Set(plans.map((plan) => plan.kind))].sort(),
      mix.map(([kind]) => kind).sort());
  }
});

// --- the books ---------------------------------------------------------------------------------

/** Three requests whose books close: an answer, a retried one, one that left the queue. */
function story() {
  const plan = { kind: 'plain', codes: ['ok'], deaths: 0, tokens: [7, 3] };
  const row = (id, more = {}) => ({
    request_id: `req_${id}`, status_code: 200, error: null, retries: 0, input_tokens: 7,
    output_tokens: 3, ...more,
  });
  const log = (id) => ({
    message: 'request', outcome: 'any', request_id: `req_${id}`, client_request_id: id,
  });
  return {
    records: [
      { tag: 'a', plan, code: 'ok' },
      { tag: 'b', plan, code: 'ok' },
      { tag: 'c', plan: { ...plan, quitMs: 1 }, code: 'gone' },
    ],
    rows: [row('a'), row('b', { retries: 1 }),
      row('c', { status_code: 499, error: 'client_gone: the client left' })],
    logs: ['a', 'b', 'c'].map(log),
    turns: new Map([['a', 1], ['b', 2]]),
    deaths: 0,
  };
}

test('books that close', () => {
  const { faults, sums } = closeBooks(story());
  assert.deepEqual(faults, []);
  assert.deepEqual([sums.accepted, sums.turns, sums.retries, sums.unasked, sums.lost],
    [3, 3, 1, 1, 0]);
});

for (const [what, spoil, expected] of [
  ['a row is missing', (s) => s.rows.shift(), /a \(plain\): ok, but no row/],
  ['a row came twice', (s) => s.rows.push(s.rows[0]), /a \(plain\): 2 rows/],
  ['a row of nobody', (s) => s.rows.push({ ...s.rows[0], request_id: 'req_x' }),
    /req_x: a row without a line in the log/],
  ['a turn that no row tells of', (s) => s.turns.set('a', 2), /asked 2 times, 0 retries/],
  ['a turn of nobody', (s) => s.turns.set('x', 1), /a turn of nobody: x/],
  ['an answer without a turn', (s) => s.turns.delete('a'), /answered without being asked/],
  ['a question lost without a death', (s) => s.turns.set('b', 1), /1 questions lost, but only 0/],
  ['another outcome than told', (s) => { s.records[0].code = 'timeout'; },
    /told timeout, the row says ok/],
  ['other tokens', (s) => { s.rows[0].output_tokens = 4; }, /tokens 7,4 instead of 7,3/],
  ['an outcome that nothing explains',
    (s) => { s.records[0].code = 'torn'; }, /a \(plain\): ended with torn/],
  ['a failure without a kill', (s) => {
    s.records[0].code = 'timeout';
    Object.assign(s.rows[0], { status_code: 504, error: 'timeout: silence' });
  }, /1 requests failed through no fault of theirs/],
  ['a turn without a row', (s) => {
    s.turns.set('c', 1);
    s.rows.pop();
  }, /c \(plain\): no row, but asked 1 times/],
]) {
  test(`the books notice: ${what}`, () => {
    const spoilt = story();
    spoil(spoilt);
    assert.match(closeBooks(spoilt).faults.join('\n'), expected);
  });
}
