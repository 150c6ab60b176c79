// What an operator sees and does: health, metrics, logs, configuration, doctor, demo mode.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';

import {
  cli, Gateway, parseMetrics, programs, ROOT, tempDir, UPSTREAM_KEY,
} from './lib/gateway.mjs';

const LIMIT = { timeout: 60_000 };
const run = promisify(execFile);
const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));
const fake = (step) => `fake:${JSON.stringify(step)}`;

let gw;
before(async () => {
  gw = await Gateway.start();
});
after(() => gw.stop());

// --- health and metrics ----------------------------------------------------------------------

test('/healthz and /readyz', LIMIT, async () => {
  const health = await gw.request('GET', '/healthz');
  assert.equal(health.status, 200);
  const { uptimeSeconds, ...rest } = health.body;
  assert.ok(uptimeSeconds >= 0 && uptimeSeconds < 300);
  assert.deepEqual(rest,
    { status: 'ok', version, claude: '2.1.197', upstream: 'custom', demo: false });
  const ready = await gw.request('GET', '/readyz');
  assert.equal(ready.status, 200);
  assert.equal(ready.body.status, 'ready');
  assert.deepEqual(Object.keys(ready.body.workers).sort(),
    ['busy', 'ending', 'idle', 'spare', 'starting']);
  for (const { headers } of [health, ready]) {
    assert.match(headers['request-id'], /^req_/);
    assert.equal(headers['cache-control'], 'no-store');
  }
});

const DOCUMENTED = {
  claudegate_turns_total: ['dialect', 'model', 'outcome'],
  claudegate_tokens_total: ['kind', 'model'],
  claudegate_time_to_first_token_seconds_bucket: ['le'],
  claudegate_turn_seconds_bucket: ['le'],
  claudegate_limited_total: ['code'],
  claudegate_workers: ['state'],
  claudegate_worker_starts_total: [],
  claudegate_worker_start_seconds_bucket: ['le'],
  claudegate_queue_length: [],
  claudegate_queue_wait_seconds_bucket: ['le'],
  claudegate_sessions_cached: [],
  claudegate_usage_journal_pending: [],
  claudegate_usage_dropped_total: [],
  claudegate_usage_written_total: [],
  claudegate_http_requests_total: ['method', 'route', 'status'],
  claudegate_http_request_seconds_bucket: ['le', 'route'],
  claudegate_http_connections: [],
  claudegate_host_cpu_seconds_total: ['mode'],
  claudegate_host_memory_bytes: ['state'],
  claudegate_host_disk_bytes: ['state'],
  claudegate_host_network_bytes_total: ['direction'],
  process_cpu_seconds_total: [],
  process_resident_memory_bytes: [],
  process_open_fds: [],
  process_start_time_seconds: [],
};

test('/metrics is Prometheus text with everything an operator needs', LIMIT, async () => {
  const limited = (await gw.createKey(['--requests-per-minute', '1'])).key;
  for (let i = 0; i < 2; i++) await gw.chat({ message: 'hello' }, { key: limited });
  await gw.usageRows();
  const { status, headers, text } = await gw.request('GET', '/metrics');
  assert.equal(status, 200);
  assert.match(headers['content-type'], /^text\/plain; version=0\.0\.4/);
  const series = parseMetrics(text);
  for (const [name, labels] of Object.entries(DOCUMENTED)) {
    const found = series.filter((s) => s.name === name);
    assert.ok(found.length >= 1, name);
    for (const one of found) assert.deepEqual(Object.keys(one.labels).sort(), labels, name);
  }
  const seen = series.map((s) => s.name + JSON.stringify(s.labels));
  assert.equal(new Set(seen).size, seen.length, 'each series once');
  const value = (name, labels = {}) => series.find((s) => s.name === name &&
    Object.entries(labels).every(([k, v]) => s.labels[k] === v))?.value;
  assert.equal(value('claudegate_turns_total', { outcome: 'ok', dialect: 'native' }), 1);
  assert.equal(value('claudegate_tokens_total', { kind: 'input' }), 10);
  assert.equal(value('claudegate_tokens_total', { kind: 'output' }), 5);
  assert.equal(value('claudegate_limited_total', { code: 'rate_limited' }), 1);
  assert.equal(value('claudegate_http_requests_total', { route: '/api/chat', status: '429' }), 1);
  assert.equal(value('claudegate_usage_written_total'), 1);
  for (const base of new Set(series.map((s) => s.name).filter((n) => n.endsWith('_bucket')))) {
    const buckets = series.filter((s) => s.name === base && (s.labels.route ?? '') ===
      (series.find((x) => x.name === base).labels.route ?? ''));
    const counts = buckets.map((s) => s.value);
    assert.deepEqual(counts, [...counts].sort((a, b) => a - b), `${base} is cumulative`);
    assert.equal(buckets.at(-1).labels.le, '+Inf');
  }
  assert.ok(Math.abs(value('process_start_time_seconds') * 1000 - Date.now()) < 300_000);
  assert.ok(value('process_open_fds') >= 3);
});

test('metrics are for a direct local peer, or for the token', LIMIT, async (t) => {
  for (const header of ['x-forwarded-for', 'forwarded', 'x-real-ip']) {
    const reply = await gw.request('GET', '/metrics', { headers: { [header]: '127.0.0.1' } });
    assert.equal(reply.status, 401, header);
    assert.equal(reply.body.code, 'unauthenticated');
  }
  const token = 'metrics-token-0123456789';
  const guarded = await Gateway.start({ test: t, env: { CLAUDEGATE_METRICS_TOKEN: token } });
  const get = (headers) => guarded.request('GET', '/metrics', { headers });
  assert.equal((await get({})).status, 401);
  assert.equal((await get({ authorization: 'Bearer wrong' })).status, 401);
  assert.equal((await get({ authorization: `Bearer ${await guarded.key()}` })).status, 401);
  const good = await get({ authorization: `Bearer ${token}`, 'x-forwarded-for': '10.0.0.1' });
  assert.equal(good.status, 200);
});

// --- logs ------------------------------------------------------------------------------------

test('logs: JSON lines with request ids; errors apart; no prompt, no key', LIMIT, async () => {
  const good = await gw.chat({ message: 'my private words' },
    { headers: { 'x-request-id': 'abc-1' } });
  assert.equal(good.status, 200);
  const bad = await gw.chat({ message: `private too ${fake({ exit_at: 'init' })}` });
  assert.equal(bad.status, 502);
  const idOf = ({ headers }) => headers['request-id'];
  const line = await gw.logged((l) => l.message === 'request' && l.request_id === idOf(good));
  assert.deepEqual([line.level, line.outcome, line.input_tokens, line.output_tokens],
    ['info', 'ok', 10, 5]);
  assert.deepEqual([line.method, line.path, line.status, line.peer, line.client_request_id],
    ['POST', '/api/chat', 200, '127.0.0.1', 'abc-1']);
  assert.equal(line.key, (await gw.key()).slice(6, 18));
  assert.equal(gw.logs().filter((l) => l.request_id === idOf(good)).length, 1, 'one line each');
  await gw.logged((l) => l.message === 'request' && l.request_id === idOf(bad));
  for (const line of gw.logs()) {
    assert.match(line.timestamp, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
    assert.ok(['debug', 'info', 'warn', 'error'].includes(line.level));
    assert.ok(line.message);
  }
  const errors = gw.logs('error.log');
  assert.ok(errors.length >= 1);
  assert.ok(errors.every((l) => l.level === 'error'));
  assert.ok(errors.some((l) => l.request_id === idOf(bad)));
  assert.deepEqual(errors, gw.logs().filter((l) => l.level === 'error'));
  const all = readFileSync(join(gw.dataDir, 'logs/combined.log'), 'utf8') + gw.stderr;
  for (const secret of ['private', UPSTREAM_KEY, (await gw.key()).slice(19)]) {
    assert.ok(!all.includes(secret), secret);
  }
});

test('log level debug tells more, and still no secret', LIMIT, async (t) => {
  const loud = await Gateway.start({ test: t, env: { LOG_LEVEL: 'debug' } });
  await loud.ask('my private words');
  await loud.logged((l) => l.level === 'debug');
  const all = readFileSync(join(loud.dataDir, 'logs/combined.log'), 'utf8') + loud.stderr;
  for (const secret of ['private', UPSTREAM_KEY, (await loud.key()).slice(19)]) {
    assert.ok(!all.includes(secret), secret);
  }
});

// --- configuration ---------------------------------------------------------------------------

function configFile(text) {
  const path = join(tempDir(), 'claudegate.yaml');
  writeFileSync(path, text);
  return path;
}

test('config check reports every error at once, each with its line', LIMIT, async () => {
  const good = await cli(['config', 'check', '--config', join(ROOT, 'deploy/claudegate.yaml')]);
  assert.deepEqual([good.code, good.stdout, good.stderr], [0, 'The configuration is valid.\n', '']);
  const path = configFile(['server:', '  listen: nowhere', '  idle_timeout: 5 parsecs', 'pool:',
    '  max_worker: 3', '  queue_max: many', 'upstream:', '  base_url: http://example.com',
    'colour: blue', ''].join('\n'));
  const { code, stdout, stderr } = await cli(['config', 'check', '--config', path],
    { env: { CLAUDEGATE_POOL_MIN_SPARE: 'x', CLAUDEGATE_NONSENSE: '1' } });
  assert.equal(code, 1);
  assert.equal(stdout, '');
  for (const [line, name] of [[2, 'server.listen'], [3, 'server.idle_timeout'],
    [5, 'pool.max_worker'], [6, 'pool.queue_max'], [8, 'upstream.base_url'], [9, 'colour']]) {
    const found = stderr.split('\n').find((l) => l.includes(`:${line}:`) && l.includes(name));
    assert.ok(found, `line ${line}, ${name} in\n${stderr}`);
  }
  assert.match(stderr, /CLAUDEGATE_POOL_MIN_SPARE/);
  assert.match(stderr, /CLAUDEGATE_NONSENSE/);
  assert.match(stderr, /pool\.max_workers/, 'suggests the right name');
  const missing = await cli(['config', 'check', '--config', '/nonexistent.yaml']);
  assert.equal(missing.code, 1);
  assert.match(missing.stderr, /\/nonexistent\.yaml/);
  const served = await Gateway.refused({ args: ['--config', path] });
  assert.equal(served.code, 1);
  assert.match(served.stderr, /server\.listen/);
  assert.match(served.stderr, /colour/);
});

test('config show: values and where they come from, no secret', LIMIT, async () => {
  const path = configFile('pool:\n  max_workers: 3\nupstream:\n  api_key: sk-ant-from-the-file\n');
  const env = {
    CLAUDEGATE_POOL_QUEUE_MAX: '77', PORT: '4567', CLAUDEGATE_METRICS_TOKEN: 'tok-tok',
  };
  const { code, stdout, stderr } = await cli(['config', 'show', '--config', path], { env });
  assert.equal(code, 0, stderr);
  assert.match(stdout, /^ {2}max_workers: 3 +# .*claudegate\.yaml.*2/m);
  assert.match(stdout, /^ {2}queue_max: 77 +# environment CLAUDEGATE_POOL_QUEUE_MAX$/m);
  assert.match(stdout,
    /^ {2}listen: "?127\.0\.0\.1:4567"? +# default, port from environment PORT$/m);
  assert.match(stdout, /^ {2}min_spare: 1 +# default$/m);
  assert.match(stdout, /^ {2}api_key: \(set\)/m);
  assert.match(stdout, /^ {2}auth_token: \(not set\)/m);
  assert.doesNotMatch(stdout + stderr, /from-the-file|tok-tok/);
});

test('config reference lists every setting; the document is it', LIMIT, async () => {
  const { code, stdout } = await cli(['config', 'reference']);
  assert.equal(code, 0);
  const shown = (await cli(['config', 'show'])).stdout;
  let section = '';
  const names = [];
  for (const line of shown.split('\n')) {
    const head = /^([a-z_]+):$/.exec(line);
    const setting = /^( *)([a-z_]+): /.exec(line);
    if (head) section = `${head[1]}.`;
    else if (setting) names.push((setting[1] ? section : '') + setting[2]);
  }
  assert.ok(names.length > 40);
  for (const name of names) assert.ok(stdout.includes(`| \`${name}\` |`), name);
  const document = join(ROOT, 'docs/configuration.md');
  if (existsSync(document)) assert.equal(stdout, readFileSync(document, 'utf8'));
});

// --- the commands ----------------------------------------------------------------------------

test('version, help and wrong usage of each command', LIMIT, async () => {
  const told = await cli(['version']);
  assert.deepEqual([told.code, told.stdout], [0, `claudegate ${version}\n`]);
  assert.equal((await cli(['--version'])).stdout, told.stdout);
  const help = await cli(['--help']);
  assert.equal(help.code, 0);
  const commands = ['serve', 'key', 'user', 'workers', 'migrate', 'vault', 'config', 'doctor',
    'version'];
  for (const command of commands) {
    assert.match(help.stdout, new RegExp(`^ +${command} `, 'm'));
    const own = await cli([command, '--help']);
    assert.deepEqual([own.code, own.stderr], [0, ''], `${command} --help`);
    assert.match(own.stdout, new RegExp(`^Usage: claudegate ${command}`));
    const wrong = await cli([command, '--no-such-option']);
    assert.deepEqual([wrong.code, wrong.stdout], [2, ''], `${command} --no-such-option`);
    assert.match(wrong.stderr, /Usage: /);
  }
  for (const args of [[], ['nonsense'], ['serve', 'x'], ['key'], ['key', 'nonsense'],
    ['key', 'revoke'], ['key', 'list', 'x'], ['user'], ['user', 'delete'], ['config'],
    ['config', 'show', 'x'], ['doctor', 'x'], ['version', 'x'], ['config', 'check', '--config']]) {
    const { code, stdout, stderr } = await cli(args);
    assert.deepEqual([code, stdout], [2, ''], `${args}: ${stderr}`);
    assert.notEqual(stderr, '');
  }
});

test('user create', LIMIT, async () => {
  const made = await gw.cli(['user', 'create', '--name', 'op', '--role', 'operator', '--json']);
  assert.equal(made.code, 0, made.stderr);
  const { password, ...user } = JSON.parse(made.stdout);
  assert.deepEqual([user.name, user.role, password.length], ['op', 'operator', 24]);
  const again = await gw.cli(['user', 'create', '--name', 'op']);
  assert.equal(again.code, 1);
  assert.match(again.stderr, /^claudegate: .*already exists/);
  const piped = await gw.cli(['user', 'create', '--name', 'vi', '--role', 'viewer',
    '--password-stdin', '--json'], { input: 'correct horse\n' });
  assert.equal(piped.code, 0, piped.stderr);
  assert.doesNotMatch(piped.stdout, /horse/);
  for (const [args, input, code, error] of [
    [['--name', 'x', '--role', 'king'], '', 2,
      /^claudegate: --role: must be owner, operator or viewer; got 'king'\n$/],
    [[], '', 2, /^claudegate: --name: is required/],
    [['--name', 'x', '--password-stdin'], 'short\n', 1, /password must be 10 to 72 bytes/],
    [['--name', 'x', '--password-stdin'], '', 1, /password must be 10 to 72 bytes/],
  ]) {
    const reply = await gw.cli(['user', 'create', ...args], { input });
    assert.deepEqual([reply.code, reply.stdout], [code, ''], String(args));
    assert.match(reply.stderr, error);
  }
  const rows = await gw.sql('SELECT name, role, password_hash AS hash FROM users ' +
    "WHERE name IN ('op', 'vi') ORDER BY name");
  assert.deepEqual(rows.map((row) => [row.name, row.role]), [['op', 'operator'], ['vi', 'viewer']]);
  for (const row of rows) assert.match(row.hash, /^\$2b\$12\$/);
});

test('doctor: nothing missing, as text and as JSON', LIMIT, async () => {
  const env = {
    ANTHROPIC_API_KEY: UPSTREAM_KEY, CLAUDEGATE_CLAUDE_BIN: programs.fake,
    CLAUDEGATE_DATA_DIR: join(tempDir(), 'data'), CLAUDEGATE_LISTEN: '127.0.0.1:0',
  };
  const text = await cli(['doctor'], { env });
  assert.equal(text.code, 0, text.stdout + text.stderr);
  assert.ok(!text.stdout.includes(UPSTREAM_KEY));
  const { code, stdout } = await cli(['doctor', '--json'], { env });
  assert.equal(code, 0);
  const checks = JSON.parse(stdout);
  const byName = Object.fromEntries(checks.map((c) => [c.check, c]));
  assert.deepEqual(Object.keys(byName).sort(), ['claude', 'credential', 'database', 'descriptors',
    'disk', 'memory', 'port', 'sandbox']);
  for (const check of checks) {
    assert.ok(['ok', 'warning'].includes(check.result), JSON.stringify(check));
    assert.ok(check.detail);
    assert.ok(text.stdout.includes(check.check));
  }
  assert.deepEqual([byName.claude.result, byName.credential.result, byName.port.result,
    byName.database.result], ['ok', 'ok', 'ok', 'ok']);
  assert.match(byName.claude.detail, /version 2\.1\.197/);
});

test('doctor: says what is missing', LIMIT, async () => {
  const { code, stdout } = await cli(['doctor', '--json'], {
    env: {
      CLAUDEGATE_CLAUDE_BIN: '/nonexistent/claude', CLAUDEGATE_LISTEN: gw.address,
      CLAUDEGATE_DATA_DIR: '/proc/nowhere/data',
    },
  });
  assert.equal(code, 1);
  const byName = Object.fromEntries(JSON.parse(stdout).map((c) => [c.check, c]));
  assert.equal(byName.claude.result, 'problem');
  assert.match(byName.claude.detail, /\/nonexistent\/claude/);
  assert.equal(byName.credential.result, 'problem');
  assert.match(byName.credential.detail, /ANTHROPIC_API_KEY/);
  assert.equal(byName.disk.result, 'problem');
  assert.equal(byName.port.result, 'warning');
  assert.equal(byName.database.result, 'problem');
});

// --- the first start -------------------------------------------------------------------------

test('demo mode: says so everywhere, and the printed command works', LIMIT, async (t) => {
  const demo = await Gateway.start({
    claude: 'real', upstream: null, args: ['--bootstrap', '--demo'], test: t,
  });
  assert.match(demo.stdout, /DEMO MODE: no Anthropic credential is configured/);
  assert.ok(demo.stdout.includes(demo.url));
  const { body } = await demo.request('GET', '/healthz');
  assert.deepEqual([body.demo, body.upstream], [true, 'demo']);
  assert.ok(demo.logs().some((l) => l.level === 'warn' && /^DEMO: /.test(l.message)));
  const [, command] = /Try it:\n([\s\S]+?)\n\n/.exec(demo.stdout);
  assert.match(command, /^ +curl /);
  const { stdout } = await run('bash', ['-c', command], {
    timeout: 30_000, env: { PATH: process.env.PATH, HOME: demo.env.HOME },
  });
  const answer = JSON.parse(stdout);
  assert.equal(answer.success, true, stdout);
  assert.match(answer.response, /demo upstream, not Claude\. You wrote: Hello$/);
  const [, key] = /API key +(\S+)/.exec(demo.stdout);
  assert.ok(command.includes(key));
  const { text, done } = await demo.collect({ message: 'word by word' }, { key });
  assert.match(text, /You wrote: word by word$/);
  assert.ok(done);
  assert.ok(!demo.logs().some((l) => JSON.stringify(l).includes(key)), 'the key is not logged');
  assert.equal(statSync(demo.dataDir).mode & 0o077, 0);
});

test('the first key takes answers of any length: the claude program is a client of it as it is', LIMIT, async (t) => {
  const demo = await Gateway.start({
    claude: 'real', upstream: null, args: ['--bootstrap', '--demo'], test: t,
  });
  const [, key] = /API key +(\S+)/.exec(demo.stdout);
  const { body: me } = await demo.request('GET', '/api/me', { headers: { authorization: `Bearer ${key}` } });
  assert.equal(me.permissions.maxTokens, null);
  const { body: answer, status } = await demo.request('POST', '/v1/messages', {
    headers: { 'x-api-key': key },
    body: { model: 'claude-sonnet-4-5', max_tokens: 64000, messages: [{ role: 'user', content: 'hi' }] },
  });
  assert.equal(status, 200, JSON.stringify(answer));
  const { stdout } = await run(programs.real, ['-p', 'say it', '--model', 'claude-sonnet-4-5'], {
    timeout: 30_000, cwd: demo.env.HOME,
    env: { PATH: process.env.PATH, HOME: demo.env.HOME, ANTHROPIC_BASE_URL: demo.url, ANTHROPIC_API_KEY: key,
      CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: '1', DISABLE_AUTOUPDATER: '1', IS_SANDBOX: '1' },
  });
  assert.match(stdout, /You wrote: .*say it/s);
  const made = JSON.parse((await demo.cli(['key', 'create', '--name', 'other', '--json'])).stdout);
  assert.equal(made.permissions.maxTokens, 4096, 'other keys keep the default');
});

test('without a credential and without --demo it does not start', LIMIT, async () => {
  const { code, stderr, stdout } = await Gateway.refused({ upstream: null, args: ['--bootstrap'] });
  assert.equal(code, 1);
  assert.match(stderr,
    /no Anthropic credential is configured: set ANTHROPIC_API_KEY .*or start with --demo/);
  assert.doesNotMatch(stdout, /sk-cg-/);
});

test('a refused first start does not swallow the first key', LIMIT, async (t) => {
  const dataDir = join(tempDir(), 'data');
  await Gateway.refused({ dataDir, upstream: null, args: ['--bootstrap'] });
  const next = await Gateway.start({ dataDir, upstream: null, args: ['--bootstrap', '--demo'],
    test: t, ready: false });
  assert.match(next.stdout, /API key +sk-cg-/);
});

test('a credential turns the demo off', LIMIT, async (t) => {
  const real = await Gateway.start({ args: ['--demo'], test: t });
  assert.doesNotMatch(real.stdout, /DEMO/);
  assert.equal((await real.request('GET', '/healthz')).body.demo, false);
});
