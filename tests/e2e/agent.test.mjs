// Agent turns with the real program: its own tools, in a workspace of the session, in a box. What
// the model would ask for is scripted; what the tools said is read from the next upstream request.
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { once } from 'node:events';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { eventually, Gateway, processes, tempDir, UPSTREAM_KEY } from './lib/gateway.mjs';
import { texts } from './lib/asked.mjs';
import { Upstream } from './lib/upstream.mjs';

const LIMIT = { timeout: 120_000 };
const CONFIG = { agent: { enabled: true }, pool: { max_workers: 3, min_spare: 1 } };
// seconds of a sleep that nobody else has
const NAP = String(1e6 + Math.floor(Math.random() * 1e8));
const NO_SESSION = '00000000-0000-4000-8000-000000000000';

let up;
let gw;
let key; // may have agent turns
let other; // may, too
let plain; // may not

const start = (options = {}) => Gateway.start({ claude: 'real', upstream: up, config: CONFIG,
  ...options });

before(async () => {
  up = await Upstream.start();
  gw = await start();
  [key, other] = [await agentKey(gw), await agentKey(gw)];
  plain = await gw.key();
});
after(() => up.stop());

async function agentKey(server) {
  const made = await server.createKey(['--allow-agent']);
  assert.equal(made.permissions.allowAgent, true);
  return made.key;
}

// --- a scripted turn -------------------------------------------------------------------------

let calls = 0;
const use = (name, input) => ({ type: 'tool_use', id: `toolu_${++calls}`, name, input });
const bash = (command) => use('Bash', { command, description: 'a test' });
const say = (text) => ({ blocks: [{ type: 'text', text }] });

/** The texts of the tools' results that stand in an upstream request, by the id of the call. */
function resultsIn({ body }) {
  const blocks = body.messages.flatMap(({ content }) => Array.isArray(content) ? content : []);
  return new Map(blocks.filter((b) => b.type === 'tool_result').map((b) => [b.tool_use_id,
    typeof b.content === 'string' ? b.content : b.content.map((part) => part.text ?? '').join('')]));
}

/** One agent turn in which the model uses these tools, one after the other. */
async function agent(uses, { server = gw, as = key, ...more } = {}) {
  await up.reset();
  await up.script([...uses.map((block) => ({ blocks: [block] })), say('done')]);
  const reply = await server.chat({ message: 'do it', profile: 'agent', ...more }, { key: as });
  assert.equal(reply.status, 200, reply.text);
  assert.equal(reply.body.response, 'done');
  const requests = await up.requests();
  assert.equal(requests.length, uses.length + 1);
  const results = resultsIn(requests.at(-1));
  return {
    ...reply.body, requests,
    out: uses.map((block) => results.get(block.id)),
  };
}

const workspace = (session, server = gw) => join(server.dataDir, 'workspaces', session);
const running = (what) => processes().filter((p) => p.state !== 'Z' && p.args.includes(what));

async function workers(server = gw) {
  const { code, stdout, stderr } = await server.cli(['workers', '--json']);
  assert.equal(code, 0, stderr);
  return JSON.parse(stdout).workers;
}

async function drain(server = gw) {
  const { code, stderr } = await server.cli(['workers', 'drain', '--all']);
  assert.equal(code, 0, stderr);
  await eventually(async () => (await workers(server)).every((w) => !w.draining));
}

// --- who may ---------------------------------------------------------------------------------

test('nobody may where agents are not enabled', LIMIT, async (t) => {
  const off = await start({ config: {}, test: t, ready: false });
  const { status, body } = await off.chat({ message: 'x', profile: 'agent' },
    { key: await agentKey(off) });
  assert.equal(status, 400);
  assert.match(body.error, /^profile: must be "chat": agent turns are not enabled/);
  const wrong = await off.chat({ message: 'x', profile: 'root' });
  assert.equal(wrong.status, 400);
  assert.match(wrong.body.error, /^profile: must be "chat" or "agent"/);
  assert.equal(existsSync(join(off.dataDir, 'workspaces')), false);
});

test('a key needs the permission', LIMIT, async () => {
  await up.reset();
  const { status, body } = await gw.chat({ message: 'x', profile: 'agent' }, { key: plain });
  assert.equal(status, 403);
  assert.match(body.error, /^profile: this key may not/);
  assert.deepEqual(await up.requests(), []);
});

test('a session stays what it began as', LIMIT, async () => {
  const { sessionId } = await agent([bash('echo hi')]);
  const chatty = await gw.ask('hello', {}, { key });
  for (const [id, profile] of [[sessionId, 'chat'], [chatty.sessionId, 'agent']]) {
    const { status, body } = await gw.chat({ message: 'x', profile, sessionId: id }, { key });
    assert.equal(status, 400);
    assert.match(body.error, /^profile: must be "(agent|chat)", or absent/);
  }
  const { out } = await agent([bash('pwd')], { sessionId, profile: undefined });
  assert.deepEqual(out, ['/work']);
  const stored = await gw.sql(`SELECT context FROM sessions WHERE id = '${chatty.sessionId}'`);
  assert.equal('profile' in JSON.parse(stored[0].context), false);
  const none = await gw.chat({ message: 'x', profile: 'agent', sessionId: NO_SESSION }, { key });
  assert.equal(none.status, 404);
});

test('a permission that is missing later ends the session\'s turns', LIMIT, async (t) => {
  const one = await start({ test: t });
  const its = await agentKey(one);
  const { sessionId } = await agent([bash('echo hi')], { server: one, as: its });
  await one.stop();
  const off = await one.restart({ claude: 'real', config: { agent: { enabled: false } } });
  t.after(() => off.stop());
  const { status, body } = await off.chat({ message: 'x', sessionId }, { key: its });
  assert.equal(status, 400);
  assert.match(body.error, /agent turns are not enabled/);
  assert.ok(existsSync(workspace(sessionId, off)), 'and its files stay as long as the session');
});

// --- what is told ----------------------------------------------------------------------------

test('a stream tells the uses of tools', LIMIT, async () => {
  await up.reset();
  const [one, two, bad] = [bash('echo one'), bash('exit 3'),
    use('Read', { file_path: '/nowhere' })];
  await up.script([
    { blocks: [{ type: 'text', text: 'Looking. ' }, one], usage: { input_tokens: 10,
      output_tokens: 3 } },
    { blocks: [two, bad], usage: { input_tokens: 20, output_tokens: 4 } },
    { ...say('Found it.'), usage: { input_tokens: 30, output_tokens: 5 } }]);
  const { events, text, end, done, start: begin } = await gw.collect(
    { message: 'do it', profile: 'agent' }, { key });
  assert.ok(done);
  assert.equal(text, 'Looking. Found it.');
  const uses = events.filter((e) => e.type === 'tool_use');
  assert.deepEqual(uses, [one, two, bad].map(({ type, id, name, input }) =>
    ({ type, id, name, input })));
  const results = events.filter((e) => e.type === 'tool_result');
  assert.deepEqual(results.map(({ type, id, isError }) => [type, id, isError]).sort(),
    [['tool_result', one.id, false], ['tool_result', two.id, true], ['tool_result', bad.id, true]]);
  const order = events.map((e) => e.type);
  assert.ok(order.indexOf('tool_use') < order.indexOf('tool_result'));
  assert.ok(events.findIndex((e) => e.delta?.includes('Found')) > order.lastIndexOf('tool_result'));
  assert.deepEqual([end.usage.promptTokens, end.usage.completionTokens], [60, 12]);
  assert.equal(end.stopReason, 'end_turn');
  const row = await gw.usageRow(begin.requestId);
  assert.deepEqual([row.input_tokens, row.output_tokens, row.upstream_calls, row.status_code],
    [60, 12, 3, 200]);
});

test('a use of a tool that is not there is told before its result', LIMIT, async () => {
  await up.reset();
  const wrong = use('WebSearch', { query: 'x' });
  await up.script([{ blocks: [wrong, bash('echo hi')] }, say('done')]);
  const { events, done } = await gw.collect({ message: 'x', profile: 'agent' }, { key });
  assert.ok(done);
  const told = events.filter((e) => e.id === wrong.id);
  assert.deepEqual(told.map((e) => [e.type, e.isError]),
    [['tool_use', undefined], ['tool_result', true]]);
});

test('a chat turn has no tools', LIMIT, async () => {
  await up.reset();
  await up.script([{ blocks: [bash(`sleep ${NAP}`)] }, say('never asked')]);
  const { status } = await gw.chat({ message: 'do it' }, { key });
  assert.equal(status, 200);
  const requests = await up.requests();
  assert.equal(requests.length, 1);
  assert.deepEqual(requests[0].body.tools ?? [], []);
  assert.deepEqual(running(NAP), []);
});

test('an agent has the tools that were chosen, and no others', LIMIT, async (t) => {
  const names = ({ body }) => body.tools.map((tool) => tool.name).sort();
  const { requests } = await agent([bash('echo hi')]);
  assert.deepEqual(names(requests[0]), ['Bash', 'Edit', 'Glob', 'Grep', 'Read', 'Write']);
  assert.match(JSON.stringify(requests[0].body.system), /You work in the directory \/work\b/);
  const fewer = await start({ test: t, config: { agent: { enabled: true, tools: 'Read' } } });
  const its = await agentKey(fewer);
  const got = await agent([bash('echo hi')], { server: fewer, as: its });
  assert.deepEqual(names(got.requests[0]), ['Read']);
  assert.match(got.out[0], /No such tool/);
});

test('max_turns ends a turn, and the next one goes on', LIMIT, async (t) => {
  const two = await start({ test: t, config: { agent: { enabled: true, max_turns: 2 } } });
  const its = await agentKey(two);
  await up.reset();
  await up.script([{ blocks: [{ type: 'text', text: 'first' }, bash('echo 1 > a')] },
    { blocks: [{ type: 'text', text: 'second' }, bash('echo two > b')] }, say('third')]);
  const { body } = await two.chat({ message: 'count', profile: 'agent' }, { key: its });
  assert.deepEqual([body.success, body.stopReason, body.response], [true, 'max_turns', 'second']);
  assert.equal((await up.requests()).length, 2);
  const { out, requests } = await agent([bash('cat b')],
    { server: two, as: its, sessionId: body.sessionId });
  assert.deepEqual(out, ['two']);
  const shape = requests[0].body.messages.map(({ role, content }) =>
    [role, content.map((b) => b.type).filter((type) => type !== 'text').join()]);
  assert.deepEqual(shape, [['user', ''], ['assistant', 'tool_use'], ['user', 'tool_result'],
    ['assistant', 'tool_use'], ['user', 'tool_result']]);
});

// --- the box ---------------------------------------------------------------------------------

test('a command sees nothing of the host', LIMIT, async () => {
  const canary = join(tempDir(), 'canary');
  writeFileSync(canary, 'CANARY-1234');
  const mine = await agent([use('Write', { file_path: '/work/secret', content: 'mine' })]);
  const listener = net.createServer((socket) => socket.end('REACHED')).listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const { out } = await agent([
    bash(`cat ${canary} ${workspace(mine.sessionId)}/secret; ls ${gw.dataDir} /root /home; true`),
    bash(`timeout 3 cat < /dev/tcp/127.0.0.1/${listener.address().port}; echo rc=$?`),
    bash('env; cat /proc/*/environ | tr "\\0" "\\n"'),
    bash('cat /proc/[0-9]*/cmdline | tr "\\0" " "; echo; ls -d /proc/[0-9]* | wc -l'),
    bash('touch /usr/x /etc/x /x /cc/x 2>&1; id -u; grep Cap /proc/self/status; mount; true'),
    use('Read', { file_path: canary }),
    bash('ls -A /work; curl -sS -m 3 https://api.anthropic.com 2>&1 || true'),
  ]);
  listener.close();
  const [files, network, environment, seen, system, read, work] = out;
  assert.doesNotMatch(files, /CANARY|mine/);
  assert.match(files, /No such file/);
  assert.match(network, /rc=1/);
  assert.doesNotMatch(network, /REACHED/);
  for (const secret of [UPSTREAM_KEY, key, gw.dataDir]) {
    assert.ok(!environment.includes(secret), 'no credential in its environment');
  }
  assert.match(environment, /ANTHROPIC_API_KEY=held-by-the-relay/);
  assert.doesNotMatch(seen, /claudegate|node /);
  assert.ok(Number(seen.trim().split('\n').at(-1)) < 12, seen);
  assert.equal(system.match(/Read-only file system/g)?.length, 4, system);
  assert.match(system, /CapEff:\s+0000000000000000/);
  assert.match(system, /CapBnd:\s+0000000000000000/);
  assert.match(read, /does not exist/);
  assert.equal(work, 'curl: (6) Could not resolve host: api.anthropic.com');
});

test('a command that finds the relay\'s socket gets no other model', LIMIT, async () => {
  const ask = (model) => bash(`curl -sS --unix-socket /run/relay.sock http://x/v1/messages \
    -H 'content-type: application/json' -d '{"model":"${model}","max_tokens":1,"messages":[]}'`);
  await up.reset();
  await up.script([{ blocks: [ask('claude-opus-4-5')] }, say('done')]);
  const { body } = await gw.chat({ message: 'x', profile: 'agent' }, { key });
  assert.equal(body.response, 'done');
  const requests = await up.requests();
  assert.deepEqual([...new Set(requests.map((r) => r.body.model))], ['claude-sonnet-4-5']);
  assert.match([...resultsIn(requests.at(-1)).values()][0], /may only call the model/);
});

// --- the workspace ---------------------------------------------------------------------------

test('files stay for the session, and for nobody else', LIMIT, async (t) => {
  const first = await start({ test: t });
  const [its, others] = [await agentKey(first), await agentKey(first)];
  const path = '/work/notes.txt';
  const { sessionId, out } = await agent([use('Write', { file_path: path, content: 'remember me' }),
    bash('ls -l; stat -c %a /work')], { server: first, as: its });
  assert.match(out[1], /notes\.txt\n700$/);
  const dir = workspace(sessionId, first);
  assert.equal(readFileSync(join(dir, 'notes.txt'), 'utf8'), 'remember me');
  assert.equal(statSync(dir).mode & 0o777, 0o700);

  const again = async (server) => {
    const { out: [read] } = await agent([use('Read', { file_path: path })],
      { server, as: its, sessionId });
    assert.match(read, /remember me/);
  };
  await again(first); // on the worker that holds it
  assert.equal((await workers(first)).filter((w) => w.profile === 'agent').length, 1);
  await drain(first);
  await again(first); // on a new one
  const stranger = await agent([bash(`ls -A . ${dir} 2>&1; true`)], { server: first, as: others });
  assert.doesNotMatch(stranger.out[0], /notes/);
  const fresh = await agent([bash('ls -A')], { server: first, as: its });
  assert.doesNotMatch(fresh.out[0], /notes/, 'nor another session of the same key');
  const stolen = await first.chat({ message: 'x', sessionId, profile: 'agent' }, { key: others });
  assert.equal(stolen.status, 404);

  await first.stop();
  const second = await first.restart({ claude: 'real', config: CONFIG });
  t.after(() => second.stop());
  await again(second);
});

test('a new worker gets the uses of tools as they were', LIMIT, async () => {
  const { sessionId } = await agent([bash('echo $((6 * 7))')]);
  await drain();
  const { requests, out } = await agent([bash('echo again')], { sessionId });
  assert.deepEqual(texts(requests[0].body), [['user', 'do it'], ['assistant', '<tool_use>'],
    ['user', '<tool_result>'], ['assistant', 'done'], ['user', 'do it']]);
  assert.deepEqual([...resultsIn(requests[0]).values()], ['42']);
  assert.deepEqual(out, ['again']);
  await agent([], { sessionId });
});

test('the same by transcripts', LIMIT, async (t) => {
  const slow = await start({ test: t, config: { ...CONFIG, claude: { history: 'resume' } } });
  const its = await agentKey(slow);
  const { sessionId } = await agent([bash('echo $((6 * 7)) | tee x')], { server: slow, as: its });
  await drain(slow);
  const { requests, out } = await agent([bash('cat x')], { server: slow, as: its, sessionId });
  assert.deepEqual(texts(requests[0].body), [['user', 'do it'], ['assistant', '<tool_use>'],
    ['user', '<tool_result>'], ['assistant', 'done'], ['user', 'do it']]);
  assert.deepEqual([[...resultsIn(requests[0]).values()], out], [['42'], ['42']]);
});

test('a workspace goes with its session', LIMIT, async (t) => {
  const config = { ...CONFIG, session: { ttl: '3s' } };
  const brief = await start({ test: t, config });
  const its = await agentKey(brief);
  await up.reset();
  await up.script([{ status: 400 }]);
  const failed = await brief.chat({ message: 'x', profile: 'agent' }, { key: its });
  assert.equal(failed.status, 400);
  const { sessionId } = await agent([bash(`
    d=.; for i in $(seq 300); do d=$d/deep; done; mkdir -p $d; touch $d/f
    mkdir -p locked/in; ln -s /etc/passwd link; chmod 0 locked; true`)],
  { server: brief, as: its });
  const dir = workspace(sessionId, brief);
  assert.ok(existsSync(join(dir, 'deep/deep')));
  assert.equal(readdirSync(join(brief.dataDir, 'workspaces')).length, 1, 'not of the failed one');
  await sleep(3500);
  assert.equal((await brief.chat({ message: 'x', sessionId }, { key: its })).status, 404);
  await brief.stop();

  const base = join(brief.dataDir, 'workspaces');
  mkdirSync(join(base, NO_SESSION)); // of a server that was killed
  mkdirSync(join(base, 'something-else'));
  const again = await brief.restart({ claude: 'real', config });
  t.after(() => again.stop());
  await eventually(() => readdirSync(base).join() === 'something-else', { ms: 15_000 });
  assert.match(readFileSync('/etc/passwd', 'utf8'), /^root:/);
});

// --- ends ------------------------------------------------------------------------------------

/** A stream that is in the middle of a long sleep: {stream, requestId}. */
async function inSleep({ server = gw, as = key, signal } = {}) {
  await up.reset();
  await up.script([{ blocks: [bash(`sleep ${NAP}`)] }, say('never')]);
  const stream = server.stream({ message: 'wait', profile: 'agent' }, { key: as, signal });
  const { value: begin } = await stream.next();
  await eventually(() => running(NAP).some((p) => p.args[0] === 'sleep'),
    { ms: 15_000, what: 'sleep runs' });
  return { stream, requestId: begin.requestId };
}

test('a client that leaves ends the command', LIMIT, async () => {
  const leave = new AbortController();
  const { stream, requestId } = await inSleep({ signal: leave.signal });
  leave.abort();
  await stream.return().catch(() => {});
  await eventually(() => running(NAP).length === 0, { ms: 5000 });
  await eventually(async () => (await gw.pool()).workers.busy === 0);
  const row = await gw.usageRow(requestId);
  assert.match(row.error, /^client_gone/);
  assert.equal(row.upstream_calls, 1);
  assert.ok(row.output_tokens > 0);
  await agent([bash('echo still here')]);
});

test('time-outs end it, too', LIMIT, async (t) => {
  const hasty = await start({ test: t, config: { ...CONFIG,
    pool: { ...CONFIG.pool, silence_timeout_ms: 8000, turn_timeout_ms: 12_000 } } });
  const its = await agentKey(hasty);
  // a command alone is stopped before the silence ends the turn, and the model is told
  const { out } = await agent([use('Bash', { command: `sleep ${NAP}`, timeout: 600_000 })],
    { server: hasty, as: its });
  assert.match(out[0], /timed out/);
  await eventually(() => running(NAP).length === 0);
  await up.reset();
  await up.script({ blocks: [bash('sleep 2')], repeat: -1 });
  const { status, body } = await hasty.chat({ message: 'x', profile: 'agent' }, { key: its });
  assert.deepEqual([status, body.code], [504, 'timeout']);
  await eventually(async () => (await hasty.pool()).workers.busy === 0);
});

test('what a command leaves running ends with its turn', LIMIT, async () => {
  const command = `echo kept > f; (setsid sleep ${NAP} > /dev/null 2>&1 &)`;
  const { sessionId } = await agent([bash(command)]);
  await eventually(() => running(NAP).length === 0, { ms: 5000 });
  await eventually(async () =>
    await gw.metrics('claudegate_worker_ends_total', { reason: 'left_processes' }) >= 1);
  const { out } = await agent([bash('cat f')], { sessionId });
  assert.deepEqual(out, ['kept']);
});

test('the server\'s end ends it', LIMIT, async () => {
  const one = await start();
  const { stream } = await inSleep({ server: one, as: await agentKey(one) });
  const rest = (async () => { for await (const _ of stream); })().catch(() => {});
  await one.kill9();
  await rest;
  await eventually(() => running(NAP).length === 0, { ms: 5000 });
});

test('a worker that dies in a command does not run it twice', LIMIT, async () => {
  const { stream, requestId } = await inSleep();
  const worker = (await workers()).find((w) => w.requestId === requestId);
  process.kill(worker.pid, 'SIGKILL');
  const events = [];
  for await (const event of stream) events.push(event);
  assert.equal(events.at(-1).code, 'worker_failed', JSON.stringify(events.at(-1)));
  await eventually(() => running(NAP).length === 0, { ms: 5000 });
  assert.equal((await up.requests()).length, 1);
});

test('an agent turn gets a place even when spares have taken all', LIMIT, async (t) => {
  const small = await start({ test: t, config: { agent: { enabled: true },
    pool: { max_workers: 1, min_spare: 1 } } });
  const its = await agentKey(small);
  const from = performance.now();
  await agent([bash('echo hi')], { server: small, as: its });
  await small.ask('hello', {}, { key: its });
  await agent([bash('echo hi')], { server: small, as: its });
  assert.ok(performance.now() - from < 30_000);
});

// --- starting --------------------------------------------------------------------------------

test('without a box the server refuses, unless told otherwise', LIMIT, async (t) => {
  const off = { agent: { enabled: true }, sandbox: { mode: 'off' } };
  const { code, stderr } = await Gateway.refused({ claude: 'real', upstream: up, config: off });
  assert.equal(code, 1);
  assert.match(stderr, /agent\.enabled .*agent\.require_sandbox.* in force: sandbox\.mode is off/);
  const bare = await start({ test: t,
    config: { sandbox: off.sandbox, agent: { enabled: true, require_sandbox: false } } });
  assert.ok(bare.logs().some((l) => l.level === 'warn' && /without a sandbox/.test(l.message)));
  const { sessionId, out } = await agent([bash('pwd'), use('Write',
    { file_path: 'x', content: 'y' })], { server: bare, as: await agentKey(bare) });
  assert.equal(out[0], workspace(sessionId, bare));
});

test('not together with users of their own', LIMIT, async () => {
  const { code, stderr } = await Gateway.refused({ claude: 'real', upstream: up,
    config: { agent: { enabled: true }, sandbox: { uids: '200000-200099' } } });
  assert.notEqual(code, 0);
  assert.match(stderr, /agent\.enabled: cannot be set together with sandbox\.uids/);
});
