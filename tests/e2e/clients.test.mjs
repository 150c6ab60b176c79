// What applications do with the SDKs beyond one question: helpers that parse, retries as they are
// told to, time-outs, aborts, error classes. The real claude program, the stand-in, three packages.
import assert from 'node:assert/strict';
import { after, before, beforeEach, test } from 'node:test';

import { createAnthropic } from '@ai-sdk/anthropic';
import { createOpenAI } from '@ai-sdk/openai';
import Anthropic from '@anthropic-ai/sdk';
import { betaZodTool } from '@anthropic-ai/sdk/helpers/beta/zod';
import { zodOutputFormat } from '@anthropic-ai/sdk/helpers/zod';
import { generateObject, generateText, Output, stepCountIs, streamText, tool } from 'ai';
import OpenAI from 'openai';
import { zodResponseFormat, zodResponsesFunction, zodTextFormat } from 'openai/helpers/zod';
import { z } from 'zod';

import { eventually, Gateway } from './lib/gateway.mjs';
import { Upstream } from './lib/upstream.mjs';

const MODEL = 'claude-opus-4-5';
const PNG = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC';

let up, gw, anthropic, openai, providers, apiKey;
before(async () => {
  up = await Upstream.start();
  gw = await Gateway.start({ upstream: up, claude: 'real',
    config: { upstream: { max_retries: 0 }, pool: { max_workers: 2 } } });
  ({ key: apiKey } = await gw.createKey(['--max-tokens', 'unlimited']));
  anthropic = anthropicClient();
  openai = openaiClient();
  const options = { baseURL: `${gw.url}/v1`, apiKey };
  providers = { chat: createOpenAI(options).chat(MODEL), responses: createOpenAI(options).responses(MODEL),
    anthropic: createAnthropic(options)(MODEL) };
});
after(async () => {
  await gw.stop();
  await up.stop();
});
beforeEach(() => up.reset());

const anthropicClient = (more) => new Anthropic({ baseURL: gw.url, apiKey, maxRetries: 0, ...more });
const openaiClient = (more) => new OpenAI({ baseURL: `${gw.url}/v1`, apiKey, maxRetries: 0, ...more });
const say = (text, more) => ({ blocks: [{ type: 'text', text }], ...more });
const use = (id, name, input) => ({ type: 'tool_use', id, name, input });
const messages = [{ role: 'user', content: 'question' }];
const ask = { model: MODEL, max_tokens: 200, messages };

/** The same question with each package: what the tests of aborts, retries and errors are about. */
const calls = {
  'anthropic messages': { sdk: Anthropic, client: (more) => anthropicClient(more), text: (m) => m.content[0].text,
    create: (client, more, options) => client.messages.create({ ...ask, ...more }, options) },
  'openai chat': { sdk: OpenAI, client: (more) => openaiClient(more), text: (c) => c.choices[0].message.content,
    create: (client, more, options) => client.chat.completions.create({ model: MODEL, messages, ...more }, options) },
  'openai responses': { sdk: OpenAI, client: (more) => openaiClient(more), text: (r) => r.output_text,
    create: (client, more, options) => client.responses.create({ model: MODEL, input: 'question', ...more }, options) },
};

// --- helpers that parse --------------------------------------------------------------------------

const Person = z.object({ name: z.string(), age: z.number() });
const ADA = { name: 'Ada', age: 36 };

test('anthropic: structured output, whole and streamed', async () => {
  await up.script(say(JSON.stringify(ADA), { repeat: 3 }));
  const output_config = { format: zodOutputFormat(Person) };
  const parsed = await anthropic.messages.parse({ ...ask, output_config });
  assert.deepEqual(parsed.parsed_output, ADA);
  const streamed = await anthropic.messages.stream({ ...ask, output_config }).finalMessage();
  assert.deepEqual(streamed.parsed_output, ADA);
  const beta = await anthropic.beta.messages.parse({ ...ask, output_config });
  assert.deepEqual(beta.parsed_output, ADA);
  for (const { body } of await up.requests()) {
    assert.deepEqual(Object.keys(body.output_config.format.schema.properties), ['name', 'age']);
  }
});

test('anthropic: events of the streaming helper', async () => {
  await up.script({ blocks: [{ type: 'text', text: 'one two' }, use('toolu_1', 't', { list: [1, 'x'] })] });
  const seen = [];
  const stream = anthropic.messages.stream({ ...ask, tools: [{ name: 't', input_schema: { type: 'object' } }] })
    .on('connect', () => seen.push('connect')).on('text', (delta) => seen.push(delta))
    .on('inputJson', (part) => { if (part) seen.push('json'); })
    .on('contentBlock', (block) => seen.push(block.type)).on('end', () => seen.push('end'));
  const message = await stream.finalMessage();
  await stream.done();
  assert.deepEqual(message.content[1].input, { list: [1, 'x'] });
  assert.equal(seen.filter((x) => x.startsWith(' two') || x === 'one').join(''), 'one two');
  assert.deepEqual(seen.filter((x) => /^(connect|text|tool_use|end)$/.test(x)), ['connect', 'text', 'tool_use', 'end']);
  assert.ok(seen.includes('json'));
});

test('anthropic: the tool runner with a schema of zod, and a tool that fails', async () => {
  await up.script([{ blocks: [use('toolu_1', 'add', { a: 2, b: 3 }), use('toolu_2', 'add', { a: 0, b: 0 })] }, say('Five.')]);
  const add = betaZodTool({ name: 'add', description: 'adds', inputSchema: z.object({ a: z.number(), b: z.number() }),
    run: ({ a, b }) => { if (!a) throw new Error('nothing to add'); return String(a + b); } });
  const last = await anthropic.beta.messages.toolRunner({ ...ask, tools: [add] });
  assert.equal(last.content[0].text, 'Five.');
  const results = (await up.requests())[1].body.messages.at(-1).content;
  assert.deepEqual(results.map((b) => [b.tool_use_id, b.is_error ?? false]), [['toolu_1', false], ['toolu_2', true]]);
  assert.match(JSON.stringify(results[1].content), /nothing to add/);
  assert.equal((await up.requests()).length, 2, 'no hidden call');
});

test('openai: structured output and functions in a stream', async () => {
  await up.script([say(JSON.stringify(ADA)), say(JSON.stringify(ADA)),
    { blocks: [use('toolu_1', 'person', ADA)] }, { blocks: [use('toolu_2', 'person', ADA)] }]);
  const chat = await openai.chat.completions.stream({ model: MODEL, messages,
    response_format: zodResponseFormat(Person, 'person') }).finalChatCompletion();
  assert.deepEqual(chat.choices[0].message.parsed, ADA);
  const response = await openai.responses.stream({ model: MODEL, input: 'q',
    text: { format: zodTextFormat(Person, 'person') } }).finalResponse();
  assert.deepEqual(response.output_parsed, ADA);
  const tools = [zodResponsesFunction({ name: 'person', parameters: Person })];
  const called = await openai.responses.parse({ model: MODEL, input: 'q', tools });
  assert.deepEqual(called.output[0].parsed_arguments, ADA);
  const streamed = await openai.responses.stream({ model: MODEL, input: 'q', tools }).finalResponse();
  assert.deepEqual(streamed.output[0].parsed_arguments, ADA);
});

// --- retries, time-outs, aborts ------------------------------------------------------------------

for (const [name, { sdk, client, create, text }] of Object.entries(calls)) {
  test(`${name}: waits as long as it is told, and tries again`, async () => {
    await up.script([{ status: 429, error: { type: 'rate_limit_error', message: 'slow down' }, headers: { 'retry-after': '1' } },
      say('at last')]);
    const from = Date.now();
    assert.equal(text(await create(client({ maxRetries: 2 }))), 'at last');
    assert.ok(Date.now() - from >= 1000);
    assert.equal((await up.requests()).length, 2);
  });

  test(`${name}: does not try again what upstream says is in vain`, async () => {
    await up.script([{ status: 529, error: { type: 'overloaded_error', message: 'Overloaded' }, headers: { 'x-should-retry': 'false' } }]);
    await assert.rejects(create(client({ maxRetries: 2 })), sdk.InternalServerError);
    assert.equal((await up.requests()).length, 1);
  });

  test(`${name}: a time-out and an abort stop the turn upstream`, async () => {
    const slow = say('word '.repeat(400), { word_delay_ms: 50 });
    const impatient = client({ timeout: 400 });
    await up.script(slow);
    await assert.rejects(create(impatient), sdk.APIConnectionTimeoutError);
    await up.waitFor((list) => list.length === 1 && list[0].aborted);
    for (const stream of [false, true]) {
      await up.reset();
      await up.script(slow);
      const abort = new AbortController();
      const pending = create(client(), { stream }, { signal: abort.signal });
      if (stream) {
        const answer = await pending;
        for await (const _ of answer) abort.abort();
      } else {
        await up.waitFor((list) => list.length === 1);
        abort.abort();
        await assert.rejects(pending, sdk.APIUserAbortError);
      }
      await up.waitFor((list) => list.length === 1 && list[0].aborted);
    }
    await eventually(async () => (await gw.pool()).workers?.running !== 1, { what: 'idle workers' });
  });

  test(`${name}: errors have the classes of the package`, async () => {
    const rows = [[400, 'invalid_request_error', sdk.BadRequestError], [404, 'not_found_error', sdk.NotFoundError],
      [422, 'invalid_request_error', sdk.UnprocessableEntityError], [429, 'rate_limit_error', sdk.RateLimitError],
      [500, 'api_error', sdk.InternalServerError], [529, 'overloaded_error', sdk.InternalServerError],
      [401, 'authentication_error', sdk.InternalServerError]]; // the server's credential, not the client's
    for (const [status, type, error] of rows) {
      for (const stream of [false, true]) {
        await up.reset();
        await up.script({ status, error: { type, message: 'because' } });
        await assert.rejects(create(client(), { stream }), (e) => {
          assert.ok(e instanceof error, `${status}: ${e}`);
          assert.match(e.requestID, /^req_/);
          return true;
        });
      }
    }
    await assert.rejects(create(client({ apiKey: 'sk-cg-nothing' })), sdk.AuthenticationError);
    await assert.rejects(create(client(), { model: 'claude-unknown\u0000' }), sdk.BadRequestError);
  });
}

test('what is not served is not found, in the shape of the package', async () => {
  for (const call of [() => openai.embeddings.create({ model: 'x', input: 'y' }), () => openai.files.list()]) {
    await assert.rejects(call(), (e) => {
      assert.ok(e instanceof OpenAI.NotFoundError);
      assert.deepEqual([e.type, e.code], ['invalid_request_error', 'not_found']);
      return true;
    });
  }
  await assert.rejects(anthropic.messages.batches.list(), (e) => {
    assert.ok(e instanceof Anthropic.NotFoundError);
    assert.equal(e.error.error.type, 'not_found_error');
    return true;
  });
});

// --- models --------------------------------------------------------------------------------------

test('the list of models has the shape of who asks, in errors too', async () => {
  const shapes = { anthropic: (b) => typeof b.has_more === 'boolean' && b.data[0].type === 'model' && Boolean(b.data[0].display_name),
    openai: (b) => b.object === 'list' && b.data[0].object === 'model' };
  const version = { 'anthropic-version': '2023-06-01' };
  const rows = [[{ authorization: `Bearer ${apiKey}` }, 'openai'], [{ 'x-api-key': apiKey }, 'anthropic'],
    [{ 'x-api-key': apiKey, ...version }, 'anthropic'], [{ authorization: `Bearer ${apiKey}`, ...version }, 'anthropic']];
  for (const [headers, shape] of rows) {
    const { status, body } = await gw.request('GET', '/v1/models', { headers });
    assert.equal(status, 200);
    assert.ok(shapes[shape](body), JSON.stringify(body));
    const wrong = Object.fromEntries(Object.entries(headers).map(([k, v]) => [k, v.replace(apiKey, 'sk-cg-no')]));
    const refused = await gw.request('GET', '/v1/models', { headers: wrong });
    assert.equal(refused.status, 401);
    assert.equal(refused.body.error.code, shape === 'openai' ? 'invalid_api_key' : undefined);
    assert.equal(refused.body.type, shape === 'openai' ? undefined : 'error');
    assert.equal(refused.headers['openai-version'], shape === 'openai' ? '2020-10-01' : undefined);
  }
  const stranger = openaiClient({ apiKey: 'sk-cg-no' });
  await assert.rejects(stranger.models.list(), (e) => e instanceof OpenAI.AuthenticationError && e.code === 'invalid_api_key');
  await assert.rejects(anthropicClient({ apiKey: 'sk-cg-no' }).models.list(), Anthropic.AuthenticationError);
});

test('HEAD and OPTIONS', async () => {
  const headers = { authorization: `Bearer ${apiKey}` };
  const head = await gw.request('HEAD', '/v1/models', { headers });
  assert.deepEqual([head.status, head.text], [200, '']);
  assert.ok(Number(head.headers['content-length']) > 2);
  const options = await gw.request('OPTIONS', '/v1/messages');
  assert.deepEqual([options.status, options.headers.allow], [204, 'POST, OPTIONS']);
  const wrong = await gw.request('GET', '/v1/chat/completions', { headers });
  assert.deepEqual([wrong.status, wrong.headers.allow, wrong.body.error.code], [405, 'POST, OPTIONS', 'method_not_allowed']);
  assert.equal(wrong.headers['openai-version'], '2020-10-01');
});

// --- the AI SDK ----------------------------------------------------------------------------------

for (const name of ['chat', 'responses', 'anthropic']) {
  test(`ai, ${name}: several steps of parallel tools`, async () => {
    await up.script([
      { blocks: [use('toolu_1', 'weather', { city: 'Bonn' }), use('toolu_2', 'weather', { city: 'Ulm' })] },
      { blocks: [use('toolu_3', 'weather', { city: 'Kiel' })] }, say('Rain everywhere.')]);
    const asked = [];
    const { text, steps } = await generateText({ model: providers[name], prompt: 'weather?', maxRetries: 0,
      stopWhen: stepCountIs(5), tools: { weather: tool({ inputSchema: z.object({ city: z.string() }),
        execute: ({ city }) => { asked.push(city); return 'rain'; } }) } });
    assert.equal(text, 'Rain everywhere.');
    assert.deepEqual(asked, ['Bonn', 'Ulm', 'Kiel']);
    assert.equal(steps.length, 3);
    assert.equal((await up.requests()).length, 3, 'no hidden call');
  });

  test(`ai, ${name}: an image, an object, an object in a stream`, async () => {
    await up.script(say(JSON.stringify(ADA), { repeat: 3 }));
    const content = [{ type: 'text', text: 'who is it?' }, { type: 'image', image: Buffer.from(PNG, 'base64') }];
    const { object } = await generateObject({ model: providers[name], schema: Person, maxRetries: 0,
      messages: [{ role: 'user', content }] });
    assert.deepEqual(object, ADA);
    const [{ body }] = await up.requests();
    const image = body.messages[0].content.find((b) => b.type === 'image');
    assert.deepEqual(image.source, { type: 'base64', media_type: 'image/png', data: PNG });
    const result = streamText({ model: providers[name], prompt: 'who?', maxRetries: 0, output: Output.object({ schema: Person }) });
    const parts = [];
    for await (const part of result.partialOutputStream) parts.push(part);
    assert.deepEqual(parts.at(-1), ADA);
    assert.deepEqual(await result.output, ADA);
  });

  test(`ai, ${name}: a whole answer is aborted`, async () => {
    await up.script(say('word '.repeat(400), { word_delay_ms: 50 }));
    const abort = new AbortController();
    const pending = generateText({ model: providers[name], prompt: 'q', maxRetries: 0, abortSignal: abort.signal });
    await up.waitFor((list) => list.length === 1);
    abort.abort();
    await assert.rejects(pending, { name: 'AbortError' });
    await up.waitFor((list) => list[0].aborted);
  });
}
