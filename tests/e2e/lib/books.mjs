// The books of a server under test, closed after each fault: requests accepted = turns settled =
// log lines = usage rows, each once; no place taken, no process and no descriptor too many.
//
//   const books = await Books.open(gw, { count });   // count: the file that FAKE_COUNT names;
//                            // more: {kind: n} descriptors that may be added, such as sockets
//   ... whatever may go wrong ...
//   await books.close();                             // throws when they do not close
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';

import { eventually, processes } from './gateway.mjs';

const ROUTE = '/api/chat';
const SETTLE_MS = 15_000;

/** What the fake programs have counted together; see tests/fakes/fake_log.c. */
export function fakeCount(file) {
  const names = ['started', 'finished', 'interrupted', 'errored', 'input', 'output', 'processes'];
  const data = existsSync(file) ? readFileSync(file) : Buffer.alloc(64);
  return Object.fromEntries(names.map((name, i) =>
    [name, Number(data.readBigUInt64LE(8 * (i + 1)))]));
}

/** Every process that was started for this server: by descent, and by the directory it names. */
export function household(gw, { dataDir, pid } = gw) {
  const all = processes().filter((p) => p.pid !== pid);
  const mine = new Set([pid]);
  for (let before = -1; before !== mine.size;) {
    before = mine.size;
    for (const p of all) if (mine.has(p.ppid)) mine.add(p.pid);
  }
  const names = (p) => {
    try {
      return readFileSync(`/proc/${p.pid}/environ`, 'latin1').includes(dataDir) ||
        readlinkSync(`/proc/${p.pid}/cwd`).startsWith(dataDir);
    } catch {
      return false; // it has ended, or belongs to somebody else
    }
  };
  return all.filter((p) => mine.has(p.pid) || (p.state !== 'Z' && names(p)));
}

/** What is neither one of so many workers nor a living descendant of one. */
function strays(gw, workers) {
  const all = household(gw);
  const children = all.filter((p) => p.ppid === gw.pid && p.state !== 'Z');
  if (children.length !== workers) return all;
  const good = new Set(children.map((p) => p.pid));
  for (let before = -1; before !== good.size;) {
    before = good.size;
    for (const p of all) if (good.has(p.ppid) && p.state !== 'Z') good.add(p.pid);
  }
  return all.filter((p) => !good.has(p.pid));
}

/**
 * The descriptors of a process by what they are. Those of SQLite are not counted: it keeps some
 * open until its locks allow a close.
 */
export function descriptors(pid) {
  const kinds = {};
  for (const fd of readdirSync(`/proc/${pid}/fd`)) {
    try {
      const kind = readlinkSync(`/proc/${pid}/fd/${fd}`).replace(/:\[\d+\]$/, '')
        .replace(/usage-\d+\.journal$/, 'usage-N.journal');
      if (!/\.db(-wal|-shm)?$/.test(kind)) kinds[kind] = (kinds[kind] ?? 0) + 1;
    } catch {
      // closed meanwhile
    }
  }
  return kinds;
}

/** What there is more of than there was. */
const more = (was, now) => Object.entries(now).filter(([kind, n]) => n > (was[kind] ?? 0));

export class Books {
  #gw;
  #count;
  #spares;
  #fds;
  #before;

  static async open(gw, { count, spares = 1, more = {} } = {}) {
    const books = new Books();
    books.#gw = gw;
    books.#count = count;
    books.#spares = spares;
    await books.fresh();
    books.#fds = descriptors(gw.pid);
    for (const kind of Object.keys(more)) books.#fds[kind] = (books.#fds[kind] ?? 0) + more[kind];
    books.#before = await books.#look();
    return books;
  }

  async #look() {
    const series = await this.#gw.series();
    const sum = (name, labels = {}) => series.filter((s) => s.name === name &&
      Object.entries(labels).every(([key, value]) => s.labels[key] === value))
      .reduce((n, s) => n + s.value, 0);
    const rows = await this.#gw.usageRows();
    const lines = this.#gw.logs().filter((l) => l.message === 'request' && l.outcome);
    assert.equal(new Set(rows.map((r) => r.request_id)).size, rows.length, 'each row once');
    assert.equal(new Set(lines.map((l) => l.request_id)).size, lines.length, 'each line once');
    return {
      rows,
      requests: sum('claudegate_http_requests_total', { route: ROUTE }),
      turns: sum('claudegate_turns_total'),
      lines: lines.length,
      retried: sum('claudegate_turns_retried_total'),
      dropped: sum('claudegate_usage_dropped_total'),
      writeErrors: sum('claudegate_usage_write_errors_total'),
      queued: sum('claudegate_queue_length'),
      started: this.#count ? fakeCount(this.#count).started : 0,
    };
  }

  /** Nothing runs and nothing waits. */
  async rest(ms = SETTLE_MS) {
    let pool;
    const still = async () => {
      pool = await this.#gw.pool();
      return pool.workers.busy + pool.workers.starting + pool.workers.ending + pool.queued === 0;
    };
    await eventually(still, { ms, what: 'nothing running' }).catch((error) => {
      throw new Error(`${error.message}: ${JSON.stringify(pool)}`);
    });
    return pool;
  }

  /** The state to compare descriptors in: every process that has served is gone. */
  async fresh() {
    await this.rest();
    const old = this.#gw.workers().map((p) => p.pid);
    for (const pid of old) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // it has ended by itself meanwhile
      }
    }
    await eventually(() => this.#gw.workers().every((p) => !old.includes(p.pid)),
      { what: 'the killed ones reaped' });
    await eventually(async () => {
      const { workers, queued } = await this.#gw.pool();
      const alive = this.#gw.workers(); // what was reaped may still be counted for a moment
      return workers.spare === this.#spares && queued === 0 && alive.length === this.#spares &&
        workers.idle + workers.busy + workers.starting + workers.ending === 0;
    }, { ms: SETTLE_MS, what: 'only fresh workers' });
  }

  /** Returns the rows that came since the last time. asked: questions the fake must have read. */
  async close({ asked } = {}) {
    const gw = this.#gw;
    await this.fresh();
    await eventually(() => strays(gw, this.#spares).length === 0, { what: 'no stray process' })
      .catch((error) => {
        throw new Error(`${error.message}: ${JSON.stringify(strays(gw, this.#spares))}`);
      });
    await eventually(() => more(this.#fds, descriptors(gw.pid)).length === 0, {
      what: 'no descriptor too many',
    }).catch((error) => {
      throw new Error(`${error.message}: ${more(this.#fds, descriptors(gw.pid))}`);
    });
    const [was, now] = [this.#before, await this.#look()];
    this.#before = now;
    const rows = now.rows.slice(was.rows.length);
    const grown = (name) => now[name] - was[name];
    const accepted = grown('requests');
    assert.deepEqual([grown('turns'), grown('lines'), rows.length], [accepted, accepted, accepted],
      'requests = turns settled = log lines = usage rows');
    assert.deepEqual([grown('dropped'), grown('writeErrors'), now.queued], [0, 0, 0]);
    if (asked !== undefined) assert.equal(grown('started'), asked, 'questions the fake has read');
    return rows;
  }
}
