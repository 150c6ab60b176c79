// The claude program itself as a client: nothing but ANTHROPIC_BASE_URL and a key of this server.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, beforeEach, test } from 'node:test';

import { Gateway, programs, tempDir } from './lib/gateway.mjs';
import { Upstream } from './lib/upstream.mjs';

let up, gw, key;
before(async () => {
  up = await Upstream.start();
  gw = await Gateway.start({ upstream: up, claude: 'real', config: { pool: { max_workers: 2 } } });
  ({ key } = await gw.createKey(['--max-tokens', '64000']));
});
after(async () => {
  await gw.stop();
  await up.stop();
});
beforeEach(() => up.reset());

const text = (t) => ({ type: 'text', text: t });
const use = (id, name, input) => ({ type: 'tool_use', id, name, input });

/** Runs `claude ARGS` with these files in its folder; {code, out, fault}. */
async function claude(args, env, { files = {} } = {}) {
  const home = tempDir();
  const cwd = join(home, 'work');
  mkdirSync(cwd);
  for (const [name, content] of Object.entries(files)) writeFileSync(join(cwd, name), content);
  const child = spawn(programs.real, ['--model', 'claude-sonnet-4-5', ...args], {
    cwd, stdio: ['ignore', 'pipe', 'pipe'], timeout: 60_000,
    env: { PATH: '/usr/local/bin:/usr/bin:/bin', HOME: home, LANG: 'C.UTF-8', DISABLE_AUTOUPDATER: '1',
      CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: '1', IS_SANDBOX: '1', ANTHROPIC_BASE_URL: gw.url, ...env } });
  let out = '';
  let fault = '';
  child.stdout.on('data', (data) => { out += data; });
  child.stderr.on('data', (data) => { fault += data; });
  const [code] = await once(child, 'close');
  return { code, out: out.trim(), fault };
}

const turns = async () => (await up.requests()).filter((r) => r.path === '/v1/messages');
const resultOf = (request) => request.body.messages.at(-1).content.find((b) => b.type === 'tool_result');

test('a plain question, with the key as a bearer token', async () => {
  await up.script({ match: { text: 'what is it' }, blocks: [text('A plum.')], repeat: -1 });
  const { code, out, fault } = await claude(['-p', 'what is it'], { ANTHROPIC_AUTH_TOKEN: key });
  assert.equal(code, 0, `${out}\n${fault}`);
  assert.equal(out, 'A plum.');
});

test('a tool round: Bash', async () => {
  await up.script([
    { blocks: [text('I look.'), use('toolu_c1', 'Bash', { command: 'echo seen-by-client', description: 'echo' })] },
    { blocks: [text('It said: seen-by-client.')] },
  ]);
  const { code, out, fault } = await claude(['-p', 'run echo', '--allowedTools', 'Bash(echo:*)'],
    { ANTHROPIC_API_KEY: key });
  assert.equal(code, 0, `${out}\n${fault}`);
  assert.equal(out, 'It said: seen-by-client.');
  const requests = await turns();
  assert.equal(requests.length, 2);
  assert.equal(resultOf(requests[1]).tool_use_id, 'toolu_c1');
  assert.match(JSON.stringify(resultOf(requests[1]).content), /seen-by-client/);
  assert.ok(requests[0].body.tools.some((t) => t.name === 'Bash'));
});

test('two tools at once, as a stream of JSON', async () => {
  await up.script([
    { blocks: [use('toolu_r1', 'Read', { file_path: 'one.txt' }), use('toolu_r2', 'Read', { file_path: 'two.txt' })] },
    { blocks: [text('Plum and pear.')] },
  ]);
  const { code, out, fault } = await claude(['-p', 'read both', '--allowedTools', 'Read', '--verbose',
    '--output-format', 'stream-json', '--include-partial-messages'],
  { ANTHROPIC_API_KEY: key }, { files: { 'one.txt': 'plum', 'two.txt': 'pear' } });
  assert.equal(code, 0, `${out}\n${fault}`);
  const lines = out.split('\n').map((line) => JSON.parse(line));
  const result = lines.at(-1);
  assert.deepEqual([result.type, result.is_error, result.num_turns, result.result],
    ['result', false, 3, 'Plum and pear.']);
  const events = lines.filter((line) => line.type === 'stream_event').map((line) => line.event);
  assert.equal(events.filter((e) => e.type === 'message_stop').length, 2);
  assert.equal(events.map((e) => e.delta?.text ?? '').join(''), 'Plum and pear.');
  assert.deepEqual(result.usage.output_tokens > 0, true);
  const requests = await turns();
  assert.equal(requests.length, 2, 'no hidden call');
  const results = requests[1].body.messages.filter((m) => m.role === 'user').at(-1).content
    .filter((b) => b.type === 'tool_result');
  assert.deepEqual(results.map((b) => b.tool_use_id), ['toolu_r1', 'toolu_r2']);
  assert.match(JSON.stringify(results), /plum.*pear/);
});

test('a wrong key is told at once, not tried for minutes', async () => {
  for (const name of ['ANTHROPIC_API_KEY', 'ANTHROPIC_AUTH_TOKEN']) {
    const from = Date.now();
    const { code, out } = await claude(['-p', 'hello'], { [name]: 'sk-cg-nothing' });
    assert.equal(code, 1);
    assert.match(out, /401 Invalid API key/);
    assert.ok(Date.now() - from < 20_000);
  }
  assert.equal((await turns()).length, 0);
});

test('an error of upstream is told in its words', async () => {
  await up.script({ status: 400, repeat: -1,
    error: { type: 'invalid_request_error', message: 'tools.3.name: whatever is wrong' } });
  const { code, out } = await claude(['-p', 'hello'], { ANTHROPIC_API_KEY: key });
  assert.equal(code, 1);
  assert.match(out, /tools\.3\.name: whatever is wrong/);
});
