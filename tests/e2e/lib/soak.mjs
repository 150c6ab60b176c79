// A soak: a real server, all of its workers busy, thousands of requests that end in every way
// there is, and at quiet moments the question whether anything is left of them.
//
//   const { violations } = await soak({ cycles: 600, seed: 7, say: console.log });
//
// Checked at each checkpoint, when the last request has ended:
//   no busy worker, nothing queued, no usage row on its way
//   no zombie; the server's children are as many as /readyz says
//   descriptors: as in the beginning, plus a fixed number for each worker more
//   the books close (soak_books.mjs)
// then one worker is killed while it is idle, and the first three are checked again. At the end:
//   the server ends well and in silence, no process and no directory of a worker is left
//   resident memory of the last third of the run against the first third's, after a warm-up
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { texts } from './asked.mjs';
import { eventually, Gateway, processes, tempDir } from './gateway.mjs';
import { closeBooks } from './soak_books.mjs';
import { send } from './soak_client.mjs';
import { echoing, mixes, planOf, Random } from './soak_mix.mjs';
import { Upstream } from './upstream.mjs';

const QUIET_MS = 30_000;
const SAMPLE_MS = 500;
const SAY_MS = 5000;
const FD_SLACK = 3; // a file of the journal, a connection on its way out
const FD_UPSTREAM = 2; // for each worker: connections to upstream that are kept for reuse
const FAULTS_SHOWN = 40;

const DEFAULTS = {
  cycles: 600, every: 200, workers: 4, clients: 10, keys: 5, real: false, seed: 1,
  limitMs: 240_000, silenceMs: 1500, warmUp: 0.4, growthMb: 8, growthShare: 0.1, say: () => {},
};

const median = (list) => [...list].sort((a, b) => a - b)[list.length >> 1] ?? NaN;

class Soak {
  records = [];
  violations = [];
  samples = []; // {at: share of the cycles, rss, busy, queued}
  #next = 0;
  #goal = 0;
  #idleKills = 0;
  #running = true;

  constructor(options) {
    Object.assign(this, DEFAULTS, options);
    this.mix = this.real ? mixes.real : mixes.fake;
    this.dir = tempDir();
    this.mark = join(this.dir, 'mark'); // in the environment of each worker
    this.turnsFile = join(this.dir, 'turns');
    this.countFile = join(this.dir, 'count');
    this.random = new Random(this.seed);
  }

  violate(what, when = '') {
    if (this.violations.includes(what)) return; // the books are closed again at each checkpoint
    this.violations.push(what);
    if (this.violations.length > FAULTS_SHOWN) return;
    this.say(`soak: VIOLATION${when && ` ${when}`}: ${what}`);
  }

  // --- the server ----------------------------------------------------------------------------

  #config() {
    const pool = {
      max_workers: this.workers, queue_timeout_ms: 50_000, turn_timeout_ms: 20_000,
      silence_timeout_ms: this.real ? 5000 : this.silenceMs,
      interrupt_timeout_ms: this.real ? 1000 : 400,
      prepare_timeout_ms: this.real ? 8000 : 3000,
      start_timeout_ms: this.real ? 20_000 : 5000, // one may be stopped while it starts
    };
    const claude = { pass_env: 'SOAK_MARK,FAKE_TURNS,FAKE_COUNT' };
    if (this.real) {
      const upstream = { max_retries: 1, first_byte_timeout_ms: 1500, idle_timeout_ms: 1500 };
      return { pool, claude, upstream };
    }
    // the fake program writes its counters to files, and is not worth probing
    return { pool, claude: { ...claude, history: 'inject' }, sandbox: { mode: 'off' } };
  }

  async #start() {
    if (this.real) this.up = await Upstream.start();
    // freed memory that a sanitizer keeps would look like growth
    const asan = [process.env.ASAN_OPTIONS, 'quarantine_size_mb=2'].filter(Boolean).join(':');
    this.gw = await Gateway.start({
      claude: this.real ? 'real' : 'fake', ...(this.real && { upstream: this.up }),
      config: this.#config(),
      env: {
        ASAN_OPTIONS: asan, SOAK_MARK: this.mark,
        ...(!this.real && { FAKE_TURNS: this.turnsFile, FAKE_COUNT: this.countFile }),
      },
    });
    this.keyList = [];
    for (let i = 0; i < this.keys; i++) {
      this.keyList.push((await this.gw.createKey(['--name', `soak-${i}`])).key);
    }
  }

  // --- one request ---------------------------------------------------------------------------

  /** A plan becomes a turn of the conversation that this sender holds, or begins one. */
  #joinSession(plan, sender) {
    sender.chat ??= { key: this.#keyOf(plan), said: [], left: plan.turns };
    sender.chat.left--;
    return !this.real && sender.chat.left === 0 ? echoing(plan) : plan;
  }

  #keyOf(plan) {
    return this.keyList[Math.floor(plan.keyAt * this.keyList.length)];
  }

  async #prepareUpstream(tag, plan) {
    if (!this.up || !plan.upstream) return;
    const steps = [plan.upstream].flat();
    const asOften = { repeat: 10 }; // the last one: a turn may be asked again
    await this.up.script(steps.map((step, i) => ({
      ...(i === steps.length - 1 && asOften), ...step, match: { text: `${tag} ` },
    })));
  }

  #strike(plan) {
    const list = this.#children(true).filter((p) => p.state !== 'Z');
    const victim = list[plan.random.int(0, list.length - 1)];
    try {
      if (victim) process.kill(victim.pid, plan.kill);
    } catch {
      // it has just ended
    }
  }

  async #cycle(i, sender) {
    const tag = `soak-${i}`;
    let plan = planOf(this.mix, this.seed, i, tag, join(this.dir, `once-${i}`));
    if (plan.session) plan = this.#joinSession(plan, sender);
    const chat = plan.session ? sender.chat : { key: this.#keyOf(plan), said: [] };
    const message = this.real ? `${tag} please` : `${tag} fake:${JSON.stringify(plan.step)}`;
    const body = {
      message, ...(plan.stream && { stream: true }), ...(plan.model && { model: plan.model }),
      ...(chat.id && { sessionId: chat.id }),
    };
    const asked = [...chat.said, ['user', message]];
    await this.#prepareUpstream(tag, plan);
    if (plan.kill) setTimeout(() => this.#strike(plan), plan.random.int(0, 30));
    const { code, text, sessionId } = await send(this.gw, chat.key, tag, body, plan);
    const record = { tag, plan, code, detail: code === 'none' ? text : undefined, asked };
    this.records.push(record);
    if (code === 'ok') this.#checkAnswer(record, text);
    if (!plan.session) return;
    if (code === 'ok') {
      chat.id = sessionId;
      chat.said = [...asked, ['assistant', text]];
    }
    if (code !== 'ok' || chat.left === 0) sender.chat = null;
  }

  #checkAnswer({ tag, plan, asked }, text) {
    const wrong = (what) => this.violate(`${tag} (${plan.kind}): ${what}: ${text.slice(0, 300)}`);
    if (plan.text !== undefined && text !== plan.text) wrong('another text');
    if (plan.bytes !== undefined && text.length !== plan.bytes) wrong(`not ${plan.bytes} bytes`);
    if (plan.echo) {
      const heard = JSON.parse(text).map((m) => [m.role, m.text]);
      if (JSON.stringify(heard) !== JSON.stringify(asked)) wrong('another conversation');
    }
  }

  /** Sends requests until `goal` of them were begun. */
  async #load(goal) {
    this.#goal = Math.min(goal, this.cycles);
    const sender = async () => {
      const self = {};
      while (this.#next < this.#goal && Date.now() < this.deadline) {
        await this.#cycle(this.#next++, self);
      }
    };
    await Promise.all(Array.from({ length: this.clients }, sender));
    if (this.#next < this.#goal) this.violate(`out of time after ${this.records.length} requests`);
  }

  // --- looking -------------------------------------------------------------------------------

  /** The server's children, or everything below it. */
  #children(all = false) {
    const list = processes();
    const found = new Set([this.gw.pid]);
    for (let before = 0; before < found.size;) { // as deep as it goes
      before = found.size;
      for (const p of list) if (found.has(p.ppid)) found.add(p.pid);
      if (!all) break;
    }
    return list.filter((p) => p.pid !== this.gw.pid && found.has(p.pid) &&
      (all || p.ppid === this.gw.pid));
  }

  async #watch() {
    let said = Date.now();
    while (this.#running) {
      await sleep(SAMPLE_MS);
      if (!this.#running || !this.gw.running) return;
      const pool = await this.gw.pool().catch(() => null);
      if (!pool || !this.#running) continue;
      const now = { at: this.records.length / this.cycles, rss: this.gw.rssKb() / 1024,
        busy: pool.workers.busy, queued: pool.queued };
      this.samples.push(now);
      if (Date.now() - said < SAY_MS) continue;
      said = Date.now();
      this.say(`soak: ${this.records.length}/${this.cycles} requests, ${this.#seconds()} s, ` +
        `rss ${now.rss.toFixed(0)} MiB, fds ${this.gw.fds()}, busy ${now.busy}, ` +
        `queued ${now.queued}, violations ${this.violations.length}`);
    }
  }

  #seconds() {
    return ((Date.now() - this.from) / 1000).toFixed(0);
  }

  // --- quiet moments -------------------------------------------------------------------------

  /** The pool at rest with as many processes as it says, or null and a violation. */
  async #quiet(when) {
    let seen;
    try {
      return await eventually(async () => {
        const pool = await this.gw.pool();
        const { starting, spare, idle, busy, ending } = pool.workers;
        const children = this.#children();
        const zombies = children.filter((p) => p.state === 'Z').length;
        seen = { ...pool.workers, queued: pool.queued, rows: pool.usageJournalPending,
          children: children.length, zombies };
        const still = busy + starting + ending + pool.queued + pool.usageJournalPending === 0;
        return still && zombies === 0 && children.length === spare + idle && seen;
      }, { ms: QUIET_MS, every: 50 });
    } catch {
      this.violate(`${when}: not at rest after ${QUIET_MS} ms: ${JSON.stringify(seen)}`);
      return null;
    }
  }

  /** Descriptors of the server, measured at two numbers of workers. */
  async #calibrate() {
    const first = await this.#quiet('at the start');
    const fds = this.gw.fds();
    await this.#load(Math.max(this.clients * 4, 1));
    const second = await this.#quiet('after the first requests');
    if (!first || !second) return;
    const more = second.children - first.children;
    const perWorker = more > 0 ? Math.round((this.gw.fds() - fds) / more) : 0;
    this.base = { children: second.children, fds: this.gw.fds(), perWorker };
  }

  async #checkFds(when) {
    if (!this.base) return;
    const slack = FD_SLACK + (this.real ? FD_UPSTREAM * this.workers : 0);
    let over;
    await eventually(() => {
      const due = this.base.fds + this.base.perWorker *
        (this.#children().length - this.base.children);
      over = this.gw.fds() - due;
      return Math.abs(over) <= slack;
    }, { ms: 10_000, every: 100 }).catch(() => {
      this.violate(`${when}: ${this.gw.fds()} descriptors, ${over} more than accounted for`);
    });
    this.fdsOver = over;
  }

  async #turns() {
    const words = this.real ? await this.#upstreamTurns() : this.#fakeTurns();
    const turns = new Map();
    for (const word of words) turns.set(word, (turns.get(word) ?? 0) + 1);
    return turns;
  }

  #fakeTurns() {
    const words = readFileSync(this.turnsFile, 'utf8').split('\n').filter(Boolean)
      .map((line) => line.split(' ')[1]);
    const counts = readFileSync(this.countFile);
    const [, started] = new BigUint64Array(counts.buffer, counts.byteOffset, 2);
    if (Number(started) !== words.length) {
      this.violate(`the fake program counted ${started} turns and listed ${words.length}`);
    }
    return words;
  }

  /** Also: each of them asked what belongs to its conversation, and nothing else. */
  async #upstreamTurns() {
    const asked = new Map(this.records.map((record) => [record.tag, record.asked]));
    const calls = (await this.up.requests()).filter((request) => request.body?.messages);
    return calls.map(({ body }) => {
      const conversation = texts(body);
      const tag = conversation.at(-1)[1].split(' ')[0];
      if (JSON.stringify(conversation) !== JSON.stringify(asked.get(tag))) {
        this.violate(`${tag}: asked with another conversation: ` +
          JSON.stringify(conversation).slice(0, 400));
      }
      return tag;
    });
  }

  async #closeBooks(when) {
    const { faults, sums } = closeBooks({
      records: this.records, rows: await this.gw.usageRows(), logs: this.gw.logs(),
      turns: await this.#turns(), deaths: this.#idleKills,
    });
    for (const fault of faults) this.violate(fault, when);
    const settled = await this.gw.metrics('claudegate_turns_total') ?? 0;
    if (settled !== sums.accepted) {
      this.violate(`${when}: ${settled} turns settled, ${sums.accepted} requests accepted`);
    }
    this.sums = sums;
  }

  /** A worker dies while nobody asks anything of it. */
  async #killIdle(when) {
    const list = this.#children();
    if (list.length === 0) return;
    const { pid } = list[this.random.int(0, list.length - 1)];
    this.#idleKills++;
    process.kill(pid, 'SIGKILL');
    await eventually(() => !this.#children().some((p) => p.pid === pid), { ms: 5000 })
      .catch(() => this.violate(`${when}: an idle worker was killed and not reaped`));
    await this.#quiet(`${when}, an idle worker killed`);
  }

  async #checkpoint(when) {
    if (!await this.#quiet(when)) return;
    await this.#checkFds(when);
    await this.#closeBooks(when);
    await this.#killIdle(when);
  }

  // --- the whole -----------------------------------------------------------------------------

  #checkMemory() {
    const steady = this.samples.filter((s) => s.at >= this.warmUp).map((s) => s.rss);
    const third = Math.floor(steady.length / 3);
    if (third < 3) return;
    const first = median(steady.slice(0, third));
    const last = median(steady.slice(-third));
    const allowed = Math.max(this.growthMb, first * this.growthShare);
    this.memory = { first, last, allowed };
    if (last - first > allowed) {
      this.violate(`memory grew from ${first.toFixed(1)} to ${last.toFixed(1)} MiB, ` +
        `${allowed.toFixed(1)} MiB are allowed`);
    }
  }

  #checkBusy() {
    this.busy = Math.max(...this.samples.map((s) => s.busy));
    this.queued = Math.max(...this.samples.map((s) => s.queued));
    // a sample now and then may miss the fullest moment; the real program takes long to start
    if (this.busy < (this.real ? this.workers / 2 : this.workers - 1)) {
      this.violate(`never more than ${this.busy} workers busy`);
    }
  }

  /** Of what was started, nothing may be left. */
  async #end() {
    await this.gw.stop();
    await this.up?.stop();
    const left = () => processes().filter((p) => {
      try {
        return readFileSync(`/proc/${p.pid}/environ`, 'utf8').includes(`SOAK_MARK=${this.mark}`);
      } catch {
        return false; // it has ended, or is somebody else's
      }
    });
    await eventually(() => left().length === 0, { ms: 3000 }).catch(() => {
      for (const p of left()) {
        this.violate(`left running: ${p.pid} ${p.args.join(' ').slice(0, 200)}`);
        process.kill(p.pid, 'SIGKILL');
      }
    });
    const dirs = readdirSync(this.gw.dataDir, { recursive: true }).filter((name) =>
      /(^|\/)run\/./.test(name));
    if (dirs.length) this.violate(`left in the data directory: ${dirs.slice(0, 10)}`);
  }

  async run() {
    this.from = Date.now();
    this.deadline = this.from + this.limitMs;
    await this.#start();
    this.say(`soak: ${this.cycles} requests, seed ${this.seed}, ${this.workers} workers, ` +
      `${this.clients} clients, ${this.keys} keys, ${this.real ? 'the real' : 'the fake'} program`);
    await this.#calibrate();
    const watching = this.#watch();
    try {
      for (let goal = this.every; this.#next < this.cycles; goal += this.every) {
        await this.#load(goal);
        await this.#checkpoint(`after ${this.records.length}`);
        if (Date.now() >= this.deadline) break;
      }
    } finally {
      this.#running = false;
      await watching;
    }
    this.#checkMemory();
    this.#checkBusy();
    this.ends = await this.#ends();
    this.seconds = this.#seconds();
    await this.#end();
    return this;
  }

  async #ends() {
    return (await this.gw.series()).filter((s) => s.name === 'claudegate_worker_ends_total')
      .map((s) => `${s.labels.reason} ${s.value}`).join(', ');
  }
}

/** Everything that was found, as lines. */
function table(s) {
  const outcomes = new Map();
  for (const { code } of s.records) outcomes.set(code, (outcomes.get(code) ?? 0) + 1);
  const kinds = new Map();
  for (const { plan } of s.records) kinds.set(plan.kind, (kinds.get(plan.kind) ?? 0) + 1);
  const list = (map) => [...map].map(([name, n]) => `${name} ${n}`).join(', ');
  const b = s.sums ?? {};
  const mib = (x) => `${x.toFixed(1)} MiB`;
  const rows = [
    ['requests sent', `${s.records.length} in ${s.seconds} s (seed ${s.seed})`],
    ['kinds', list(kinds)],
    ['outcomes', list(outcomes)],
    ['most at once', `${s.busy} of ${s.workers} workers busy, ${s.queued} queued`],
    ['ledger', `${b.accepted} accepted, a row for each; ${b.unseen} clients left before that`],
    ['turns begun', `${b.turns} = ${b.accepted} rows + ${b.retries} retries - ${b.unasked} ` +
      `never asked - ${b.lost} lost in dying workers (${b.deaths} of those)`],
    ['failed by others', `${b.victims} not reached, ${b.struck} struck by a kill, ` +
      `${b.paused} told to pause`],
    ['workers ended', s.ends ?? ''],
    ['descriptors', s.base ? `${s.fdsOver} over ${s.base.fds} (${s.base.perWorker} a worker)` : ''],
    ['memory', s.memory ? `${mib(s.memory.first)} first third, ${mib(s.memory.last)} last, ` +
      `${mib(s.memory.allowed)} growth allowed` : 'too short a run to tell'],
    ['violations', String(s.violations.length)],
  ];
  return rows.map(([name, value]) => `  ${name.padEnd(17)} ${value}`).join('\n');
}

/** Runs it, says what was found, and returns {violations, ...}. See DEFAULTS for the options. */
export async function soak(options) {
  const run = new Soak(options);
  await run.run();
  assert.ok(run.records.length > 0);
  run.say(`soak:\n${table(run)}`);
  return run;
}
