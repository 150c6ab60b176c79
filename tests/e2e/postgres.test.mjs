// The server on PostgreSQL, and what it does while PostgreSQL is stopped, frozen or slow.
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { cli, eventually, Gateway, tempDir } from './lib/gateway.mjs';
import { Postgres } from './lib/postgres.mjs';

const LIMIT = { timeout: 120_000 };
const UNKNOWN = `sk-cg-${'x'.repeat(12)}-${'y'.repeat(43)}`;
// Short, so that an outage of seconds is one.
const QUICK = { CLAUDEGATE_DATABASE_CONNECT_TIMEOUT_MS: '1s', CLAUDEGATE_DATABASE_QUERY_TIMEOUT_MS: '2s' };

let pg;
before(async () => {
  pg = await Postgres.start();
}, LIMIT);
after(() => pg?.close());

const start = (options = {}) => Gateway.start({ postgres: pg, ...options, env: { ...QUICK, ...options.env } });
const pending = (gw) => gw.metrics('claudegate_usage_journal_pending');

async function revoke(gw, key) {
  const { code, stderr } = await gw.cli(['key', 'revoke', key.id]);
  assert.equal(code, 0, stderr);
}

/** From now on the key is refused; how long that took, and how many requests were still served. */
async function refused(gw, key, ms = 2000) {
  let served = 0;
  await eventually(async () => {
    const { status, text } = await gw.chat({ message: 'x' }, { key: key.key });
    assert.ok(status === 200 || status === 401, text);
    served += status === 200;
    return status === 401;
  }, { ms, every: 50 });
  return served;
}

test('chat, stream, a session over a restart, and what stands in the tables', LIMIT, async (t) => {
  let gw = await start({ test: t });
  const first = await gw.ask('one');
  const streamed = await gw.collect({ message: 'two', sessionId: first.sessionId });
  assert.ok(streamed.done);
  assert.equal((await gw.usageRows()).length, 2);
  await gw.stop();
  gw = await gw.restart({ test: t });
  const third = await gw.ask('fake:{"echo_history":true}', { sessionId: first.sessionId });
  assert.equal(third.sessionId, first.sessionId);
  assert.match(third.response, /one.*two/s);
  const rows = await gw.usageRows();
  assert.equal(rows.length, 3);
  assert.ok(rows.every((row) => row.status_code === 200 && row.output_tokens === 5));
  assert.equal(new Set(rows.map((row) => row.request_id)).size, 3);
  assert.deepEqual(readdirSync(gw.dataDir).filter((name) => name.includes('.db')), []);
  const [seen] = await gw.sql('SELECT count(*) AS n, max(abs(extract(epoch FROM at - now()))) AS off ' +
    'FROM usage_logs_readable');
  assert.equal(seen.n, 3);
  assert.ok(seen.off < 120, 'times are times');
});

test('two servers on one database: keys and sessions are everybody\'s', LIMIT, async (t) => {
  const a = await start({ test: t });
  const b = await start({ test: t, env: { DATABASE_URL: a.env.DATABASE_URL } });
  const key = await a.createKey();
  const { body } = await a.chat({ message: 'on a' }, { key: key.key });
  const there = await b.chat({ message: 'fake:{"echo_history":true}', sessionId: body.sessionId },
    { key: key.key });
  assert.equal(there.status, 200, there.text);
  assert.match(there.body.response, /on a/);
  await revoke(b, key);
  await Promise.all([refused(a, key), refused(b, key)]);
});

test('PostgreSQL is away for some seconds', LIMIT, async (t) => {
  const gw = await start({ test: t });
  const revoked = await gw.createKey();
  await gw.ask('before');
  assert.equal((await gw.chat({ message: 'x' }, { key: revoked.key })).status, 200);
  await gw.usageRows();
  await pg.control('stop');
  const answers = [];
  const until = Date.now() + 4000;
  while (Date.now() < until) {
    answers.push(await gw.chat({ message: 'during' }));
    await sleep(50);
  }
  assert.ok(answers.length >= 2);
  for (const answer of answers) assert.equal(answer.status, 200, answer.text); // a cached key
  const stranger = await gw.chat({ message: 'x' }, { key: UNKNOWN });
  assert.equal(stranger.status, 503, 'never 401: nobody knows whether it is good');
  assert.ok(Number(stranger.headers['retry-after']) >= 1);
  assert.doesNotMatch(stranger.text, /claudegate:|127\.0\.0\.1/, 'nothing of the inside');
  assert.equal((await gw.request('GET', '/healthz')).status, 200);
  assert.equal(await pending(gw), answers.length);
  assert.equal(await gw.metrics('claudegate_db_connections'), 0);
  await pg.control('start');
  await revoke(gw, revoked);
  const served = await refused(gw, revoked, 8000); // it pauses up to 5 s between attempts
  assert.equal((await gw.chat({ message: 'x' }, { key: UNKNOWN })).status, 401);
  await eventually(async () => await pending(gw) === 0, { ms: 40_000 });
  const rows = await gw.sql('SELECT request_id FROM usage_logs WHERE status_code = 200');
  assert.equal(rows.length, answers.length + 2 + served);
  assert.equal(await gw.metrics('claudegate_usage_dropped_total'), 0);
  await gw.logged((line) => line.message === 'the database can be reached');
});

test('PostgreSQL is restarted in the middle of many requests: each is in the books once', LIMIT,
  async (t) => {
    const gw = await start({ test: t, env: { CLAUDEGATE_POOL_MAX_WORKERS: '2' } });
    const key = await gw.key();
    await gw.ask('warm');
    const told = [];
    let stop = false;
    const clients = Array.from({ length: 4 }, async () => {
      while (!stop) told.push(await gw.chat({ message: 'x' }, { key }));
    });
    for (let i = 0; i < 3; i++) {
      await sleep(700);
      await pg.control('stop');
      await pg.control('start');
    }
    await sleep(700);
    stop = true;
    await Promise.all(clients);
    assert.ok(told.length > 10);
    assert.deepEqual(told.filter((reply) => reply.status !== 200).map((reply) => reply.text), []);
    await eventually(async () => await pending(gw) === 0, { ms: 40_000 });
    const rows = await gw.sql('SELECT request_id FROM usage_logs');
    const ids = new Set(rows.map((row) => row.request_id));
    assert.equal(rows.length, told.length + 1);
    assert.ok(told.every((reply) => ids.has(reply.headers['request-id'])));
  });

test('kill -9 while PostgreSQL is away: the next start brings every row', LIMIT, async (t) => {
  let gw = await start({ test: t });
  await gw.ask('before');
  await gw.usageRows();
  await pg.control('stop');
  for (let i = 0; i < 3; i++) await gw.ask('during');
  await gw.kill9();
  await pg.control('start');
  gw = await gw.restart({ test: t });
  assert.equal((await gw.usageRows()).length, 4);
});

test('PostgreSQL freezes: cached keys go on, and all is well when it wakes up', LIMIT, async (t) => {
  const gw = await start({ test: t });
  await gw.ask('before');
  await gw.usageRows();
  await pg.control('pause');
  try {
    const from = performance.now();
    const replies = await Promise.all([
      gw.chat({ message: 'during' }), gw.chat({ message: 'x' }, { key: UNKNOWN })]);
    assert.deepEqual(replies.map((reply) => reply.status), [200, 503]);
    assert.ok(performance.now() - from < 12_000);
    assert.equal((await gw.request('GET', '/healthz')).status, 200);
  } finally {
    await pg.control('resume');
  }
  await gw.ask('afterwards');
  await eventually(async () => await pending(gw) === 0, { ms: 40_000 });
  assert.equal((await gw.sql('SELECT 1 FROM usage_logs WHERE status_code = 200')).length, 3);
});

test('a locked table: requests go on, the journal waits', LIMIT, async (t) => {
  const gw = await start({ test: t });
  await gw.ask('before');
  await gw.usageRows();
  const release = await pg.hold(gw.env.DATABASE_URL, 'LOCK TABLE usage_logs IN EXCLUSIVE MODE');
  for (let i = 0; i < 3; i++) await gw.ask('during');
  await sleep(2500); // a statement's time is up
  assert.equal(await pending(gw), 3);
  await gw.ask('during');
  await release();
  await eventually(async () => await pending(gw) === 0, { ms: 20_000 });
  assert.equal((await gw.usageRows()).length, 5);
});

test('start without PostgreSQL, or with a wrong password: said at once, without the password', LIMIT,
  async () => {
    const url = await pg.createDatabase();
    const wrong = url.replace(/:[0-9a-f]+@/, ':wr0ng-passw0rd@');
    for (const [DATABASE_URL, says] of [
      ['postgres://u:wr0ng-passw0rd@127.0.0.1:9/db', /cannot open the PostgreSQL database: .*127\.0\.0\.1/],
      [wrong, /cannot open the PostgreSQL database: .*password authentication failed/],
      ['postgres://u:wr0ng-passw0rd@h:port/db', /environment: DATABASE_URL: must have the form/]]) {
      const from = performance.now();
      const { code, stdout, stderr } = await Gateway.refused({
        env: { DATABASE_URL, CLAUDEGATE_DATABASE_START_TIMEOUT: '0' } });
      assert.equal(code, 1);
      assert.match(stderr, says);
      assert.doesNotMatch(stdout + stderr, /wr0ng/);
      assert.ok(performance.now() - from < 15_000);
    }
    const shown = await cli(['config', 'show'], { env: { DATABASE_URL: wrong } });
    assert.equal(shown.code, 0, shown.stderr);
    assert.doesNotMatch(shown.stdout + shown.stderr, /wr0ng/);
  });

test('claudegate migrate', LIMIT, async () => {
  for (const DATABASE_URL of [await pg.createDatabase(), `sqlite:${join(tempDir(), 'm.db')}`]) {
    const migrate = (...args) => cli(['migrate', ...args], { env: { DATABASE_URL } });
    const fresh = await migrate('status');
    assert.equal(fresh.code, 1, fresh.stderr);
    assert.match(fresh.stdout, /^0001_init +pending$/m);
    assert.doesNotMatch(fresh.stdout, /applied/);
    const up = await migrate('up');
    assert.equal(up.code, 0, up.stderr);
    const done = await migrate('status');
    assert.equal(done.code, 0, done.stderr);
    assert.equal(done.stdout, up.stdout);
    assert.match(done.stdout, /^0001_init +applied \d{4}-\d\d-\d\dT[\d:.]+Z$/m);
    assert.doesNotMatch(done.stdout, /pending/);
    assert.equal((await migrate('up')).stdout, up.stdout, 'twice is fine');
    for (const args of [[], ['down'], ['up', 'status'], ['status', '--nonsense']]) {
      assert.equal((await migrate(...args)).code, 2, String(args));
    }
  }
  const away = await cli(['migrate', 'status'],
    { env: { DATABASE_URL: 'postgres://u:wr0ng@127.0.0.1:9/db' } });
  assert.equal(away.code, 1);
  assert.match(away.stderr, /^claudegate: database: /);
});
