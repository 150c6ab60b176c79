// The real claude program is killed, stopped and lied to by its upstream: the client gets a true
// answer in bounded time, nothing is billed that was not asked, and the server goes on.
import assert from 'node:assert/strict';
import { basename } from 'node:path';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { texts } from './lib/asked.mjs';
import { Books } from './lib/books.mjs';
import { eventually, Gateway, isRunning, processes } from './lib/gateway.mjs';
import { Upstream } from './lib/upstream.mjs';

const LIMIT = { timeout: 120_000 };
const SILENCE = 3000;
const PREPARE = 2500;
const IDLE = 800; // the gateway's patience with a silent upstream
const RETRIES = 2;
const SLACK = 8000; // a cold start on a busy machine
const TEXT = 'one two three four five six';

let up;
let gw;
let books;
before(async () => {
  up = await Upstream.start();
  gw = await Gateway.start({
    claude: 'real', upstream: up, env: { LOG_LEVEL: 'debug' },
    config: {
      upstream: {
        max_retries: RETRIES, first_byte_timeout_ms: IDLE, idle_timeout_ms: IDLE,
      },
      pool: {
        max_workers: 3, silence_timeout_ms: SILENCE, prepare_timeout_ms: PREPARE,
        interrupt_timeout_ms: 1000,
      },
    },
  });
  await gw.ask('warm up');
  await eventually(async () => (await gw.pool()).workers.spare === 1, { ms: 20_000 });
  await up.reset();
  books = await Books.open(gw, { more: { socket: 4 } }); // connections kept for the next call
});
after(async () => {
  try {
    await gw.stop();
  } finally {
    await up.stop();
  }
});

let seen = 0; // calls that upstream has counted before it forgot them
async function forget() {
  seen += (await up.stats()).calls;
  await up.reset();
}

/** What the usage rows tell of calls. */
async function told() {
  const rows = await gw.usageRows();
  return rows.reduce((n, row) => n + row.upstream_calls, 0) +
    (await gw.metrics('claudegate_upstream_retries_total') ?? 0);
}

let toldBefore;
beforeEach(async () => {
  await up.reset();
  seen = 0;
  toldBefore = await told();
});
/** Nothing was asked of upstream that is not in the books. */
afterEach(async () => {
  await books.rest(30_000);
  await forget();
  assert.equal(seen, await told() - toldBefore, 'calls: seen by upstream = told by the rows');
});

const say = (text, more = {}) => ({ blocks: [{ type: 'text', text }], ...more });
const ready = () => eventually(async () => {
  const { workers } = await gw.pool();
  return workers.spare >= 1 && workers.starting + workers.ending === 0;
}, { ms: 20_000, what: 'a spare' });

/** The pids that the server knows. */
const workerPid = (id) => gw.logs().find((l) =>
  l.message === 'worker started' && l.worker === id).pid;

/** The worker that was last in this state; after its turn it is the first to get the next. */
const lastIn = (state) => workerPid(gw.logs().filter((l) =>
  l.message === 'worker state' && l.to === state).at(-1).worker);

/** The claude program itself: a sandbox stands between it and the pid the server knows. */
function programOf(pid) {
  const all = processes();
  for (let at = pid; ;) {
    const me = all.find((p) => p.pid === at);
    if (me && basename(me.args[0] ?? '') !== 'bwrap') return me.pid;
    const child = all.find((p) => p.ppid === at);
    assert.ok(child, `no program under ${pid}`);
    at = child.pid;
  }
}

async function timed(work) {
  const start = Date.now();
  const result = await work();
  return [result, Date.now() - start];
}

// --- the process dies ------------------------------------------------------------------------

for (const stream of [false, true]) {
  test(`kill -9 before the first byte (stream: ${stream}): tried again unseen`, LIMIT, async () => {
    await ready();
    await up.script([say('lost', { delay_ms: 1000 }), say(TEXT)]);
    const answer = stream ? gw.collect({ message: 'hello' }) : gw.chat({ message: 'hello' });
    await up.waitFor((list) => list.length === 1);
    process.kill(programOf(lastIn('running')), 'SIGKILL');
    const reply = await answer;
    assert.equal(stream ? reply.text : reply.body.response, TEXT);
    const row = await gw.usageRow(stream ? reply.start.requestId : reply.body.requestId);
    assert.deepEqual([row.status_code, row.retries, row.upstream_calls], [200, 1, 2]);
    const list = await up.waitFor((l) => l.every((r) => r.done));
    assert.deepEqual(list.map((r) => r.aborted), [true, false]);
    assert.deepEqual(texts(list[1].body), [['user', 'hello']]);
  });

  test(`kill -9 inside the answer (stream: ${stream}): told, never tried again`, LIMIT,
    async () => {
      await ready();
      await up.script([say(TEXT, { word_delay_ms: 300 })]);
      const answer = stream ? gw.collect({ message: 'hello' }) : gw.chat({ message: 'hello' });
      await up.waitFor((list) => list.length === 1);
      await sleep(800); // some words
      process.kill(programOf(lastIn('running')), 'SIGKILL');
      const reply = await answer;
      const fault = stream ? reply.error : reply.body;
      assert.equal(fault?.code, 'worker_failed', reply.text);
      assert.ok(stream ? !reply.done && TEXT.startsWith(reply.text) : reply.status === 502);
      const [request] = await up.waitFor((l) => l[0].done);
      assert.ok(request.aborted, 'upstream was hung up on');
      const row = await gw.usageRow(fault.requestId);
      assert.deepEqual([row.status_code, row.retries, row.upstream_calls, row.estimated],
        [502, 0, 1, 1]);
      assert.equal(row.input_tokens, request.usage.input_tokens);
    });
}

test('kill -9 while idle: the conversation goes on with another process', LIMIT, async () => {
  await up.script([say('one'), say('two')]);
  const first = await gw.ask('remember 17');
  await ready();
  process.kill(programOf(lastIn('running')), 'SIGKILL');
  const next = await gw.ask('which?', { sessionId: first.sessionId }); // at once
  assert.equal(next.response, 'two');
  const list = await up.requests();
  assert.deepEqual(texts(list.at(-1).body),
    [['user', 'remember 17'], ['assistant', 'one'], ['user', 'which?']]);
});

test('kill -9 at any moment of a turn: an answer, or an error, and one row', LIMIT, async () => {
  await up.script([say(TEXT, { word_delay_ms: 5, repeat: -1 })]);
  const outcomes = [];
  for (let i = 0; i < 6; i++) {
    const { key } = await gw.createKey(); // one that crashes five in a row has to pause
    await ready();
    const answer = gw.collect({ message: `go ${i}` }, { key }).catch((error) => error);
    await sleep(i * 12);
    let pid = 0;
    try {
      pid = programOf(lastIn('running'));
      process.kill(pid, 'SIGKILL');
    } catch {
      // the last one that ran was killed the round before
    }
    const reply = await answer;
    if (reply.done) assert.equal(reply.text, TEXT, 'a whole answer');
    else if (reply.error) assert.equal(reply.error.code, 'worker_failed');
    else assert.equal(reply.status, 502, `${reply.text ?? reply}`);
    outcomes.push(reply.done ? 'ok' : 'failed');
    assert.equal((await up.requests()).filter((r) => texts(r.body).at(-1)[1] === `go ${i}`).length
      <= 2, true);
  }
  assert.equal(outcomes.length, 6);
});

// --- the process is stopped ------------------------------------------------------------------

test('kill -STOP while idle: another process takes the turn', LIMIT, async () => {
  await gw.ask('hello');
  await ready();
  const pid = programOf(lastIn('running'));
  process.kill(pid, 'SIGSTOP');
  const [body, ms] = await timed(() => gw.ask('and now?'));
  assert.match(body.response, /and now\?$/);
  assert.ok(ms < PREPARE + SLACK, `${ms} ms`);
  const row = await gw.usageRow(body.requestId);
  assert.deepEqual([row.retries, row.upstream_calls], [1, 1]);
  await eventually(() => !isRunning(pid), { ms: SLACK, what: 'the stopped one is gone' });
});

test('kill -STOP inside the answer: told in time, and it is ended', LIMIT, async () => {
  await ready();
  await up.script([say(TEXT, { word_delay_ms: 300 })]);
  const answer = gw.collect({ message: 'hello' });
  await up.waitFor((list) => list.length === 1);
  await sleep(600);
  const pid = programOf(lastIn('running'));
  process.kill(pid, 'SIGSTOP');
  const [{ error, done }, ms] = await timed(() => answer);
  assert.deepEqual([error.code, done], ['timeout', false]);
  assert.ok(ms < SILENCE + 1000 + SLACK, `${ms} ms`);
  await eventually(() => !isRunning(pid), { ms: SLACK, what: 'the stopped one is gone' });
  assert.equal((await gw.usageRow(error.requestId)).status_code, 504);
  await forget();
  assert.match((await gw.ask('still there?')).response, /still there\?$/);
});

test('kill -STOP for a moment: nothing is lost', LIMIT, async () => {
  await ready();
  await up.script([say(TEXT, { word_delay_ms: 200 })]);
  const answer = gw.collect({ message: 'hello' });
  await up.waitFor((list) => list.length === 1);
  await sleep(600);
  const pid = programOf(lastIn('running'));
  process.kill(pid, 'SIGSTOP');
  await sleep(SILENCE / 3);
  process.kill(pid, 'SIGCONT');
  const { text, done } = await answer;
  assert.deepEqual([text, done], [TEXT, true]);
  assert.ok(isRunning(pid));
});

// --- upstream --------------------------------------------------------------------------------

/** A client must get all of it or an error; never a part that looks whole. */
async function wholeOrError(step, { text = TEXT, retried = 0 } = {}) {
  const results = [];
  for (const stream of [false, true]) {
    await forget();
    await up.script([{ ...step, repeat: -1 }]);
    const [reply, ms] = await timed(() => (stream
      ? gw.collect({ message: 'hello' }).catch((error) => error)
      : gw.chat({ message: 'hello' })));
    const what = `${JSON.stringify(step).slice(0, 300)}, stream ${stream}: ${
      JSON.stringify(reply.events ?? reply.text)}`;
    assert.ok(ms < SILENCE + SLACK, `${ms} ms: ${what}`);
    const good = stream ? reply.done === true : reply.status === 200;
    if (good) {
      assert.equal(stream ? reply.text : reply.body.response, text, what);
      if (stream) assert.equal(reply.error, undefined, what);
    } else if (stream && reply.events) {
      assert.match(reply.error.code, /^(upstream_error|timeout|worker_failed)$/, what);
      assert.ok(text.startsWith(reply.text), what);
      assert.equal(reply.end, undefined, what);
    } else {
      assert.ok(reply.status >= 500, what);
      assert.ok(reply.body.code, what);
    }
    const list = await up.waitFor((l) => l.every((r) => r.done));
    assert.equal(list.length, 1 + retried, `upstream calls: ${what}`);
    results.push(good);
  }
  assert.equal(results[0], results[1], `plain and streamed alike: ${JSON.stringify(step)}`);
  return results[0];
}

test('upstream breaks off after each of its events', LIMIT, async () => {
  const good = [];
  for (let n = 0; n <= 13; n++) {
    const how = ['reset', 'close'][n % 2];
    if (await wholeOrError(say(TEXT, { cut_after: n, cut_with: how }))) good.push(n);
  }
  assert.ok(good.length >= 1 && good.every((n) => n >= 11), `whole after ${good} events`);
});

test('upstream hangs up before it answers: tried again, then told', LIMIT, async () => {
  await gw.ask('hello'); // a connection that is used again
  await up.script([{ cut_after: -1, repeat: RETRIES }, say(TEXT)]);
  const body = await gw.ask('hello');
  assert.equal(body.response, TEXT);
  const row = await gw.usageRow(body.requestId);
  assert.deepEqual([row.retries, row.upstream_calls], [RETRIES, 1]);
  for (const how of ['reset', 'close']) {
    assert.equal(await wholeOrError({ cut_after: -1, cut_with: how }, { retried: RETRIES }), false);
  }
});

test('upstream goes silent after each of its events', LIMIT, async () => {
  for (const n of [0, 1, 4, 10]) {
    assert.equal(await wholeOrError(say(TEXT, { stall_after: n })), false, `after ${n}`);
  }
});

test('upstream takes the request and says nothing at all', LIMIT, async () => {
  await up.script([{ stall_after: -1, repeat: -1 }]);
  const [reply, ms] = await timed(() => gw.chat({ message: 'hello' }));
  assert.equal(reply.status, 504, reply.text);
  const row = await gw.usageRow(reply.body.requestId);
  assert.equal(row.upstream_calls, 1);
  assert.ok(ms < (1 + row.retries) * IDLE + SLACK, `${ms} ms, ${row.retries} retries`);
  await up.waitFor((list) => list.every((r) => r.aborted));
});

const event = (type, more) => ({ event: type, data: { type, ...more } });
const START = event('message_start', {
  message: {
    id: 'msg_1', type: 'message', role: 'assistant', model: 'claude-sonnet-4-5', content: [],
    stop_reason: null, stop_sequence: null, usage: { input_tokens: 3, output_tokens: 1 },
  },
});
const OPEN = event('content_block_start', { index: 0, content_block: { type: 'text', text: '' } });
const delta = (text) => event('content_block_delta',
  { index: 0, delta: { type: 'text_delta', text } });
const CLOSE = event('content_block_stop', { index: 0 });
const STOP = event('message_delta',
  { delta: { stop_reason: 'end_turn', stop_sequence: null }, usage: { output_tokens: 6 } });
const END = event('message_stop');
const WHOLE = [START, OPEN, delta(TEXT), CLOSE, STOP, END];

const garbage = {
  'nothing is wrong': WHOLE,
  'only an end': [END],
  'no start': WHOLE.slice(1),
  'no block start': [START, delta(TEXT), CLOSE, STOP, END],
  'no block end': [START, OPEN, delta(TEXT), STOP, END],
  'no stop reason': [START, OPEN, delta(TEXT), CLOSE, END],
  'no end': WHOLE.slice(0, -1),
  'two starts': [START, ...WHOLE],
  'two ends': [...WHOLE, END],
  'a second message behind the first': [...WHOLE, ...WHOLE],
  'words behind the end': [...WHOLE, delta(' and more')],
  'an event that is not JSON': [START, OPEN, { event: 'content_block_delta', data: '{"type":' },
    delta(TEXT), CLOSE, STOP, END],
  'data that is no object': [START, OPEN, { event: 'content_block_delta', data: '[1,null]' },
    delta(TEXT), CLOSE, STOP, END],
  'an event of an unknown type': [START, OPEN, event('galactic'), delta(TEXT), CLOSE, STOP, END],
  'a block of an unknown type': [START,
    event('content_block_start', { index: 0, content_block: { type: 'galactic', x: 1 } }),
    CLOSE, STOP, END],
  'a delta without a block': [START, event('content_block_delta',
    { index: 7, delta: { type: 'text_delta', text: 'x' } }), STOP, END],
  'a delta of another kind': [START, OPEN, event('content_block_delta',
    { index: 0, delta: { type: 'input_json_delta', partial_json: '{' } }), CLOSE, STOP, END],
  'a page': [{ data: '<html>502 Bad Gateway</html>' }],
  'a very long line': [START, OPEN, { event: 'content_block_delta', data: 'x'.repeat(2_000_000) },
    delta(TEXT), CLOSE, STOP, END],
  'usage that is no number': [event('message_start', { message: { ...START.data.message,
    usage: { input_tokens: 'many', output_tokens: null } } }), ...WHOLE.slice(1)],
  'usage below nothing': [START, OPEN, delta(TEXT), CLOSE, event('message_delta',
    { delta: { stop_reason: 'end_turn' }, usage: { output_tokens: -5 } }), END],
  'an error of no type': [START, OPEN, delta('one '), event('error', {})],
};
/** The words of the first message, up to its end. */
const textOf = (events) => events.slice(0, 1 + events.findIndex((e) => e === END) || undefined)
  .map((e) => e.data.delta?.text ?? '').join('');

for (const [name, events] of Object.entries(garbage)) {
  test(`upstream talks nonsense: ${name}`, LIMIT, async () => {
    const good = await wholeOrError({ raw_events: events }, { text: textOf(events) });
    if (events === WHOLE) assert.ok(good);
    const rows = (await gw.usageRows()).slice(-2);
    for (const row of rows) {
      assert.ok(row.input_tokens >= 0 && row.output_tokens >= 0, JSON.stringify(row));
    }
    await forget();
    const { response } = await gw.ask(`after ${name}`);
    assert.ok(response.endsWith(`after ${name}`), response);
    const [request] = await up.requests();
    assert.deepEqual(texts(request.body), [['user', `after ${name}`]], 'nothing of it is left');
  });
}

// --- upstream is overloaded ------------------------------------------------------------------

const OVERLOADED = { status: 529, error: { type: 'overloaded_error', message: 'Overloaded' } };

test('529 a few times: as many retries as allowed, then told', LIMIT, async () => {
  for (let n = 1; n <= RETRIES + 2; n++) {
    await forget();
    await up.script([{ ...OVERLOADED, repeat: n }, say(TEXT, { repeat: -1 })]);
    const reply = await gw.chat({ message: 'hello' });
    assert.equal(reply.status, n <= RETRIES ? 200 : 529, reply.text);
    const row = await gw.usageRow(reply.body.requestId);
    assert.deepEqual([row.retries, row.upstream_calls], [Math.min(n, RETRIES), 1]);
    assert.equal((await up.stats()).calls, 1 + Math.min(n, RETRIES));
  }
});

test('a storm of 529 over many requests at once: each ends once, nothing is asked twice', LIMIT,
  async () => {
    const keys = await Promise.all([1, 2, 3].map(async () => (await gw.createKey()).key));
    await up.script([
      { ...OVERLOADED, repeat: 8 }, say(TEXT), { ...OVERLOADED, repeat: 8 },
      { ...OVERLOADED, headers: { 'retry-after': '1' }, repeat: 4 }, say(TEXT, { repeat: -1 }),
    ]);
    const ask = (i) => (i % 2
      ? gw.chat({ message: `storm ${i}` }, { key: keys[i % 3] })
      : gw.collect({ message: `storm ${i}` }, { key: keys[i % 3] }).catch((error) => error));
    const [replies, ms] = await timed(() =>
      Promise.all(Array.from({ length: 12 }, (_, i) => ask(i))));
    assert.ok(ms < 45_000, `${ms} ms`);
    for (const reply of replies) {
      const ok = reply.done || reply.status === 200;
      assert.ok(ok || reply.status === 529, JSON.stringify(reply.text));
      if (ok) assert.equal(reply.done ? reply.text : reply.body.response, TEXT);
    }
    assert.ok(replies.filter((r) => r.done || r.status === 200).length >= 4);
    const asked = (await up.requests()).map((r) => texts(r.body).at(-1)[1]);
    for (let i = 0; i < 12; i++) {
      const n = asked.filter((text) => text === `storm ${i}`).length;
      assert.ok(n >= 1 && n <= 1 + RETRIES, `storm ${i} was asked ${n} times`);
    }
  });

test('after all of that: still good', LIMIT, async () => {
  const { response } = await gw.ask('still there?');
  assert.match(response, /still there\?$/);
  const rows = await books.close();
  assert.equal(new Set(rows.map((row) => row.request_id)).size, rows.length);
});
