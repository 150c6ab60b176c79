// What the tests of Idempotency-Key and of resumable streams share: one request in each dialect, a
// stream cut into its events, and a proxy that breaks connections.
import { once } from 'node:events';
import { connect, createServer } from 'node:net';

import { Gateway } from './gateway.mjs';

export const MODEL = 'claude-sonnet-4-5';

/** The paid paths, and a request of each. */
export const DIALECTS = {
  native: { path: '/api/chat', body: (text, stream) => ({ message: text, stream }) },
  anthropic: {
    path: '/v1/messages',
    body: (text, stream) => ({
      model: MODEL, max_tokens: 1000, stream, messages: [{ role: 'user', content: text }],
    }),
  },
  chat: {
    path: '/v1/chat/completions',
    body: (text, stream) => ({ model: MODEL, stream, messages: [{ role: 'user', content: text }] }),
  },
  responses: {
    path: '/v1/responses',
    body: (text, stream) => ({ model: MODEL, stream, input: text }),
  },
};

/** A server with the real claude program that tells every failure of upstream at once. */
export function startReal(up, { config = {}, ...options } = {}) {
  return Gateway.start({
    claude: 'real', upstream: up, ...options,
    config: { upstream: { max_retries: 0 }, pool: { max_workers: 3 }, ...config },
  });
}

/** A step of the stand-in: it says this. */
export const say = (text, more = {}) => ({ blocks: [{ type: 'text', text }], ...more });

/** POSTs in one key's name: (dialect, text, {stream, headers, key, signal}) to a whole reply. */
export async function ask(gw, dialect, text, { stream = false, headers, key, signal, body } = {}) {
  const { path, body: make } = DIALECTS[dialect];
  return gw.request('POST', path, {
    body: body ?? make(text, stream), signal,
    headers: { authorization: `Bearer ${key ?? await gw.key()}`, ...headers },
  });
}

/** The same, open: the response as it comes. */
export async function open(gw, dialect, text, { headers, key, body } = {}) {
  const { path, body: make } = DIALECTS[dialect];
  return gw.open('POST', path, {
    body: body ?? make(text, true),
    headers: { authorization: `Bearer ${key ?? await gw.key()}`, ...headers },
  });
}

/** The events of a stream's text, each with its empty line; comments are left out. */
export function events(text) {
  return text.split(/(?<=\n\n)/).filter((event) => !event.startsWith(':'));
}

export const idOf = (event) => /^id: (.*)$/m.exec(event)?.[1];

/** Reads until `count` events have come, then hangs up: their text. */
export async function readAndLeave(response, count) {
  let text = '';
  response.setEncoding('utf8').on('error', () => {});
  for await (const chunk of response) {
    text += chunk;
    if (events(text).filter((event) => event.endsWith('\n\n')).length >= count) break;
  }
  response.request.destroy();
  return events(text).slice(0, count);
}

/** Passes connections on to a gateway; breaks the first one after so many bytes of its reply. */
export class CutProxy {
  cuts = 0;
  connections = 0;

  static async start(gw, after) {
    const proxy = new CutProxy();
    const [host, port] = gw.address.split(':');
    proxy.server = createServer((client) => {
      const first = proxy.connections++ === 0;
      const server = connect({ host, port: Number(port) });
      let passed = 0;
      const end = () => { client.destroy(); server.destroy(); };
      client.on('error', end).on('close', end).on('data', (data) => server.write(data));
      server.on('error', end).on('close', end).on('data', (data) => {
        if (first && passed + data.length > after) {
          proxy.cuts++;
          client.write(data.subarray(0, after - passed));
          client.resetAndDestroy();
          server.resetAndDestroy();
          return;
        }
        passed += data.length;
        client.write(data);
      });
    });
    proxy.server.listen(0, '127.0.0.1');
    await once(proxy.server, 'listening');
    proxy.url = `http://127.0.0.1:${proxy.server.address().port}`;
    return proxy;
  }

  close() {
    this.server.close();
  }
}
