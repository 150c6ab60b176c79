// Sessions: what their owner sees and may do, their limits, encryption at rest, master keys.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { eventually, Gateway, tempDir } from './lib/gateway.mjs';

const LIMIT = { timeout: 120_000 };
const NO_SESSION = '01980000-0000-7000-8000-000000000000';
const fake = (step) => `fake:${JSON.stringify(step)}`;
const ECHO = fake({ echo_history: true });
const SLOW = fake({ start_delay_ms: 1500 });
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

let gw;
before(async () => {
  gw = await Gateway.start();
});

/** What is done with a key's sessions. */
function client(server, key) {
  const headers = { authorization: `Bearer ${key}` };
  return {
    ask: async (message, sessionId) => server.ask(message, { sessionId }, { key }),
    chat: (message, sessionId, more) => server.chat({ message, sessionId, ...more }, { key }),
    list: (query = '') => server.request('GET', `/api/sessions${query}`, { headers }),
    get: (id) => server.request('GET', `/api/sessions/${id}`, { headers }),
    end: (id) => server.request('DELETE', `/api/sessions/${id}`, { headers }),
  };
}

const owner = async (server) => client(server, (await server.createKey()).key);

/** What the claude program was told of the conversation so far. */
async function history(mine, sessionId) {
  return JSON.parse((await mine.ask(ECHO, sessionId)).response).map((m) => m.text);
}

// --- list, get, delete -----------------------------------------------------------------------

test('a list by pages, newest first, without content', LIMIT, async () => {
  const mine = await owner(gw);
  assert.deepEqual((await mine.list()).body, { success: true, sessions: [], next: null });
  const made = [];
  for (let i = 0; i < 5; i++) made.unshift((await mine.ask(`secret ${i}`)).sessionId);
  await mine.ask('more', made[4]);
  const { status, headers, text, body } = await mine.list();
  assert.equal(status, 200, text);
  assert.match(headers['cache-control'], /no-store/);
  assert.doesNotMatch(text, /secret|"ok"/);
  assert.deepEqual(body.sessions.map((s) => s.id), made);
  assert.deepEqual(body.sessions.map((s) => s.messageCount), [2, 2, 2, 2, 4]);
  const [one] = body.sessions;
  assert.deepEqual(Object.keys(one),
    ['id', 'createdAt', 'lastAccessedAt', 'expiresAt', 'model', 'messageCount']);
  assert.match(one.id, UUID);
  assert.equal(one.model, 'claude-sonnet-4-5');
  assert.ok(Math.abs(Date.parse(one.createdAt) - Date.now()) < 60_000);
  assert.equal(Date.parse(one.expiresAt) - Date.parse(one.lastAccessedAt), 3_600_000);
  const seen = [];
  for (let next = ''; next !== null;) {
    const page = (await mine.list(`?limit=2${next && `&before=${next}`}`)).body;
    seen.push(...page.sessions.map((s) => s.id));
    next = page.next;
  }
  assert.deepEqual(seen, made);
  assert.equal((await mine.list('?limit=5')).body.next, null);
  for (const [query, field] of [['?limit=0', 'limit'], ['?limit=101', 'limit'],
    ['?limit=x', 'limit'], ['?before=x', 'before'], ['?before=1.x', 'before']]) {
    const refused = await mine.list(query);
    assert.equal(refused.status, 400, query);
    assert.match(refused.body.error, new RegExp(`^${field}: must be`));
  }
  assert.equal((await gw.request('GET', '/api/sessions')).status, 401);
});

test('one of them, with its messages', LIMIT, async () => {
  const mine = await owner(gw);
  const { body: first } = await mine.chat('hello', undefined, { system: 'be brief' });
  const { status, body } = await mine.get(first.sessionId.toUpperCase());
  assert.equal(status, 200);
  assert.equal(body.session.id, first.sessionId);
  assert.deepEqual([body.session.profile, body.session.system], ['chat', 'be brief']);
  assert.equal(body.session.messageCount, 2);
  assert.deepEqual(body.session.messages.map((m) => [m.role, m.content[0].text]),
    [['user', 'hello'], ['assistant', first.response]]);
});

test('ended by its owner, and by nobody else', LIMIT, async () => {
  const mine = await owner(gw);
  const other = await owner(gw);
  const { sessionId } = await mine.ask('hello');
  for (const id of [NO_SESSION, 'x', `${sessionId}0`, sessionId.replaceAll('-', '0')]) {
    for (const call of ['get', 'end']) {
      const { status, body } = await mine[call](id);
      assert.deepEqual([status, body.code], [404, 'not_found'], `${call} ${id}`);
    }
  }
  const strange = [await other.get(sessionId), await other.end(sessionId),
    await other.chat('x', sessionId)];
  const none = await mine.chat('x', NO_SESSION);
  for (const { status, body } of strange) {
    assert.deepEqual([status, body.code, body.error], [404, 'not_found', none.body.error]);
  }
  assert.deepEqual((await other.list()).body.sessions, []);
  // while a turn runs
  const running = mine.chat(SLOW, sessionId);
  await eventually(async () => (await gw.pool()).workers.busy === 1);
  const busy = await mine.end(sessionId);
  assert.deepEqual([busy.status, busy.body.code, busy.headers['retry-after']],
    [409, 'session_busy', '1']);
  assert.equal((await mine.get(sessionId)).body.session.messageCount, 2, 'as it was before');
  assert.equal((await running).status, 200);
  const ended = await mine.end(sessionId);
  assert.deepEqual([ended.status, ended.text], [204, '']);
  for (const { status } of [await mine.get(sessionId), await mine.end(sessionId),
    await mine.chat('x', sessionId)]) assert.equal(status, 404);
  assert.deepEqual((await mine.list()).body.sessions, []);
  assert.deepEqual(await gw.sql(`SELECT id FROM sessions WHERE id = '${sessionId}'`), []);
  assert.equal((await gw.request('PUT', `/api/sessions/${sessionId}`)).status, 405);
});

test('asked for by several at once', LIMIT, async () => {
  const mine = await owner(gw);
  const unknown = await Promise.all([1, 2, 3, 4].map(() => mine.chat('x', NO_SESSION)));
  assert.deepEqual(unknown.map((r) => r.status), [404, 404, 404, 404]);
  const { sessionId } = await mine.ask('one');
  const replies = await Promise.all([1, 2, 3, 4].map(() => mine.chat(SLOW, sessionId)));
  assert.deepEqual(replies.map((r) => r.status).sort(), [200, 409, 409, 409]);
  for (const { status, body, headers } of replies) {
    if (status === 409) {
      assert.deepEqual([body.code, headers['retry-after']], ['session_busy', '1']);
    }
  }
  assert.deepEqual(await history(mine, sessionId), ['one', 'ok', SLOW, 'ok', ECHO]);
});

test('expired after its time without use', LIMIT, async (t) => {
  const brief = await Gateway.start({ test: t, config: { session: { ttl: '2s' } } });
  const mine = await owner(brief);
  const { sessionId } = await mine.ask('one');
  const long = await mine.chat(fake({ start_delay_ms: 4500 }), sessionId);
  assert.equal(long.status, 200, 'a turn longer than that keeps it');
  assert.equal((await mine.get(sessionId)).status, 200);
  await sleep(2500);
  for (const { status } of [await mine.get(sessionId), await mine.end(sessionId),
    await mine.chat('x', sessionId)]) assert.equal(status, 404);
  assert.deepEqual((await mine.list()).body.sessions, []);
});

// --- limits ----------------------------------------------------------------------------------

test('too large: refused before anything is spent', LIMIT, async (t) => {
  const small = await Gateway.start({ test: t,
    config: { session: { max_bytes: 2000, max_messages: 4 } } });
  const mine = await owner(small);
  const large = 'x'.repeat(1500);
  const { sessionId } = await mine.ask(large);
  const refusals = [
    [await mine.chat('x'.repeat(2000)), /^message: .*2000 bytes.*session\.max_bytes/],
    [await mine.chat(large, sessionId), /^sessionId: .*2000 bytes.*session\.max_bytes/],
  ];
  await mine.ask('x', sessionId);
  refusals.push([await mine.chat('x', sessionId), /4 messages.*session\.max_messages/]);
  for (const [{ status, body }, words] of refusals) {
    assert.deepEqual([status, body.code], [413, 'request_too_large']);
    assert.match(body.error, words);
  }
  const rows = await small.usageRows();
  assert.deepEqual(rows.map((r) => [r.status_code, r.upstream_calls, r.total_tokens]).sort(),
    [[200, 1, 15], [200, 1, 15], [413, 0, 0], [413, 0, 0], [413, 0, 0]]);
});

// --- master keys -----------------------------------------------------------------------------

const SECRET = 'the launch code is 0000';
const contexts = async (server) =>
  (await server.sql('SELECT id, context FROM sessions')).map((row) => row.context);

async function vault(server, what, key) {
  return server.cli(['vault', what], { env: { CLAUDEGATE_MASTER_KEY: key } });
}

test('encrypted at rest, and rotated while servers run', LIMIT, async (t) => {
  const [one, two] = [randomBytes(32).toString('hex'), randomBytes(32).toString('base64')];
  let server = await Gateway.start({ test: t });
  const { key } = await server.createKey();
  const plain = await client(server, key).ask(SECRET);
  assert.match((await contexts(server)).join(), /launch code/);
  assert.equal((await vault(server, 'status', '')).code, 0);
  const none = await vault(server, 'rotate', '');
  assert.deepEqual([none.code, /no master key/.test(none.stderr)], [1, true]);
  await server.stop();

  server = await server.restart({ test: t, env: { CLAUDEGATE_MASTER_KEY: one } });
  let mine = client(server, key);
  assert.deepEqual((await history(mine, plain.sessionId)).slice(0, 2), [SECRET, 'ok']);
  const sealed = await mine.ask(SECRET);
  await server.createKey(['--signing-secret']);
  for (const context of await contexts(server)) assert.match(context, /^"?v1:[0-9a-f]{8}:[\w-]+"?$/);
  const status = await vault(server, 'status', one);
  assert.match(status.stdout, /sessions:\n {2}2 sealed with [0-9a-f]{8}\n/);
  assert.match(status.stdout, /signing secrets:\n {2}1 sealed with [0-9a-f]{8}\n/);
  assert.equal(status.code, 0);
  for (const text of [status.stdout, (await server.cli(['config', 'show'])).stdout]) {
    assert.doesNotMatch(text, new RegExp(one));
  }
  await server.stop();

  // another key, or none: an error for this session, nothing lost, nothing told
  const [id] = /[0-9a-f]{8}/.exec(status.stdout);
  for (const wrong of [two, undefined]) {
    server = await server.restart({ test: t, env: { CLAUDEGATE_MASTER_KEY: wrong } });
    mine = client(server, key);
    for (const { status: code, text } of [await mine.chat('x', sealed.sessionId),
      await mine.get(sealed.sessionId)]) {
      assert.equal(code, 500, text);
      assert.doesNotMatch(text, new RegExp(`launch|v1:|${id}`));
    }
    await server.logged((l) => l.level === 'error' && l.error?.includes(`master key ${id}`));
    assert.equal((await mine.chat('x')).status, 200, 'other sessions are well');
    assert.equal((await mine.list()).status, 200);
    await server.stop();
  }

  // both keys, then rotation under load, then the new one alone
  server = await server.restart({ test: t, env: { CLAUDEGATE_MASTER_KEY: `${two},${one}` } });
  mine = client(server, key);
  assert.equal((await vault(server, 'status', two)).code, 1, 'there is something to do');
  let turns = 0;
  let over = false;
  const talking = (async () => {
    while (!over) {
      await mine.ask(`turn ${turns}`, sealed.sessionId);
      turns++;
    }
  })();
  for (let i = 0; i < 3; i++) {
    const rotated = await vault(server, 'rotate', `${two},${one}`);
    assert.equal(rotated.code, 0, rotated.stdout + rotated.stderr);
  }
  over = true;
  await talking;
  assert.ok(turns > 0);
  await server.stop();
  server = await server.restart({ test: t, env: { CLAUDEGATE_MASTER_KEY: two } });
  mine = client(server, key);
  const all = await history(mine, sealed.sessionId);
  assert.deepEqual(all.filter((text) => text.startsWith('turn')),
    Array.from({ length: turns }, (_, i) => `turn ${i}`), 'no turn is lost');
  assert.equal((await mine.get(plain.sessionId)).status, 200);
  const after = await vault(server, 'status', two);
  assert.equal(after.code, 0, after.stdout);
  assert.match(after.stdout, /signing secrets:\n {2}1 sealed with [0-9a-f]{8}\n$/);
});

test('a master key that is none keeps the server from starting', LIMIT, async () => {
  const file = join(tempDir(), 'keys');
  writeFileSync(file, '# none\n', { mode: 0o600 });
  const good = randomBytes(32).toString('hex');
  for (const [env, words] of [
    [{ CLAUDEGATE_MASTER_KEY: 'hunter2' }, /vault\.master_key: master key 1 must be/],
    [{ CLAUDEGATE_MASTER_KEY: `${good},${good}` }, /master keys 1 and 2 are the same/],
    [{ CLAUDEGATE_VAULT_MASTER_KEY_FILE: '/nonexistent' }, /master_key_file: cannot read/],
    [{ CLAUDEGATE_VAULT_MASTER_KEY_FILE: file }, /master_key_file: there is no key/],
    [{ CLAUDEGATE_VAULT_MASTER_KEY_FILE: file, CLAUDEGATE_MASTER_KEY: good },
      /cannot be set together/],
  ]) {
    const { code, stdout, stderr } = await Gateway.refused({ env });
    assert.equal(code, 1);
    assert.match(stderr, words);
    assert.doesNotMatch(stdout + stderr, new RegExp(`hunter2|${good}`));
  }
});
