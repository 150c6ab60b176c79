// Idempotency-Key on two servers with one PostgreSQL, the real claude program and a stand-in that
// counts calls; and a database that is away.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, beforeEach, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { eventually, tempDir } from './lib/gateway.mjs';
import { Postgres } from './lib/postgres.mjs';
import { ask, DIALECTS, events, idOf, open, readAndLeave, say, startReal } from './lib/replays.mjs';
import { Upstream } from './lib/upstream.mjs';

const LIMIT = { timeout: 120_000 };
const LEASE_MS = 6000;
const DOUBT_MS = 5000;

let pg;
let up;
let a;
let b;
let key;
const started = [];
before(async () => {
  [pg, up] = await Promise.all([Postgres.start(), Upstream.start()]);
  [a, b] = await fleet();
  ({ key } = await a.createKey());
});
after(async () => {
  for (const server of started) if (server.running) await server.stop();
  await up.stop();
  await pg.close();
});
beforeEach(() => up.reset());

async function fleet(test, config) {
  const url = await pg.createDatabase();
  const servers = await Promise.all([1, 2].map(() => startReal(up, {
    postgres: pg, test, config, dataDir: join(tempDir(), 'data'),
    env: { DATABASE_URL: url, CLAUDEGATE_DATABASE_CONNECT_TIMEOUT_MS: '500' },
  })));
  started.push(...servers);
  return servers;
}

let keys = 0;
const fresh = () => ({ 'idempotency-key': `key-${process.pid}-${++keys}` });
const calls = async () => (await up.requests()).length;
const replayed = (reply) => reply.headers['idempotent-replayed'];
/** As an SDK does: again after each 409. */
const patient = (server, dialect, options) => eventually(async () => {
  const reply = await ask(server, dialect, 'hello', { key, ...options });
  if (reply.status === 409) assert.equal(reply.headers['retry-after'], '1');
  return reply.status !== 409 && reply;
}, { ms: 20_000, every: 100 });

for (const dialect of Object.keys(DIALECTS)) {
  test(`${dialect}: at once on two servers, one turn`, LIMIT, async () => {
    for (const stream of [false, true]) {
      await up.reset();
      await up.script(say('one two three four', { word_delay_ms: 100 }));
      const headers = fresh();
      const replies = await Promise.all([a, b, a, b].map((server) =>
        patient(server, dialect, { headers, stream })));
      assert.deepEqual(replies.map((r) => r.status), [200, 200, 200, 200]);
      const [first, ...others] = replies.map((r) => events(r.text).join(''));
      for (const other of others) assert.equal(other, first);
      assert.equal(replies.filter((r) => replayed(r) === 'true').length, 3);
      assert.equal(await calls(), 1);
      const elsewhere = await ask(b, dialect, 'other', { key, headers, stream });
      assert.equal(elsewhere.status, 422);
    }
    await b.usageRows(); // its journal, too, is in the database now
    const rows = await a.usageRows();
    assert.equal(rows.filter((row) => row.endpoint === DIALECTS[dialect].path).length, 2);
  });
}

test('a stream is resumed on its server, and everywhere once it is stored', LIMIT, async () => {
  await up.script(say('one two three four five six', { word_delay_ms: 100 }));
  const headers = fresh();
  const seen = await readAndLeave(await open(a, 'chat', 'hello', { key, headers }), 2);
  const back = { 'last-event-id': idOf(seen[1]) };
  const early = await ask(b, 'chat', '', { key, headers: { ...headers, ...back }, body: '' });
  assert.equal(early.status, 409, 'it runs on the other one');
  assert.equal((await ask(b, 'chat', '', { key, headers: back, body: '' })).status, 404);
  const rest = await ask(a, 'chat', '', { key, headers: back, body: '' });
  assert.equal(rest.status, 200);
  const later = await eventually(async () => {
    const reply = await ask(b, 'chat', '', { key, headers: { ...headers, ...back }, body: '' });
    return reply.status === 200 && reply;
  });
  assert.equal(later.text, events(rest.text).join(''));
  assert.equal(await calls(), 1);
});

test('a server is killed in mid-answer: another takes over after the lease', LIMIT, async (t) => {
  const [one, two] = await fleet(t);
  const { key: own } = await one.createKey();
  await up.script(say('slow', { delay_ms: 60_000 }));
  const headers = fresh();
  const lost = ask(one, 'native', 'hello', { key: own, headers }).catch(() => {});
  await up.waitFor((list) => list.length === 1);
  assert.equal((await ask(two, 'native', 'hello', { key: own, headers })).status, 409);
  await one.kill9();
  await lost;
  const killed = Date.now();
  await eventually(async () =>
    (await ask(two, 'native', 'hello', { key: own, headers })).status === 200,
  { ms: LEASE_MS + DOUBT_MS + 5000, every: 250 });
  assert.ok(Date.now() - killed < LEASE_MS + DOUBT_MS + 3000);
  assert.equal(await calls(), 2);
});

test('a turn that takes longer than the lease keeps its key', LIMIT, async () => {
  await up.script(say('slow', { delay_ms: LEASE_MS + 4000 }));
  const headers = fresh();
  const running = ask(a, 'native', 'hello', { key, headers });
  await up.waitFor((list) => list.length === 1);
  const other = await patient(b, 'native', { headers });
  assert.equal(other.text, (await running).text);
  assert.equal(await calls(), 1);
});

test('a turn that takes longer than answers are kept', LIMIT, async (t) => {
  const [one, two] = await fleet(t, { idempotency: { ttl: 3 } });
  const { key: own } = await one.createKey();
  await up.script(say('slow', { delay_ms: 6000 }));
  const headers = fresh();
  const running = ask(one, 'native', 'hello', { key: own, headers });
  await up.waitFor((list) => list.length === 1);
  await sleep(4000);
  const other = await patient(two, 'native', { key: own, headers });
  assert.equal(other.text, (await running).text);
  assert.equal(await calls(), 1);
  await sleep(3500);
  assert.equal(replayed(await ask(two, 'native', 'hello', { key: own, headers })), undefined);
  assert.equal(await calls(), 2);
});

test('the database is away: 503, and no second run', LIMIT, async () => {
  const headers = fresh();
  const first = await ask(a, 'native', 'hello', { key, headers });
  assert.equal(first.status, 200);
  await eventually(async () => (await a.sql("SELECT id FROM replies WHERE state = 'running'")).length === 0);
  await pg.control('stop');
  try {
    const refused = await ask(b, 'native', 'hello', { key, headers });
    assert.ok([401, 503].includes(refused.status), refused.text);
    const unknown = await ask(a, 'native', 'hello', { key, headers: fresh() });
    assert.equal(unknown.status, 503, unknown.text);
    assert.equal(unknown.body.code, 'unavailable');
    assert.equal(await calls(), 1);
  } finally {
    await pg.control('start');
  }
  const back = await eventually(async () => {
    const reply = await ask(b, 'native', 'hello', { key, headers });
    return reply.status === 200 && reply;
  }, { ms: 20_000, every: 200 });
  assert.equal(back.text, first.text);
  assert.equal(await calls(), 1);
});

test('the database goes away in mid-answer: stored when it is back', LIMIT, async () => {
  await up.script(say('one two three', { delay_ms: 1500 }));
  const headers = fresh();
  const running = ask(a, 'native', 'hello', { key, headers });
  await up.waitFor((list) => list.length === 1);
  await pg.control('stop');
  let first;
  try {
    first = await running;
    assert.equal(first.status, 200, 'the answer does not depend on it');
    const again = await ask(a, 'native', 'hello', { key, headers });
    assert.equal(again.text, first.text, 'from memory');
  } finally {
    await pg.control('start');
  }
  const elsewhere = await eventually(async () => {
    const reply = await ask(b, 'native', 'hello', { key, headers });
    return reply.status === 200 && reply;
  }, { ms: 20_000, every: 200 });
  assert.equal(await calls(), 1);
  assert.equal(elsewhere.text, first.text);
});

test('the database is away for longer than the lease: still one turn', LIMIT, async () => {
  await up.script(say('slow', { delay_ms: LEASE_MS + 10_000 }));
  const headers = fresh();
  const running = ask(a, 'native', 'hello', { key, headers });
  await up.waitFor((list) => list.length === 1);
  await pg.control('stop');
  await sleep(LEASE_MS + 3500); // from the last renewal on
  await pg.control('start');
  const other = await eventually(async () => {
    const reply = await ask(b, 'native', 'hello', { key, headers });
    assert.ok([200, 409, 503].includes(reply.status), reply.text);
    return reply.status === 200 && reply;
  }, { ms: 30_000, every: 20 });
  assert.equal(other.text, (await running).text);
  assert.equal(await calls(), 1);
});
