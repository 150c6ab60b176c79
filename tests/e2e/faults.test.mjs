// The claude program misbehaves in every way the fake one can: a client gets a true answer in
// bounded time, and the server goes on.
import assert from 'node:assert/strict';
import { chmodSync, existsSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import {
  eventually, Gateway, isRunning, processes, programs, tempDir,
} from './lib/gateway.mjs';

const LIMIT = { timeout: 60_000 };
const SILENCE = 1000;
const INTERRUPT = 500;
const PREPARE = 1500;
const SLACK = 4000; // of a busy machine
const FAKE = programs.fake;

const fake = (step) => `fake:${JSON.stringify(step)}`;
const markers = tempDir();
let marked = 0;
/** A step that is taken once, whichever worker comes first; then the default answer. */
const onceOnly = (step) => fake({ ...step, once: join(markers, `m${marked++}`) });

let gw;
before(async () => {
  gw = await Gateway.start({
    config: {
      pool: {
        max_workers: 4, silence_timeout_ms: SILENCE, turn_timeout_ms: 8000,
        interrupt_timeout_ms: INTERRUPT, prepare_timeout_ms: PREPARE, start_timeout_ms: 10_000,
      },
    },
  });
});
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

test('a flood towards a client that does not read: stopped, in bounded memory', LIMIT, async () => {
  const before = gw.rssKb();
  const response = await gw.open('POST', '/api/chat', {
    body: { message: fake({ flood: 1e9 }), stream: true },
    headers: { authorization: `Bearer ${await gw.key()}` },
  });
  response.pause();
  const requestId = response.headers['request-id'];
  const line = await gw.logged((l) => l.message === 'request' && l.request_id === requestId, 30_000);
  assert.equal(line.outcome, 'client_gone');
  const grown = (gw.rssKb() - before) >> 10;
  assert.ok(grown < 600, `grew by ${grown} MiB`); // a sanitizer keeps 256 MiB of freed memory
  response.destroy();
  await fine();
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
  assert.ok(ms >= 7900 && ms < 8000 + INTERRUPT + SLACK, `${ms} ms`);
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

/** A claude program that looks at files first, then becomes the fake. */
function wrapper(script) {
  const path = join(tempDir(), 'claude');
  writeFileSync(path, ['#!/bin/sh', 'if [ "$1" != --version ]; then', script, 'fi',
    `exec ${FAKE} "$@"`, ''].join('\n'));
  chmodSync(path, 0o755);
  return path;
}

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
  const quiet = await Gateway.start({ test: t, config: { pool: { silence_timeout_ms: 20_000 } } });
  const abort = new AbortController();
  const response = await fetch(`${quiet.url}/api/chat`, {
    method: 'POST', signal: abort.signal,
    headers: { authorization: `Bearer ${await quiet.key()}`, 'content-type': 'application/json' },
    body: JSON.stringify({ message: fake({ text: 'one two', chunk: 4, stall: true, stall_after: 1 }), stream: true }),
  });
  const from = Date.now();
  let text = '';
  for await (const chunk of response.body) {
    text += Buffer.from(chunk).toString();
    if (/^: ?keep-alive$/m.test(text)) break;
  }
  assert.match(text, /^: ?keep-alive$/m);
  assert.ok(Date.now() - from >= 9000, 'only when it has been silent');
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
