// The Vercel AI SDK with both of its providers, the real claude program and the stand-in.
import assert from 'node:assert/strict';
import { after, before, beforeEach, test } from 'node:test';

import { createAnthropic } from '@ai-sdk/anthropic';
import { createOpenAI } from '@ai-sdk/openai';
import { APICallError, generateText, Output, stepCountIs, streamText, tool } from 'ai';
import { z } from 'zod';

import { eventually, Gateway } from './lib/gateway.mjs';
import { Upstream } from './lib/upstream.mjs';

const LIMIT = { timeout: 60_000 };
const MODEL = 'claude-sonnet-4-5';

let up;
let gw;
let providers;
before(async () => {
  up = await Upstream.start();
  gw = await Gateway.start({
    claude: 'real', upstream: up,
    config: { upstream: { max_retries: 0 }, pool: { max_workers: 2 } },
  });
  const { key: apiKey } = await gw.createKey(['--max-tokens', 'unlimited']);
  const openai = createOpenAI({ baseURL: `${gw.url}/v1`, apiKey });
  const anthropic = createAnthropic({ baseURL: `${gw.url}/v1`, apiKey });
  providers = {
    chat: openai.chat(MODEL), responses: openai.responses(MODEL), anthropic: anthropic(MODEL),
  };
});
after(async () => {
  await gw.stop();
  await up.stop();
});
beforeEach(() => up.reset());

const say = (t, more = {}) => ({ blocks: [{ type: 'text', text: t }], ...more });

for (const name of ['chat', 'responses', 'anthropic']) {
  test(`${name}: generateText, with its usage`, LIMIT, async () => {
    await up.script([say('Hello.', { usage: { input_tokens: 12, output_tokens: 3 } })]);
    const { text, usage, finishReason } = await generateText({
      model: providers[name], instructions: 'Be brief.', prompt: 'hi', maxRetries: 0,
    });
    assert.equal(text, 'Hello.');
    assert.equal(finishReason, 'stop');
    assert.deepEqual([usage.inputTokens, usage.outputTokens], [12, 3]);
  });

  test(`${name}: streamText with a tool, two rounds`, LIMIT, async () => {
    await up.script([
      { blocks: [{ type: 'text', text: 'Wait. ' },
        { type: 'tool_use', id: 'toolu_1', name: 'weather', input: { city: 'Köln' } }],
      stop_reason: 'tool_use' },
      say('Rain in Köln.', { usage: { input_tokens: 30, output_tokens: 5 } })]);
    const asked = [];
    const faults = [];
    const result = streamText({
      model: providers[name], prompt: 'weather?', maxRetries: 0, stopWhen: stepCountIs(3),
      tools: { weather: tool({
        description: 'The weather.', inputSchema: z.object({ city: z.string() }),
        execute: async ({ city }) => { asked.push(city); return { sky: 'rain' }; },
      }) },
      onError: ({ error }) => faults.push(error.message),
    });
    let text = '';
    for await (const part of result.textStream) text += part;
    assert.deepEqual(faults, []);
    assert.equal(text, 'Wait. Rain in Köln.');
    assert.deepEqual(asked, ['Köln']);
    assert.equal(await result.finishReason, 'stop');
    const list = (await up.requests()).map((r) => r.body);
    assert.equal(list.length, 2, 'no hidden upstream call');
    const answer = list[1].messages.at(-1).content.find((b) => b.type === 'tool_result');
    assert.equal(answer.tool_use_id, 'toolu_1');
  });

  test(`${name}: structured output`, LIMIT, async () => {
    await up.script([say('{"name":"Ada"}')]);
    const { output } = await generateText({
      model: providers[name], prompt: 'who?', maxRetries: 0,
      output: Output.object({ schema: z.object({ name: z.string() }) }),
    });
    assert.deepEqual(output, { name: 'Ada' });
  });

  test(`${name}: a refusal of upstream is an error with its status`, LIMIT, async () => {
    await up.script([{ status: 429, error: { type: 'rate_limit_error', message: 'slow down' } }]);
    await assert.rejects(generateText({ model: providers[name], prompt: 'hi', maxRetries: 0 }),
      (e) => {
        assert.ok(APICallError.isInstance(e), String(e));
        assert.equal(e.statusCode, 429);
        assert.match(e.message, /slow down/);
        return true;
      });
  });

  test(`${name}: an abort ends the turn`, LIMIT, async () => {
    await up.script([say('a b c d e f g h i j k l m n o p', { word_delay_ms: 200 })]);
    const before = (await gw.usageRows()).filter((row) => row.error?.startsWith('client_gone'));
    const abort = new AbortController();
    const result = streamText({
      model: providers[name], prompt: 'hi', maxRetries: 0, abortSignal: abort.signal,
      onError: () => {},
    });
    for await (const part of result.fullStream) {
      if (part.type === 'text-delta') abort.abort();
    }
    await eventually(async () => (await gw.usageRows()).filter((row) =>
      row.error?.startsWith('client_gone')).length === before.length + 1, { ms: 10_000 });
  });
}
