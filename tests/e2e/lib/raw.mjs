// A client on a bare socket, to leave in every way a client can leave.
import { connect } from 'node:net';

import { eventually } from './gateway.mjs';

/** How a client leaves: FIN with its read side still open, FIN and closed, RST. */
export const LEAVES = {
  FIN: 'end',
  close: 'destroy',
  RST: 'resetAndDestroy',
};

export class RawClient {
  text = '';
  closed = false;
  error = null;

  /** Connects and sends POST /api/chat; `part` sends only so much of it. */
  static async post(gw, body, { key, part = 1, headers = {} } = {}) {
    const client = new RawClient();
    const [host, port] = gw.address.split(':');
    const socket = connect({ host, port: Number(port), allowHalfOpen: true, noDelay: true });
    client.socket = socket;
    socket.setEncoding('utf8').on('data', (data) => { client.text += data; });
    socket.on('error', (error) => { client.error = error; });
    client.over = new Promise((resolve) => {
      const end = () => { client.closed = true; resolve(); };
      socket.on('end', end).on('close', end);
    });
    const payload = JSON.stringify(body);
    const all = ['POST /api/chat HTTP/1.1', 'host: test', 'content-type: application/json',
      `authorization: Bearer ${key ?? await gw.key()}`,
      ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`),
      `content-length: ${Buffer.byteLength(payload)}`, 'connection: close', '', payload];
    const bytes = Buffer.from(all.join('\r\n'));
    socket.write(bytes.subarray(0, Math.ceil(bytes.length * part)));
    return client;
  }

  /** Reads no more than the kernel does by itself. */
  pause() {
    this.socket.pause();
  }

  resume() {
    this.socket.resume();
  }

  async saw(pattern, ms = 15_000) {
    await eventually(() => pattern.test(this.text) || this.closed, { ms, what: `${pattern}` });
    if (!pattern.test(this.text)) throw new Error(`closed before ${pattern}: ${this.text}`);
  }

  leave(how) {
    this.socket[LEAVES[how] ?? how]();
  }

  destroy() {
    this.socket.destroy();
  }

  get status() {
    return Number(/^HTTP\/1\.1 (\d+)/.exec(this.text)?.[1]);
  }

  /** The parsed body of a plain answer. */
  get body() {
    return JSON.parse(this.text.slice(this.text.indexOf('\r\n\r\n') + 4));
  }
}
