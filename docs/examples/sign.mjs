#!/usr/bin/env node
// A signed request: CLAUDEGATE_URL, CLAUDEGATE_KEY and CLAUDEGATE_SIGNING_SECRET from the environment.
//   node sign.mjs POST /api/chat '{"message":"Hello"}'
import { createHash, createHmac, randomUUID } from 'node:crypto';

const [method, target, body = ''] = process.argv.slice(2);
const { CLAUDEGATE_URL: url, CLAUDEGATE_KEY: key, CLAUDEGATE_SIGNING_SECRET: secret } = process.env;

const time = Math.floor(Date.now() / 1000);
const nonce = randomUUID();
const hash = createHash('sha256').update(body).digest('hex');
const text = ['v1', time, nonce, method, target, hash].join('\n');
const mac = createHmac('sha256', secret).update(text).digest('hex');
const response = await fetch(url + target, {
  method,
  body: body || undefined,
  headers: {
    authorization: `Bearer ${key}`,
    'content-type': 'application/json',
    'x-claudegate-signature': `t=${time},n=${nonce},v1=${mac}`,
  },
});
console.log(await response.text());
process.exitCode = response.ok ? 0 : 1;
