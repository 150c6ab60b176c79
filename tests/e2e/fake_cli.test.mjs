// The fake claude program: the rules of the protocol it imitates, its environment, its ends.
// FAKE_CLAUDE_BIN names the binary. What its steps can do is in fake_steps.test.mjs; what it does
// upstream, and how it compares to the real program, in fake_upstream.test.mjs.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { ARGS, Cli, ENV, FAKE, PLAIN_TURN, file, jsonl, run, running, shape, withCli }
  from './lib/cli.mjs';

// ---- the protocol ----

test('version and arguments', async () => {
  assert.deepEqual(await run(['--version']), { code: 0, stdout: '2.1.197 (Claude Code)\n',
    stderr: '' });
  for (const [without, message] of [['--verbose', /requires --verbose/], ['-p', /-p/],
    ['--output-format', /output-format/], ['--input-format', /input-format/]]) {
    const i = ARGS.indexOf(without);
    const args = ARGS.toSpliced(i, without.endsWith('format') ? 2 : 1);
    const { code, stdout, stderr } = await run(args);
    assert.equal(code, 1, without);
    assert.equal(stdout, '');
    assert.match(stderr, message);
  }
});

test('writes nothing before it is spoken to, and ends with its input', async () => {
  await withCli({}, async (cli) => {
    await cli.silent(200);
    assert.equal(await cli.end(), 0);
    assert.deepEqual(cli.lines, []);
  });
});

test('the default reply, its lines, their first bytes', async () => {
  await withCli({}, async (cli) => {
    const lines = await cli.during(() => cli.ask('hi'));
    assert.deepEqual(lines.map(shape), PLAIN_TURN);
    for (const line of cli.lines) assert.match(line, /^\{"type":"/);
    assert.match(cli.lines[4],
      /^\{"type":"stream_event","event":\{"type":"content_block_delta","index":0,"delta":\{"type":"text_delta","text":"ok"\}\},"session_id":"/);
    assert.deepEqual(lines[2].event.message.usage, { input_tokens: 10,
      cache_creation_input_tokens: 0, cache_read_input_tokens: 0, output_tokens: 1 });
    assert.deepEqual(lines[7].event, { type: 'message_delta',
      delta: { stop_reason: 'end_turn', stop_sequence: null }, usage: { output_tokens: 5 } });
    const { result, is_error, num_turns, usage } = lines.at(-1);
    assert.deepEqual([result, is_error, num_turns, usage.input_tokens, usage.output_tokens],
      ['ok', false, 1, 10, 5]);
    const ids = cli.lines.map((line) => JSON.parse(line).uuid);
    assert.equal(new Set(ids).size, ids.length);
  });
});

test('lines that kill it', async () => {
  const parse = /^Error parsing streaming input line: /;
  for (const [line, message] of [['   ', parse], ['nojson', parse], ['{"type":"user"', parse],
    ['null', parse], ['{"type":"user"}', parse], ['{"type":"control_request","request_id":"x"}',
      parse],
    ['{"type":"user","message":{"role":"assistant","content":"x"}}',
      /Expected message role 'user'/],
    ['{"type":"user","message":{"role":"user","content":5}}', /^$/]]) {
    const cli = new Cli();
    cli.send(line);
    assert.deepEqual(await cli.gone, [1, null], line);
    await cli.closed;
    assert.match(cli.stderr, message);
  }
});

test('lines that it ignores, and text it mends', async () => {
  await withCli({}, async (cli) => {
    for (const line of ['', '[1,2]', '5', '{"type":"bogus"}', '{"type":"keep_alive"}',
      '{"type":"assistant"}',
      '{"type":"control_cancel_request","request_id":"e"}', '{"type":"system","subtype":"other"}',
      '{"type":"control_response","response":{"subtype":"success","request_id":"zz"}}']) cli.send(line);
    await cli.silent();
    const line = (text) => `{"type":"user","shouldQuery":false,"message":{"role":"user","content":[{"type":"text","text":"${text}"}]}}`;
    cli.child.stdin.write(Buffer.concat([Buffer.from(line('bad ').slice(0, -5)),
      Buffer.from([0xff]),
      Buffer.from('"}]}}\r\n')]));
    await cli.result();
    cli.send(line('lone \\ud800 pair \\ud83d\\ude00 nul \\u0000 sep \u2028 big'));
    await cli.result();
    cli.send('{"type":"assistant","message":{"id":"m","content":[{"type":"text","text":"x","n":123456789012345678901234567890}]}}');
    const [user] = await cli.history();
    assert.equal(user.text, 'bad \ufffd\nlone \ufffd pair \u{1f600} nul \0 sep \u2028 big');
  });
});

test('initialize counts once, and only before a user line', async () => {
  const log = file('log');
  await withCli({ env: { FAKE_LOG: log } }, async (cli) => {
    const { response } = await cli.control('initialize', { systemPrompt: 'A',
      appendSystemPrompt: 'B' });
    assert.equal(response.pid, cli.child.pid);
    await cli.control('initialize', { systemPrompt: 'C' });
    await cli.ask('x');
    assert.equal(jsonl(log)[0].body.system.at(-1).text, 'A\n\nB');
  });
  const late = file('log');
  await withCli({ env: { FAKE_LOG: late, CLAUDE_CODE_ATTRIBUTION_HEADER: '0' } }, async (cli) => {
    await cli.ask('x', { shouldQuery: false });
    assert.equal((await cli.control('initialize', { systemPrompt: 'C' })).subtype, 'success');
    await cli.ask('x');
    assert.equal(jsonl(late)[0].body.system.length, 1);
  });
});

describe('the user queue', () => {
  test('control lines overtake, lines sent while busy are merged', async () => {
    await withCli({}, async (cli) => {
      cli.user('first');
      const id = cli.request('set_model', { model: 'claude-x' });
      assert.equal((await cli.until((m) => m.response)).response.request_id, id);
      assert.equal((await cli.until((m) => m.subtype === 'init')).model, 'claude-x');
      await cli.result();
      cli.user('fake:{"text":"slow","chunk":1,"delay_ms":30}');
      await cli.delta();
      cli.user('second');
      cli.user('third');
      assert.equal((await cli.control('mcp_status')).subtype, 'success'); // at once
      assert.equal((await cli.result()).result, 'slow');
      await cli.result();
      await cli.silent();
      const texts = (await cli.history()).map((m) => m.text);
      assert.ok(texts.some((text) => text.endsWith('second\nthird')), texts.join('|'));
    });
  });
  test('acknowledgements, one for each line', async () => {
    await withCli({}, async (cli) => {
      cli.user('h1', { shouldQuery: false });
      cli.user('h2', { shouldQuery: false });
      cli.user('fake:{"echo_history":true}');
      const lines = await cli.during(async () => {
        for (let i = 0; i < 2; i++) {
          const { num_turns, result } = await cli.result();
          assert.deepEqual([num_turns, result], [0, '']);
        }
        assert.match((await cli.result()).result, /h1\\nh2\\nfake/);
      });
      assert.deepEqual(lines.slice(0, 4).map(shape),
        ['system/init', 'result/success', 'system/init', 'result/success']);
    });
  });
  test('a uuid seen before is dropped without a word', async () => {
    await withCli({}, async (cli) => {
      const uuid = randomUUID();
      await cli.ask('a', { uuid });
      cli.user('a', { uuid });
      await cli.silent();
      await cli.ask('a', { uuid: randomUUID() });
    });
  });
});

describe('history', () => {
  test('/clear leaves three messages and another session, a boundary nothing', async () => {
    const log = file('log');
    await withCli({ env: { FAKE_LOG: log } }, async (cli) => {
      const before = await cli.ask('secret');
      cli.typed('/clear');
      const cleared = await cli.result();
      assert.equal(cleared.num_turns, 0);
      assert.notEqual(cleared.session_id, before.session_id);
      const crumbs = (await cli.history())[0].text;
      assert.match(crumbs, /Caveat[^]*<command-name>\/clear<[^]*<local-command-stdout><\/local/);
      assert.doesNotMatch(crumbs, /secret/);
      cli.boundary();
      assert.deepEqual((await cli.history()).map((m) => m.role), ['user']);
      assert.equal(jsonl(log).at(-1).session_id, cleared.session_id);
    });
  });
  test('injected messages and what they become upstream', async () => {
    const log = file('log');
    await withCli({ env: { FAKE_LOG: log } }, async (cli) => {
      cli.boundary();
      await cli.ask('h1', { shouldQuery: false });
      cli.assistant('a1');
      await cli.ask([{ type: 'text', text: 'pic' }, { type: 'image', source: { type: 'url',
        url: 'u' } }],
        { shouldQuery: false });
      cli.assistant([{ type: 'tool_use', id: 't', name: 'n', input: {} }], 'same');
      await cli.ask([{ type: 'tool_result', tool_use_id: 't', content: 'r' }],
        { shouldQuery: false });
      cli.assistant('a2', 'same'); // scrambled, as in the real program
      await cli.ask('live');
      const { messages } = jsonl(log)[0];
      assert.deepEqual(messages.map((m) => [m.role, m.content.length]),
        [['user', 2], ['assistant', 1], ['user', 2], ['assistant', 2], ['user', 2]]);
      assert.match(messages[0].content[0].text,
        /^<system-reminder>[^]*Today's date is \d{4}-\d\d-\d\d/);
      assert.deepEqual(messages[4].content[1], { type: 'text', text: 'live',
        cache_control: { type: 'ephemeral' } });
    });
  });
  test('commands and files work in strings and last blocks only', async () => {
    const canary = file('canary');
    writeFileSync(canary, 'CANARY-4711\n');
    await withCli({}, async (cli) => {
      await cli.ask(`literal @${canary} !ls`);
      await cli.ask('/clear');
      assert.doesNotMatch(JSON.stringify(await cli.history()), /CANARY/);
      for (const send of [() => cli.typed(`see @${canary} now`),
        () => cli.user([{ type: 'text', text: 'a' }, { type: 'text', text: `@${canary}` }])]) {
        cli.boundary();
        send();
        await cli.result();
        assert.match(JSON.stringify(await cli.history()), /CANARY-4711/);
      }
      for (const send of [() => cli.typed('/nope x'),
        () => cli.user([{ type: 'text', text: 'a' }, { type: 'text', text: '/nope' }])]) {
        send();
        const { num_turns, result } = await cli.result();
        assert.deepEqual([num_turns, result], [0, 'Unknown command: /nope']);
      }
      cli.typed('/cost');
      assert.match((await cli.result()).result, /Total cost: +\$0\.\d{4}/);
    });
    await withCli({ env: { CLAUDE_CODE_DISABLE_ATTACHMENTS: '1' } }, async (cli) => {
      cli.typed(`see @${canary} now`);
      await cli.result();
      assert.doesNotMatch(JSON.stringify(await cli.history()), /CANARY/);
    });
  });
  test('bash_command is recorded and not run', async () => {
    const log = file('log'), ran = file('ran');
    await withCli({ env: { FAKE_LOG: log } }, async (cli) => {
      cli.send({ type: 'bash_command', command: `touch ${ran}` });
      await cli.until((m) => m.isReplay);
      await cli.ask('x');
      assert.deepEqual(jsonl(log)[0], { event: 'bash_command', command: `touch ${ran}`,
        pid: cli.child.pid });
      assert.ok(!existsSync(ran));
    });
  });
});

test('settings reach the request', async () => {
  const log = file('log');
  await withCli({ env: { FAKE_LOG: log } }, async (cli) => {
    const last = async () => { await cli.ask('x'); return jsonl(log).at(-1); };
    let { body, headers } = await last();
    assert.deepEqual([body.max_tokens, body.thinking.budget_tokens, body.tools, headers], [32000,
      31999, [], {}]);
    await cli.env({ CLAUDE_CODE_EXTRA_BODY: '{"temperature":0.5,"system":"own","stream":false}',
      ANTHROPIC_CUSTOM_HEADERS: 'x-req: 7\nx-two: a:b', CLAUDE_CODE_MAX_OUTPUT_TOKENS: '100' });
    await cli.control('set_max_thinking_tokens', { max_thinking_tokens: 0 });
    ({ body, headers } = await last());
    assert.deepEqual([body.temperature, body.system, body.stream, body.max_tokens, body.thinking],
      [0.5, 'own', true, 100, { type: 'disabled' }]);
    assert.deepEqual(headers, { 'x-req': '7', 'x-two': 'a:b' });
    await cli.control('apply_flag_settings', { settings: { env: null } }); // unsets nothing
    assert.equal((await last()).body.max_tokens, 100);
    await cli.env({ CLAUDE_CODE_EXTRA_BODY: 'not json', CLAUDE_CODE_MAX_OUTPUT_TOKENS: '' });
    await cli.control('set_max_thinking_tokens', { max_thinking_tokens: 2000 });
    ({ body } = await last());
    assert.deepEqual([body.max_tokens, body.thinking.budget_tokens, body.system.length], [32000,
      2000, 2]);
    assert.equal(body.temperature, undefined);
    await cli.control('set_model', { model: 'claude-haiku-4-5' });
    assert.equal((await last()).model, 'claude-haiku-4-5');
    assert.match(JSON.stringify((await cli.history())), /<command-name>\/model</);
    const { subtype, error } = await cli.control('nope');
    assert.deepEqual([subtype, error], ['error', 'Unsupported control request subtype: nope']);
    assert.match((await cli.control('set_permission_mode', { mode: 'bypassPermissions' })).error,
      /Cannot set/);
    assert.equal((await cli.control('set_permission_mode', { mode: 'plan' })).response.mode,
      'plan');
    assert.equal((await cli.until((m) => m.subtype === 'status')).permissionMode, 'plan');
    assert.equal((await cli.control('get_settings')).response.applied.model, 'claude-haiku-4-5');
    assert.match((await cli.control('get_session_cost')).response.text, /claude-haiku/);
    assert.ok((await cli.control('get_usage')).response.session.total_cost_usd > 0);
  });
});

test('apply_flag_settings without settings: it never reads again', async () => {
  await withCli({}, async (cli) => {
    cli.request('apply_flag_settings');
    cli.request('interrupt');
    await cli.silent(200);
    cli.child.stdin.end();
    await sleep(100);
    assert.equal(cli.exit, null);
    cli.child.kill('SIGTERM');
    assert.deepEqual(await cli.gone, [143, null]);
  });
});

test('money and usage: the turn\'s and the process\'s', async () => {
  await withCli({}, async (cli) => {
    await cli.ask('x');
    const usage = { input_tokens: 100, output_tokens: 20, cache_creation_input_tokens: 8,
      cache_read_input_tokens: 1000 };
    const second = await cli.step({ usage });
    for (const [key, n] of Object.entries(usage)) assert.equal(second.usage[key], n);
    assert.deepEqual(second.modelUsage['claude-sonnet-4-5'], { inputTokens: 110, outputTokens: 25,
      cacheReadInputTokens: 1000, cacheCreationInputTokens: 8, webSearchRequests: 0,
        costUSD: 0.001035,
      contextWindow: 200000, maxOutputTokens: 32000 });
    cli.typed('/clear');
    assert.equal((await cli.result()).total_cost_usd, 0.001035);
    await cli.control('set_model', { model: 'claude-opus-4-5' });
    const third = await cli.ask('x');
    assert.deepEqual(Object.keys(third.modelUsage), ['claude-sonnet-4-5', 'claude-opus-4-5']);
    assert.equal(third.total_cost_usd, 0.00121);
  });
});

describe('tools', () => {
  const tool = (name, readOnlyHint) => ({ name, description: `about ${name}`,
    inputSchema: { type: 'object' }, annotations: { readOnlyHint } });
  const calls = (...names) => names.map((name, i) => ({ id: `toolu_${name}${i}`, name,
    input: { i } }));

  test('the first turn waits for the handshake', async () => {
    await withCli({}, async (cli) => {
      cli.answerMcp = false;
      cli.tools = [tool('b'), tool('a')];
      await cli.control('initialize', { sdkMcpServers: ['client'] });
      cli.user('x');
      const first = await cli.until((m) => m.type === 'control_request');
      assert.deepEqual(Object.keys(first.request.message), ['method', 'params', 'jsonrpc', 'id']);
      await cli.silent();
      // wrong id: stays pending
      cli.answer(first.request_id, { jsonrpc: '2.0', id: 99, result: {} });
      await cli.silent();
      cli.answerMcp = true;
      cli.answer(first.request_id, { jsonrpc: '2.0', id: 0, result: { capabilities: {} } });
      const methods = [];
      const init = await cli.until((m) => {
        if (m.type === 'control_request') methods.push(m.request.message.method);
        return m.subtype === 'init';
      });
      assert.deepEqual(methods, ['notifications/initialized', 'tools/list']);
      assert.deepEqual([init.tools, init.mcp_servers], [['a', 'b'], [{ name: 'client',
        status: 'connected' }]]);
      await cli.result();
    });
  });
  test('sets of tools: prefix, swaps, invalid schemas', async () => {
    const log = file('log');
    const names = async (cli) => { await cli.ask('x'); return jsonl(log).at(-1).tools.map((t) =>
      t.name); };
    const set = async (cli, tools) => {
      cli.tools = tools;
      await cli.control('mcp_set_servers', { servers: {} });
      return (await cli.control('mcp_set_servers', { servers: { client: { type: 'sdk',
        name: 'client' } } })).response;
    };
    await withCli({ env: { FAKE_LOG: log, CLAUDE_AGENT_SDK_MCP_NO_PREFIX: '' } }, async (cli) => {
      assert.deepEqual(await set(cli, [tool('b x'), tool('a')]), { added: ['client'], removed: [],
        errors: {} });
      assert.deepEqual(await names(cli), ['mcp__client__a', 'mcp__client__b_x']);
      await set(cli, [{ ...tool('c'), description: 'é'.repeat(3000) }, { ...tool('d'),
        inputSchema: { type: 'object', anyOf: [] } }]);
      assert.deepEqual(await names(cli), ['mcp__client__c']);
      await set(cli, [tool('e'), { ...tool('f'), inputSchema: {} }]);
      assert.deepEqual(await names(cli), []);
    });
    await withCli({ env: { FAKE_LOG: log, FAKE_MCP_TWICE: '1' } }, async (cli) => {
      await set(cli, [tool('a')]);
      assert.deepEqual(await names(cli), ['a']);
      await set(cli, [tool('b')]);
      assert.deepEqual(await names(cli), ['a', 'b']); // without a prefix they stay
    });
  });
  test('read-only ones run together, others one after the other', async () => {
    await withCli({}, async (cli) => {
      const open = [];
      cli.onCall = (call, answer) => open.push([call.params.name, answer, call]);
      cli.tools = [tool('ra', true), tool('rb', true), tool('w', false)];
      await cli.control('initialize', { sdkMcpServers: ['client'] });
      cli.user(`fake:${JSON.stringify({ tools: calls('ra', 'rb', 'w'), then: { text: 'after' } })}`);
      await cli.ended();
      assert.deepEqual(open.map(([name]) => name), ['ra', 'rb']);
      assert.deepEqual(open[0][2].params, { name: 'ra', arguments: { i: 0 },
        _meta: { 'claudecode/toolUseId': 'toolu_ra0', progressToken: 2 } });
      open[1][1]({ content: [{ type: 'text', text: 'second' }] });
      const told = await cli.until((m) => m.type === 'user');
      assert.deepEqual(told.message.content[0], { tool_use_id: 'toolu_rb1', type: 'tool_result',
        content: [{ type: 'text', text: 'second' }] });
      assert.equal(open.length, 2);
      open[0][1]({ content: [] });
      assert.equal((await cli.until((m) => m.type === 'user')).message.content[0].content,
        '(ra completed with no output)');
      open[2][1]({ content: [{ type: 'image', data: 'AA==', mimeType: 'image/png' }] });
      const { result, num_turns } = await cli.result();
      assert.deepEqual([result, num_turns], ['after', 4]);
      const image = (await cli.history()).map((m) => m.text).join();
      assert.match(image, /"media_type":"image\/png"/);
    });
  });
  test('unknown names and failing calls are told to the model', async () => {
    await withCli({}, async (cli) => {
      cli.tools = [tool('bad', true), tool('rpc', true), tool('ctl', true)];
      cli.onCall = (call, answer, id) => {
        if (call.params.name === 'bad') answer({ isError: true, content: [{ type: 'text',
          text: 'x' }, { type: 'text', text: 'y' }] });
        else if (call.params.name === 'rpc') cli.answer(id, { jsonrpc: '2.0', id: call.id,
          error: { code: -32000, message: 'boom' } });
        else cli.send({ type: 'control_response', response: { subtype: 'error', request_id: id,
          error: 'no' } });
      };
      await cli.control('initialize', { sdkMcpServers: ['client'] });
      const lines = await cli.during(() => cli.step({ tools: calls('bad', 'rpc', 'ctl',
        'nosuch') }));
      const told = lines.filter((m) => m.type === 'user').map((m) => m.message.content[0]);
      assert.deepEqual(told.map((b) => [b.is_error, b.content]).sort(), [[true,
        '<tool_use_error>Error: No such tool available: nosuch</tool_use_error>'],
        [true, 'MCP error -32000: boom'], [true, 'no'], [true, 'x\ny']]);
      assert.equal(lines.at(-1).result, 'ok');
    });
  });
  test('an interrupt cancels the calls, the end of input fails them', async () => {
    await withCli({}, async (cli) => {
      cli.tools = [tool('r', true), tool('w', false)];
      cli.onCall = () => {};
      await cli.control('initialize', { sdkMcpServers: ['client'] });
      cli.user(`fake:${JSON.stringify({ tools: calls('r', 'w') })}`);
      await cli.ended();
      const lines = await cli.during(async () =>
        { await cli.control('interrupt'); await cli.result(); });
      assert.deepEqual(lines.map(shape), ['control_request', 'control_response', 'user', 'user',
        'user', 'result/error_during_execution']);
      assert.deepEqual(lines[0].request.message.params, { requestId: 2,
        reason: 'AbortError: remote-cancel' });
      assert.equal(lines[4].message.content[0].text, '[Request interrupted by user for tool use]');
      assert.deepEqual([lines[5].terminal_reason, lines[5].stop_reason, lines[5].num_turns,
        lines[5].usage.output_tokens],
        ['aborted_tools', 'tool_use', 4, 5]);
      cli.user(`fake:${JSON.stringify({ tools: calls('r') })}`);
      await cli.ended();
      assert.equal(await cli.end(), 0);
      assert.match(cli.lines.join('\n'), /Tool permission stream closed/);
      assert.equal(JSON.parse(cli.lines.at(-1)).result, 'ok');
    });
  });
});

describe('interrupt', () => {
  test('keeps what was said, in the stream and in the history', async () => {
    await withCli({}, async (cli) => {
      cli.user('fake:{"text":"one two three","chunk":4,"stall":true,"stall_after":2}');
      await cli.delta();
      await cli.delta();
      const lines = await cli.during(async () =>
        { await cli.control('interrupt'); await cli.result(); });
      assert.deepEqual(lines.map(shape), ['control_response', 'assistant', 'user',
        'result/error_during_execution']);
      assert.equal(lines[1].message.content[0].text, 'one two ');
      const { is_error, terminal_reason, usage, errors, stop_reason, num_turns } = lines[3];
      assert.deepEqual([is_error, terminal_reason, usage.input_tokens, stop_reason, num_turns],
        [true, 'aborted_streaming', 0, null, 2]);
      assert.match(errors[0], /^\[ede_diagnostic\]/);
      assert.match(JSON.stringify(await cli.history()), /\[Request interrupted by user\]/);
    });
  });
  test('idle, before the first byte, right behind its line, with a line waiting', async () => {
    await withCli({}, async (cli) => {
      const idle = await cli.during(() => cli.control('interrupt'));
      assert.deepEqual(idle.map(shape), ['control_response']);
      cli.user('fake:{"stall":true}');
      await cli.until((m) => m.subtype === 'status');
      cli.user('waiting');
      await cli.control('interrupt');
      assert.equal((await cli.result()).terminal_reason, 'aborted_streaming');
      assert.equal((await cli.result()).result, 'ok');
      cli.child.stdin.write('{"type":"user","message":{"role":"user","content":[{"type":"text","text":"q"},{"type":"text","text":""}]}}\n'
        + '{"type":"control_request","request_id":"now","request":{"subtype":"interrupt"}}\n');
      assert.equal((await cli.result()).subtype, 'error_during_execution');
      assert.equal((await cli.ask('next')).result, 'ok');
    });
  });
  test('ignored when told so', async () => {
    await withCli({}, async (cli) => {
      cli.user('fake:{"text":"abc","chunk":1,"delay_ms":40,"ignore_interrupt":true}');
      await cli.delta();
      await cli.control('interrupt');
      assert.equal((await cli.result()).result, 'abc');
    });
  });
});

describe('environment', () => {
  test('a script, step by step', async () => {
    const script = file('script');
    writeFileSync(script, JSON.stringify([{ text: 'one' }, { tools: [{ id: 't', name: 'none',
      input: {} }] },
      { text: 'after tool' }, { text: 'again', keep: true }]));
    await withCli({ env: { FAKE_SCRIPT: script } }, async (cli) => {
      for (const text of ['one', 'after tool', 'again',
        'again']) assert.equal((await cli.ask('x')).result, text);
      assert.equal((await cli.step({ text: 'mine' })).result, 'mine');
    });
    for (const bad of ['{}', '[{"nope":1}]', '[']) {
      writeFileSync(script, bad);
      assert.equal((await run(ARGS, { FAKE_SCRIPT: script })).code, 2);
    }
  });
  test('start: slow, with a word, or not at all', async () => {
    const t = Date.now();
    await withCli({ env: { FAKE_SLOW_START_MS: '300', FAKE_STDERR: 'hello\n' } }, async (cli) => {
      await cli.control('initialize');
      assert.ok(Date.now() - t >= 300);
      assert.equal(cli.stderr, 'hello\n');
    });
    assert.equal((await run(ARGS, { FAKE_EXIT_AT_START: '9' })).code, 9);
  });
  test('counters shared by processes', async () => {
    const path = file('count');
    const read = async () => JSON.parse((await run(['--read-count', path])).stdout);
    await Promise.all([0, 1, 2].map(() => withCli({ env: { FAKE_COUNT: path } }, async (cli) => {
      await cli.ask('x');
      await cli.ask('h', { shouldQuery: false }); // not a turn
      cli.typed('/clear');
      await cli.result();
      await cli.step({ error: { status: 400 } });
      cli.user('fake:{"stall":true}');
      await cli.until((m) => m.subtype === 'status');
      await cli.control('interrupt');
      await cli.result();
      cli.user('fake:{"exit_at":"delta"}');
      await cli.gone;
    })));
    assert.deepEqual(await read(), { started: 12, finished: 3, interrupted: 3, errored: 3,
      input_tokens: 30,
      output_tokens: 15, processes: 3 });
    writeFileSync(path, 'somebody else\'s');
    assert.equal((await run(['--read-count', path])).code, 1);
    assert.equal((await run(ARGS, { FAKE_COUNT: path })).code, 1);
    assert.equal(readFileSync(path, 'utf8'), 'somebody else\'s');
  });
});

describe('ends', () => {
  const busy = async (cli) => {
    cli.user('fake:{"text":"abcdef","chunk":1,"delay_ms":40}');
    await cli.delta();
  };
  const results = (cli) => cli.lines.filter((l) => l.startsWith('{"type":"result"')).map((l) =>
    JSON.parse(l));

  test('signals', async () => {
    for (const [signal, code] of [['SIGTERM', 143], ['SIGHUP', 129], ['SIGINT', 0]]) {
      for (const setUp of [async (cli) => { await cli.control('mcp_status'); }, busy]) {
        await withCli({}, async (cli) => {
          await setUp(cli);
          await sleep(20);
          cli.child.kill(signal);
          assert.deepEqual(await cli.gone, [code, null]);
          await cli.closed;
          const aborted = signal === 'SIGINT' && setUp === busy;
          assert.deepEqual(results(cli).map((m) => m.terminal_reason), aborted
            ? ['aborted_streaming'] : []);
        });
      }
    }
    await withCli({}, async (cli) => {
      cli.user('fake:{"stall":true}'); // SIGINT before the first byte: no result
      await cli.until((m) => m.subtype === 'status');
      cli.child.kill('SIGINT');
      assert.deepEqual(await cli.gone, [0, null]);
      assert.deepEqual(results(cli), []);
    });
    await withCli({}, async (cli) => {
      await cli.step({ ignore_sigterm: true });
      cli.child.kill('SIGTERM');
      await sleep(100);
      assert.equal((await cli.ask('still there')).result, 'ok');
      cli.child.kill('SIGKILL');
      await cli.gone;
    });
  });
  test('end of input finishes what runs and what waits', async () => {
    await withCli({}, async (cli) => {
      await busy(cli);
      cli.user('queued');
      assert.equal(await cli.end(), 0);
      assert.deepEqual(results(cli).map((m) => m.result), ['abcdef', 'ok']);
    });
    await withCli({}, async (cli) => { // a last line without a newline counts
      cli.child.stdin.write('{"type":"user","message":{"role":"user","content":"x"}}');
      assert.equal(await cli.end(), 0);
      assert.equal(results(cli).length, 1);
    });
  });
  test('end_session', async () => {
    await withCli({}, async (cli) => {
      await cli.control('end_session', { reason: 'r' });
      assert.deepEqual(await cli.gone, [0, null]);
    });
    await withCli({}, async (cli) => {
      await busy(cli);
      cli.request('end_session');
      assert.deepEqual(await cli.gone, [1, null]);
      await cli.closed;
      assert.equal(results(cli)[0].terminal_reason, 'aborted_streaming');
    });
  });
  test('a reader that left is no reason to end', async () => {
    const log = file('log');
    await withCli({ env: { FAKE_LOG: log } }, async (cli) => {
      await cli.ask('x');
      cli.child.stdout.destroy();
      await sleep(50);
      cli.user('y');
      cli.user('z');
      for (let i = 0; i < 300 && jsonl(log).length < 2; i++) await sleep(10);
      assert.ok(jsonl(log).length >= 2);
      assert.equal(cli.exit, null);
      cli.child.kill('SIGTERM');
      assert.deepEqual(await cli.gone, [143, null]);
    });
  });
});

test('speed', { timeout: 60_000 }, async (t) => {
  const turns = 5000;
  const child = spawn(FAKE, ARGS, { env: { ...ENV, CLAUDE_CODE_DISABLE_ATTACHMENTS: '1' } });
  running.add(child);
  const line = '{"type":"system","subtype":"compact_boundary","uuid":"","session_id":""}\n'
    + '{"type":"user","message":{"role":"user","content":[{"type":"text","text":"hello"},{"type":"text","text":""}]},"parent_tool_use_id":null,"session_id":""}\n';
  const start = process.hrtime.bigint();
  let done = 0;
  const finished = new Promise((resolve) => {
    child.stdout.on('data', (data) => {
      if (!data.includes('"type":"result"')) return;
      if (++done === turns) resolve();
      else child.stdin.write(line);
    });
  });
  child.stdin.write(line);
  await finished;
  const seconds = Number(process.hrtime.bigint() - start) / 1e9;
  const stat = readFileSync(`/proc/${child.pid}/stat`, 'utf8').split(' ');
  const cpu = (Number(stat[13]) + Number(stat[14])) * 10_000 / turns; // clock ticks of 10 ms
  t.diagnostic(`${Math.round(turns / seconds)} turns/s one after the other, ${cpu.toFixed(0)} us of CPU each`);
  child.stdin.end();
  assert.deepEqual(await once(child, 'exit'), [0, null]);
  running.delete(child);
});
