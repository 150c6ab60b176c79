// A Redis server of a test's own: a free port of 127.0.0.1, nothing saved. It ends with this
// process, however that ends.
//
//   const redis = await Redis.start();
//   ... REDIS_URL: redis.url ...
//   redis.pause(); redis.resume();                   // it hangs, and goes on
//   await redis.kill(); await redis.restart();       // its memory is empty then
//   await redis.stop();
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';

const START_MS = 15_000;
// Tells the server's process id, and kills it when nobody holds standard input any more.
const KEEPER = 'redis-server "$@" >&2 & echo $!; cat >/dev/null; kill -KILL $! 2>/dev/null';
const run = promisify(execFile);
const alive = new Set();

after(async () => {
  for (const redis of [...alive]) await redis.stop();
});

/**
 * Below those that the kernel gives to connections: one of them could take the port while Redis is
 * down between a stop and the next start.
 */
async function freePort() {
  for (let tries = 0; tries < 100; tries++) {
    const port = 15_000 + Math.floor(Math.random() * 17_000);
    const server = net.createServer().listen(port, '127.0.0.1');
    const free = await once(server, 'listening').then(() => true, () => false);
    if (!free) continue;
    server.close();
    await once(server, 'close');
    return port;
  }
  throw new Error('no free port');
}

export class Redis {
  #dir = mkdtempSync(join(tmpdir(), 'cg-redis-'));
  #keeper;
  #pid;
  #said = '';

  static async start() {
    const redis = new Redis();
    redis.port = await freePort();
    redis.url = `redis://127.0.0.1:${redis.port}`;
    alive.add(redis);
    await redis.restart();
    return redis;
  }

  async restart() {
    assert.ok(!this.#keeper);
    this.#keeper = spawn('bash', ['-c', KEEPER, 'keeper', '--port', String(this.port), '--bind',
      '127.0.0.1', '--save', '', '--appendonly', 'no', '--dir', this.#dir], {
      stdio: ['pipe', 'pipe', 'pipe'], env: { PATH: process.env.PATH },
    });
    this.#keeper.stderr.on('data', (data) => { this.#said = (this.#said + data).slice(-4000); });
    const [line] = await once(this.#keeper.stdout.setEncoding('utf8'), 'data');
    this.#pid = Number(line);
    for (const end = Date.now() + START_MS; ;) {
      if ((await this.ask('PING').catch(() => '')) === 'PONG') return;
      assert.ok(Date.now() < end, `redis-server does not answer: ${this.#said}`);
      await sleep(20);
    }
  }

  /** One command by redis-cli: its output. */
  async ask(...words) {
    const { stdout } = await run('redis-cli', ['-p', String(this.port), ...words],
      { timeout: 5000 });
    return stdout.trim();
  }

  pause() {
    process.kill(this.#pid, 'SIGSTOP');
  }

  resume() {
    process.kill(this.#pid, 'SIGCONT');
  }

  async kill() {
    if (!this.#keeper) return;
    const ended = once(this.#keeper, 'close');
    this.#keeper.stdin.end();
    await ended;
    this.#keeper = undefined;
  }

  async stop() {
    await this.kill();
    alive.delete(this);
    rmSync(this.#dir, { recursive: true, force: true });
  }
}
