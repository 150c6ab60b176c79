// Sessions of several servers: one database, with Redis, with Redis away, and without Redis. The
// last test has the real claude program remember something across servers.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, test } from 'node:test';

import { texts } from './lib/asked.mjs';
import { eventually, Gateway, tempDir } from './lib/gateway.mjs';
import { Postgres } from './lib/postgres.mjs';
import { Redis } from './lib/redis.mjs';
import { Upstream } from './lib/upstream.mjs';

const LIMIT = { timeout: 120_000 };
const LEASE_MS = 10_000;
const fake = (step) => `fake:${JSON.stringify(step)}`;
const ECHO = fake({ echo_history: true });
const SLOW = fake({ start_delay_ms: 2000 });
const ENDLESS = fake({ start_delay_ms: 60_000 });

let pg;
let redis;
let a; // two of most tests
let b;
before(async () => {
  [pg, redis] = await Promise.all([Postgres.start(), Redis.start()]);
  [a, b] = await fleet(undefined, 2);
});
after(async () => {
  for (const server of started) if (server.running) await server.stop();
  await pg.close();
});
const started = [];

/** Servers on one new database in PostgreSQL, and on Redis unless told otherwise. */
async function fleet(t, count, { env = {}, ...options } = {}) {
  const url = await pg.createDatabase();
  const all = await Promise.all(Array.from({ length: count }, () => Gateway.start({
    ...options, test: t, postgres: pg, dataDir: join(tempDir(), 'data'),
    env: { DATABASE_URL: url, REDIS_URL: redis.url, CLAUDEGATE_REDIS_TIMEOUT_MS: '300', ...env },
  })));
  started.push(...all);
  const { key } = await all[0].createKey();
  const headers = { authorization: `Bearer ${key}` };
  const on = (server) => ({
    server,
    ask: (message, sessionId) => server.ask(message, { sessionId }, { key }),
    chat: (message, sessionId) => server.chat({ message, sessionId }, { key }),
    get: (id) => server.request('GET', `/api/sessions/${id}`, { headers }),
    end: (id) => server.request('DELETE', `/api/sessions/${id}`, { headers }),
    history: async (sessionId) => JSON.parse((await server.ask(ECHO, { sessionId }, { key }))
      .response).map((m) => m.text),
  });
  return all.map(on);
}

const busy = (mine, n = 1) => eventually(async () =>
  (await mine.server.pool()).workers.busy === n, { what: `${n} busy` });
const held = (mine) => eventually(async () =>
  (await mine.server.pool()).redis === 'up', { ms: 15_000, what: 'redis up' });

test('a session goes on wherever it is continued', LIMIT, async () => {
  const { sessionId } = await a.ask('1');
  const said = ['1'];
  for (let i = 2; i <= 9; i++) { // also on the same one twice
    await (i % 3 ? b : a).ask(`${i}`, sessionId);
    said.push(`${i}`);
  }
  const told = await a.history(sessionId);
  assert.deepEqual(told.filter((text) => /^\d$/.test(text)), said);
  assert.equal((await b.get(sessionId)).body.session.messageCount, 20);
});

test('one turn at a time, on all servers', LIMIT, async () => {
  const { sessionId } = await a.ask('one');
  const running = a.chat(SLOW, sessionId);
  await busy(a);
  for (const { status, body, headers } of [await b.chat('x', sessionId), await b.end(sessionId),
    await a.chat('x', sessionId)]) {
    assert.deepEqual([status, body.code, headers['retry-after']], [409, 'session_busy', '1']);
  }
  assert.equal((await running).status, 200);
  assert.equal((await b.chat('two', sessionId)).status, 200, 'at once afterwards');
  for (let round = 0; round < 5; round++) {
    const replies = await Promise.all([a, b, a, b].map((one) =>
      one.chat(fake({ start_delay_ms: 300 }), sessionId)));
    assert.deepEqual(replies.map((r) => r.status).sort(), [200, 409, 409, 409]);
  }
  assert.equal((await b.get(sessionId)).body.session.messageCount, 16);
  const refused = (await b.server.usageRows()).filter((row) => row.status_code === 409);
  assert.ok(refused.every((row) => row.upstream_calls === 0), 'nothing was spent');
});

test('a server is killed in the middle of a turn', LIMIT, async (t) => {
  const [a, b] = await fleet(t, 2);
  const { sessionId } = await a.ask('one');
  const idle = await a.ask('not at work');
  const lost = a.chat(ENDLESS, sessionId).catch(() => 'cut off');
  await busy(a);
  await a.server.kill9();
  await lost;
  assert.equal((await b.chat('x', idle.sessionId)).status, 200, 'what was idle is free at once');
  assert.equal((await b.chat('x', sessionId)).status, 409);
  await eventually(async () => (await b.chat('two', sessionId)).status === 200,
    { ms: LEASE_MS + 3000, every: 250, what: 'the lease has run out' });
  assert.deepEqual((await b.history(sessionId)).filter((text) => /^(one|two)$/.test(text)),
    ['one', 'two']);
  await b.server.stop();
  const again = await b.server.restart({ test: t });
  const rows = await again.sql(`SELECT message_count FROM sessions WHERE id = '${sessionId}'`);
  assert.deepEqual(rows, [{ message_count: 6 }]);
});

test('a worker is killed in the middle of a turn', LIMIT, async () => {
  const { sessionId } = await a.ask('one');
  const broken = await a.chat(fake({ text: 'one two three', chunk: 3, exit_at: 'delta', signal: 9 }),
    sessionId);
  assert.equal(broken.status, 502, broken.text);
  assert.equal((await a.chat('two', sessionId)).status, 200);
  assert.deepEqual((await b.history(sessionId)).filter((text) => /^(one|two)$/.test(text)),
    ['one', 'two']);
});

test('ended on one server, forgotten on all', LIMIT, async () => {
  const { sessionId } = await a.ask('one');
  await a.ask('two', sessionId);
  const before = await a.server.metrics('claudegate_sessions_cached');
  assert.equal((await b.end(sessionId)).status, 204);
  const cached = () => a.server.metrics('claudegate_sessions_cached');
  await eventually(async () => await cached() === before - 1);
  for (const mine of [a, b]) {
    assert.equal((await mine.chat('x', sessionId)).status, 404);
    assert.equal((await mine.get(sessionId)).status, 404);
  }
  const moved = await a.ask('one'); // a's memory is free once b has it
  await b.ask('two', moved.sessionId);
  await eventually(async () => await cached() === before - 1);
  // both ask for one that nobody has
  const none = await Promise.all([a, b, a, b].map((mine) => mine.chat('x', sessionId)));
  assert.deepEqual(none.map((r) => r.status), [404, 404, 404, 404]);
});

for (const [what, env] of [['away', {}], ['not used', { REDIS_URL: undefined }]]) {
  test(`Redis ${what}: no turn is lost in silence`, LIMIT, async (t) => {
    const [a, b] = await fleet(t, 2, { env });
    const { sessionId } = await a.ask('one');
    await b.ask('two', sessionId);
    if (what === 'away') await redis.kill();
    await a.ask('three', sessionId); // it was b's
    await b.ask('four', sessionId); // and a's
    const replies = await Promise.all([a, b].map((mine, i) =>
      mine.chat(fake({ start_delay_ms: 400, text: `by ${i}` }), sessionId)));
    assert.deepEqual(replies.map((r) => r.status).sort(), [200, 409]);
    const late = replies.find((r) => r.status === 409);
    assert.equal(late.body.code, 'session_busy');
    const kept = replies.find((r) => r.status === 200).body.response;
    const told = await a.history(sessionId);
    assert.deepEqual(told.filter((text) => /^(one|two|three|four|by \d)$/.test(text)),
      ['one', 'two', 'three', 'four', kept]);
    const [row] = (await a.server.usageRows()).filter((r) => r.status_code === 409);
    assert.ok(row.upstream_calls >= 1 && row.output_tokens > 0, 'it was used, and is billed');
    if (what === 'away') await redis.restart();
  });
}

test('PostgreSQL away: no turn begins that could not be kept', LIMIT, async (t) => {
  const [a] = await fleet(t, 1, { env: { CLAUDEGATE_DATABASE_CONNECT_TIMEOUT_MS: '500' } });
  const { sessionId } = await a.ask('one');
  const running = a.chat(SLOW, sessionId);
  await busy(a);
  await pg.control('stop');
  assert.equal((await running).status, 200, 'the answer is good');
  const { status, body } = await a.chat('two', sessionId);
  assert.deepEqual([status, body.code], [503, 'unavailable']);
  await pg.control('start');
  await eventually(async () => // without being asked
    (await a.server.sql('SELECT message_count FROM sessions'))[0].message_count === 4,
  { ms: 15_000, what: 'the turn is saved' });
  assert.deepEqual((await a.history(sessionId)).slice(0, 4), ['one', 'ok', SLOW, 'ok']);
});

test('the claude program remembers on another server', LIMIT, async (t) => {
  const up = await Upstream.start();
  t.after(() => up.stop());
  const [a, b] = await fleet(t, 2, { claude: 'real', upstream: up,
    env: { CLAUDEGATE_POOL_MAX_WORKERS: '1' } });
  await Promise.all([held(a), held(b)]);
  await up.reset();
  await up.script([
    { blocks: [{ type: 'text', text: 'I shall remember 4711.' }] },
    { blocks: [{ type: 'text', text: 'It was 4711.' }] },
    { blocks: [{ type: 'text', text: 'Still 4711.' }] },
  ]);
  const { sessionId } = await a.ask('My number is 4711.');
  await b.ask('What was my number?', sessionId);
  const last = await a.ask('And now?', sessionId);
  assert.equal(last.response, 'Still 4711.');
  const asked = (await up.requests()).map((request) => texts(request.body));
  assert.deepEqual(asked[1], [['user', 'My number is 4711.'],
    ['assistant', 'I shall remember 4711.'], ['user', 'What was my number?']]);
  assert.deepEqual(asked[2], [...asked[1], ['assistant', 'It was 4711.'], ['user', 'And now?']]);
});
