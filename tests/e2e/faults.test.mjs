// The claude program misbehaves in every way the fake one can: a client gets a true answer in
// bounded time, and the server goes on. After each test the books must close.
import assert from 'node:assert/strict';
import { chmodSync, existsSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import { join } from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { Books, household } from './lib/books.mjs';
import {
  eventually, Gateway, isRunning, processes, programs, tempDir,
} from './lib/gateway.mjs';

const LIMIT = { timeout: 60_000 };
const SILENCE = 1000;
const INTERRUPT = 500;
const PREPARE = 1500;
const START = 2500;
const SLACK = 4000; // of a busy machine
const FAKE = programs.fake;

const fake = (step) => `fake:${JSON.stringify(step)}`;
const markers = tempDir();
let marked = 0;
/** A step that is taken once, whichever worker comes first; then the default answer. */
const onceOnly = (step) => fake({ ...step, once: join(markers, `m${marked++}`) });

/** A claude program that looks at files first, then becomes the fake. */
function wrapper(script) {
  const path = join(tempDir(), 'claude');
  writeFileSync(path, ['#!/bin/sh', 'if [ "$1" != --version ]; then', script, 'fi',
    `exec ${FAKE} "$@"`, ''].join('\n'));
  chmodSync(path, 0o755);
  return path;
}

const orders = tempDir();
/** What the next process to be started does first, in shell. */
function orderNext(script) {
  writeFileSync(join(orders, 'new'), `${script}\n`);
  renameSync(join(orders, 'new'), join(orders, 'next'));
}

let gw;
let books;
before(async () => {
  const count = join(orders, 'count');
  gw = await Gateway.start({
    claude: wrapper(`mv ${orders}/next ${orders}/now.$$ 2>/dev/null && . ${orders}/now.$$`),
    env: { CLAUDEGATE_CLAUDE_PASS_ENV: 'FAKE_COUNT', FAKE_COUNT: count },
    config: {
      pool: {
        max_workers: 4, silence_timeout_ms: SILENCE, turn_timeout_ms: 5000,
        interrupt_timeout_ms: INTERRUPT, prepare_timeout_ms: PREPARE, start_timeout_ms: START,
      },
    },
  });
  books = await Books.open(gw, { count });
});
afterEach(() => books.close());
after(() => gw.stop());

async function timed(work) {
  const from = Date.now();
  const result = await work();
  return [result, Date.now() - from];
}

async function counted(name, labels, work) {
  const from = await gw.metrics(name, labels) ?? 0;
  await work();
  return (await gw.metrics(name, labels) ?? 0) - from;
}

/** The server still answers, and from a worker. */
async function fine() {
  assert.equal((await gw.ask('hello')).response, 'ok');
}

// --- the process dies ------------------------------------------------------------------------

for (const stream of [false, true]) {
  test(`dies before the first event (stream: ${stream}): tried again unseen`, LIMIT, async () => {
    const message = onceOnly({ exit_at: 'init', exit_code: 3, stderr: 'Out of luck.\n' });
    let requestId;
    const retried = await counted('claudegate_turns_retried_total', {}, async () => {
      if (stream) {
        const { text, done, start } = await gw.collect({ message });
        assert.deepEqual([text, done], ['ok', true]);
        requestId = start.requestId;
      } else {
        const body = await gw.ask(message);
        assert.equal(body.response, 'ok');
        requestId = body.requestId;
      }
    });
    assert.equal(retried, 1);
    const row = await gw.usageRow(requestId);
    assert.deepEqual([row.retries, row.status_code, row.output_tokens], [1, 200, 5]);
    assert.ok(gw.logs().some((line) => line.message === 'worker ended' && line.code === 3 &&
      /Out of luck/.test(line.stderr)));
  });
}

test('dies each time before the first event: 502 after two tries', LIMIT, async () => {
  const message = fake({ exit_at: 'init', exit_code: 4, stderr: 'secret detail\n' });
  let reply;
  const crashes = await counted('claudegate_worker_ends_total', { reason: 'crash' }, async () => {
    reply = await gw.chat({ message });
  });
  assert.equal(reply.status, 502, reply.text);
  assert.equal(reply.body.code, 'worker_failed');
  assert.doesNotMatch(reply.text, /secret detail/);
  assert.equal(crashes, 2);
  await fine();
});

test('dies after the first event: the model has begun, so no retry', LIMIT, async () => {
  const retried = await counted('claudegate_turns_retried_total', {}, async () => {
    const message = fake({ exit_at: 'message_start' });
    const { text, error, done } = await gw.collect({ message });
    assert.deepEqual([text, error.code, done], ['', 'worker_failed', false]);
    assert.equal((await gw.chat({ message })).status, 502);
  });
  assert.equal(retried, 0);
});

for (const [how, step] of Object.entries({
  'exit 1': { exit_code: 1 },
  SIGSEGV: { signal: 11 },
  'SIGKILL in the middle of a line': { signal: 9, exit_partial: true },
})) {
  test(`dies after the first words (${how}): an error, in the stream or plain, never a retry`,
    LIMIT, async () => {
      const message = fake({
        text: 'one two three four five six', chunk: 4, exit_at: 'delta', exit_after: 3, ...step,
      });
      const retried = await counted('claudegate_turns_retried_total', {}, async () => {
        const { text, error, end, done, start } = await gw.collect({ message });
        assert.equal(text, 'one two thre');
        assert.equal(error.code, 'worker_failed');
        assert.equal(error.requestId, start.requestId);
        assert.deepEqual([end, done], [undefined, false]);
        const plain = await gw.chat({ message });
        assert.equal(plain.status, 502, plain.text);
        assert.equal(plain.body.code, 'worker_failed');
        const row = await gw.usageRow(start.requestId);
        assert.equal(row.status_code, 502);
        assert.match(row.error, /^worker_failed: /);
        assert.equal(row.input_tokens, 10, 'what was seen is counted');
      });
      assert.equal(retried, 0);
      await fine();
    });
}

test('dies between the last event and the result: an error, not a half answer', LIMIT, async () => {
  const message = fake({ text: 'whole', exit_at: 'before_result' });
  const { error, done } = await gw.collect({ message });
  assert.equal(error.code, 'worker_failed');
  assert.ok(!done);
  assert.equal((await gw.chat({ message })).status, 502);
  await fine();
});

test('dies after the result: nobody notices', LIMIT, async () => {
  for (let i = 0; i < 3; i++) {
    const { response } = await gw.ask(fake({ text: 'whole', exit_at: 'after_result' }));
    assert.equal(response, 'whole');
  }
  await fine();
});

test('a descendant keeps the output open after the process is gone', LIMIT, async (t) => {
  const patient = await Gateway.start({ test: t });
  for (const escapes of [false, true]) {
    const [{ error, text }, ms] = await timed(() => patient.collect({
      message: fake({
        text: 'one two', chunk: 4, exit_at: 'delta', grandchild_ms: 8000,
        grandchild_escapes: escapes,
      }),
    }));
    assert.equal(text, 'one ');
    assert.equal(error.code, 'worker_failed');
    assert.ok(ms < 2000 + SLACK, `told after ${ms} ms`);
    assert.equal((await patient.ask('hello')).response, 'ok');
  }
});

test('a key whose requests end their processes has to pause; others do not', LIMIT, async () => {
  const { key } = await gw.createKey();
  const ask = (message) => gw.chat({ message }, { key });
  let reply;
  let crashes = 0;
  do {
    reply = await ask(fake({ exit_at: 'message_start' }));
    crashes++;
  } while (reply.status === 502 && crashes < 20);
  assert.equal(reply.status, 503, reply.text);
  assert.equal(reply.body.code, 'overloaded');
  const wait = Number(reply.headers['retry-after']);
  assert.ok(wait >= 1 && wait <= 31, reply.headers['retry-after']);
  await fine();
  await eventually(async () => (await ask('hello')).status === 200, { ms: 60_000, every: 500 });
  assert.equal((await ask(fake({ exit_at: 'message_start' }))).status, 502, 'a new beginning');
  assert.equal((await ask('hello')).status, 200);
});

// --- what it writes --------------------------------------------------------------------------

test('a line that is not JSON is skipped and counted', LIMIT, async () => {
  for (const at of ['init', 'message_start', 'delta', 'before_result']) {
    const skipped = await counted('claudegate_cli_lines_unknown_total', { kind: 'not_json' },
      async () => {
        const message = fake({ text: 'a b c', chunk: 2, garbage_at: at, garbage: '{"type":"resu' });
        assert.equal((await gw.ask(message)).response, 'a b c', at);
      });
    assert.equal(skipped, 1, at);
  }
});

test('a line of an unknown type is skipped and counted', LIMIT, async () => {
  const skipped = await counted('claudegate_cli_lines_unknown_total', { kind: 'unknown_type' },
    async () => {
      const { response } = await gw.ask(fake({ text: 'a b', unknown_event_at: 'delta' }));
      assert.equal(response, 'a b');
    });
  assert.equal(skipped, 1);
});

test('lines in pieces of a few bytes', LIMIT, async () => {
  const text = 'Grüße, 世界 🎉 '.repeat(10);
  const step = { text, chunk: 7, split: { bytes: 5, pause_us: 0 } };
  assert.equal((await gw.ask(fake(step))).response, text);
  assert.equal((await gw.collect({ message: fake(step) })).text, text);
});

test('keys in another order', LIMIT, async () => {
  const body = await gw.ask(fake({ text: 'a b', key_order: 'reversed' }));
  assert.equal(body.response, 'a b');
  assert.deepEqual([body.usage.promptTokens, body.usage.completionTokens], [10, 5]);
});

test('a very long line is one answer; one too long costs the worker only', LIMIT, async (t) => {
  const patient = await Gateway.start({ test: t });
  const { response } = await patient.ask(fake({ huge: 12_000_000 }));
  assert.equal(response.length, 12_000_000);
  const reply = await patient.chat({ message: fake({ huge: 110_000_000 }) });
  assert.equal(reply.status, 502, reply.text);
  assert.equal(await patient.metrics('claudegate_worker_ends_total', { reason: 'line_too_long' }),
    1);
  assert.equal((await patient.ask('hello')).response, 'ok');
});

// A server of its own: filling the buffers takes a slow machine longer than the others' turns may.
test('a flood towards a client that does not read: stopped, in bounded memory', LIMIT, async (t) => {
  const server = await Gateway.start({ test: t });
  const before = server.rssKb();
  const response = await server.open('POST', '/api/chat', {
    body: { message: fake({ flood: 1e9 }), stream: true },
    headers: { authorization: `Bearer ${await server.key()}` },
  });
  response.pause();
  const requestId = response.headers['request-id'];
  const line = await server.logged((l) => l.message === 'request' && l.request_id === requestId,
    45_000);
  assert.equal(line.outcome, 'client_gone');
  const grown = (server.rssKb() - before) >> 10;
  assert.ok(grown < 600, `grew by ${grown} MiB`); // a sanitizer keeps 256 MiB of freed memory
  response.destroy();
  assert.equal((await server.ask('hello')).response, 'ok');
});

// --- silence ---------------------------------------------------------------------------------

for (const [what, step, words] of [
  ['before the first event', { stall: true }, ''],
  ['in the middle', { text: 'one two three', chunk: 4, stall: true, stall_after: 2 }, 'one two '],
  ['instead of the result', { text: 'whole', no_result: true }, 'whole'],
]) {
  test(`silence ${what}: 504 in time, and the worker is used again`, LIMIT, async () => {
    const [plain, ms] = await timed(() => gw.chat({ message: fake(step) }));
    assert.equal(plain.status, 504, plain.text);
    assert.equal(plain.body.code, 'timeout');
    assert.ok(ms >= SILENCE && ms < SILENCE + INTERRUPT + SLACK, `${ms} ms`);
    if (words) {
      const { text, error, done } = await gw.collect({ message: fake(step) });
      assert.equal(text, words);
      assert.deepEqual([error.code, done], ['timeout', false]);
    } else {
      await assert.rejects(gw.collect({ message: fake(step) }), { status: 504 });
    }
    await fine();
  });
}

test('an interrupt that is ignored: killed in time', LIMIT, async () => {
  const message = fake({
    text: 'one two three', chunk: 4, stall: true, stall_after: 1, ignore_interrupt: true,
  });
  const killed = await counted('claudegate_worker_ends_total', { reason: 'interrupt_timeout' },
    async () => {
      const [{ error, text }, ms] = await timed(() => gw.collect({ message }));
      assert.deepEqual([text, error.code], ['one ', 'timeout']);
      assert.ok(ms < SILENCE + INTERRUPT + 1000 + SLACK, `${ms} ms`);
    });
  assert.equal(killed, 1);
  await fine();
});

test('a turn that never ends is stopped at its limit', LIMIT, async () => {
  const message = fake({ text: 'word '.repeat(1000), chunk: 5, delay_ms: 50 });
  const [{ error, text, done }, ms] = await timed(() => gw.collect({ message }));
  assert.ok(text.length >= 100, 'it had much to say');
  assert.deepEqual([error.code, done], ['timeout', false]);
  assert.ok(ms >= 4900 && ms < 5000 + INTERRUPT + SLACK, `${ms} ms`);
  await fine();
});

test('a process that hangs after its result costs at most the next turn', LIMIT, async () => {
  const first = await gw.ask(fake({ text: 'whole', hang_after_result: true }));
  assert.equal(first.response, 'whole');
  const [next, ms] = await timed(() => gw.chat({ message: 'hello' }));
  assert.ok([200, 504].includes(next.status), next.text);
  assert.ok(ms < SILENCE + INTERRUPT + 1000 + SLACK, `${ms} ms`);
  await fine();
});

test('a control request without reply: another worker takes the turn', LIMIT, async () => {
  await gw.ask(fake({ lose_control: 'set_model' }));
  const retried = await counted('claudegate_turns_retried_total', {}, async () => {
    const [body, ms] = await timed(() => gw.ask('hello', { model: 'claude-another' }));
    assert.equal(body.response, 'ok');
    assert.ok(ms >= PREPARE && ms < PREPARE + 1000 + SLACK, `${ms} ms`);
  });
  assert.equal(retried, 1);
  await gw.ask(fake({ lose_control: 'interrupt' }));
  assert.equal((await gw.chat({ message: fake({ stall: true }) })).status, 504);
  await fine();
});

// --- errors it reports -----------------------------------------------------------------------

test('API errors that only the program knows of', LIMIT, async () => {
  for (const [error, status] of [
    [{ status: 429, message: 'slow down' }, 429],
    [{ status: 400, message: 'no' }, 400],
    [{ status: 529, message: 'Overloaded', retries: 2, retry_delay_ms: 10 }, 529],
    [{ message: 'the network' }, 502],
  ]) {
    const reply = await gw.chat({ message: fake({ error }) });
    assert.equal(reply.status, status, reply.text);
  }
  const recovered = await gw.ask(fake({
    text: 'after all', error: { status: 529, retries: 1, retry_delay_ms: 10, recover: true },
  }));
  assert.equal(recovered.response, 'after all');
});

// --- a fault in each state of the process ------------------------------------------------------

/** A key of its own, so that the worker it has armed is the one that serves it next. */
async function armed(later, step = {}) {
  const { key } = await gw.createKey();
  const talk = (message, more) => gw.ask(message, more, { key });
  const { sessionId } = await talk('the first of a conversation');
  const reply = await gw.chat({ message: fake({ ...step, later }) }, { key });
  assert.ok(step.error || reply.status === 200, reply.text);
  return { key, sessionId, talk };
}

const lines = {
  set_model: { model: 'claude-another' },
  boundary: {},
  question: {},
  history: 'continued',
  assistant: 'continued',
};
for (const [at, more] of Object.entries(lines)) {
  for (const [what, how, worst, reason] of [
    ['exits', { do: 'exit', code: 1 }, 0, 'crash'],
    ['is killed', { do: 'exit', signal: 9 }, 0, 'crash'],
    ['hangs', { do: 'hang' }, PREPARE, /^(prepare|question)_timeout$/],
  ]) {
    test(`${what} at the line "${at}": tried again unseen`, LIMIT, async () => {
      const { key, sessionId } = await armed({ at, ...how });
      const body = { message: 'next', ...(more === 'continued' ? { sessionId } : more) };
      const retried = await counted('claudegate_turns_retried_total', {}, async () => {
        const [{ text, done, start }, ms] = await timed(() => gw.collect(body, { key }));
        assert.deepEqual([text, done], ['ok', true]);
        assert.ok(ms < worst + SLACK, `${ms} ms`);
        const row = await gw.usageRow(start.requestId);
        assert.deepEqual([row.status_code, row.retries, row.upstream_calls, row.output_tokens],
          [200, 1, 1, 5]);
      });
      assert.equal(retried, 1);
      const end = gw.logs().filter((l) => l.message === 'worker ended').at(-1);
      if (reason === 'crash') assert.equal(end.reason, 'exit');
      else assert.match(end.reason, reason);
    });
  }
}

test('a reply to set_model is lost: another worker takes the turn', LIMIT, async () => {
  const { talk } = await armed({ at: 'set_model', do: 'mute' });
  const { requestId } = await talk('next', { model: 'claude-another' });
  const row = await gw.usageRow(requestId);
  assert.deepEqual([row.status_code, row.retries], [200, 1]);
});

test('slow to prepare, but alive: the turn waits for it', LIMIT, async () => {
  for (const at of ['set_model', 'history', 'question']) {
    const { key, sessionId } = await armed({ at, do: 'delay', ms: 600 });
    const more = at === 'set_model' ? { model: 'claude-another' } : { sessionId };
    const [body, ms] = await timed(() => gw.ask('next', more, { key }));
    assert.ok(ms >= 550, `${at}: ${ms} ms`);
    assert.equal((await gw.usageRow(body.requestId)).retries, 0);
  }
});

for (const [what, how, kept] of [
  ['exits', { do: 'exit', code: 1 }, false],
  ['hangs', { do: 'hang' }, false],
  ['loses its reply', { do: 'mute' }, true],
  ['takes its time', { do: 'delay', ms: 200 }, true],
]) {
  test(`interrupted, it ${what}: ${kept ? 'kept' : 'replaced'}`, LIMIT, async () => {
    for (const gone of [true, false]) {
      const { key, talk } = await armed({ at: 'interrupt', ...how });
      const starts = await gw.metrics('claudegate_worker_starts_total');
      const abort = new AbortController();
      const message = fake({ text: 'one two', chunk: 4, stall: true, stall_after: 1 });
      const stream = gw.stream({ message }, { key, signal: abort.signal });
      const { value: start } = await stream.next();
      assert.equal((await stream.next()).value.delta, 'one ');
      const from = Date.now();
      if (gone) {
        abort.abort();
        await assert.rejects(stream.next());
      } else {
        assert.equal((await stream.next()).value.code, 'timeout');
      }
      const row = await gw.usageRow(start.requestId);
      assert.ok(Date.now() - from < SILENCE + INTERRUPT + 1000 + SLACK);
      assert.equal(row.status_code, gone ? 499 : 504);
      assert.equal(row.input_tokens, 10);
      await talk('next');
      const more = await gw.metrics('claudegate_worker_starts_total') - starts;
      assert.ok(kept ? more === 0 : more >= 1, `${more} processes started`);
    }
  });
}

test('faults while it forgets a finished conversation', LIMIT, async () => {
  const step = { error: { status: 400, message: 'no' } }; // a failed turn is forgotten when idle
  const how = [{ do: 'exit', code: 1 }, { do: 'hang' }, { do: 'delay', ms: 1000 }];
  const ended = () => gw.logs().filter((l) => l.message === 'worker ended').length;
  const before = ended();
  const all = await Promise.all(how.map((h) => armed({ at: 'clear', ...h }, step)));
  await eventually(async () => (await gw.pool()).workers.busy === 2, { ms: 10_000,
    what: 'one is gone, one hangs, one takes its time' });
  const [, ms] = await timed(() => all[2].talk('next'));
  assert.ok(ms < 900, `served elsewhere, not after it: ${ms} ms`);
  await eventually(() => ended() >= before + 2, { ms: PREPARE + SLACK });
  for (const { talk } of all) await talk('and now?');
});

test('killed while idle: the next request does not notice', LIMIT, async () => {
  for (let i = 0; i < 5; i++) {
    await fine();
    for (const { pid } of gw.workers()) process.kill(pid, 'SIGKILL');
    const body = await gw.ask('hello'); // at once: the server may not even know yet
    assert.equal(body.response, 'ok');
  }
});

// --- a fault at the start ----------------------------------------------------------------------

for (const [what, order, worst] of [
  ['exits at once', 'exit 9', 500],
  ['exits at its first line', `FAKE_LATER='{"at":"initialize","do":"exit"}'`, 500],
  ['exits at its second line',
    `FAKE_LATER='{"at":"set_max_thinking_tokens","do":"exit","signal":11}'`, 500],
  ['hangs', `FAKE_LATER='{"at":"initialize","do":"hang"}'`, START + 500],
  ['does not answer initialize', `FAKE_LATER='{"at":"initialize","do":"mute"}'`, START + 500],
  ['does not answer the second line',
    `FAKE_LATER='{"at":"set_max_thinking_tokens","do":"mute"}'`, START + 500],
  ['is slow', 'FAKE_SLOW_START_MS=1000', 1000],
  ['complains much', 'head -c 30000000 /dev/zero >&2', 0],
]) {
  test(`a new process ${what}: the request waits and is answered`, LIMIT, async () => {
    orderNext(order.startsWith('FAKE_') ? `export ${order}` : order);
    for (const { pid } of gw.workers()) process.kill(pid, 'SIGKILL');
    await eventually(() => !existsSync(join(orders, 'next')), { what: 'a process started' });
    const [body, ms] = await timed(() => gw.ask('hello'));
    assert.equal(body.response, 'ok');
    assert.ok(ms < worst + SLACK, `${ms} ms`);
    assert.equal((await gw.usageRow(body.requestId)).retries, 0);
    assert.equal((await gw.pool()).startFailuresInRow, 0);
  });
}

// --- more of what it writes --------------------------------------------------------------------

test('floods: all of it is read, and memory stays bounded', LIMIT, async () => {
  const before = gw.rssKb();
  const flood = await gw.collect({ message: fake({ flood: 30_000, text: 'x' }) });
  assert.deepEqual([flood.text.length, flood.done], [30_000, true]);
  assert.equal((await gw.ask(fake({ stderr_flood: 50_000_000 }))).response, 'ok');
  const garbage = { garbage_at: 'delta', garbage: '<'.repeat(3_000_000) };
  assert.equal((await gw.ask(fake(garbage))).response, 'ok');
  const died = await gw.chat({ message: fake({ stderr_flood: 5_000_000, exit_at: 'delta' }) });
  assert.equal(died.status, 502);
  const said = gw.logs().filter((l) => l.message === 'worker ended').at(-1).stderr;
  assert.match(said, /nobody can do anything about/);
  assert.ok(said.length <= 4096, `${said.length} bytes of stderr in the log`);
  const grown = (gw.rssKb() - before) >> 10;
  assert.ok(grown < 400, `grew by ${grown} MiB`); // a sanitizer keeps 256 MiB of freed memory
});

test('half a line, then nothing', LIMIT, async () => {
  const [body, ms] = await timed(() => gw.ask(onceOnly({ split: { at: 40, pause_us: 9e6 } })));
  assert.equal(body.response, 'ok', 'nothing was heard of it: tried again');
  assert.ok(ms < SILENCE + 1000 + SLACK, `${ms} ms`);
  const reply = await gw.chat({ message: fake({ split: { at: 2200, pause_us: 9e6 } }) });
  assert.equal(reply.status, 504, reply.text);
});

test('cut in two at every place of a turn: the same answer each time', { timeout: 180_000 },
  async (t) => {
    const own = await Gateway.start({
      test: t, config: { pool: { max_requests: 100_000, max_workers: 1, min_spare: 0 } },
      ready: false,
    });
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    t.after(() => agent.destroy());
    const authorization = `Bearer ${await own.key()}`;
    const text = 'Grüße "世界" \\ 🎉';
    const ask = (at, stream) => new Promise((resolve, reject) => {
      const request = http.request(`${own.url}/api/chat`, {
        agent, method: 'POST', headers: { authorization, 'content-type': 'application/json' },
      }, (response) => {
        let got = '';
        response.setEncoding('utf8').on('data', (data) => { got += data; });
        response.on('end', () => resolve(got));
        response.on('error', reject);
      });
      request.on('error', reject);
      request.end(JSON.stringify({
        message: fake({ text, chunk: 9, split: { at, pause_us: 400 } }), stream,
      }));
    });
    const whole = (got, stream) => (stream
      ? got.split('\n\n').filter((e) => e.includes('"delta"')).map((e) =>
        JSON.parse(e.slice(6)).delta).join('') + got.slice(-14)
      : JSON.parse(got).response);
    const size = 4900; // a turn's lines have some 4800 bytes
    const [good, goodStream] = [text, `${text}data: [DONE]\n\n`];
    for (let at = 1; at <= size; at++) {
      const stream = at % 2 === 1;
      const got = await ask(at, stream);
      assert.equal(whole(got, stream), stream ? goodStream : good, `cut after ${at}: ${got}`);
    }
    assert.equal(await own.metrics('claudegate_worker_starts_total'), 1, 'one process');
    assert.equal(await own.metrics('claudegate_cli_lines_unknown_total'), undefined);
    const rows = await own.usageRows();
    assert.equal(rows.length, size);
    assert.ok(rows.every((row) => row.output_tokens === 5 && row.status_code === 200));
  });

test('an upstream that breaks off, as only the program tells it', LIMIT, async () => {
  for (const step of [
    { cut: true, cut_after: 1 }, { cut: true, cut_after: 3 }, { cut: true, cut_after_block: true },
  ]) {
    const message = fake({ text: 'one two three four', chunk: 4, ...step });
    const plain = await gw.chat({ message });
    assert.ok(plain.status >= 500, plain.text);
    const { text, error, done, end } = await gw.collect({ message });
    assert.match('one two three four', new RegExp(`^${text}`));
    assert.ok(error.code);
    assert.deepEqual([end, done], [undefined, false]);
  }
});

test('an error that calls itself a success is none', LIMIT, async () => {
  for (const error of [
    { message: 'Rate limit reached', kind: 'rate_limit' }, { message: 'x', kind: 'server_error' },
    { message: '' }, { status: 500, message: 'x' }, { status: 529, message: 'Overloaded' },
  ]) {
    const reply = await gw.chat({ message: fake({ error }) });
    assert.ok(reply.status >= 429, reply.text);
    assert.equal(reply.body.success, false);
    await assert.rejects(gw.collect({ message: fake({ error }) }), { status: reply.status });
  }
});

// --- processes that do not go ------------------------------------------------------------------

test('a worker that is replaced and ignores SIGTERM is killed in time', LIMIT, async (t) => {
  const own = await Gateway.start({ test: t, config: { pool: { max_requests: 1 } } });
  await own.ask(fake({ ignore_sigterm: true, hang_after_result: true }));
  const { pid } = own.logs().find((l) => l.message === 'worker started');
  const [, ms] = await timed(() => own.ask('hello'));
  assert.ok(ms < SLACK, `another one serves: ${ms} ms`);
  await eventually(() => !isRunning(pid), { ms: 1000 + SLACK });
  await eventually(async () => (await own.pool()).workers.ending === 0);
});

test('a descendant that holds the output does not hold the place', LIMIT, async (t) => {
  const own = await Gateway.start({
    test: t, config: { pool: { max_requests: 1, max_workers: 1, min_spare: 0 } }, ready: false,
  });
  for (const escapes of [false, true]) {
    await own.ask(fake({ grandchild_ms: 20_000, grandchild_escapes: escapes }));
    const [, ms] = await timed(() => own.ask('hello'));
    assert.ok(ms < 3000 + SLACK, `the next one got the only place after ${ms} ms`);
    const left = () => household(own).filter((p) => p.state !== 'Z' && p.ppid !== own.pid);
    if (escapes) for (const { pid } of left()) process.kill(pid, 'SIGKILL');
    await eventually(() => left().length === 0, { what: `its group is gone: ${left()}` });
  }
  const fds = await eventually(async () => {
    const { workers } = await own.pool();
    return workers.idle + workers.busy + workers.ending === 0 && own.fds();
  }, { ms: 10_000 });
  await own.ask(fake({ grandchild_ms: 20_000 }));
  const [, ms] = await timed(() => own.stop());
  assert.ok(ms < 3000 + SLACK, `stopped after ${ms} ms; ${fds} descriptors before`);
});

test('after all of that: no worker stays busy, nothing was lost', LIMIT, async () => {
  await eventually(async () => (await gw.pool()).workers.busy === 0, { ms: 10_000 });
  assert.equal((await gw.pool()).queued, 0);
  assert.equal(await gw.metrics('claudegate_usage_dropped_total'), 0);
  const rows = await gw.usageRows();
  const turns = gw.logs().filter((line) => line.message === 'request' && line.outcome);
  assert.equal(rows.length, turns.length);
  assert.equal(new Set(rows.map((row) => row.request_id)).size, rows.length);
  assert.ok(processes().every((p) => p.ppid !== gw.pid || p.state !== 'Z'), 'no zombies');
});

// --- start and stop --------------------------------------------------------------------------

test('a slow start: the first request waits and is answered', LIMIT, async (t) => {
  const slow = await Gateway.start({ claude: wrapper('sleep 2'), ready: false, test: t });
  const { status, body } = await slow.request('GET', '/readyz');
  assert.equal(status, 503);
  assert.equal(body.status, 'not_ready');
  assert.match(body.reason, /starting/);
  assert.deepEqual([body.workers.starting, body.workers.spare], [1, 0]);
  const [reply] = await timed(() => slow.chat({ message: 'hello' }));
  assert.equal(reply.status, 200, reply.text);
  assert.equal((await slow.request('GET', '/readyz')).status, 200);
});

test('a start that takes too long is given up', LIMIT, async (t) => {
  const stuck = await Gateway.start({
    claude: wrapper('exec sleep 60'), ready: false, test: t,
    config: { pool: { start_timeout_ms: 500, queue_timeout_ms: 1200 } },
  });
  const reply = await stuck.chat({ message: 'hello' });
  assert.equal(reply.status, 503, reply.text);
  assert.ok(await stuck.metrics('claudegate_worker_ends_total', { reason: 'start_timeout' }) >= 1);
  const workers = stuck.workers().map((p) => p.pid);
  await stuck.stop();
  assert.deepEqual(workers.filter(isRunning), []);
});

test('a silent stream is kept alive with comments', LIMIT, async (t) => {
  const quiet = await Gateway.start({ test: t, config: { server: { keepalive_ms: 700 } } });
  const abort = new AbortController();
  const response = await fetch(`${quiet.url}/api/chat`, {
    method: 'POST', signal: abort.signal,
    headers: { authorization: `Bearer ${await quiet.key()}`, 'content-type': 'application/json' },
    body: JSON.stringify({
      message: fake({ text: 'one two', chunk: 4, stall: true, stall_after: 1 }), stream: true,
    }),
  });
  const from = Date.now();
  let text = '';
  for await (const chunk of response.body) {
    text += Buffer.from(chunk).toString();
    if (/^: ?keep-alive$/m.test(text)) break;
  }
  assert.match(text, /^: ?keep-alive$/m);
  assert.ok(Date.now() - from >= 600, 'only when it has been silent');
  abort.abort();
});

test('a start that fails for ever: backs off, says why, recovers', LIMIT, async (t) => {
  const broken = join(tempDir(), 'broken');
  writeFileSync(broken, '');
  const claude = wrapper(`if [ -e ${broken} ]; then echo "no such luck" >&2; exit 7; fi`);
  const failing = await Gateway.start({
    claude, ready: false, test: t, config: { pool: { queue_timeout_ms: 1500 } },
  });
  const [reply, ms] = await timed(() => failing.chat({ message: 'hello' }));
  assert.equal(reply.status, 503, reply.text);
  assert.equal(reply.body.code, 'overloaded');
  assert.ok(Number(reply.headers['retry-after']) >= 1);
  assert.doesNotMatch(reply.text, /no such luck/);
  assert.ok(ms < 1500 + SLACK, `${ms} ms`);
  await sleep(1500);
  const { status, body } = await failing.request('GET', '/readyz');
  assert.equal(status, 503);
  assert.match(body.reason, /no claude process can be started/);
  assert.ok(body.startFailuresInRow >= 2);
  const starts = await failing.metrics('claudegate_worker_starts_total');
  assert.ok(starts >= 2 && starts <= 5, `${starts} starts in 3 s`);
  await eventually(async () => (await failing.pool()).startFailuresInRow >= 3);
  const [refused, at] = await timed(() => failing.chat({ message: 'hello' }));
  assert.equal(refused.status, 503, refused.text);
  assert.match(refused.body.error, /No claude process can be started/);
  assert.ok(Number(refused.headers['retry-after']) >= 1);
  assert.ok(at < 1000, `at once, not after the queue's time-out: ${at} ms`);
  assert.ok(failing.logs('error.log').some((line) => /no such luck/.test(line.error)));
  assert.ok(existsSync(broken));
  rmSync(broken);
  await failing.ready(10_000);
  assert.equal((await failing.ask('hello')).response, 'ok');
  assert.equal((await failing.pool()).startFailuresInRow, 0);
});

test('a process that ignores SIGTERM does not hold up the shutdown', LIMIT, async () => {
  const stubborn = await Gateway.start();
  await stubborn.ask(fake({ ignore_sigterm: true }));
  const [, ms] = await timed(() => stubborn.stop());
  assert.ok(ms < 1000 + SLACK, `${ms} ms`);
});

test('no claude program at all: a clear error', LIMIT, async () => {
  const { code, stderr } = await Gateway.refused({ claude: '/nonexistent/claude' });
  assert.equal(code, 1);
  assert.match(stderr, /claude\.bin: '\/nonexistent\/claude' is not an executable file/);
  const { code: code2, stderr: stderr2 } = await Gateway.refused({ claude: '/bin/false' });
  assert.equal(code2, 1);
  assert.match(stderr2, /claude program does not run/);
});
