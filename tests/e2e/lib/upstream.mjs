// The stand-in for the Messages API as its own process, driven from a test.
//
//   const up = await Upstream.start();
//   await up.script([{ blocks: [{ type: 'text', text: 'hi' }] }, { status: 529 }]);
//   ... let something talk to up.url ...
//   assert.equal((await up.requests())[0].body.model, 'claude-sonnet-4-5');
//   await up.stop();
//
// What a step may hold stands in src/upstream/standin_script.h. The process ends when its standard
// input ends, so it never outlives the test that started it.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const START_MS = 10_000;
const STOP_MS = 20_000; // a sanitizer build looks for leaks at the end
const DEFAULT_BIN = fileURLToPath(
  new URL('../../../build/tests/fakes/standin', import.meta.url));

/** Resolves like `promise`, or rejects with `message` after `ms`. */
async function within(promise, ms, message) {
  const limit = new AbortController();
  const timeout = sleep(ms, null, { signal: limit.signal, ref: false }).then(() => {
    throw new Error(message);
  });
  timeout.catch(() => {});
  try {
    return await Promise.race([promise, timeout]);
  } finally {
    limit.abort();
  }
}

export class Upstream {
  #child;
  #exited;
  #stderr = '';

  /** Starts the program and waits until it listens. */
  static async start({ bin = process.env.STANDIN_BIN ?? DEFAULT_BIN, args = [] } = {}) {
    const up = new Upstream();
    up.#child = spawn(bin, ['--listen', '127.0.0.1:0', ...args], {
      stdio: ['pipe', 'pipe', 'pipe'],
      env: { PATH: process.env.PATH, ASAN_OPTIONS: process.env.ASAN_OPTIONS ?? '' },
    });
    up.#exited = once(up.#child, 'close');
    up.#child.stdin.on('error', () => {}); // it may be gone already: stop() reports how
    up.#child.stderr.on('data', (data) => {
      up.#stderr = (up.#stderr + data).slice(-64 * 1024);
    });
    try {
      up.url = await within(up.#firstLine(), START_MS, `${bin} did not say where it listens`);
    } catch (error) {
      up.#child.kill('SIGKILL');
      throw error;
    }
    return up;
  }

  async #firstLine() {
    const ended = this.#exited.then(([code]) => {
      throw new Error(`the stand-in ended with ${code}: ${this.#stderr}`);
    });
    const line = once(createInterface({ input: this.#child.stdout }), 'line');
    ended.catch(() => {});
    return JSON.parse((await Promise.race([line, ended]))[0]).url;
  }

  get pid() {
    return this.#child.pid;
  }

  async #call(method, path, body) {
    const response = await fetch(`${this.url}/_standin/${path}`, { method, body });
    const answer = await response.json();
    if (!response.ok) throw new Error(`${method} ${path}: ${answer.error.message}`);
    return answer;
  }

  /** Appends steps; throws when one of them is wrong. */
  async script(steps) {
    await this.#call('POST', 'script', JSON.stringify(Array.isArray(steps) ? steps : [steps]));
  }

  /** Every /v1/ request seen, oldest first. */
  async requests() {
    return this.#call('GET', 'requests');
  }

  /** Totals since the start or the last reset(). */
  async stats() {
    return this.#call('GET', 'stats');
  }

  /** Forgets steps, requests and totals. */
  async reset() {
    await this.#call('DELETE', 'script');
  }

  /** Polls requests() until test(list) is truthy; returns the list. */
  async waitFor(test, ms = 5000) {
    const end = Date.now() + ms;
    for (;;) {
      const list = await this.requests();
      if (test(list)) return list;
      if (Date.now() > end) {
        const shown = list.map(({ body, headers, ...rest }) => rest);
        throw new Error(`upstream requests never matched: ${JSON.stringify(shown)}`);
      }
      await sleep(10);
    }
  }

  /** Ends the process; throws when it did not end well (a sanitizer's report, a crash). */
  async stop() {
    this.#child.stdin.end();
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), STOP_MS);
    const [code, signal] = await this.#exited;
    clearTimeout(timer);
    if (code !== 0) throw new Error(`the stand-in ended with ${code ?? signal}: ${this.#stderr}`);
  }
}
