// What an operator sees of the workers of a running server, and how he retires them.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdirSync, statSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { BIN, cli, eventually, Gateway, isRunning, programs, tempDir } from './lib/gateway.mjs';
import { Upstream } from './lib/upstream.mjs';

const LIMIT = { timeout: 90_000 };
const NOBODY = 65534;
const WORDS = Array.from({ length: 25 }, (_, i) => `word${i}`).join(' ');
const fake = (step) => `fake:${JSON.stringify(step)}`;
const socketOf = (gw) => join(gw.dataDir, 'control.sock');

/** What `claudegate workers --json` says. */
async function list(gw) {
  const { code, stdout, stderr } = await gw.cli(['workers', '--json']);
  assert.equal(code, 0, stderr);
  assert.equal(stderr, '');
  return JSON.parse(stdout);
}

async function drain(gw, ...args) {
  const { code, stdout, stderr } = await gw.cli(['workers', 'drain', ...args]);
  assert.equal(code, 0, stderr);
  return stdout;
}

/** The first worker of which `test` is true. */
const worker = (gw, test) =>
  eventually(async () => (await list(gw)).workers.find(test), { ms: 20_000, what: String(test) });

/** One request to the control server itself, without the command. */
async function control(gw, method, path) {
  const request = http.request({ socketPath: socketOf(gw), method, path, agent: false });
  request.end();
  const [response] = await once(request, 'response');
  let text = '';
  for await (const chunk of response.setEncoding('utf8')) text += chunk;
  return { status: response.statusCode, body: JSON.parse(text) };
}

/** `claudegate workers` as somebody else. */
async function asNobody(gw) {
  const child = execFile(BIN, ['workers'],
    { env: { ...gw.env, HOME: '/' }, cwd: '/', uid: NOBODY, gid: NOBODY, timeout: 20_000 });
  let stderr = '';
  child.stderr.on('data', (data) => { stderr += data; });
  const [code] = await once(child, 'close');
  return { code, stderr };
}

// --- the same with both programs -------------------------------------------------------------

for (const claude of ['fake', 'real']) {
  let gw;
  let up;
  before(async () => {
    up = await Upstream.start();
    gw = await Gateway.start({
      claude, upstream: up, config: { pool: { max_workers: 3, min_spare: 1 } },
    });
  });
  after(async () => {
    await gw.stop();
    await up.stop();
  });

  /** A message whose answer takes more than two seconds. */
  async function slow() {
    if (claude === 'fake') return fake({ text: WORDS, chunk: 8, delay_ms: 100 });
    await up.script([{ blocks: [{ type: 'text', text: WORDS }], word_delay_ms: 100 }]);
    return 'tell me slowly';
  }

  /** Starts a slow stream: {requestId, end: its events}. */
  async function begin() {
    const stream = gw.stream({ message: await slow() });
    const { value: start } = await stream.next();
    assert.equal(start.type, 'start');
    const rest = (async () => {
      const events = [];
      for await (const event of stream) events.push(event);
      return events;
    })();
    return { requestId: start.requestId, rest };
  }

  async function ends(rest) {
    const events = await rest;
    assert.equal(events.at(-1), '[DONE]');
    assert.equal(events.filter((e) => e.type === 'delta').map((e) => e.delta).join(''), WORDS);
  }

  test(`${claude}: a spare becomes a key's worker, runs and is idle`, LIMIT, async () => {
    const spare = await worker(gw, (w) => w.state === 'spare');
    assert.deepEqual([spare.keyId, spare.requestId, spare.turns, spare.draining],
      [null, null, 0, false]);
    assert.equal(spare.profile, 'chat');
    assert.ok(isRunning(spare.pid));
    assert.ok(spare.ageSeconds > 0 && spare.ageSeconds < 90 && spare.stateSeconds >= 0);

    const { requestId, rest } = await begin();
    const running = await worker(gw, (w) => w.requestId === requestId);
    assert.equal(running.state, 'running');
    assert.ok((await list(gw)).pool.busy >= 1);
    await ends(rest);

    const idle = await worker(gw, (w) => w.pid === running.pid && w.state === 'idle');
    assert.deepEqual([idle.id, idle.turns, idle.requestId], [running.id, 1, null]);
    const [{ id }] = await gw.sql("SELECT id FROM api_keys WHERE name = 'test'");
    assert.equal(idle.keyId, id);
    assert.equal(running.keyId, id);
    const sampled = await worker(gw, (w) => w.pid === running.pid && w.rssBytes > 1 << 20);
    assert.ok(sampled.rssBytes < 2 ** 31);
    assert.ok(sampled.cpuSeconds >= 0 && sampled.cpuSeconds < 60);
    await worker(gw, (w) => w.state === 'spare'); // refilled
  });

  test(`${claude}: an idle worker that is drained ends at once`, LIMIT, async () => {
    await gw.ask('hello');
    const idle = await worker(gw, (w) => w.state === 'idle');
    assert.match(await drain(gw, String(idle.id)), new RegExp(`^Worker ${idle.id} `));
    await eventually(() => !isRunning(idle.pid), { ms: 3000 });
    await eventually(async () => !(await list(gw)).workers.some((w) => w.id === idle.id));
    await gw.ask('hello again');
    const next = await worker(gw, (w) => w.keyId !== null);
    assert.ok(next.id > idle.id || next.pid !== idle.pid);
  });

  test(`${claude}: a busy worker that is drained finishes its turn first`, LIMIT, async () => {
    const { requestId, rest } = await begin();
    const busy = await worker(gw, (w) => w.requestId === requestId);
    assert.deepEqual(await control(gw, 'POST', `/control/workers/${busy.id}/drain`),
      { status: 200, body: { draining: 1 } });
    const told = (await list(gw)).workers.find((w) => w.id === busy.id);
    assert.deepEqual([told.state, told.draining, told.requestId], ['running', true, requestId]);
    // meanwhile its key is served by another
    await gw.ask('hello');
    assert.ok((await list(gw)).workers.some((w) => w.id !== busy.id && w.keyId === busy.keyId));
    await ends(rest);
    await eventually(() => !isRunning(busy.pid), { ms: 3000 });
    const row = await gw.usageRow(requestId);
    assert.deepEqual([row.status_code, row.error], [200, null]);
  });
}

// --- under load ------------------------------------------------------------------------------

test('draining all under load loses no request, and new workers come', LIMIT, async (t) => {
  const gw = await Gateway.start({ test: t, config: { pool: { max_workers: 4 } } });
  const keys = await Promise.all([1, 2, 3].map(() => gw.createKey()));
  const before = (await list(gw)).workers;
  const replies = [];
  let over = false;
  const clients = [...keys, ...keys].map(async ({ key }) => {
    while (!over) {
      replies.push(await gw.chat(
        { message: fake({ text: 'well done', chunk: 3, delay_ms: 10 }) }, { key }));
    }
  });
  const seen = new Map(before.map((w) => [w.id, w.pid]));
  for (let i = 0; i < 5; i++) {
    await sleep(400);
    for (const w of (await list(gw)).workers) seen.set(w.id, w.pid);
    const { draining } = JSON.parse(await drain(gw, '--all', '--json'));
    assert.ok(draining >= 1 && draining <= 8);
  }
  await sleep(400);
  over = true;
  await Promise.all(clients);
  assert.ok(replies.length > 20, `${replies.length} requests`);
  for (const { status, text, body } of replies) {
    assert.equal(status, 200, text);
    assert.equal(body.response, 'well done');
  }
  await eventually(() => [...seen.values()].every((pid) => !isRunning(pid)),
    { ms: 10_000, what: 'every worker that was told to end has ended' });
  const { workers, pool } = await list(gw);
  assert.ok(workers.every((w) => !seen.has(w.id) && !w.draining));
  assert.ok(pool.starts > seen.size);
  assert.equal((await gw.usageRows()).filter((row) => row.status_code === 200).length,
    replies.length);
});

// --- the command -----------------------------------------------------------------------------

test('the table is aligned, and says how the pool is', LIMIT, async (t) => {
  const gw = await Gateway.start({ test: t, config: { pool: { max_workers: 3 } } });
  await gw.ask('hello');
  await worker(gw, (w) => w.state === 'spare' && w.rssBytes > 0);
  const { code, stdout } = await gw.cli(['workers']);
  assert.equal(code, 0);
  const lines = stdout.trimEnd().split('\n');
  const header = lines[0].trim().split(/\s+/);
  assert.deepEqual(header, ['ID', 'PID', 'STATE', 'PROFILE', 'KEY', 'AGE', 'TURNS', 'RSS', 'CPU',
    'REQUEST']);
  const rows = lines.slice(1, -1);
  assert.equal(rows.length, (await list(gw)).workers.length);
  for (const name of ['STATE', 'PROFILE', 'KEY', 'REQUEST']) {
    const at = lines[0].indexOf(name);
    for (const row of rows) assert.match(row.slice(at - 1, at + 1), /^ \S/, `${name} in: ${row}`);
  }
  for (const name of ['ID', 'PID', 'AGE', 'TURNS', 'RSS', 'CPU']) {
    const end = lines[0].search(`\\b${name}\\b`) + name.length;
    for (const row of rows) assert.match(row.slice(end - 1, end + 1), /^\S /, `${name} in: ${row}`);
  }
  assert.ok(rows.some((row) => / idle +chat +[0-9a-f-]{36} .* 1 +\d+ MiB /.test(row)), stdout);
  assert.match(lines.at(-1), new RegExp(`^${rows.length} workers?: \\d starting, \\d spare, ` +
    '1 idle, 0 busy, \\d ending; 0 turns waiting; \\d+ started so far; history: \\w+$'));
});

test('what a worker wrote to its stderr', LIMIT, async (t) => {
  const gw = await Gateway.start({ test: t });
  await gw.ask(fake({ stderr: 'first line\n\u001b[31mlast words\n' }));
  const { stderr } = await worker(gw, (w) => w.turns === 1 && w.state === 'idle');
  assert.match(stderr, /first line\n\u001b\[31mlast words/);
  assert.doesNotMatch((await gw.cli(['workers'])).stdout, /words/, 'only when it ends');
});

/** A server that gives this answer; the environment in which the command finds it. */
async function answering(t, answer, status = 200) {
  const dataDir = tempDir();
  const server = http.createServer((request, response) => {
    response.writeHead(status, { 'content-type': 'application/json' });
    response.end(typeof answer === 'string' ? answer : JSON.stringify(answer));
  });
  server.listen(join(dataDir, 'control.sock'));
  await once(server, 'listening');
  t.after(() => server.close());
  return { CLAUDEGATE_DATA_DIR: dataDir };
}

const WORKER = {
  id: 7, pid: 1234567, state: 'running', keyId: '0190f3c2-1111-7000-8000-000000000001',
  profile: 'chat', model: 'm', requestId: 'req_1', stderr: 'quiet\n', ageSeconds: 12.34,
  stateSeconds: 1, cpuSeconds: 3.05, draining: false, turns: 12, rssBytes: 5 << 20,
};
const POOL = {
  starting: 0, spare: 0, idle: 1, busy: 1, ending: 1, starts: 30, startFailuresInRow: 3,
  breakerOpenSeconds: 4.25, lastStartError: 'exit 3: no\u001b[2Jsuch\nthing', history: 'inject',
};

test('the table, exactly; without control characters', LIMIT, async (t) => {
  const env = await answering(t, {
    workers: [WORKER,
      { ...WORKER, id: 12, state: 'idle', draining: true, requestId: null, ageSeconds: 725.9 },
      { ...WORKER, id: 13, pid: 8, state: 'ending', draining: true, keyId: null, turns: 0,
        profile: 'agent', ageSeconds: 100_000, cpuSeconds: 3700, requestId: null,
        stderr: 'first\n\u001b[31mlast\u009b wo\u0007rds \n\n' },
    ],
    queue: { length: 2 }, pool: POOL,
  });
  assert.deepEqual(await cli(['workers'], { env }), { code: 0, stderr: '', stdout: [
    'ID      PID  STATE           PROFILE  KEY                                      AGE  TURNS    '
      + 'RSS    CPU  REQUEST',
    ' 7  1234567  running         chat     0190f3c2-1111-7000-8000-000000000001   12.3s     12  '
      + '5 MiB   3.0s  req_1',
    '12  1234567  idle, draining  chat     0190f3c2-1111-7000-8000-000000000001  12m05s     12  '
      + '5 MiB   3.0s  -',
    '13        8  ending          agent    -                                      1d03h      0  '
      + '5 MiB  1h01m  -',
    '    stderr:  [31mlast wo rds',
    '3 workers: 0 starting, 0 spare, 1 idle, 1 busy, 1 ending; 2 turns waiting; 30 started so far; '
      + 'history: inject; 3 starts failed in a row, next in 4.2s: exit 3: no [2Jsuch thing',
    ''].join('\n') });
});

test('no worker at all; an answer that is none', LIMIT, async (t) => {
  const none = await answering(t, {
    workers: [], queue: { length: 0 }, pool: { ...POOL, startFailuresInRow: 0 },
  });
  const { code, stdout } = await cli(['workers'], { env: none });
  assert.equal(code, 0);
  assert.match(stdout, /^ID  PID .*\n0 workers: [^\n]*history: inject\n$/);
  for (const [answer, status, sentence] of [
    ['<html>', 200, 'claudegate: the server answered 200, and not with JSON\n'],
    ['{"workers":[', 200, 'claudegate: the server answered 200, and not with JSON\n'],
    [{ success: false, error: 'too\u001b much' }, 503,
      'claudegate: the server answered 503: too  much\n'],
  ]) {
    const env = await answering(t, answer, status);
    for (const args of [[], ['--json'], ['drain', '7']]) {
      assert.deepEqual(await cli(['workers', ...args], { env }),
        { code: 1, stdout: '', stderr: sentence }, `${answer} ${args}`);
    }
  }
});

test('starts that fail are explained', LIMIT, async (t) => {
  const claude = join(tempDir(), 'claude');
  writeFileSync(claude, `#!/bin/sh\n[ "$1" = --version ] && exec ${programs.fake} "$@"\n` +
    'echo out of order >&2\nexit 3\n');
  chmodSync(claude, 0o755);
  const gw = await Gateway.start({ test: t, ready: false, claude });
  const { pool } = await eventually(async () => {
    const now = await list(gw);
    return now.pool.startFailuresInRow > 0 && now;
  }, { ms: 10_000 });
  assert.match(pool.lastStartError, /out of order/);
  assert.ok(pool.breakerOpenSeconds <= 30);
  assert.match((await gw.cli(['workers'])).stdout,
    /; \d+ starts failed in a row, next in \d+\.\ds: .*out of order/);
});

test('wrong usage is 2, an unknown worker is 1', LIMIT, async (t) => {
  const gw = await Gateway.start({ test: t });
  for (const args of [['list'], ['drain'], ['drain', 'x'], ['drain', '-1'], ['drain', '1', '2'],
    ['drain', '1', '--all'], ['--all'], ['--nonsense'], ['drain', '99999999999']]) {
    const { code, stdout, stderr } = await gw.cli(['workers', ...args]);
    assert.equal(code, 2, args.join(' '));
    assert.equal(stdout, '');
    assert.match(stderr, /Usage: claudegate workers/);
  }
  const help = await gw.cli(['workers', '--help']);
  assert.deepEqual([help.code, help.stderr], [0, '']);
  assert.match(help.stdout, /^Usage: claudegate workers/);
  assert.match((await cli(['--help'])).stdout, /^ +workers +\S/m);
  for (const id of ['0', '4711', '4294967296', '9999999999']) {
    const { code, stderr } = await gw.cli(['workers', 'drain', id]);
    assert.deepEqual([code, stderr], [1, `claudegate: there is no worker ${id}\n`]);
  }
  assert.ok((await list(gw)).workers.every((w) => !w.draining), 'nobody was drained');
});

// --- the socket ------------------------------------------------------------------------------

test('the control socket: its routes, its errors, and nothing of it over TCP', LIMIT,
  async (t) => {
    const gw = await Gateway.start({ test: t });
    const { status, body } = await control(gw, 'GET', '/control/workers');
    assert.equal(status, 200);
    assert.deepEqual(Object.keys(body), ['workers', 'queue', 'pool']);
    assert.deepEqual(Object.keys(body.workers[0]).sort(), ['ageSeconds', 'cpuSeconds', 'draining',
      'id', 'keyId', 'model', 'pid', 'profile', 'requestId', 'rssBytes', 'state', 'stateSeconds',
      'stderr', 'turns']);
    assert.deepEqual(body.queue, { length: 0 });
    assert.deepEqual(Object.keys(body.pool).sort(), ['breakerOpenSeconds', 'busy', 'ending',
      'history', 'idle', 'lastStartError', 'spare', 'startFailuresInRow', 'starting', 'starts']);
    for (const path of ['/control/workers/0/drain', '/control/workers/x/drain',
      '/control/workers/77/drain', '/control/other', '/api/chat', '/metrics']) {
      const reply = await control(gw, 'POST', path);
      assert.equal(reply.status, 404, path);
      assert.deepEqual(Object.keys(reply.body).sort(), ['code', 'error', 'requestId', 'success']);
      assert.deepEqual([reply.body.success, reply.body.code], [false, 'not_found']);
    }
    for (const [method, path] of [['GET', '/control/workers'], ['POST', '/control/workers/drain'],
      ['POST', '/control/workers/1/drain']]) {
      const key = await gw.key();
      const reply = await gw.request(method, path, { headers: { authorization: `Bearer ${key}` } });
      assert.equal(reply.status, 404, path);
    }
  });

test('only the server\'s own user may ask', LIMIT, async (t) => {
  const gw = await Gateway.start({ test: t });
  const { mode } = statSync(socketOf(gw));
  assert.equal((mode & 0o7777).toString(8), '600');
  const refused = /^claudegate: access to the server of data_dir '.*' is refused: .*\n$/;
  if (process.getuid() !== 0) {
    chmodSync(socketOf(gw), 0);
    const { code, stderr } = await gw.cli(['workers']);
    assert.equal(code, 1);
    return assert.match(stderr, refused);
  }
  const closed = await asNobody(gw);
  assert.equal(closed.code, 1, closed.stderr);
  assert.match(closed.stderr, refused);
  chmodSync(gw.dataDir, 0o755); // the socket's own mode is enough
  chmodSync(join(gw.dataDir, '..'), 0o755);
  const open = await asNobody(gw);
  assert.equal(open.code, 1, open.stderr);
  assert.match(open.stderr, refused);
  assert.ok((await list(gw)).workers.length > 0);
});

test('no server: exit 1 and a plain sentence', LIMIT, async () => {
  const none = join(tempDir(), 'data');
  const env = { CLAUDEGATE_DATA_DIR: none };
  const sentence = `claudegate: no server runs from data_dir '${none}'\n`;
  for (const args of [[], ['--json'], ['drain', '1'], ['drain', '--all']]) {
    assert.deepEqual(await cli(['workers', ...args], { env }),
      { code: 1, stdout: '', stderr: sentence });
  }
  assert.ok(!existsSync(none), 'asking makes no directory');
  const gw = await Gateway.start({ dataDir: none });
  await list(gw);
  await gw.stop();
  assert.ok(!existsSync(socketOf(gw)), 'the socket is removed at the end');
  assert.equal((await cli(['workers'], { env })).stderr, sentence);
});

test('a killed server\'s socket is replaced by the next start', LIMIT, async (t) => {
  const gw = await Gateway.start();
  await gw.kill9();
  assert.ok(existsSync(socketOf(gw)));
  const { code, stderr } = await gw.cli(['workers']);
  assert.deepEqual([code, stderr],
    [1, `claudegate: no server runs from data_dir '${gw.dataDir}'\n`]);
  const again = await gw.restart({ test: t });
  assert.ok((await list(again)).workers.some((w) => w.state === 'spare'));
});

test('a data directory with a path longer than a socket may have', LIMIT, async (t) => {
  const dataDir = join(tempDir(), 'd'.repeat(150), 'data');
  mkdirSync(join(dataDir, '..'));
  const gw = await Gateway.start({ test: t, dataDir });
  assert.ok((await list(gw)).workers.length > 0);
});
