// Resumable streams with the real claude program and the stand-in: a connection that dropped, and
// what came after the last event that was seen.
import assert from 'node:assert/strict';
import { after, before, beforeEach, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import Anthropic from '@anthropic-ai/sdk';
import OpenAI from 'openai';

import { eventually } from './lib/gateway.mjs';
import {
  ask, DIALECTS, events, idOf, MODEL, open, readAndLeave, say, startReal,
} from './lib/replays.mjs';
import { Upstream } from './lib/upstream.mjs';

const LIMIT = { timeout: 120_000 };
const RESUMABLE = { 'x-claudegate-resumable': 'true' };
const WORDS = 'one two three four five six seven eight';

let up;
let gw;
before(async () => {
  up = await Upstream.start();
  gw = await start();
});
after(async () => {
  await gw.stop();
  await up.stop();
});
beforeEach(() => up.reset());

const start = (options) => startReal(up, options);

const calls = async () => (await up.requests()).length;
const detached = (server = gw) => server.metrics('claudegate_replay_detached');
const resume = (server, dialect, id, options = {}) => ask(server, dialect, '', {
  body: '', ...options, headers: { 'last-event-id': id, ...options.headers },
});

for (const dialect of Object.keys(DIALECTS)) {
  test(`${dialect}: what was seen and what is resumed are the stream`, LIMIT, async () => {
    await up.script(say(WORDS, { word_delay_ms: 40, repeat: -1 }));
    const plain = await ask(gw, dialect, 'hello', { stream: true });
    assert.doesNotMatch(plain.text, /^id: /m, 'only who asks for it');
    for (const count of [1, 3, 6]) {
      await up.reset();
      await up.script(say(WORDS, { word_delay_ms: 40 }));
      const rows = (await gw.usageRows()).length;
      const seen = await readAndLeave(await open(gw, dialect, 'hello', { headers: RESUMABLE }), count);
      assert.equal(seen.length, count);
      await eventually(async () => await detached() === 1);
      const rest = await resume(gw, dialect, idOf(seen.at(-1)));
      assert.equal(rest.status, 200, rest.text);
      assert.equal(rest.headers['content-type'], 'text/event-stream; charset=utf-8');
      const all = [...seen, ...events(rest.text)];
      // byte for byte what somebody has who follows all of it, now that it is over
      const first = idOf(seen[0]);
      const whole = await resume(gw, dialect, first);
      assert.equal(all.join(''), seen[0] + events(whole.text).join(''));
      const numbers = all.map((event) => Number(idOf(event).split(':')[1]));
      assert.deepEqual(numbers, numbers.map((_, i) => i + 1), 'each event once, in order');
      assert.equal(all.length, events(plain.text).length);
      assert.match(all.join(''), /eight/);
      assert.equal(await calls(), 1);
      assert.equal((await gw.usageRows()).length, rows + 1);
      assert.equal(await detached(), 0);
    }
  });
}

test('the official SDKs read a stream with ids', LIMIT, async () => {
  await up.script(say(WORDS, { repeat: 3 }));
  const defaultHeaders = RESUMABLE;
  const anthropic = new Anthropic({ baseURL: gw.url, apiKey: await gw.key(), defaultHeaders });
  const message = await anthropic.messages.stream(
    { model: MODEL, max_tokens: 100, messages: [{ role: 'user', content: 'hello' }] }).finalMessage();
  assert.equal(message.content[0].text, WORDS);
  const openai = new OpenAI({ baseURL: `${gw.url}/v1`, apiKey: await gw.key(), defaultHeaders });
  const completion = await openai.chat.completions.stream(
    { model: MODEL, messages: [{ role: 'user', content: 'hello' }] }).finalChatCompletion();
  assert.equal(completion.choices[0].message.content, WORDS);
  const response = await openai.responses.stream({ model: MODEL, input: 'hello' }).finalResponse();
  assert.equal(response.output_text, WORDS);
  assert.ok(await gw.metrics('claudegate_replay_records') >= 3, 'they were such streams');
});

test('any number of followers, and one that comes back again and again', LIMIT, async () => {
  await up.script(say(WORDS.repeat(2), { word_delay_ms: 80 }));
  const seen = await readAndLeave(await open(gw, 'native', 'hello', { headers: RESUMABLE }), 2);
  const followers = [1, 2, 3, 4].map(() => resume(gw, 'native', idOf(seen[0])));
  const steps = [...seen];
  for (let i = 0; i < 3; i++) {
    const response = await open(gw, 'native', '', {
      body: '', headers: { 'last-event-id': idOf(steps.at(-1)) },
    });
    steps.push(...await readAndLeave(response, 2));
  }
  assert.equal(await gw.metrics('claudegate_replay_followers'), 4);
  steps.push(...events((await resume(gw, 'native', idOf(steps.at(-1)))).text));
  for (const follower of await Promise.all(followers)) {
    assert.equal(seen[0] + events(follower.text).join(''), steps.join(''));
  }
  assert.equal(await calls(), 1);
});

test('who may not have a stream is told that there is none, in each shape', LIMIT, async () => {
  const shapes = {
    native: ({ body }) => body.code, anthropic: ({ body }) => body.error.type,
    chat: ({ body }) => body.error.code, responses: ({ body }) => body.error.code,
  };
  const { key: other } = await gw.createKey();
  for (const dialect of Object.keys(DIALECTS)) {
    const stream = await ask(gw, dialect, 'hello', { stream: true, headers: RESUMABLE });
    const id = idOf(events(stream.text)[0]);
    const elsewhere = Object.keys(DIALECTS).find((name) => name !== dialect);
    const gone = id.replace(/^req_.{4}/, 'req_0000');
    const replies = await Promise.all([resume(gw, dialect, id, { key: other }),
      resume(gw, dialect, gone), resume(gw, dialect, gone, { key: other })]);
    replies.forEach((reply) => {
      assert.equal(reply.status, 404, reply.text);
      assert.match(shapes[dialect](reply), /not_found/);
      assert.match(reply.text, /Last-Event-ID: there is no such stream/);
    });
    assert.equal((await resume(gw, elsewhere, id)).status, 404);
    const beyond = await resume(gw, dialect, id.replace(/:1$/, ':999'));
    assert.equal(beyond.status, 404);
    assert.match(beyond.text, /no such event/);
    assert.equal((await resume(gw, dialect, id)).status, 200, 'its owner can');
  }
  assert.equal(await calls(), 4);
});

test('values that are none: 400, naming the header', LIMIT, async () => {
  const id = `req_${'a'.repeat(24)}`;
  for (const value of ['', 'x', '17', id, `${id}:`, `${id}:0`, `${id}:-1`, `${id}:1x`, `${id}:1:2`,
    `${id}:99999999999`, `req_${'a'.repeat(23)}:1`, `req_${'-'.repeat(24)}:1`]) {
    const reply = await resume(gw, 'native', value);
    assert.equal(reply.status, 400, value);
    assert.match(reply.body.error, /^Last-Event-ID: must be the id of an event/);
  }
  const reply = await ask(gw, 'chat', 'hello', { headers: { 'x-claudegate-resumable': 'yes' } });
  assert.equal(reply.status, 400);
  assert.match(reply.body.error.message, /^X-Claudegate-Resumable: must be true or false/);
  assert.equal(await calls(), 0);
  const off = await ask(gw, 'native', 'hello', {
    stream: true, headers: { 'x-claudegate-resumable': 'false' },
  });
  assert.doesNotMatch(off.text, /^id: /m);
});

test('nobody comes back: the turn ends after the grace, and the row says so', LIMIT, async (t) => {
  const hasty = await start({ test: t, config: { resume: { grace: 1 } } });
  await up.script(say('word '.repeat(300), { word_delay_ms: 50 }));
  const seen = await readAndLeave(await open(hasty, 'chat', 'hello', { headers: RESUMABLE }), 3);
  await eventually(async () => await detached(hasty) === 1);
  await sleep(500); // a follower that leaves again begins the time anew
  await readAndLeave(await open(hasty, 'chat', '', {
    body: '', headers: { 'last-event-id': idOf(seen[0]) },
  }), 2);
  await sleep(700);
  assert.equal((await hasty.usageRows()).length, 0);
  const [row] = await eventually(async () => {
    const rows = await hasty.usageRows();
    return rows.length && rows;
  });
  assert.equal(row.status_code, 499);
  const late = await resume(hasty, 'chat', idOf(seen[0]));
  assert.equal(late.status, 404, late.text);
  await eventually(async () => await hasty.metrics('claudegate_replay_records') === 0);
  assert.equal(await hasty.metrics('claudegate_replay_bytes'), 0);
});

test('a stream that is over stays for the grace, also one that failed', LIMIT, async (t) => {
  const hasty = await start({ test: t, config: { resume: { grace: 2 } } });
  await up.script([say(WORDS), say(WORDS, { cut_after: 6 })]);
  const good = await ask(hasty, 'anthropic', 'hello', { stream: true, headers: RESUMABLE });
  const bad = await ask(hasty, 'anthropic', 'hello', { stream: true, headers: RESUMABLE });
  for (const stream of [good, bad]) {
    const [first, ...others] = events(stream.text);
    assert.equal((await resume(hasty, 'anthropic', idOf(first))).text, others.join(''));
  }
  assert.match(bad.text, /event: error/);
  await eventually(async () => await hasty.metrics('claudegate_replay_records') === 0);
  assert.equal((await resume(hasty, 'anthropic', idOf(events(good.text)[0]))).status, 404);
});

test('a long stream: the oldest events go, and 410 says from where on it can be resumed', LIMIT,
  async (t) => {
    const small = await start({ test: t, config: { resume: { max_bytes: 4096 } } });
    await up.script(say('word '.repeat(200)));
    const stream = await ask(small, 'chat', 'hello', { stream: true, headers: RESUMABLE });
    const all = events(stream.text);
    const gone = await resume(small, 'chat', idOf(all[0]));
    assert.equal(gone.status, 410, gone.text);
    const oldest = Number(/number (\d+)/.exec(gone.body.error.message)[1]);
    assert.ok(oldest > 100 && oldest < all.length);
    const rest = await resume(small, 'chat', idOf(all[oldest - 1]));
    assert.equal(rest.text, all.slice(oldest).join(''));
    assert.equal((await resume(small, 'chat', idOf(all[oldest - 2]))).status, 410);
    assert.ok(await small.metrics('claudegate_replay_bytes') < 4096 + 2048);
  });

test('all streams together are bounded: the oldest finished one goes first', LIMIT, async (t) => {
  const small = await start({ test: t, config: { resume: { max_total_bytes: 16384 } } });
  const streams = [];
  for (let i = 0; i < 8; i++) {
    streams.push(await ask(small, 'native', 'hello', { stream: true, headers: RESUMABLE }));
    assert.ok(await small.metrics('claudegate_replay_bytes') <= 16384);
  }
  const statuses = [];
  for (const stream of streams) {
    statuses.push((await resume(small, 'native', idOf(events(stream.text)[0]))).status);
  }
  assert.equal(statuses[0], 404);
  assert.equal(statuses.at(-1), 200);
  assert.deepEqual([...statuses].sort().reverse(), statuses);
});

test('one that is being read goes after those that nobody reads', LIMIT, async (t) => {
  const MIB = 1 << 20;
  const small = await start({
    test: t, config: { resume: { max_bytes: 8 * MIB, max_total_bytes: 9 * MIB } },
  });
  await up.script([say('word '.repeat(20_000)), say('word '.repeat(4000), { repeat: -1 })]);
  const stream = await ask(small, 'chat', 'hello', { stream: true, headers: RESUMABLE });
  const [first, ...others] = events(stream.text);
  const reads = await open(small, 'chat', '', { body: '', headers: { 'last-event-id': idOf(first) } });
  for (let i = 0; i < 4; i++) await ask(small, 'chat', 'hello', { stream: true, headers: RESUMABLE });
  assert.ok(await small.metrics('claudegate_replay_bytes') <= 9 * MIB);
  let text = '';
  for await (const chunk of reads.setEncoding('utf8')) text += chunk;
  assert.equal(events(text).join(''), others.join(''));
});

test('streams that did not ask for it cost nothing and end with their client', LIMIT, async () => {
  await eventually(async () => await detached() === 0);
  const records = await gw.metrics('claudegate_replay_records');
  const rows = (await gw.usageRows()).length;
  await up.script(say('word '.repeat(300), { word_delay_ms: 50 }));
  const response = await open(gw, 'native', 'hello');
  assert.ok(await gw.metrics('claudegate_replay_records') <= records);
  await readAndLeave(response, 2);
  await eventually(async () => (await gw.usageRows()).length === rows + 1, { ms: 2000 });
  // asked for, but nothing was seen yet that could be resumed after
  await up.script(say('slow', { delay_ms: 5000 }));
  const leave = new AbortController();
  const lost = ask(gw, 'native', 'hello', { stream: true, headers: RESUMABLE, signal: leave.signal })
    .catch(() => {});
  await up.waitFor((list) => list.length === 2);
  leave.abort();
  await lost;
  await eventually(async () => (await gw.usageRows()).length === rows + 2, { ms: 2000 });
});

test('a stop does not wait for a client that is away', LIMIT, async (t) => {
  const first = await start({ test: t });
  await up.script(say('word '.repeat(300), { word_delay_ms: 100 }));
  await readAndLeave(await open(first, 'responses', 'hello', { headers: RESUMABLE }), 3);
  await eventually(async () => await detached(first) === 1);
  const before = Date.now();
  await first.stop();
  assert.ok(Date.now() - before < 3000, 'nobody could come back to this server');
  const rows = await first.usageRows();
  assert.deepEqual(rows.map((row) => row.status_code), [499]);
});

test('a stop lets a client that has come back read on', LIMIT, async (t) => {
  const first = await start({ test: t });
  await up.script(say('word '.repeat(30), { word_delay_ms: 50 }));
  const seen = await readAndLeave(await open(first, 'chat', 'hello', { headers: RESUMABLE }), 3);
  const back = resume(first, 'chat', idOf(seen.at(-1)));
  await eventually(async () => await first.metrics('claudegate_replay_followers') === 1);
  await first.stop();
  assert.match((await back).text, /data: \[DONE\]\n\n$/);
});

test('one that never reads what is over is cut off', LIMIT, async (t) => {
  const hasty = await start({
    test: t, config: { resume: { grace: 1 }, server: { idle_timeout: 1 } },
  });
  await up.script(say('word '.repeat(10_000)));
  const stream = await ask(hasty, 'chat', 'hello', { stream: true, headers: RESUMABLE });
  const response = await open(hasty, 'chat', '', {
    body: '', headers: { 'last-event-id': idOf(events(stream.text)[0]) },
  });
  response.on('error', () => {}).pause();
  assert.equal(await hasty.metrics('claudegate_replay_followers'), 1);
  await eventually(async () => await hasty.metrics('claudegate_replay_records') === 0,
    { ms: 20_000 });
});

test('waiting in the queue, then resumed', LIMIT, async (t) => {
  const one = await start({ test: t, config: { pool: { max_workers: 1 }, server: { keepalive_ms: 200 } } });
  await up.script([say('slow', { delay_ms: 1500, match: { text: 'first' } }),
    say(WORDS, { word_delay_ms: 300, match: { text: 'second' } })]);
  const busy = ask(one, 'native', 'first');
  await up.waitFor((list) => list.length === 1);
  const response = await open(one, 'native', 'second', { headers: RESUMABLE });
  const seen = await readAndLeave(response, 2); // comments came before
  const rest = await resume(one, 'native', idOf(seen.at(-1)));
  assert.match(rest.text, /\[DONE\]/);
  assert.match(rest.text, /^: keep-alive$/m, 'a follower is kept alive as well');
  assert.equal((await busy).status, 200);
});
