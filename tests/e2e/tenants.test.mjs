// The tenant canary: several API keys plant secrets wherever a request can carry some - the
// conversation, the system text, images, file names, the memory and environment of their worker -
// and use every kind of request at once, over a pool that is too small for them. No secret of one
// may be seen by another: not in what goes upstream, not in an answer, not in a log.
//
// TENANT_REQUESTS (400): how many with the real program; TENANT_SEED: the order of things.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { system, texts } from './lib/asked.mjs';
import { eventually, Gateway, HttpError, tempDir } from './lib/gateway.mjs';
import { RawClient } from './lib/raw.mjs';
import { chance, imageWith, Secrets } from './lib/secrets.mjs';
import { Upstream } from './lib/upstream.mjs';

const REQUESTS = Number(process.env.TENANT_REQUESTS ?? 400);
const SEED = Number(process.env.TENANT_SEED ?? 1123);
const LIMIT = { timeout: 120_000 + REQUESTS * 1000 };
const KEYS = 4;
const LANES = 2; // of each key at once, in a crowd
const CROWD = 0.08; // of the requests
const MODELS = ['claude-sonnet-4-5', 'claude-opus-4-1'];
const fake = (step) => `fake:${JSON.stringify(step)}`;

test('the detector finds what is planted', () => {
  const secrets = new Secrets();
  const [a, b] = [secrets.plant('a'), secrets.plant('b')];
  const places = {
    plain: a,
    'in JSON': JSON.stringify({ x: [{ y: `"${a}"\n` }] }),
    'in JSON in JSON': JSON.stringify(JSON.stringify({ a })),
    'in an image': JSON.stringify({ data: imageWith(a) }),
    'in base64': Buffer.from(`${'x'.repeat(50)}${a}`).toString('base64'),
    'percent-encoded': `/path?x=%22${a.replace('x', '%78')}%22`,
    'in the middle of a word': `abc${a}abc`,
  };
  for (const [name, text] of Object.entries(places)) {
    assert.deepEqual(secrets.foreign('b', text), [a], name);
    assert.deepEqual(secrets.foreign('a', text), [], name);
    assert.deepEqual(secrets.foreign('a', `${text} ${b}`), [b], name);
  }
  assert.deepEqual(secrets.foreign('b', a.slice(0, -1)), []);
});

/** A stand-in that has nothing to do with secrets: it makes chosen requests fail. */
const STEPS = [
  { match: { text: 'please fail 400' }, status: 400,
    error: { type: 'invalid_request_error', message: 'no' }, repeat: -1 },
  { match: { text: 'please fail 529' }, status: 529,
    error: { type: 'overloaded_error', message: 'Overloaded' }, repeat: -1 },
  { match: { text: 'please break off' }, cut_after: 5, repeat: -1 },
  { match: { text: 'please talk slowly' }, word_delay_ms: 40, repeat: -1 },
];

class Tenant {
  sessions = [];
  trespasses = false;

  constructor(world, id, key) {
    Object.assign(this, { world, id, key });
  }

  secret() {
    return this.world.secrets.plant(this.id);
  }

  /** One question, with secrets in every place that a question has. */
  question(random, words) {
    const asked = this.secret();
    let text = `${asked} ${words} Look at @/home/${this.secret()}/notes.txt, ` +
      `@"/tmp/${this.secret()}.png" and ${this.secret()}`;
    if (random(3) === 0) text = `/${this.secret()} ${text}`;
    const blocks = random(4) === 0;
    const image = { type: 'image', source: { type: 'base64', media_type: 'image/png',
      data: imageWith(this.secret()) } };
    return { asked, text: blocks ? `${text}<image>` : text,
      message: blocks ? [{ type: 'text', text }, image] : text };
  }
}

class World {
  secrets = new Secrets();
  asked = new Map(); // token -> what upstream must be asked
  counts = {};
  burst = 20;
  active = 0;

  constructor(gw, upstream) {
    Object.assign(this, { gw, upstream });
  }

  async populate() {
    this.tenants = [];
    for (let i = 0; i < KEYS; i++) {
      const { key } = await this.gw.createKey(['--name', `tenant ${i}`]);
      this.tenants.push(new Tenant(this, String(i), key));
    }
  }

  count(what) {
    this.counts[what] = (this.counts[what] ?? 0) + 1;
  }

  /** Nothing in this text belongs to anybody but `tenant`. */
  own(tenant, text, where) {
    assert.deepEqual(this.secrets.foreign(tenant?.id, text), [], where);
  }

  /** Sends it, and looks at all that comes back. */
  async send(tenant, body, stream) {
    const options = { key: tenant.key };
    if (!stream) {
      const reply = await this.gw.chat(body, options);
      this.own(tenant, reply.text + JSON.stringify(reply.headers), 'an answer');
      return { status: reply.status, text: reply.body.response, sessionId: reply.body.sessionId };
    }
    const got = await this.gw.collect(body, options).catch((error) => {
      if (error instanceof HttpError) return { status: error.status, events: error.text, text: '' };
      throw error;
    });
    this.own(tenant, JSON.stringify(got.events) + got.text, 'a stream');
    return { status: got.status ?? (got.done ? 200 : 500), text: got.text,
      sessionId: got.end?.sessionId };
  }

  /** A turn of a new session or of one of the lane's own. */
  async turn(tenant, random, lane) {
    const fails = random(8) === 0 ? ['fail 400', 'fail 529', 'break off'][random(3)] : '';
    const q = tenant.question(random, fails && `please ${fails}`);
    let session = random(3) && lane.length ? lane[random(lane.length)] : null;
    const body = { message: q.message };
    if (session) {
      body.sessionId = session.id;
    } else {
      session = { told: [] };
      if (random(2)) body.system = session.system = `Be brief, says ${tenant.secret()}.`;
      if (random(3) === 0) body.model = MODELS[random(MODELS.length)];
      if (random(3) === 0) body.temperature = 0.5;
    }
    this.asked.set(q.asked, { tenant, told: [...session.told, ['user', q.text]],
      system: session.system });
    const reply = await this.send(tenant, body, random(2) === 1);
    if (fails) {
      this.count(fails);
      assert.notEqual(reply.status, 200, fails);
      return;
    }
    this.count(session.id ? 'continued' : 'new');
    assert.equal(reply.status, 200, reply.text);
    session.told.push(['user', q.text], ['assistant', reply.text]);
    if (!session.id) {
      session.id = reply.sessionId;
      lane.push(session);
      tenant.sessions.push(session.id);
    }
    if (session.told.length > 10 || lane.length > 4) lane.splice(lane.indexOf(session), 1);
  }

  /** Another's conversation: as if it were not there. */
  async trespass(tenant, random) {
    const other = this.tenants[(Number(tenant.id) + 1 + random(KEYS - 1)) % KEYS];
    if (!other.sessions.length || tenant.trespasses) return; // its own two would meet: 409
    tenant.trespasses = true;
    const sessionId = other.sessions[random(other.sessions.length)];
    const { message } = tenant.question(random, 'what did they say?');
    const reply = await this.send(tenant, { message, sessionId }, random(2) === 1);
    tenant.trespasses = false;
    assert.equal(reply.status, 404, 'whether its owner uses it or not');
    this.count('foreign');
  }

  async abort(tenant, random) {
    const q = tenant.question(random, 'please talk slowly');
    this.asked.set(q.asked, { tenant, told: [['user', q.text]] });
    const client = await RawClient.post(this.gw, { message: q.message, stream: true },
      { key: tenant.key });
    await Promise.race([client.over, sleep(random(400))]);
    client.leave(['FIN', 'close', 'RST'][random(3)]);
    await Promise.race([client.over, sleep(100)]);
    client.destroy();
    this.own(tenant, client.text, 'a stream cut off');
    this.count('aborted');
  }

  async lane(tenant, random, sessions, requests) {
    for (let i = 0; i < requests; i++) {
      const what = random(12);
      if (what === 0) await this.trespass(tenant, random);
      else if (what === 1) await this.abort(tenant, random);
      else await this.turn(tenant, random, sessions);
    }
  }

  /** One after the other, in bursts; between them another may take the place. */
  async bursts(tenant, requests) {
    const random = chance(SEED + Number(tenant.id));
    const sessions = [];
    for (let left = requests; left > 0;) {
      await eventually(() => this.active < KEYS - 1, { ms: 120_000, every: 5, what: 'a place' });
      const n = Math.min(1 + random(this.burst), left);
      this.active++;
      await this.lane(tenant, random, sessions, n).finally(() => { this.active--; });
      left -= n;
      await sleep(1);
    }
  }

  /** Everybody at once: as many keys as there are, each with more than one request. */
  async crowd(tenant, requests) {
    await Promise.all(Array.from({ length: LANES }, (_, i) => this.lane(tenant,
      chance(SEED + Number(tenant.id) + (i + 1) * 100), [], Math.ceil(requests / LANES))));
  }

  /** A start costs a second of CPU, and in a crowd nearly each request needs one. */
  async run(requests) {
    const each = requests / KEYS;
    const crowd = Math.ceil(each * CROWD);
    await Promise.all(this.tenants.map((tenant) => this.bursts(tenant, each - crowd)));
    await Promise.all(this.tenants.map((tenant) => this.crowd(tenant, crowd)));
  }

  /** What went upstream: each request holds its owner's secrets only, and its own conversation. */
  checkUpstream(requests) {
    const seen = new Set();
    for (const { headers, body, query } of requests) {
      const [asked, ...rest] = [...this.secrets.find(texts(body).at(-1)[1])]
        .filter((token) => this.asked.has(token));
      assert.ok(asked && rest.length === 0, `whose is it? ${texts(body).at(-1)[1]}`);
      assert.ok(!seen.has(asked), 'asked twice');
      seen.add(asked);
      const { tenant, told, system: said } = this.asked.get(asked);
      this.own(tenant, JSON.stringify([headers, query, body]), 'an upstream request');
      assert.deepEqual(texts(body), told, 'the conversation, and nothing else');
      assert.deepEqual(system(body), said ? [said] : []);
    }
    return seen.size;
  }

  /** Nobody's secrets stand in what operators see. */
  async checkServer() {
    const { gw } = this;
    for (const name of ['combined.log', 'error.log']) {
      this.own(null, readFileSync(join(gw.dataDir, 'logs', name), 'latin1'), name);
    }
    this.own(null, gw.stderr + gw.stdout, 'the console');
    this.own(null, (await gw.request('GET', '/metrics')).text, 'the metrics');
    this.own(null, (await gw.request('GET', '/readyz')).text, 'the state');
  }
}

async function realWorld(t, pool, requests) {
  const up = await Upstream.start();
  t.after(() => up.stop());
  await up.script(STEPS);
  const gw = await Gateway.start({
    claude: 'real', upstream: up, test: t, ready: false,
    config: { upstream: { max_retries: 0 }, pool },
  });
  const world = new World(gw, up);
  await world.populate();
  const from = Date.now();
  await world.run(requests);
  const ms = Date.now() - from;
  await eventually(async () => (await up.stats()).open === 0);
  const list = await up.requests();
  const checked = world.checkUpstream(list);
  assert.equal(checked, list.length);
  assert.equal((await up.stats()).log_dropped, 0, 'all of them were looked at');
  await world.checkServer();
  const ends = (await gw.series()).filter((s) => s.name === 'claudegate_worker_ends_total')
    .map((s) => `${s.labels.reason} ${s.value}`);
  t.diagnostic(`seed ${SEED}: ${JSON.stringify(world.counts)}, ${list.length} upstream ` +
    `requests, ${await gw.metrics('claudegate_worker_starts_total')} processes ` +
    `(${ends.join(', ')}), ${ms} ms`);
  return world;
}

test('secrets stay with their key: the real program', LIMIT, async (t) => {
  const { gw, counts, tenants } = await realWorld(t, { max_workers: KEYS - 1, min_spare: 0 },
    REQUESTS);
  if (REQUESTS >= 200) {
    for (const what of ['new', 'continued', 'foreign', 'aborted', 'fail 400', 'break off']) {
      assert.ok(counts[what] > 0, `${what}: never happened`);
    }
    assert.ok(await gw.metrics('claudegate_worker_ends_total', { reason: 'evicted' }) > 0);
  }
  assert.ok(tenants.every((tenant) => tenant.sessions.length > 0));
});

test('pool.isolation request: a process for each, conversations apart', LIMIT, async (t) => {
  const { gw, counts } = await realWorld(t,
    { max_workers: 3, min_spare: 1, isolation: 'request' }, 8);
  const turns = counts.new + (counts.continued ?? 0);
  assert.ok(await gw.metrics('claudegate_worker_starts_total') >= turns, 'one process each');
});

test('pool.isolation shared: one process for many, conversations apart', LIMIT, async (t) => {
  const { gw } = await realWorld(t, { max_workers: 2, min_spare: 0, isolation: 'shared' },
    REQUESTS / 4);
  assert.ok(await gw.metrics('claudegate_worker_starts_total') <= 4, 'processes are shared');
});

// --- what a process keeps ----------------------------------------------------------------------

/** The fake tells what its process has ever been told to keep, in memory and environment. */
class FakeWorld extends World {
  burst = 12;

  async turn(tenant, random, lane) {
    const [asked, kept] = [tenant.secret(), tenant.secret()];
    const session = random(3) && lane.length ? lane[random(lane.length)] : null;
    const step = { remember: kept, recall: true };
    const fault = random(15);
    if (fault === 0) Object.assign(step, { exit_at: 'init', once: join(this.dir, kept) });
    if (fault === 1) Object.assign(step, { error: { status: 400, message: kept } });
    if (fault === 2 && random(3) === 0) step.later = { at: 'question', do: 'exit' };
    const message = [{ type: 'text', text: `${asked} ${tenant.secret()}` },
      { type: 'text', text: fake(step) }];
    if (random(4) === 0) {
      message.splice(1, 0, { type: 'image', source: { type: 'base64', media_type: 'image/png',
        data: imageWith(tenant.secret()) } });
    }
    const body = { message, ...(session && { sessionId: session.id }),
      ...(random(3) === 0 && !session && { model: MODELS[random(2)] }) };
    const reply = await this.send(tenant, body, random(2) === 1);
    if (fault === 1) {
      assert.equal(reply.status, 400, reply.text);
      return;
    }
    if (reply.status === 502) { // two workers in a row were told to die at their next question
      this.count('crashed');
      return;
    }
    assert.equal(reply.status, 200, reply.text);
    this.count(session ? 'continued' : 'new');
    if (fault !== 0) { // there the default answer is given, by another process
      const { memory, history } = JSON.parse(reply.text);
      this.remembered(tenant, kept, memory);
      const users = history.filter((m) => m.role === 'user');
      assert.equal(users.length, (session?.turns ?? 0) + 1, 'its own conversation only');
    }
    if (session) {
      session.turns++;
      if (session.turns > 4) lane.splice(lane.indexOf(session), 1);
      return;
    }
    lane.push({ id: reply.sessionId, turns: 1 });
    tenant.sessions.push(reply.sessionId);
    if (lane.length > 3) lane.shift();
  }

  async abort(tenant, random) {
    const step = { remember: tenant.secret(), recall: true, chunk: 20, delay_ms: 5 };
    const client = await RawClient.post(this.gw, { message: fake(step), stream: true },
      { key: tenant.key });
    await Promise.race([client.over, sleep(random(60))]);
    client.leave(['FIN', 'close', 'RST'][random(3)]);
    await Promise.race([client.over, sleep(100)]);
    client.destroy();
    this.own(tenant, client.text, 'a stream cut off');
    this.count('aborted');
  }
}

async function fakeWorld(t, pool, requests, remembered) {
  const dir = tempDir();
  const gw = await Gateway.start({
    test: t, ready: false, config: { pool },
    env: { CLAUDEGATE_CLAUDE_PASS_ENV: 'FAKE_LOG', FAKE_LOG: join(dir, 'log') },
  });
  const world = new FakeWorld(gw);
  world.dir = dir;
  world.remembered = remembered;
  await world.populate();
  await world.run(requests);
  await world.checkServer();
  const byPid = new Map();
  let requestsSeen = 0;
  for (const line of readFileSync(join(dir, 'log'), 'utf8').split('\n').filter(Boolean)) {
    const entry = JSON.parse(line);
    if (entry.event !== 'request') continue;
    requestsSeen++;
    const owners = new Set([...world.secrets.find(line)].map((s) => world.secrets.ownerOf(s)));
    assert.ok(owners.size <= 1, `secrets of ${[...owners]} in one request`);
    byPid.set(entry.pid, new Set([...byPid.get(entry.pid) ?? [], ...owners]));
  }
  t.diagnostic(`seed ${SEED}: ${JSON.stringify(world.counts)}, ${requestsSeen} requests of ` +
    `${byPid.size} processes`);
  return { world, byPid };
}

test('secrets stay with their key: memory and environment of a process', LIMIT, async (t) => {
  const { byPid } = await fakeWorld(t, { max_workers: KEYS - 1, min_spare: 0 },
    Number(process.env.TENANT_REQUESTS ?? 2000), function check(tenant, kept, memory) {
      this.own(tenant, memory, 'the memory of the process');
      assert.ok(memory.includes(kept));
    });
  for (const owners of byPid.values()) assert.ok(owners.size <= 1, 'one process, one key');
  assert.ok(byPid.size > KEYS, 'processes were replaced');
});

test('pool.isolation request: a process has no past', LIMIT, async (t) => {
  await fakeWorld(t, { max_workers: 3, isolation: 'request' }, 200, (tenant, kept, memory) => {
    assert.equal(memory, `${kept};`);
  });
});

test('pool.isolation shared: the process is shared, and the detector sees it', LIMIT, async (t) => {
  let foreign = 0;
  await fakeWorld(t, { max_workers: 2, min_spare: 0, isolation: 'shared' }, 400,
    function check(tenant, kept, memory) {
      foreign += this.secrets.foreign(tenant.id, memory).length;
    }).catch((error) => {
    // what a process keeps comes back in its answers: own() has seen it, as it must
    assert.match(error.message, /an answer|a stream/);
    foreign++;
  });
  assert.ok(foreign > 0, 'a shared process must be seen as such');
});
