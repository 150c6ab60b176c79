// Clients, workers and servers that leave at the wrong moment: nothing is left behind, nothing is
// lost, nothing is counted twice.
import assert from 'node:assert/strict';
import { existsSync, renameSync } from 'node:fs';
import http from 'node:http';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { eventually, Gateway, isRunning, processes } from './lib/gateway.mjs';
import { Upstream } from './lib/upstream.mjs';

const LIMIT = { timeout: 60_000 };
const fake = (step) => `fake:${JSON.stringify(step)}`;
const WORDS = 'word '.repeat(100);
const SLOW = fake({ text: WORDS, chunk: 5, delay_ms: 20 }); // 2 seconds

let up;
before(async () => {
  up = await Upstream.start();
});
after(() => up.stop());

/** Opens a stream and reads until its first delta. */
async function begin(gw, message, more = {}) {
  const response = await gw.open('POST', '/api/chat', {
    body: { message, stream: true, ...more },
    headers: { authorization: `Bearer ${await gw.key()}` },
  });
  assert.equal(response.statusCode, 200);
  response.setEncoding('utf8').on('error', () => {});
  let text = '';
  response.on('data', (chunk) => { text += chunk; });
  const ended = new Promise((resolve) => { response.on('close', resolve); });
  await eventually(() => text.includes('"delta"'));
  return {
    response,
    requestId: response.headers['request-id'],
    /** The whole text, once it has ended. */
    async rest() {
      await ended;
      return text;
    },
  };
}

const zombies = (gw) => processes().filter((p) => p.ppid === gw.pid && p.state === 'Z');

// --- clients ---------------------------------------------------------------------------------

test('the client leaves a real turn: upstream is hung up on, the worker goes on', LIMIT,
  async (t) => {
    await up.reset();
    const gw = await Gateway.start({ claude: 'real', upstream: up, test: t });
    await gw.ask('warm up');
    await gw.ready();
    await eventually(async () => (await gw.pool()).workers.spare === 1, { ms: 20_000 });
    const workers = gw.workers().map((p) => p.pid).sort();
    const starts = await gw.metrics('claudegate_worker_starts_total');
    for (const how of ['destroy', 'resetAndDestroy', 'end']) {
      await up.reset();
      await up.script([{ blocks: [{ type: 'text', text: WORDS }], word_delay_ms: 100 }]);
      const { response, requestId } = await begin(gw, 'go on and on');
      const left = Date.now();
      response.socket[how]();
      const [request] = await up.waitFor((list) => list[0]?.done);
      assert.ok(request.aborted, 'upstream was hung up on');
      assert.ok(request.ended_at_ms - left <= 500, `after ${request.ended_at_ms - left} ms`);
      response.destroy();
      const row = await gw.usageRow(requestId);
      assert.match(row.error, /^client_gone: /);
      assert.deepEqual([row.status_code, row.estimated, row.upstream_calls], [499, 1, 1]);
      assert.equal(row.input_tokens, request.usage.input_tokens);
      assert.ok(row.output_tokens > 0);
      const next = await gw.ask('and now?');
      assert.match(next.response, /and now\?$/);
    }
    assert.deepEqual(gw.workers().map((p) => p.pid).sort(), workers, 'the same workers');
    assert.equal(await gw.metrics('claudegate_worker_starts_total'), starts);
    assert.deepEqual(zombies(gw), []);
  });

test('fifty clients leave: no descriptor, worker or row goes astray', LIMIT, async (t) => {
  const gw = await Gateway.start({ test: t });
  for (let i = 0; i < 5; i++) await gw.collect({ message: SLOW.replace('20', '1') });
  const settled = async () => {
    const { workers, queued } = await gw.pool();
    return workers.busy + workers.starting + workers.ending + queued === 0;
  };
  await eventually(settled);
  const before = gw.fds();
  const workers = gw.workers().length;
  const ids = [];
  for (let i = 0; i < 50; i += 5) {
    await Promise.all(['destroy', 'resetAndDestroy', 'end', 'destroy', 'resetAndDestroy']
      .map(async (how) => {
        const { response, requestId } = await begin(gw, SLOW);
        ids.push(requestId);
        response.socket[how]();
        if (how === 'end') await sleep(20);
        response.destroy();
      }));
  }
  await eventually(settled);
  const more = gw.workers().length - workers; // five at once need five
  const perWorker = 6;
  await eventually(() => gw.fds() <= before + more * perWorker,
    { what: `${before} descriptors before, ${gw.fds()} after, ${more} workers more` });
  const rows = await gw.usageRows();
  for (const id of ids) {
    const mine = rows.filter((row) => row.request_id === id);
    assert.equal(mine.length, 1);
    assert.match(mine[0].error, /^client_gone: /);
  }
  assert.equal(await gw.metrics('claudegate_http_client_gone_total'), 50);
  assert.equal(await gw.metrics('claudegate_turns_total', { outcome: 'client_gone' }), 50);
  assert.deepEqual(zombies(gw), []);
  assert.equal((await gw.ask('hello')).response, 'ok');
});

test('descriptors stay level over many turns and lost clients of one worker', LIMIT, async (t) => {
  const gw = await Gateway.start({ test: t, config: { pool: { max_workers: 1, min_spare: 0 } },
    ready: false });
  await gw.ask('hello');
  await eventually(() => gw.fds() > 0);
  const before = gw.fds();
  for (let i = 0; i < 30; i++) {
    const { response } = await begin(gw, SLOW);
    response.destroy();
    assert.equal((await gw.ask('hello')).response, 'ok');
  }
  await eventually(() => gw.fds() <= before, { what: `${before} descriptors, then ${gw.fds()}` });
  assert.equal(await gw.metrics('claudegate_worker_starts_total'), 1);
});

test('a client that leaves the queue is gone from it at once', LIMIT, async (t) => {
  const gw = await Gateway.start({ test: t, config: { pool: { max_workers: 1 } } });
  const running = await begin(gw, SLOW);
  const key = await gw.key();
  const queued = http.request(`${gw.url}/api/chat`, {
    method: 'POST', agent: false,
    headers: { 'content-type': 'application/json', authorization: `Bearer ${key}` },
  });
  queued.on('error', () => {});
  queued.end('{"message":"never"}');
  await eventually(async () => (await gw.pool()).queued === 1);
  queued.destroy();
  await eventually(async () => (await gw.pool()).queued === 0, { ms: 500 });
  const row = (await gw.usageRows()).find((r) => r.status_code === 499);
  assert.deepEqual([row.output_tokens, row.upstream_calls, row.ttft_ms ?? -1], [0, 0, -1]);
  assert.match(await running.rest(), /\[DONE\]\n\n$/);
});

// --- workers ---------------------------------------------------------------------------------

test('kill -9 of a real worker in mid-stream', LIMIT, async (t) => {
  await up.reset();
  const gw = await Gateway.start({ claude: 'real', upstream: up, test: t });
  await up.script([{ blocks: [{ type: 'text', text: WORDS }], word_delay_ms: 100 }]);
  const stream = await begin(gw, 'go on');
  const [worker] = gw.logs().filter((l) => l.message === 'worker started').map((l) => l.pid);
  process.kill(worker, 'SIGKILL');
  const text = await stream.rest();
  assert.match(text, /data: \{"success":false,.*"code":"worker_failed"[^\n]*\n\n$/);
  const [request] = await up.waitFor((list) => list[0]?.done);
  assert.ok(request.aborted);
  const row = await gw.usageRow(stream.requestId);
  assert.deepEqual([row.status_code, row.estimated], [502, 1]);
  assert.equal(row.input_tokens, request.usage.input_tokens);
  assert.ok(row.output_tokens > 0);
  assert.match((await gw.ask('still there?')).response, /still there\?$/);
  assert.deepEqual(zombies(gw), []);
});

test('kill -STOP of a worker in mid-stream: told in time, and it is ended', LIMIT, async (t) => {
  const gw = await Gateway.start({
    test: t, config: { pool: { silence_timeout_ms: 1000, interrupt_timeout_ms: 500 } },
  });
  const stream = await begin(gw, fake({ text: WORDS, chunk: 5, delay_ms: 50 }));
  const [worker] = gw.logs().filter((l) => l.message === 'worker started').map((l) => l.pid);
  process.kill(worker, 'SIGSTOP');
  const from = Date.now();
  assert.match(await stream.rest(), /"code":"timeout"[^\n]*\n\n$/);
  assert.ok(Date.now() - from < 6000, `after ${Date.now() - from} ms`);
  await eventually(() => !isRunning(worker), { ms: 5000, what: 'the stopped worker is gone' });
  assert.equal((await gw.ask('hello')).response, 'ok');
  assert.deepEqual(zombies(gw), []);
});

// --- the server ------------------------------------------------------------------------------

/** kill -9 with streams running; its workers must follow. */
async function murder(gw, pids) {
  const from = Date.now();
  await gw.kill9();
  await eventually(() => !pids.some(isRunning), { ms: 3000 - (Date.now() - from),
    what: 'workers gone within 3 s' });
}

test('kill -9 of the server with a real turn: no orphan, and upstream is hung up on', LIMIT,
  async () => {
    await up.reset();
    const gw = await Gateway.start({ claude: 'real', upstream: up });
    await up.script([{ blocks: [{ type: 'text', text: WORDS }], word_delay_ms: 100 }]);
    await begin(gw, 'go on');
    const pids = gw.workers().map((p) => p.pid);
    assert.ok(pids.length >= 1);
    await murder(gw, pids);
    await up.waitFor((list) => list[0]?.aborted);
  });

test('kill -9 of the server: each request is in the books exactly once, finished or not', LIMIT,
  async (t) => {
    const gw = await Gateway.start();
    const finished = [];
    const keep = [await begin(gw, SLOW), await begin(gw, SLOW)];
    for (let i = 0; i < 20; i++) finished.push((await gw.ask('hello')).requestId);
    const parallel = await Promise.all(Array.from({ length: 5 }, () => gw.ask('hello')));
    finished.push(...parallel.map((body) => body.requestId));
    const pids = gw.workers().map((p) => p.pid);
    await murder(gw, pids);
    const from = Date.now();
    const again = await gw.restart({ test: t, ready: false });
    assert.ok(Date.now() - from < 5000);
    await again.ready();
    const rows = (await again.usageRows()).map((row) => row.request_id);
    assert.deepEqual(finished.filter((id) => rows.filter((r) => r === id).length !== 1), []);
    assert.equal(new Set(rows).size, rows.length);
    const cut = (await again.usageRows()).filter((row) => keep.some((k) => k.requestId === row.request_id));
    assert.equal(cut.length, 2, 'what the running turns had used is in the books too');
    for (const row of cut) {
      assert.match(row.error, /^server_died/);
      assert.equal(row.status_code, 500);
      assert.equal(row.estimated, 1);
      assert.equal(row.input_tokens, 10, 'as the first event said');
      assert.ok(row.output_tokens > 0);
    }
    assert.equal((await again.ask('hello')).response, 'ok', 'the key still works');
    await again.stop();
    const third = await again.restart({ test: t });
    assert.equal((await third.usageRows()).length, rows.length + 1);
    assert.equal(rows.length, finished.length + keep.length);
  });

test('kill -9 while rows are being moved, again and again', LIMIT, async (t) => {
  let gw = await Gateway.start();
  const finished = [];
  for (let round = 0; round < 4; round++) {
    for (let i = 0; i < 10; i++) finished.push((await gw.ask('hello')).requestId);
    await sleep(round * 90); // the batch goes every 250 ms
    await gw.kill9();
    gw = await gw.restart(round === 3 ? { test: t } : {});
  }
  const rows = (await gw.usageRows()).map((row) => row.request_id).sort();
  assert.deepEqual(rows, finished.sort());
});

test('SIGTERM: the running stream finishes, new work is refused, exit 0', LIMIT, async () => {
  const gw = await Gateway.start();
  const stream = await begin(gw, SLOW);
  const key = await gw.key();
  gw.signal('SIGTERM');
  await gw.logged((line) => /^stopping/.test(line.message));
  let refused;
  try {
    refused = (await gw.chat({ message: 'too late' }, { key })).status;
  } catch (error) {
    refused = error.code;
  }
  assert.ok([503, 'ECONNREFUSED', 'ECONNRESET'].includes(refused), refused);
  const text = await stream.rest();
  assert.match(text, /"type":"end"[^\n]*\n\ndata: \[DONE\]\n\n$/);
  assert.equal((text.match(/"type":"delta"/g)).length, 100);
  assert.deepEqual(await gw.ended(), [0, null]);
  gw.assertSound();
  const rows = await gw.usageRows();
  assert.deepEqual(rows.map((row) => [row.request_id, row.status_code]), [[stream.requestId, 200]]);
});

test('SIGTERM twice, or the deadline: running turns are interrupted and settled', LIMIT,
  async () => {
    for (const [config, signals] of [[{}, 2], [{ server: { drain_timeout: 1 } }, 1]]) {
      const gw = await Gateway.start({ config });
      const stream = await begin(gw, fake({ text: WORDS, chunk: 5, delay_ms: 200 }));
      const plain = gw.chat({ message: fake({ stall: true }) });
      await eventually(async () => (await gw.pool()).workers.busy === 2);
      const from = Date.now();
      gw.signal('SIGTERM');
      if (signals === 2) {
        await gw.logged((line) => /^stopping/.test(line.message));
        gw.signal('SIGTERM');
      }
      assert.match(await stream.rest(), /"code":"shutting_down"[^\n]*\n\n$/);
      const reply = await plain;
      assert.deepEqual([reply.status, reply.body.code], [503, 'shutting_down']);
      assert.deepEqual(await gw.ended(), [0, null]);
      assert.ok(Date.now() - from < 8000, `${Date.now() - from} ms`);
      gw.assertSound();
      const rows = await gw.usageRows();
      assert.deepEqual(rows.map((row) => row.status_code), [503, 503]);
      assert.ok(rows.every((row) => /^shutting_down/.test(row.error)));
    }
  });

test('SIGINT does the same', LIMIT, async () => {
  const gw = await Gateway.start();
  gw.signal('SIGINT');
  assert.deepEqual(await gw.ended(), [0, null]);
  gw.assertSound();
});

test('SIGTERM with queued requests: they are answered', LIMIT, async () => {
  const gw = await Gateway.start({
    config: { pool: { max_workers: 1 }, server: { drain_timeout: 1 } },
  });
  const stream = await begin(gw, fake({ text: WORDS, chunk: 5, delay_ms: 100 }));
  const queued = [gw.chat({ message: 'a' }), gw.chat({ message: 'b' })];
  await eventually(async () => (await gw.pool()).queued === 2);
  gw.signal('SIGTERM');
  const replies = await Promise.all(queued);
  assert.deepEqual(replies.map((r) => [r.status, r.body.code]),
    [[503, 'shutting_down'], [503, 'shutting_down']]);
  assert.match(await stream.rest(), /shutting_down/);
  assert.deepEqual(await gw.ended(), [0, null]);
  gw.assertSound();
});

test('SIGHUP opens the log files anew', LIMIT, async (t) => {
  const gw = await Gateway.start({ test: t });
  const logs = join(gw.dataDir, 'logs');
  await gw.ask('hello');
  await gw.logged((line) => line.message === 'request' && line.outcome);
  renameSync(join(logs, 'combined.log'), join(logs, 'combined.log.1'));
  renameSync(join(logs, 'error.log'), join(logs, 'error.log.1'));
  gw.signal('SIGHUP');
  await eventually(() => existsSync(join(logs, 'combined.log')) &&
    existsSync(join(logs, 'error.log')));
  const { requestId } = await gw.ask('hello');
  await gw.logged((line) => line.request_id === requestId);
  assert.ok(!gw.logs('combined.log.1').some((line) => line.request_id === requestId));
  assert.ok(gw.logs('combined.log.1').length > 1);
});

test('one data directory serves one server', LIMIT, async (t) => {
  const gw = await Gateway.start({ test: t });
  const { code, stderr } = await Gateway.refused({ dataDir: gw.dataDir });
  assert.equal(code, 1);
  assert.match(stderr, /another claudegate already serves from data_dir/);
  assert.equal((await gw.ask('hello')).response, 'ok', 'the first one is not disturbed');
});

test('an address that is taken is refused, and nothing stays behind', LIMIT, async (t) => {
  const gw = await Gateway.start({ test: t });
  const { code, stderr } = await Gateway.refused({ env: { CLAUDEGATE_LISTEN: gw.address } });
  assert.equal(code, 1);
  assert.match(stderr, /address already in use/i);
});

test('the second start is quick and changes nothing', LIMIT, async (t) => {
  const first = await Gateway.start({ args: ['--bootstrap'] });
  const [, key] = /API key +(\S+)/.exec(first.stdout);
  assert.match(first.stdout, /administrator +admin \/ \S{20}\n/);
  assert.equal((await first.chat({ message: 'hello' }, { key })).status, 200);
  await first.stop();
  const from = Date.now();
  const second = await first.restart({ test: t, ready: false });
  assert.ok(Date.now() - from < 3000, `ready line after ${Date.now() - from} ms`);
  await eventually(() => /Make another with:\n +claudegate key create/.test(second.stdout));
  assert.doesNotMatch(second.stdout, /administrator|sk-cg-/);
  assert.equal((await second.chat({ message: 'hello' }, { key })).status, 200);
  const [{ users, keys }] = await second.sql(
    'SELECT (SELECT count(*) FROM users) AS users, (SELECT count(*) FROM api_keys) AS keys');
  assert.deepEqual([users, keys], [1, 1]);
});

// --- the queue -------------------------------------------------------------------------------

test('a full queue refuses, and says when to come back', LIMIT, async (t) => {
  const gw = await Gateway.start({
    test: t, config: { pool: { max_workers: 1, queue_max: 2 } },
  });
  const running = await begin(gw, SLOW);
  const queued = [gw.ask('a'), gw.ask('b')];
  await eventually(async () => (await gw.pool()).queued === 2);
  for (const stream of [false, true]) {
    const reply = await gw.chat({ message: 'c', stream });
    assert.equal(reply.status, 503, reply.text);
    assert.equal(reply.body.code, 'overloaded');
    const wait = Number(reply.headers['retry-after']);
    assert.ok(Number.isInteger(wait) && wait >= 1 && wait <= 60, reply.headers['retry-after']);
  }
  assert.match(await running.rest(), /\[DONE\]/);
  assert.deepEqual((await Promise.all(queued)).map((body) => body.response), ['ok', 'ok']);
});

test('who waits too long in the queue is told so', LIMIT, async (t) => {
  const gw = await Gateway.start({
    test: t, config: { pool: { max_workers: 1, queue_timeout_ms: 500 } },
  });
  const running = await begin(gw, SLOW);
  const from = Date.now();
  const reply = await gw.chat({ message: 'c' });
  assert.deepEqual([reply.status, reply.body.code], [503, 'overloaded']);
  assert.match(reply.body.error, /within 500 ms/);
  assert.ok(Number(reply.headers['retry-after']) >= 1);
  assert.ok(Date.now() - from >= 500 && Date.now() - from < 3000);
  assert.match(await running.rest(), /\[DONE\]/);
  const row = await gw.usageRow(reply.body.requestId);
  assert.equal(row.status_code, 503);
  assert.ok(row.queue_ms >= 500, `queue_ms ${row.queue_ms}`);
});

test('two keys share one worker place: a worker never serves two keys', LIMIT, async (t) => {
  const gw = await Gateway.start({ test: t, config: { pool: { max_workers: 1 } } });
  const other = (await gw.createKey(['--name', 'other'])).key;
  const one = await gw.ask(fake({ echo_history: true }));
  const two = await gw.ask(fake({ echo_history: true }), {}, { key: other });
  assert.doesNotMatch(two.response, new RegExp(one.sessionId));
  assert.equal(await gw.metrics('claudegate_worker_starts_total'), 2);
  assert.equal(await gw.metrics('claudegate_worker_ends_total', { reason: 'evicted' }), 1);
});
