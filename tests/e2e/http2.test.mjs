// HTTP/2 towards the API, against a real HTTP/2 server behind TLS: it streams, a client that leaves
// ends the model's work, and connections are used again.
import assert from 'node:assert/strict';
import { after, before, beforeEach, test } from 'node:test';

import { eventually, Gateway } from './lib/gateway.mjs';
import { SecureModel } from './lib/secure.mjs';

const LIMIT = { timeout: 60_000 };
const NOTICED_MS = 250; // a stream that is given up ends within; it would go on for seconds
const FAKE = { CLAUDEGATE_CLAUDE_PASS_ENV: 'FAKE_UPSTREAM', FAKE_UPSTREAM: '1' };

for (const version of ['2', '1.1']) {
  let model;
  let gw;
  before(async () => {
    model = await SecureModel.start({ http2: version === '2' });
    gw = await Gateway.start({ upstream: model.url, env: FAKE,
      config: { upstream: { http_version: version, ca_file: model.ca } } });
  });
  after(async () => {
    await gw.stop();
    await model.stop();
  });
  beforeEach(() => {
    model.calls.length = 0;
    Object.assign(model, { words: 3, pauseMs: 0 });
  });

  test(`HTTP/${version}: an answer streams as it is written`, LIMIT, async () => {
    Object.assign(model, { words: 10, pauseMs: 50 });
    const reply = await gw.collect({ message: 'hello' });
    assert.equal(reply.text, 'w0 w1 w2 w3 w4 w5 w6 w7 w8 w9');
    assert.ok(reply.done);
    const deltas = reply.at.filter((_, i) => reply.events[i].type === 'delta');
    assert.ok(deltas.at(-1) - deltas[0] > 300, `in ${deltas.at(-1) - deltas[0]} ms`);
    assert.equal(model.calls.length, 1);
    assert.equal(model.calls[0].version, version === '2' ? '2.0' : '1.1');
    assert.match(model.calls[0].headers['x-api-key'], /^sk-ant-dummy/);
  });

  test(`HTTP/${version}: one connection serves one call after the other`, LIMIT, async () => {
    await gw.ask('hello');
    const from = model.connections;
    for (let i = 0; i < 5; i++) assert.equal((await gw.ask(`again ${i}`)).response, 'w0 w1 w2');
    assert.equal(model.connections, from);
    Object.assign(model, { words: 10, pauseMs: 30 });
    const both = await Promise.all(['a', 'b'].map((message) => gw.ask(message)));
    assert.deepEqual(both.map((reply) => reply.response.split(' ').length), [10, 10]);
    assert.ok(model.connections <= from + 1, 'two at once need two, and no more');
  });

  test(`HTTP/${version}: the model stops when the client leaves`, LIMIT, async () => {
    Object.assign(model, { words: 500, pauseMs: 20 });
    const leave = new AbortController();
    let left;
    await assert.rejects(async () => {
      let seen = 0;
      for await (const item of gw.stream({ message: 'hello' }, { signal: leave.signal })) {
        if (item.type !== 'delta' || ++seen < 5) continue;
        left ??= Date.now();
        leave.abort();
      }
    });
    const [call] = await eventually(() => !model.calls[0].open && model.calls);
    assert.ok(!call.whole);
    assert.ok(call.endedAt - left < NOTICED_MS, `after ${call.endedAt - left} ms`);
    Object.assign(model, { words: 3, pauseMs: 0 });
    assert.equal((await gw.ask('and on')).response, 'w0 w1 w2');
  });
}

test('a certificate that is not trusted is refused, and nothing is sent', LIMIT, async (t) => {
  const model = await SecureModel.start({ http2: true });
  const gw = await Gateway.start({ upstream: model.url, env: FAKE, test: t,
    config: { upstream: { http_version: '2' } } });
  const reply = await gw.chat({ message: 'hello' });
  assert.equal(reply.status, 502, reply.text);
  assert.equal(model.calls.length, 0);
  await gw.stop();
  await model.stop();
});
