// A PostgreSQL server for tests: tools/with-postgres.sh, which ends with this process.
//
//   const pg = await Postgres.start();
//   const url = await pg.createDatabase();
//   const rows = await pg.query(url, 'SELECT 1 AS one');   // [{ one: 1 }]
//   await pg.control('stop');                              // start, pause, resume
//
// With TEST_DATABASE=postgres each test server of gateway.mjs has a database of its own in one that
// the test file shares: the one of TEST_DATABASE_URL, or one started at the first use.
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const SCRIPT = fileURLToPath(new URL('../../../tools/with-postgres.sh', import.meta.url));
const START_MS = 60_000;
// Says where it is, then stays for as long as somebody holds its standard input.
const TELL = 'printf "%s\\n" "$TEST_DATABASE_URL" "$TEST_POSTGRES_CONTROL" "$TEST_PSQL" ""; cat';

const run = promisify(execFile);
let databases = 0;

export class Postgres {
  #child;
  #admin;
  #control;
  #psql;

  constructor(admin, control, psql, child) {
    this.#admin = admin;
    this.#control = control;
    this.#psql = psql;
    this.#child = child;
  }

  static async start() {
    const child = spawn(SCRIPT, ['bash', '-c', TELL], { stdio: ['pipe', 'pipe', 'inherit'] });
    const timer = setTimeout(() => child.kill(), START_MS);
    let told = '';
    child.stdout.setEncoding('utf8');
    for await (const text of child.stdout.iterator({ destroyOnReturn: false })) {
      told += text;
      if (told.endsWith('\n\n')) break;
    }
    clearTimeout(timer);
    const [admin, control, psql] = told.split('\n');
    assert.ok(psql, 'PostgreSQL has started');
    child.stdout.resume();
    return new Postgres(admin, control, psql, child);
  }

  /** Ends the server and removes all it has. */
  async close() {
    if (!this.#child) return;
    const ended = once(this.#child, 'exit');
    this.#child.stdin.end();
    await ended;
    this.#child = undefined;
  }

  /** start, stop (at once), pause, resume. */
  async control(what) {
    await run(this.#control, [what]);
  }

  async #run(url, ...args) {
    const { stdout } = await run(this.#psql, ['-X', '-A', '-t', '-q', '-v', 'ON_ERROR_STOP=1', url,
      ...args], { maxBuffer: 64 << 20, env: { PATH: process.env.PATH, PGSSLMODE: 'disable' } });
    return stdout;
  }

  /** Rows as objects. Truth values are as they come; JSON columns are texts, as on SQLite. */
  async query(url, sql) {
    const text = await this.#run(url, '-c', `SELECT coalesce(json_agg(r), '[]') FROM (${sql}) r`);
    return JSON.parse(text).map((row) => Object.fromEntries(Object.entries(row).map(
      ([name, v]) => [name, v !== null && typeof v === 'object' ? JSON.stringify(v) : v])));
  }

  /** A statement without rows. */
  async execute(url, sql) {
    await this.#run(url, '-c', sql);
  }

  async createDatabase() {
    const name = `e2e_${process.pid}_${++databases}`;
    await this.#run(this.#admin, '-c', `CREATE DATABASE ${name} TEMPLATE template0`);
    return this.#admin.replace(/\/[^/]*$/, `/${name}`);
  }

  /** Holds a lock or a transaction until the returned function is called. */
  async hold(url, sql) {
    const child = spawn(this.#psql, ['-X', '-q', '-A', '-t', url],
      { stdio: ['pipe', 'pipe', 'inherit'], env: { PATH: process.env.PATH } });
    child.stdin.write(`BEGIN; ${sql}; SELECT 'held';\n`);
    await once(child.stdout, 'data');
    const ended = once(child, 'exit');
    return async () => {
      child.stdin.end('ROLLBACK;\n');
      await ended;
    };
  }
}

let shared;

/** The one of this test file, when tests are to run on PostgreSQL; otherwise undefined. */
export async function sharedPostgres() {
  if (process.env.TEST_DATABASE !== 'postgres') return undefined;
  const { TEST_DATABASE_URL, TEST_POSTGRES_CONTROL, TEST_PSQL } = process.env;
  shared ??= TEST_DATABASE_URL
    ? Promise.resolve(new Postgres(TEST_DATABASE_URL, TEST_POSTGRES_CONTROL, TEST_PSQL))
    : Postgres.start();
  return shared;
}

/** Once every server of the file has ended. */
export async function closeShared() {
  await (await shared)?.close();
}
