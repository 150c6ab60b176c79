// wrapper.mjs - what many wrappers around the claude program do: one process per request.
//
//   node bench/wrapper.mjs CLAUDE UPSTREAM HOME      prints its URL
import { execFile } from 'node:child_process';
import http from 'node:http';

import { directEnv } from './env.mjs';

const [claude, upstream, home] = process.argv.slice(2);
const options = ['--output-format', 'json', '--model', 'claude-sonnet-4-5', '--tools', '',
  '--setting-sources', '', '--strict-mcp-config', '--no-session-persistence'];

const server = http.createServer(async (req, res) => {
  let body = '';
  for await (const chunk of req) body += chunk;
  execFile(claude, ['-p', ...options, JSON.parse(body).message],
    { cwd: home, env: directEnv(home, upstream), timeout: 120_000 }, (error, stdout) => {
      res.writeHead(error ? 502 : 200, { 'content-type': 'application/json' });
      res.end(error ? '{}' : JSON.stringify({ response: JSON.parse(stdout).result }));
    }).stdin.end();
});
server.listen(0, '127.0.0.1', () => console.log(`http://127.0.0.1:${server.address().port}`));
