// Leaving in every phase of a request, in every way: the turn is settled exactly once, what was
// begun is stopped, and the worker is used again. Then the same for the server that leaves.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { Books, fakeCount, household } from './lib/books.mjs';
import { eventually, Gateway, tempDir } from './lib/gateway.mjs';
import { LEAVES, RawClient } from './lib/raw.mjs';

const LIMIT = { timeout: 120_000 };
const fake = (step) => `fake:${JSON.stringify(step)}`;
const WORDS = 'word '.repeat(100);
const ENDLESS = fake({ text: WORDS, chunk: 5, delay_ms: 100 }); // 10 s
const BIG = 7_000_000; // more than the kernel keeps for a reader that does not read

const count = join(tempDir(), 'count');
const COUNTED = { CLAUDEGATE_CLAUDE_PASS_ENV: 'FAKE_COUNT', FAKE_COUNT: count };

let gw;
let books;
before(async () => {
  gw = await Gateway.start({
    env: COUNTED, ready: false,
    config: {
      server: { keepalive_ms: 300 },
      pool: { max_workers: 1, min_spare: 0, interrupt_timeout_ms: 1000 },
    },
  });
  await gw.ask('hello');
  books = await Books.open(gw, { count, spares: 0 });
});
after(() => gw.stop());

const busy = (n = 1) => eventually(async () => (await gw.pool()).workers.busy === n,
  { ms: 10_000, what: `${n} busy` });
const queued = (n) => eventually(async () => (await gw.pool()).queued === n,
  { ms: 10_000, what: `${n} queued` });

/** Makes the worker do this when the next line of that kind comes. */
const arm = (at, ms) => gw.ask(fake({ later: { at, do: 'delay', ms } }));

// --- the client leaves -----------------------------------------------------------------------

/**
 * begin     makes the request {body, client options}; what must be there before it
 * reached   resolves once the request is in the phase
 * finish    what must be undone before the worker is free
 * asked     whether the program gets to read the question
 * tokens    whether something was used
 * streams   only one of the two forms has this phase
 */
const phases = {
  'sending its request': {
    body: () => ({ message: 'x'.repeat(100_000) }),
    options: { part: 0.5 },
    reached: () => sleep(50),
    accepted: false,
  },
  'waiting in the queue': {
    async body() {
      this.blocker = await RawClient.post(gw, { message: ENDLESS, stream: true });
      await this.blocker.saw(/"delta"/);
      return { message: 'never' };
    },
    reached: () => queued(1),
    async finish() {
      await queued(0);
      assert.ok(!this.blocker.closed, 'the one before it is not disturbed');
      this.blocker.leave('RST');
    },
    asked: false,
    others: { rows: 1, asked: 1 },
  },
  'told of its place in the queue': {
    async body() {
      this.blocker = await RawClient.post(gw, { message: ENDLESS, stream: true });
      await this.blocker.saw(/"delta"/);
      return { message: 'never' };
    },
    reached: (client) => client.saw(/^: queued, position 1$/m),
    async finish() {
      await queued(0);
      this.blocker.leave('RST');
    },
    streams: [true],
    asked: false,
    others: { rows: 1, asked: 1 },
  },
  'the model is set': {
    async body() {
      await arm('set_model', 400);
      return { message: 'never', model: 'claude-another' };
    },
    reached: () => busy().then(() => sleep(50)),
    asked: false,
    others: { rows: 1, asked: 1 },
  },
  'its history is told': {
    async body() {
      const { sessionId } = await gw.ask('one');
      for (let i = 0; i < 3; i++) await gw.ask(`more ${i}`, { sessionId });
      await arm('history', 400);
      return { message: 'never', sessionId };
    },
    reached: () => busy().then(() => sleep(50)),
    asked: false,
    others: { rows: 5, asked: 5 },
  },
  'the question is written but not read': {
    async body() {
      await arm('question', 400);
      return { message: ENDLESS };
    },
    reached: () => busy().then(() => sleep(50)),
    others: { rows: 1, asked: 1 },
  },
  'nothing has come yet': {
    body: () => ({ message: fake({ start_delay_ms: 9000 }) }),
    reached: () => busy().then(() => sleep(100)),
  },
  'in the middle of the answer': {
    body: () => ({ message: ENDLESS }),
    reached: (client, stream) => (stream ? client.saw(/word.*word/s) : sleep(400)),
    tokens: true,
  },
  'after the last word': {
    body: () => ({ message: fake({ text: 'whole', no_result: true }) }),
    reached: (client, stream) => (stream ? client.saw(/whole/) : sleep(300)),
    tokens: true,
    kept: false, // the fake does not end such a turn when interrupted
    quick: false,
  },
  'it does not read': {
    body: () => ({ message: fake({ huge: BIG, stall: true, stall_after: 1 }) }),
    async reached(client) {
      client.pause();
      await sleep(500);
    },
    streams: [true],
    tokens: true,
  },
  'between two keep-alive comments': {
    body: () => ({
      message: fake({ text: 'one two', chunk: 4, stall: true, stall_after: 1 }),
    }),
    reached: (client) => client.saw(/^: ?keep-alive$/m),
    streams: [true],
    tokens: true,
  },
};

for (const [name, phase] of Object.entries(phases)) {
  const { asked = true, kept = true, accepted = true, others = { rows: 0, asked: 0 } } = phase;

  test(`the client leaves: ${name}`, LIMIT, async () => {
    await gw.ask('hello');
    let rounds = 0;
    for (const how of Object.keys(LEAVES)) {
      for (const stream of phase.streams ?? [false, true]) {
        const where = `${how}, stream: ${stream}`;
        const starts = await gw.metrics('claudegate_worker_starts_total');
        const settled = gw.logs().filter((l) => l.outcome === 'client_gone').length;
        const body = await phase.body();
        const client = await RawClient.post(gw, { ...body, stream }, phase.options);
        await phase.reached(client, stream);
        assert.ok(!client.closed, `${where}: too early: ${client.text}`);
        client.leave(how);
        const left = Date.now();
        if (accepted) {
          await eventually(() => gw.logs().filter((l) => l.outcome === 'client_gone').length >
            settled, { ms: 8000, what: `settled after ${where}` });
        }
        const ms = Date.now() - left;
        assert.ok(phase.quick === false || ms < 2500, `${where}: settled after ${ms} ms`);
        await phase.finish?.();
        client.destroy();
        const next = await gw.ask('and now?');
        assert.equal(next.response, 'ok', where);
        if (kept) {
          assert.equal(await gw.metrics('claudegate_worker_starts_total'), starts,
            `${where}: the same worker`);
        }
        rounds++;
      }
    }
    const rows = await books.close({
      asked: 1 + rounds * (1 + others.asked + (asked && accepted ? 1 : 0)),
    });
    assert.equal(rows.length, 1 + rounds * (1 + others.rows + (accepted ? 1 : 0)));
    const gone = rows.filter((row) => row.status_code === 499);
    const blockers = phase.blocker ? rounds : 0;
    assert.equal(gone.length, accepted ? rounds + blockers : 0);
    assert.ok(gone.every((row) => /^client_gone: /.test(row.error)));
    if (phase.tokens) {
      assert.ok(gone.every((row) => row.input_tokens === 10), 'what was seen is counted');
    } else if (!asked) {
      assert.equal(gone.filter((row) => row.output_tokens === 0 && row.upstream_calls === 0).length,
        rounds);
    }
  });
}

test('clients leave while the only worker forgets its conversation', LIMIT, async () => {
  const failed = await gw.chat({
    message: fake({ error: { status: 400 }, later: { at: 'clear', do: 'delay', ms: 1500 } }),
  });
  assert.equal(failed.status, 400);
  const starts = await gw.metrics('claudegate_worker_starts_total');
  await busy(); // it clears
  const clients = [];
  for (const how of Object.keys(LEAVES)) {
    for (const stream of [false, true]) {
      clients.push([how, await RawClient.post(gw, { message: 'never', stream })]);
    }
  }
  const patient = gw.ask('hello');
  await queued(7);
  for (const [how, client] of clients) client.leave(how);
  await queued(1);
  assert.equal((await patient).response, 'ok');
  assert.equal(await gw.metrics('claudegate_worker_starts_total'), starts);
  for (const [, client] of clients) client.destroy();
  const rows = await books.close({ asked: 2 });
  assert.deepEqual(rows.map((row) => row.status_code).sort(),
    [200, 400, 499, 499, 499, 499, 499, 499]);
});

/** Holds the database's write lock until told. */
async function lockDatabase(server) {
  const child = spawn('sqlite3', [join(server.dataDir, 'claudegate.db')],
    { stdio: ['pipe', 'pipe', 'inherit'] });
  child.stdin.write('.timeout 5000\nBEGIN IMMEDIATE;\nSELECT \'locked\';\n');
  await once(child.stdout, 'data');
  const ended = once(child, 'exit');
  return async () => {
    child.stdin.end('ROLLBACK;\n');
    await ended;
  };
}

test('the client leaves while its session is written', LIMIT, async () => {
  let rounds = 0;
  for (const how of Object.keys(LEAVES)) {
    for (const stream of [false, true]) {
      const { sessionId } = await gw.ask('one');
      const unlock = await lockDatabase(gw);
      const client = await RawClient.post(gw, { message: 'two', sessionId, stream });
      if (stream) await client.saw(/"ok"/);
      await eventually(async () => (await gw.pool()).workers.idle === 1);
      await sleep(100);
      assert.doesNotMatch(client.text, /"end"|"success"/, 'not told before it is true');
      client.leave(how);
      await sleep(100);
      await unlock();
      client.destroy();
      const requests = (l) => l.message === 'request' && l.outcome && l.session_id === sessionId;
      await eventually(() => gw.logs().filter(requests).length === 2);
      const told = await gw.ask(fake({ echo_history: true }), { sessionId });
      assert.deepEqual(JSON.parse(told.response).slice(0, 3).map((m) => m.text),
        ['one', 'ok', 'two'], 'its turn is in the session');
      rounds++;
    }
  }
  const rows = await books.close({ asked: rounds * 3 });
  assert.ok(rows.every((row) => row.status_code === 200 && row.output_tokens === 5));
});

test('a hundred clients leave at any moment', LIMIT, async () => {
  let seed = 20261123;
  const random = (n) => {
    seed = (seed * 1103515245 + 12345) % 2147483648;
    return Math.floor(seed / 65536) % n;
  };
  const hows = Object.keys(LEAVES);
  const steps = [{}, { text: WORDS, chunk: 5, delay_ms: 1 }, { start_delay_ms: 30 },
    { later: { at: 'question', do: 'delay', ms: 20 } }, { error: { status: 500 } }];
  const from = fakeCount(count);
  const one = async (i) => {
    const client = await RawClient.post(gw, {
      message: fake(steps[random(steps.length)]), stream: i % 2 === 1,
      ...(random(3) === 0 && { model: `claude-m${random(3)}` }),
    });
    await sleep(random(120));
    client.leave(hows[i % hows.length]);
    await Promise.race([client.over, sleep(2000)]);
    client.destroy();
  };
  for (let i = 0; i < 100; i += 10) {
    await Promise.all(Array.from({ length: 10 }, (_, k) => one(i + k)));
  }
  const rows = await books.close();
  assert.ok(rows.length > 80 && rows.length <= 100, 'a reset may come before the request');
  const now = fakeCount(count);
  const [started, ended] = [now.started - from.started,
    now.finished + now.interrupted + now.errored -
      (from.finished + from.interrupted + from.errored)];
  assert.equal(started, ended, 'no turn was lost with its process');
  const used = rows.filter((row) => row.status_code === 200 || row.input_tokens > 0).length;
  assert.ok(started >= used && started <= rows.length, `${used} used, ${started} asked`);
});

test('kill -9 and a new start: nothing of all this is settled a second time', LIMIT, async () => {
  const before = (await gw.usageRows()).length;
  await gw.kill9();
  gw = await gw.restart({ ready: false });
  await gw.ask('hello');
  assert.equal((await gw.usageRows()).length, before + 1);
});

// --- the server leaves -----------------------------------------------------------------------

const PLACES = ['set_model', 'history', 'question', 'first', 'stream', 'unread', 'queued'];

const ASKED_BEFORE = 5; // by full() and everywhere(), to their ends

/** One request in each phase, all at once. `ms`: how long what is slow takes. */
async function everywhere(server, ms) {
  const keys = await Promise.all(PLACES.map(async () => (await server.createKey()).key));
  const key = (place) => keys[PLACES.indexOf(place)];
  const ask = (place, message, more) => server.ask(message, more, { key: key(place) });
  const slow = (at) => fake({ later: { at, do: 'delay', ms } });
  const { sessionId } = await ask('history', 'one');
  await ask('history', slow('history'));
  await ask('set_model', slow('set_model'));
  await ask('question', slow('question'));
  const bodies = {
    set_model: { message: 'hello', model: 'claude-another' },
    history: { message: 'hello', sessionId },
    question: { message: 'hello', stream: true },
    first: { message: fake({ start_delay_ms: ms }) },
    stream: { message: fake({ text: WORDS, chunk: 5, delay_ms: ms / 100 }), stream: true },
    unread: { message: fake({ huge: BIG, delay_ms: ms }), stream: true },
    queued: { message: 'hello', stream: true },
  };
  const clients = {};
  for (const place of PLACES) {
    if (place === 'queued') {
      await eventually(async () => (await server.pool()).workers.busy === 6);
    }
    clients[place] = await RawClient.post(server, bodies[place], { key: key(place) });
    if (place === 'unread') clients.unread.pause();
  }
  await clients.stream.saw(/word/);
  await eventually(async () => (await server.pool()).queued === 1);
  await sleep(300);
  return clients;
}

async function full(config, t) {
  const server = await Gateway.start({
    env: COUNTED, test: t, ready: false,
    config: { ...config, pool: { max_workers: 6, min_spare: 0 } },
  });
  await server.ask('hello'); // its key's worker makes room when it is needed
  return server;
}

const stopping = (server) => server.logged((line) => /^stopping/.test(line.message));

test('SIGTERM with a request in every phase: each is finished', LIMIT, async () => {
  const server = await full({});
  const clients = await everywhere(server, 3000);
  const from = Date.now();
  server.signal('SIGTERM');
  await stopping(server);
  clients.unread.resume();
  await Promise.all(Object.values(clients).map((client) => client.over));
  for (const place of ['set_model', 'history', 'first']) {
    assert.equal(clients[place].status, 200, `${place}: ${clients[place].text}`);
    assert.equal(clients[place].body.response, 'ok', place);
  }
  for (const place of ['question', 'stream', 'unread', 'queued']) {
    assert.match(clients[place].text.slice(-40), /data: \[DONE\]\n\n/, place);
  }
  assert.equal(clients.stream.text.match(/"delta":"word "/g).length, 100);
  assert.deepEqual(await server.ended(), [0, null]);
  assert.ok(Date.now() - from < 15_000);
  server.assertSound();
  const now = await server.usageRows();
  assert.equal(now.length, ASKED_BEFORE + PLACES.length);
  assert.ok(now.every((row) => row.status_code === 200));
  assert.deepEqual(household(server), []);
});

for (const [name, config, signals, worst] of [
  ['the deadline', { server: { drain_timeout: 1 } }, 1, 8000],
  ['a second SIGTERM', {}, 2, 7000],
]) {
  test(`SIGTERM with a request in every phase, and ${name}: each is told`, LIMIT, async () => {
    const server = await full(config);
    const clients = await everywhere(server, 20_000);
    const rows = (await server.usageRows()).length;
    const from = Date.now();
    server.signal('SIGTERM');
    await stopping(server);
    if (signals === 2) {
      await sleep(200);
      server.signal('SIGTERM');
    }
    const end = server.ended();
    const { unread, ...reading } = clients;
    await Promise.all(Object.values(reading).map((client) => client.over));
    for (const place of ['set_model', 'history', 'first']) {
      assert.equal(clients[place].status, 503, `${place}: ${clients[place].text}`);
      assert.equal(clients[place].body.code, 'shutting_down', place);
    }
    for (const place of ['question', 'stream', 'queued']) {
      assert.match(clients[place].text, /"code":"shutting_down"/, place);
      assert.doesNotMatch(clients[place].text, /\[DONE\]/, place);
    }
    assert.deepEqual(await end, [0, null]);
    const ms = Date.now() - from;
    assert.ok(ms < worst, `ended after ${ms} ms`);
    unread.destroy();
    server.assertSound();
    const now = (await server.usageRows()).slice(rows);
    assert.equal(now.length, PLACES.length);
    assert.deepEqual(now.map((row) => row.status_code).sort(),
      Array(PLACES.length).fill(503));
    assert.deepEqual(household(server), []);
  });
}

test('kill -9 with a request in every phase: nothing stays, and what was asked is in the books',
  LIMIT, async (t) => {
    const server = await full({});
    const clients = await everywhere(server, 20_000);
    const rows = (await server.usageRows()).map((row) => row.request_id);
    const { pid, dataDir } = server;
    assert.ok(household(server).length >= 6);
    await server.kill9();
    await eventually(() => household(null, { pid, dataDir }).length === 0,
      { ms: 3000, what: 'no process left' });
    for (const client of Object.values(clients)) client.destroy();
    const again = await server.restart({ test: t, ready: false });
    await again.ask('hello');
    const now = (await again.usageRows()).filter((row) => !rows.includes(row.request_id));
    const died = now.filter((row) => /^server_died/.test(row.error ?? ''));
    assert.equal(died.length, 4, 'question, first, stream, unread');
    assert.ok(died.every((row) => row.status_code === 500 && row.estimated === 1));
    assert.equal(new Set(now.map((row) => row.request_id)).size, now.length);
    assert.equal(now.length, died.length + 1);
    await again.kill9();
    const third = await again.restart({ test: t, ready: false });
    assert.equal((await third.usageRows()).length, rows.length + now.length, 'once');
  });

test('SIGTERM while a session is written: the answer is whole, and the session goes on', LIMIT,
  async (t) => {
    const server = await Gateway.start();
    const { sessionId } = await server.ask('one');
    const unlock = await lockDatabase(server);
    const client = await RawClient.post(server, { message: 'two', sessionId });
    await eventually(async () => (await server.pool()).workers.busy === 0 &&
      (await server.metrics('claudegate_time_to_first_token_seconds_count')) === 1);
    await sleep(200);
    server.signal('SIGTERM');
    await stopping(server);
    await sleep(300);
    await unlock();
    await client.over;
    assert.equal(client.status, 200, client.text);
    assert.deepEqual(await server.ended(), [0, null]);
    const again = await server.restart({ test: t });
    const told = await again.ask(fake({ echo_history: true }), { sessionId });
    assert.deepEqual(JSON.parse(told.response).slice(0, 3).map((m) => m.text),
      ['one', 'ok', 'two']);
    assert.equal((await again.usageRows()).length, 3);
  });

for (const [how, drain] of [['finished', 30], ['told', 1]]) {
  test(`SIGTERM while the first process starts: the request is ${how}`, LIMIT, async () => {
    const server = await Gateway.start({
      ready: false, config: { server: { drain_timeout: drain } },
      env: {
        CLAUDEGATE_CLAUDE_PASS_ENV: 'FAKE_SLOW_START_MS',
        FAKE_SLOW_START_MS: drain === 30 ? '1500' : '20000',
      },
    });
    const client = await RawClient.post(server, { message: 'hello' });
    await eventually(async () => (await server.pool()).queued === 1);
    const from = Date.now();
    server.signal('SIGTERM');
    await client.over;
    if (drain === 30) assert.equal(client.body.response, 'ok');
    else assert.equal(client.body.code, 'shutting_down');
    assert.deepEqual(await server.ended(), [0, null]);
    assert.ok(Date.now() - from < 8000, `${Date.now() - from} ms`);
    server.assertSound();
    assert.equal((await server.usageRows()).length, 1);
    assert.deepEqual(household(server), []);
  });
}

test('kill -9 while processes start and while one forgets: no process is left', LIMIT, async () => {
  const slow = { CLAUDEGATE_CLAUDE_PASS_ENV: 'FAKE_SLOW_START_MS', FAKE_SLOW_START_MS: '20000' };
  for (const env of [slow, {}]) {
    const server = await Gateway.start({ env, ready: env !== slow });
    if (env !== slow) {
      await server.chat({
        message: fake({ error: { status: 400 }, later: { at: 'clear', do: 'hang' } }),
      });
      await eventually(async () => (await server.pool()).workers.busy === 1, { ms: 10_000 });
    }
    const { pid, dataDir } = server;
    await eventually(() => household(server).length >= 1);
    await server.kill9();
    await eventually(() => household(null, { pid, dataDir }).length === 0, { ms: 3000 });
  }
});
