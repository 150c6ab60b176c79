// A proxy on the way to the API: SOCKS 5, a tunnel (CONNECT) to what speaks TLS, plain forwarding to
// what does not, with and without a password, and one that refuses. It never sees the API's
// credential where there is a tunnel, nor where it refuses one.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import net from 'node:net';
import { after, before, test } from 'node:test';

import { Gateway, UPSTREAM_KEY } from './lib/gateway.mjs';
import { SecureModel } from './lib/secure.mjs';
import { Upstream } from './lib/upstream.mjs';

const LIMIT = { timeout: 60_000 };
const FAKE = { CLAUDEGATE_CLAUDE_PASS_ENV: 'FAKE_UPSTREAM', FAKE_UPSTREAM: '1' };
const PASSWORD = 'p@ss/word';
const WANTED = `Basic ${Buffer.from(`user:${PASSWORD}`).toString('base64')}`;

/** A proxy that notes the head of each request it gets; without `password` anybody may pass. */
class Proxy {
  seen = [];
  #sockets = new Set();

  static async start({ password, status = 407 } = {}) {
    const proxy = new Proxy();
    const allowed = (req) => !password || req.headers['proxy-authorization'] === WANTED;
    const note = (req) => proxy.seen.push({ method: req.method, url: req.url,
      headers: req.headers, raw: req.rawHeaders.join('\n') });
    proxy.server = http.createServer((req, res) => {
      note(req);
      if (!allowed(req)) {
        res.writeHead(status, { 'proxy-authenticate': 'Basic realm="x"' }).end('no');
        return;
      }
      const { 'proxy-authorization': _, 'proxy-connection': __, ...headers } = req.headers;
      const onward = http.request(req.url, { method: req.method, headers }, (answer) => {
        res.writeHead(answer.statusCode, answer.headers);
        answer.pipe(res);
      });
      onward.on('error', () => res.destroy());
      req.pipe(onward);
    });
    proxy.server.on('connect', (req, socket) => {
      note(req);
      socket.on('error', () => {});
      if (!allowed(req)) {
        socket.end(`HTTP/1.1 ${status} No\r\ncontent-length: 0\r\n\r\n`);
        return;
      }
      const [host, port] = req.url.split(':');
      const onward = net.connect(Number(port), host, () => {
        socket.write('HTTP/1.1 200 OK\r\n\r\n');
        onward.pipe(socket).pipe(onward);
      });
      onward.on('error', () => socket.destroy());
      socket.on('close', () => onward.destroy());
    });
    proxy.server.on('connection', (socket) => {
      proxy.#sockets.add(socket);
      socket.on('close', () => proxy.#sockets.delete(socket));
    });
    proxy.server.listen(0, '127.0.0.1');
    await once(proxy.server, 'listening');
    proxy.port = proxy.server.address().port;
    return proxy;
  }

  url(login = '') {
    return `http://${login}127.0.0.1:${this.port}`;
  }

  stop() {
    for (const socket of this.#sockets) socket.destroy();
    this.server.close();
  }
}

/** The part of SOCKS 5 that a client with a password needs: RFC 1928 and RFC 1929. */
class Socks {
  logins = [];
  hosts = [];
  sockets = new Set();

  static async start() {
    const socks = new Socks();
    socks.server = net.createServer((socket) => {
      socks.sockets.add(socket);
      socket.on('error', () => {});
      socks.#serve(socket).catch(() => socket.destroy());
    });
    socks.server.listen(0, '127.0.0.1');
    await once(socks.server, 'listening');
    return socks;
  }

  async #serve(socket) {
    const next = async () => (await once(socket, 'data'))[0]; // each message is a packet here
    await next();
    socket.write(Buffer.from([5, 2])); // name and password, please
    const login = await next();
    const name = login.subarray(2, 2 + login[1]).toString();
    this.logins.push(`${name}:${login.subarray(3 + login[1]).toString()}`);
    socket.write(Buffer.from([1, 0]));
    const request = await next(); // 5, connect, 0, kind of address, address, port
    const named = request[3] === 3;
    const host = named ? request.subarray(5, 5 + request[4]).toString()
      : [...request.subarray(4, 8)].join('.');
    this.hosts.push(`${named ? 'name' : 'address'} ${host}`);
    const onward = net.connect(request.readUInt16BE(request.length - 2), '127.0.0.1');
    this.sockets.add(onward);
    onward.on('error', () => socket.destroy());
    await once(onward, 'connect');
    socket.write(Buffer.from([5, 0, 0, 1, 0, 0, 0, 0, 0, 0]));
    socket.pipe(onward).pipe(socket);
  }

  stop() {
    for (const socket of this.sockets) socket.destroy();
    this.server.close();
  }
}

const LOGIN = `user:${encodeURIComponent(PASSWORD)}@`;
let model;
let plain;
before(async () => {
  model = await SecureModel.start({ http2: true });
  plain = await Upstream.start();
});
after(async () => {
  await model.stop();
  await plain.stop();
});

async function through(t, proxy, login, upstream, more = {}) {
  t.after(() => proxy.stop());
  return Gateway.start({ upstream, env: FAKE, test: t,
    config: { upstream: { proxy: proxy.url(login), ca_file: model.ca, ...more } } });
}

for (const [login, password] of [['', undefined], [LOGIN, PASSWORD]]) {
  for (const version of ['1.1', '2']) {
    const name = `a tunnel${login ? ' with a password' : ''}, HTTP/${version}`;
    test(name, LIMIT, async (t) => {
      const proxy = await Proxy.start({ password });
      const secure = version === '2' ? model : await SecureModel.start();
      const gw = await through(t, proxy, login, secure.url,
        { http_version: version, ca_file: secure.ca });
      assert.equal((await gw.ask('hello')).response, 'w0 w1 w2');
      assert.equal((await gw.ask('again')).response, 'w0 w1 w2');
      assert.equal(proxy.seen.length, 1, 'one tunnel for both');
      assert.equal(proxy.seen[0].method, 'CONNECT');
      assert.equal(proxy.seen[0].headers['proxy-authorization'], login ? WANTED : undefined);
      assert.ok(!proxy.seen[0].raw.includes(UPSTREAM_KEY), 'the API\'s key is not for the proxy');
      assert.equal(secure.calls.at(-1).headers['x-api-key'], UPSTREAM_KEY);
      assert.equal(secure.calls.at(-1).headers['proxy-authorization'], undefined);
      await gw.stop();
      if (secure !== model) await secure.stop();
    });
  }
}

test('plain forwarding, with a password', LIMIT, async (t) => {
  const proxy = await Proxy.start({ password: PASSWORD });
  const gw = await through(t, proxy, LOGIN, plain);
  assert.match((await gw.ask('hello')).response, /hello$/);
  assert.equal(proxy.seen[0].method, 'POST');
  assert.ok(proxy.seen[0].url.startsWith(`${plain.url}/v1/messages`));
  const [request] = await plain.requests();
  assert.equal(request.headers['x-api-key'], UPSTREAM_KEY);
  assert.ok(!gw.stderr.includes(PASSWORD));
});

for (const [name, secure, status] of [['a tunnel', true, 407], ['a tunnel', true, 403],
  ['plain forwarding', false, 407]]) {
  test(`${name} that is refused with ${status}: said so, not tried again`, LIMIT, async (t) => {
    const calls = model.calls.length;
    const proxy = await Proxy.start({ password: PASSWORD, status });
    const gw = await through(t, proxy, 'user:wrong@', secure ? model : plain);
    const reply = await gw.chat({ message: 'hello' });
    assert.equal(reply.status, 502, reply.text);
    assert.equal(reply.body.code, 'upstream_unreachable');
    assert.equal(proxy.seen.length, 1);
    if (secure) assert.ok(!proxy.seen[0].raw.includes(UPSTREAM_KEY));
    assert.equal(model.calls.length, calls);
    const line = await gw.logged((l) => l.message === 'upstream call failed');
    assert.match(line.why, new RegExp(`${status}`));
    assert.ok(!gw.stderr.includes('wrong'));
    const row = await gw.usageRow(reply.body.requestId);
    assert.deepEqual([row.retries, row.input_tokens, row.output_tokens], [0, 0, 0]);
  });
}

for (const [scheme, host] of [['socks5h', 'name localhost'], ['socks5', 'address 127.0.0.1']]) {
  test(`${scheme}, with a password`, LIMIT, async (t) => {
    const socks = await Socks.start();
    t.after(() => socks.stop());
    const gw = await Gateway.start({ env: FAKE, test: t,
      upstream: model.url.replace('127.0.0.1', 'localhost'),
      config: { upstream: { ca_file: model.ca, http_version: '2',
        proxy: `${scheme}://${LOGIN}127.0.0.1:${socks.server.address().port}` } } });
    assert.equal((await gw.ask('hello')).response, 'w0 w1 w2');
    assert.deepEqual(socks.logins, [`user:${PASSWORD}`]);
    assert.deepEqual(socks.hosts, [host]);
  });
}

test('a target on this machine is reached without the proxy of the environment', LIMIT,
  async (t) => {
    const proxy = await Proxy.start();
    t.after(() => proxy.stop());
    const gw = await Gateway.start({ upstream: plain, test: t,
      env: { ...FAKE, http_proxy: proxy.url(), all_proxy: proxy.url() } });
    await gw.ask('hello');
    assert.equal(proxy.seen.length, 0);
  });
