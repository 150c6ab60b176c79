// The fake claude program: every fault and every kind of answer a step can ask for. What a step may
// hold stands in tests/fakes/fake_script.c.
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Cli, PLAIN_TURN, file, shape, textOf, withCli } from './lib/cli.mjs';

test('text in pieces, never inside a character', async () => {
  await withCli({}, async (cli) => {
    const text = 'aé€😀 "q"\\\n\t\u0001';
    const lines = await cli.during(() => cli.step({ text, chunk: 1 }));
    assert.equal(textOf(lines), text);
    assert.equal(lines.filter((m) => m.event?.delta?.text).length, [...text].length);
    assert.equal(lines.at(-1).result, text);
  });
});

test('delays', async () => {
  await withCli({}, async (cli) => {
    const t = Date.now();
    await cli.step({ text: 'abcd', chunk: 1, delay_ms: 30, start_delay_ms: 50 });
    assert.ok(Date.now() - t >= 165, `${Date.now() - t} ms`);
  });
});

test('thinking', async () => {
  await withCli({}, async (cli) => {
    const lines = await cli.during(() => cli.step({ thinking: 'hmm hmm', text: 'yes',
      chunk: 4 }));
    assert.deepEqual(lines.map(shape).slice(2, -2), ['message_start', 'content_block_start',
      'system/thinking_tokens', 'content_block_delta', 'system/thinking_tokens',
        'content_block_delta',
      'content_block_delta', 'assistant', 'content_block_stop', 'content_block_start',
        'content_block_delta',
      'assistant', 'content_block_stop', 'message_delta']);
    const [thought] = lines.filter((m) => m.type === 'assistant');
    assert.equal(thought.message.content[0].thinking, 'hmm hmm');
    assert.ok(thought.message.content[0].signature);
    assert.equal(lines.at(-1).result, 'yes');
  });
});

test('stop reasons', async () => {
  await withCli({}, async (cli) => {
    const limit = await cli.during(() => cli.step({ text: 'cut off',
      stop_reason: 'max_tokens' }));
    assert.equal(limit.filter((m) => m.event?.type === 'message_start').length, 4);
    assert.deepEqual([limit.at(-1).is_error, limit.at(-1).usage.output_tokens], [true, 20]);
    assert.match(limit.at(-1).result, /exceeded the 32000 output token maximum/);
    assert.equal(limit.at(-2).error, 'max_output_tokens');
    const went = await cli.step({ text: 'a', stop_reason: 'max_tokens', then: { text: 'b' } });
    assert.deepEqual([went.result, went.is_error], ['b', false]);
    const refused = await cli.during(() => cli.step({ text: 'no', stop_reason: 'refusal' }));
    assert.deepEqual([refused.at(-1).is_error, refused.at(-1).stop_reason], [true, 'refusal']);
    assert.ok(refused.some((m) => m.subtype === 'model_refusal_no_fallback'));
    const sequence = await cli.during(() => cli.step({ stop_reason: 'stop_sequence',
      stop_sequence: 'END' }));
    assert.equal(sequence.find((m) =>
      m.event?.type === 'message_delta').event.delta.stop_sequence, 'END');
    const empty = await cli.during(() => cli.step({ text: '' }));
    assert.equal(empty.filter((m) => m.isSynthetic).length, 1);
    assert.deepEqual([empty.at(-1).result, empty.at(-1).num_turns], ['', 2]);
  });
});

test('errors, with retries and without', async () => {
  await withCli({}, async (cli) => {
    for (const [error, kind, status, text] of [
      [{ status: 400, message: 'bad' }, 'unknown', 400, 'API Error: 400 bad'],
      [{ status: 401, message: 'key' }, 'authentication_failed', 401,
        'Invalid API key · Fix external API key'],
      [{ status: 404, message: 'm' }, 'model_not_found', 404,
        /selected model \(claude-sonnet-4-5\)/],
      [{ status: 429, message: 'slow' }, 'rate_limit', 429,
        'API Error: Request rejected (429) · slow'],
      [{ status: 529, message: 'Overloaded' }, 'server_error', 529, /^API Error: 529 Overloaded/],
      [{}, 'server_error', null, 'API Error: Unable to connect to API (ECONNRESET)'],
      [{ status: 402, message: 'pay', kind: 'billing_error' }, 'billing_error', 402,
        'API Error: 402 pay'],
    ]) {
      const lines = await cli.during(() => cli.step({ error }));
      const result = lines.at(-1);
      assert.deepEqual([result.subtype, result.is_error, result.api_error_status], ['success',
        true, status]);
      if (text instanceof RegExp) assert.match(result.result, text);
      else assert.equal(result.result, text);
      assert.deepEqual([lines.at(-2).error, lines.at(-2).message.model], [kind, '<synthetic>']);
    }
    const retried = await cli.during(() => cli.step({ error: { status: 529, message: 'o',
      retries: 2, retry_delay_ms: 20 } }));
    assert.deepEqual(retried.filter((m) => m.subtype === 'api_retry').map((m) => [m.attempt,
      m.error_status, m.error]),
      [[1, 529, 'overloaded'], [2, 529, 'overloaded']]);
    const recovered = await cli.step({ text: 'fine', error: { status: 500, retries: 1,
      recover: true } });
    assert.deepEqual([recovered.result, recovered.is_error], ['fine', false]);
    assert.equal(await (await cli.step({ error: { status: 400 } }), cli.end()), 1); // as with -p
  });
});

test('cuts', async () => {
  await withCli({}, async (cli) => {
    const early = await cli.during(() => cli.step({ text: 'abcdef', chunk: 2, cut: true,
      cut_after: 2 }));
    assert.equal(textOf(early), 'abcd');
    assert.match(early.at(-1).result, /Connection to the API was lost/);
    const late = await cli.step({ text: 'abc', cut: true, cut_after_block: true });
    assert.match(late.result, /closed mid-response/);
  });
  await withCli({ env: { CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK: '' } }, async (cli) => {
    const lines = await cli.during(() => cli.step({ text: 'abcdef', chunk: 2, cut: true }));
    assert.deepEqual(lines.slice(-3).map(shape), ['content_block_delta', 'assistant',
      'result/success']);
    assert.deepEqual([textOf(lines), lines.at(-1).result], ['ab', 'abcdef']);
  });
});

test('leaving at any point', async () => {
  const at = { init: ['system/init'], message_start: PLAIN_TURN.slice(0, 3),
    delta: PLAIN_TURN.slice(0, 5),
    before_result: PLAIN_TURN.slice(0, 9), after_result: PLAIN_TURN };
  for (const [point, lines] of Object.entries(at)) {
    await withCli({}, async (cli) => {
      cli.user(`fake:{"exit_at":"${point}","exit_code":7,"stderr":"bye\\n"}`);
      assert.deepEqual(await cli.gone, [7, null], point);
      await cli.closed;
      assert.deepEqual(cli.lines.map((l) => shape(JSON.parse(l))), lines);
      assert.equal(cli.stderr, 'bye\n');
    });
  }
  await withCli({}, async (cli) => {
    cli.user('fake:{"text":"abc","chunk":1,"exit_at":"delta","exit_after":2,"signal":9,"exit_partial":true}');
    assert.deepEqual(await cli.gone, [null, 'SIGKILL']);
    await cli.closed;
    assert.equal(cli.lines.length, 6);
    assert.equal(cli.rest, '{"type":"stream_event","event":{"type":"content_bl');
  });
  for (const point of ['start', 'initialize']) {
    const script = file('script');
    writeFileSync(script, JSON.stringify([{ exit_at: point, exit_code: 8 }]));
    const cli = new Cli({ env: { FAKE_SCRIPT: script } });
    if (point === 'initialize') {
      await sleep(50);
      cli.request('initialize');
    }
    assert.deepEqual(await cli.gone, [8, null]);
    assert.deepEqual(cli.lines, []);
  }
});

test('lines nobody expects', async () => {
  for (const at of ['init', 'message_start', 'delta', 'before_result', 'after_result']) {
    await withCli({}, async (cli) => {
      cli.until = null; // garbage is not JSON: only the raw lines are read
      cli.user(`fake:{"garbage_at":"${at}","garbage":"<<<","unknown_event_at":"${at}"}`);
      for (let i = 0; i < 500 && cli.lines.length < 12; i++) await sleep(10);
      assert.equal(cli.lines.length, 12);
      assert.equal(cli.lines.filter((line) => line === '<<<').length, 1);
      assert.equal(cli.lines.filter((line) => line.startsWith('{"type":"galactic_event"')).length,
        1);
    });
  }
});

test('keys in the other order', async () => {
  await withCli({}, async (cli) => {
    const usual = await cli.during(() => cli.step({ text: 'a "b"' }));
    const from = cli.lines.length;
    const other = await cli.during(() => cli.step({ text: 'a "b"', key_order: 'reversed' }));
    assert.deepEqual(other.map(shape), usual.map(shape));
    for (const line of cli.lines.slice(from)) assert.doesNotMatch(line, /^\{"type"/);
    assert.deepEqual(other[4].event, usual[4].event);
    assert.deepEqual(Object.keys(other[4].event), ['delta', 'index', 'type']);
    await cli.ask('x');
    assert.match(cli.lines.at(-1), /^\{"type"/);
  });
});

test('large, many, slowly read, in pieces', async () => {
  await withCli({}, async (cli) => {
    const { result } = await cli.step({ huge: 3_000_000 });
    assert.equal(result.length, 3_000_000);
    const lines = await cli.during(() => cli.step({ flood: 5000, text: 'x' }));
    assert.equal(textOf(lines).length, 5000);
    cli.child.stdout.pause(); // a reader that does not read: it goes on listening
    cli.user('fake:{"flood":1000000000,"text":"y"}');
    await sleep(150);
    const id = cli.request('interrupt');
    await sleep(50);
    cli.child.stdout.resume();
    await cli.until((m) => m.response?.request_id === id);
    assert.equal((await cli.result()).terminal_reason, 'aborted_streaming');
  });
  await withCli({ autoRead: false }, async (cli) => {
    const sizes = [];
    let text = '';
    cli.child.stdout.on('data', (data) => { sizes.push(data.length); text += data; });
    cli.user('fake:{"split":{"bytes":7,"pause_us":200}}');
    for (let i = 0; i < 1000 && !/"type":"result".*\n/.test(text); i++) await sleep(10);
    assert.equal(text.trim().split('\n').length, 10);
    assert.ok(sizes.length > 50, `${sizes.length} pieces`);
  });
});

test('no result, or nothing after it', async () => {
  await withCli({}, async (cli) => {
    cli.user('fake:{"no_result":true}');
    await cli.ended();
    await cli.silent();
    assert.equal((await cli.control('interrupt')).subtype, 'success');
    await cli.silent();
    cli.child.kill('SIGTERM');
    assert.deepEqual(await cli.gone, [143, null]);
  });
  await withCli({}, async (cli) => {
    await cli.step({ hang_after_result: true });
    cli.request('interrupt');
    cli.user('x');
    cli.child.stdin.end();
    await cli.silent(200);
    assert.equal(cli.exit, null);
    cli.child.kill('SIGTERM');
    assert.deepEqual(await cli.gone, [143, null]);
  });
});

test('a reply that gets lost', async () => {
  await withCli({}, async (cli) => {
    await cli.step({ lose_control: 'set_model' });
    await cli.control('mcp_status');
    cli.request('set_model', { model: 'claude-y' });
    const { model } = await cli.until((m) => m.subtype === 'init' || (cli.user('x'), false));
    assert.equal(model, 'claude-y'); // done, but not told
    await cli.result();
    assert.equal(cli.lines.filter((l) => l.includes('control_response')).length, 1);
    assert.equal((await cli.control('set_model', { model: 'claude-z' })).subtype, 'success');
  });
});

test('a grandchild keeps the pipes', async () => {
  for (const more of [{}, { grandchild_escapes: true }]) {
    const cli = new Cli();
    await cli.step({ grandchild_ms: 400, ...more });
    cli.child.stdin.end();
    await cli.gone;
    const t = Date.now();
    await cli.closed;
    assert.ok(Date.now() - t > 200, `closed ${Date.now() - t} ms after the exit`);
  }
});

test('faults that wait for a line', async () => {
  const lines = {
    set_model: (cli) => cli.request('set_model', { model: 'claude-y' }),
    interrupt: (cli) => cli.request('interrupt'),
    boundary: (cli) => cli.boundary(),
    assistant: (cli) => cli.assistant('words'),
    history: (cli) => cli.user('words', { shouldQuery: false }),
    question: (cli) => cli.user('words'),
    clear: (cli) => cli.typed('/clear'),
  };
  for (const [at, act] of Object.entries(lines)) {
    await withCli({}, async (cli) => {
      assert.equal((await cli.step({ later: { at, do: 'exit', code: 5 } })).result, 'ok');
      act(cli);
      assert.deepEqual(await cli.gone, [5, null], at);
    });
    await withCli({}, async (cli) => {
      await cli.step({ later: { at, do: 'hang' } });
      act(cli);
      cli.user('x');
      await cli.silent(50);
      cli.child.kill('SIGTERM');
      assert.deepEqual(await cli.gone, [143, null], at);
    });
  }
  await withCli({}, async (cli) => {
    await cli.step({ later: { at: 'question', do: 'delay', ms: 100 } });
    const t = Date.now();
    assert.equal((await cli.ask('x')).result, 'ok');
    assert.ok(Date.now() - t >= 95, `${Date.now() - t} ms`);
    await cli.step({ later: { at: 'set_model', do: 'mute' } });
    cli.request('set_model', { model: 'claude-y' });
    cli.user('x');
    const { model } = await cli.until((m) => m.subtype === 'init');
    assert.equal(model, 'claude-y');
    await cli.result();
    assert.ok(cli.lines.every((l) => !l.includes('control_response')));
    await cli.step({ later: { at: 'question', do: 'exit', signal: 9 } });
    cli.user('x');
    assert.deepEqual(await cli.gone, [null, 'SIGKILL']);
  });
  await withCli({ env: { FAKE_LATER: '{"at":"initialize","do":"exit","code":6}' } },
    async (cli) => {
      cli.request('initialize');
      assert.deepEqual(await cli.gone, [6, null]);
      assert.deepEqual(cli.lines, []);
    });
  await withCli({}, async (cli) => {
    for (const later of [{ at: 'set_modl', do: 'exit' }, { at: 'clear', do: 'explode' },
      { at: 'clear' }, { at: 'clear', do: 'exit', how: 1 }]) {
      assert.match((await cli.step({ later })).result, /^fake: bad step: /);
    }
  });
});

test('one cut anywhere, and many complaints', async () => {
  await withCli({ autoRead: false }, async (cli) => {
    const sizes = [];
    let text = '';
    cli.child.stdout.on('data', (data) => { sizes.push(data.length); text += data; });
    cli.user('fake:{"split":{"at":123,"pause_us":20000},"stderr_flood":1000000}');
    for (let i = 0; i < 1000 && !/"type":"result".*\n/.test(text); i++) await sleep(10);
    assert.equal(text.trim().split('\n').length, 10);
    assert.deepEqual([sizes[0], sizes.length], [123, 2]);
    await cli.end();
    assert.ok(cli.stderr.length >= 1000000);
  });
});

test('what a process keeps to itself', async () => {
  await withCli({}, async (cli) => {
    await cli.step({ remember: 'a "b"' });
    await cli.step({ remember: 'c' });
    cli.boundary();
    const { memory, history } = JSON.parse((await cli.step({ recall: true })).result);
    assert.equal(memory, 'a "b";c;');
    assert.equal(history.length, 1);
  });
});

test('once, then, and what is misspelt', async () => {
  await withCli({}, async (cli) => {
    const marker = file('once');
    const step = { text: 'first', once: marker, then: { text: 'later' } };
    assert.equal((await cli.step(step)).result, 'first');
    assert.equal((await cli.step(step)).result, 'later');
    assert.equal((await cli.step({ text: 'x', once: marker })).result, 'ok');
    assert.match((await cli.step({ txt: 'x' })).result, /^fake: bad step: txt: unknown field/);
    assert.match((await cli.step({ exit_at: 'nowhere' })).result, /no such point/);
    assert.match((await cli.ask('fake:{oops')).result, /^fake: bad directive/);
    const last = await cli.ask('fake:{"text":"a"} and fake:{"text":"b"} end');
    assert.equal(last.result, 'b');
  });
});

test('a stderr text and usage belong to the step', async () => {
  await withCli({}, async (cli) => {
    const { usage } = await cli.step({ stderr: 'warn\n', usage: { input_tokens: 7 } });
    assert.deepEqual([usage.input_tokens, usage.output_tokens], [7, 5]);
    await cli.end();
    assert.equal(cli.stderr, 'warn\n');
  });
});
