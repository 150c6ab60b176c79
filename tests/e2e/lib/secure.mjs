// A small Messages API behind TLS, over HTTP/2 or HTTP/1.1, with a certificate of its own:
//
//   const model = await SecureModel.start({ http2: true });
//   ... upstream.base_url = model.url, upstream.ca_file = model.ca ...
//   model.words = 200; model.pauseMs = 20;      // how the next answers are streamed
//   model.connections; model.calls              // [{ version, headers, body, endedAt, whole }]
//   await model.stop();
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import http2 from 'node:http2';
import https from 'node:https';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { tempDir } from './gateway.mjs';

const event = (data) => `event: ${data.type}\ndata: ${JSON.stringify(data)}\n\n`;

const opening = (model) => event({ type: 'message_start', message: { id: 'msg_s', type: 'message',
  role: 'assistant', model, content: [], stop_reason: null, stop_sequence: null,
  usage: { input_tokens: 10, output_tokens: 1 } } }) +
  event({ type: 'content_block_start', index: 0, content_block: { type: 'text', text: '' } });
const word = (n) => event({ type: 'content_block_delta', index: 0,
  delta: { type: 'text_delta', text: n ? ` w${n}` : 'w0' } });
const closing = (words) => event({ type: 'content_block_stop', index: 0 }) +
  event({ type: 'message_delta', delta: { stop_reason: 'end_turn', stop_sequence: null },
    usage: { output_tokens: words } }) + event({ type: 'message_stop' });

export class SecureModel {
  words = 3;
  pauseMs = 0;
  calls = [];
  connections = 0;
  #sockets = new Set();

  static async start({ http2: two = false } = {}) {
    const model = new SecureModel();
    const dir = tempDir();
    model.ca = join(dir, 'cert.pem');
    const key = join(dir, 'key.pem');
    execFileSync('openssl', ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', key,
      '-out', model.ca, '-days', '2', '-subj', '/CN=localhost',
      '-addext', 'subjectAltName=IP:127.0.0.1,DNS:localhost'], { stdio: 'ignore' });
    const options = { key: readFileSync(key), cert: readFileSync(model.ca) };
    const serve = (req, res) => model.#serve(req, res);
    model.server = two ? http2.createSecureServer(options, serve)
      : https.createServer(options, serve);
    model.server.on('secureConnection', (socket) => {
      model.connections += 1;
      model.#sockets.add(socket);
      socket.on('error', () => {}); // it breaks when the other side hangs up
      socket.on('close', () => model.#sockets.delete(socket));
    });
    model.server.on('sessionError', () => {});
    model.server.listen(0, '127.0.0.1');
    await once(model.server, 'listening');
    model.url = `https://127.0.0.1:${model.server.address().port}`;
    return model;
  }

  async #serve(req, res) {
    const call = { version: req.httpVersion, headers: req.headers, open: true };
    this.calls.push(call);
    req.on('error', () => {});
    res.on('error', () => {});
    res.on('close', () => {
      call.open = false;
      call.endedAt = Date.now();
    });
    let body = '';
    for await (const chunk of req.setEncoding('utf8')) body += chunk;
    call.body = JSON.parse(body);
    res.writeHead(200, { 'content-type': 'text/event-stream' });
    res.write(opening(call.body.model));
    const { words, pauseMs } = this;
    for (let n = 0; n < words && call.open; n++) {
      res.write(word(n));
      if (pauseMs) await sleep(pauseMs);
    }
    if (!call.open) return;
    call.whole = true;
    res.end(closing(words));
  }

  async stop() {
    for (const socket of this.#sockets) socket.destroy();
    this.server.close();
    await once(this.server, 'close');
  }
}
