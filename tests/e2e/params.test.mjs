// No parameter is dropped in silence. The lists are those of the SDKs' own types, so an SDK with a
// new parameter makes this file ask for a decision. Each one
//   reaches upstream (a function of what upstream saw),
//   is refused with 400 that names it (REFUSED),
//   stands in x-claudegate-ignored-params (IGNORED), or
//   is served here: the answer shows it (a function of the reply, after SERVED).
import assert from 'node:assert/strict';
import { after, before, beforeEach, test } from 'node:test';

import { asAsked, client, post } from './lib/anthropic.mjs';
import { system } from './lib/asked.mjs';
import { Gateway } from './lib/gateway.mjs';
import { parametersOf } from './lib/sdk_types.mjs';
import { Upstream } from './lib/upstream.mjs';

const MODEL = 'claude-sonnet-4-5';
const REFUSED = 'refused';
const IGNORED = 'ignored';
const served = (check) => ({ served: check });

let up, gw;
before(async () => {
  up = await Upstream.start();
  gw = await Gateway.start({ upstream: up, claude: 'real', config: { pool: { max_workers: 2 } },
    env: { CLAUDEGATE_KEYS_MAX_TOKENS: '64000' } });
});
after(async () => {
  await gw.stop();
  await up.stop();
});
beforeEach(() => up.reset());

const isStream = (reply) => assert.match(reply.headers['content-type'], /^text\/event-stream/);
const same = (name, value) => (asked) => assert.deepEqual(asked[name], value);
/** A value that upstream must see as it is. */
const pass = (name, value, more) => [value, same(name, value), more];

// --- Anthropic -----------------------------------------------------------------------------------

const tool = { name: 't', input_schema: { type: 'object' } };
const anthropic = {
  model: pass('model', MODEL),
  messages: [[{ role: 'user', content: 'words' }],
    (asked) => assert.equal(asked.messages[0].content[0].text, 'words')],
  max_tokens: pass('max_tokens', 77),
  cache_control: pass('cache_control', { type: 'ephemeral' }),
  container: ['container_1', REFUSED],
  diagnostics: pass('diagnostics', { previous_message_id: 'msg_1' }),
  inference_geo: pass('inference_geo', 'us'),
  metadata: pass('metadata', { user_id: 'u-1' }),
  output_config: pass('output_config', { effort: 'low' }),
  service_tier: pass('service_tier', 'standard_only'),
  speed: pass('speed', 'standard'),
  stop_sequences: pass('stop_sequences', ['END']),
  stream: [true, served(isStream)],
  system: ['be brief', same('system', [{ type: 'text', text: 'be brief' }])],
  thinking: pass('thinking', { type: 'enabled', budget_tokens: 1024 }, { max_tokens: 2048 }),
  tools: pass('tools', [tool]),
  tool_choice: pass('tool_choice', { type: 'any' }, { tools: [tool] }),
  compaction: pass('compaction', { enabled: true }),
  context_management: pass('context_management', { edits: [{ type: 'clear_tool_uses_20250919' }] }),
  mcp_servers: pass('mcp_servers', [{ type: 'url', url: 'https://example.com', name: 'm' }]),
  output_format: pass('output_format', { type: 'json_schema', schema: { type: 'object' } }),
  billing_policy: [{ type: 'x' }, REFUSED],
  fallbacks: [[{ model: 'claude-opus-4-5' }], REFUSED],
  fallback_credit_token: ['x', REFUSED],
  thread: [{ type: 'new' }, REFUSED],
  // The API has these, the SDK's types no longer do.
  temperature: pass('temperature', 0.5),
  top_p: pass('top_p', 0.5),
  top_k: pass('top_k', 5),
};
// The SDK makes headers of these; they are sent through it.
const asHeaders = {
  betas: [['my-beta-1'], (asked, headers) => assert.match(headers['anthropic-beta'], /my-beta-1/)],
  user_profile_id: ['prof_1', 'anthropic-user-profile-id'],
  workspace_id: ['wrkspc_1', 'anthropic-workspace-id'],
};

// --- OpenAI --------------------------------------------------------------------------------------

const schema = { type: 'object', properties: {}, additionalProperties: false };
const fn = { name: 't', parameters: schema };
const chatTools = { tools: [{ type: 'function', function: fn }] };
const thinks = (asked) => assert.equal(asked.thinking.budget_tokens, 2048);
const byUser = (asked) => assert.equal(asked.metadata.user_id, 'u-1');
const alone = (asked) => assert.equal(asked.tool_choice.disable_parallel_tool_use, true);
const hasFormat = (asked) => assert.equal(asked.output_config.format.type, 'json_schema');
const hasTool = (asked) => assert.equal(asked.tools[0].name, 't');
const anyTool = (asked) => assert.equal(asked.tool_choice.type, 'any');
const chat = {
  model: pass('model', MODEL),
  messages: [[{ role: 'user', content: 'words' }],
    (asked) => assert.equal(asked.messages[0].content.at(-1).text, 'words')],
  audio: [{ voice: 'alloy', format: 'mp3' }, REFUSED],
  frequency_penalty: [0.5, REFUSED],
  function_call: [{ name: 't' }, (asked) => assert.equal(asked.tool_choice.name, 't'), { functions: [fn] }],
  functions: [[fn], hasTool],
  logit_bias: [{ 50256: -100 }, REFUSED],
  logprobs: [true, REFUSED],
  max_completion_tokens: [77, same('max_tokens', 77)],
  max_tokens: pass('max_tokens', 77),
  metadata: [{ a: 'b' }, IGNORED],
  modalities: [['text', 'audio'], REFUSED],
  moderation: [{ model: 'omni-moderation-latest' }, REFUSED],
  n: [2, REFUSED],
  parallel_tool_calls: [false, alone, chatTools],
  prediction: [{ type: 'content', content: 'x' }, REFUSED],
  presence_penalty: [-0.5, REFUSED],
  prompt_cache_key: ['k', IGNORED],
  prompt_cache_options: [{ mode: 'explicit' }, IGNORED],
  prompt_cache_retention: ['24h', IGNORED],
  reasoning_effort: ['low', thinks],
  response_format: [{ type: 'json_schema', json_schema: { name: 'n', strict: true, schema } }, hasFormat],
  safety_identifier: ['u-1', byUser],
  seed: [7, IGNORED],
  service_tier: ['default', same('service_tier', 'standard_only')],
  stop: ['END', same('stop_sequences', ['END'])],
  store: [true, REFUSED],
  stream: [true, served(isStream)],
  stream_options: [{ include_usage: true },
    served((reply) => assert.match(reply.text, /"choices":\[\],"usage":\{"prompt_tokens":/)), { stream: true }],
  temperature: pass('temperature', 0.5),
  tool_choice: ['required', anyTool, chatTools],
  tools: [chatTools.tools, hasTool],
  top_logprobs: [2, REFUSED],
  top_p: pass('top_p', 0.5),
  user: ['u-1', byUser],
  verbosity: ['low', REFUSED],
  web_search_options: [{}, REFUSED],
};
const flat = { tools: [{ type: 'function', strict: true, ...fn }] };
const responses = {
  model: pass('model', MODEL),
  input: ['words', (asked) => assert.equal(asked.messages[0].content.at(-1).text, 'words')],
  access_programs: [{ cyber: true }, REFUSED],
  background: [true, REFUSED],
  context_management: [[{ type: 'compaction' }], REFUSED],
  conversation: ['conv_1', REFUSED],
  image: [{ context_compression: 'disabled' }, IGNORED],
  include: [['code_interpreter_call.outputs'], IGNORED],
  instructions: ['be brief', (asked) => assert.deepEqual(system(asked), ['be brief'])],
  max_output_tokens: [77, same('max_tokens', 77)],
  max_tool_calls: [3, IGNORED],
  metadata: [{ a: 'b' }, served((reply) => assert.deepEqual(reply.body.metadata, { a: 'b' }))],
  moderation: [{ model: 'omni-moderation-latest' }, REFUSED],
  parallel_tool_calls: [false, alone, flat],
  previous_response_id: [`resp_${'0'.repeat(32)}`, REFUSED], // one that there is: openai_responses.test.mjs
  prompt: [{ id: 'pmpt_1' }, REFUSED],
  prompt_cache_key: ['k', IGNORED],
  prompt_cache_options: [{ mode: 'explicit' }, IGNORED],
  prompt_cache_retention: ['24h', IGNORED],
  reasoning: [{ effort: 'low' }, thinks],
  safety_identifier: ['u-1', byUser],
  service_tier: ['default', same('service_tier', 'standard_only')],
  store: [false, served(async (reply) => {
    assert.equal(reply.body.store, false);
    const again = await openai('GET', `/v1/responses/${reply.body.id}`);
    assert.equal(again.status, 404);
  })],
  stream: [true, served(isStream)],
  stream_options: [{ include_obfuscation: true }, IGNORED, { stream: true }],
  temperature: pass('temperature', 0.5),
  text: [{ format: { type: 'json_schema', name: 'n', strict: true, schema } }, hasFormat],
  tool_choice: ['required', anyTool, flat],
  tools: [flat.tools, hasTool],
  top_logprobs: [2, REFUSED],
  top_p: pass('top_p', 0.5),
  truncation: ['auto', REFUSED],
  user: ['u-1', byUser],
};

// --- the walk ------------------------------------------------------------------------------------

async function openai(method, path, body) {
  return gw.request(method, path, { body, headers: { authorization: `Bearer ${await gw.key()}` } });
}

const ANTHROPIC = '@anthropic-ai/sdk/resources';
const apis = {
  messages: { decisions: anthropic,
    types: [[`${ANTHROPIC}/messages/messages.d.ts`, 'MessageCreateParamsBase'],
      [`${ANTHROPIC}/beta/messages/messages.d.ts`, 'MessageCreateParamsBase']],
    send: (body) => post(gw, '/v1/messages', body), seen: asAsked,
    base: { model: MODEL, max_tokens: 64, messages: [{ role: 'user', content: 'q' }] },
    names: (reply, name) => reply.body.error.message.startsWith(`${name}: `) },
  'chat completions': { decisions: chat,
    types: [['openai/resources/chat/completions/completions.d.ts', 'ChatCompletionCreateParamsBase']],
    send: (body) => openai('POST', '/v1/chat/completions', body), seen: (body) => body,
    base: { model: MODEL, messages: [{ role: 'user', content: 'q' }] },
    names: (reply, name) => reply.body.error.param === name },
  responses: { decisions: responses,
    types: [['openai/resources/responses/responses.d.ts', 'ResponseCreateParamsBase']],
    send: (body) => openai('POST', '/v1/responses', body), seen: (body) => body,
    base: { model: MODEL, input: 'q' }, names: (reply, name) => reply.body.error.param === name },
};

async function check({ send, seen, base, names }, name, [value, outcome, more]) {
  const reply = await send({ ...base, ...more, [name]: value });
  const requests = await up.requests();
  if (outcome === REFUSED) {
    assert.equal(reply.status, 400, `${name}: ${reply.text}`);
    assert.ok(names(reply, name), `${name}: ${reply.text}`);
    assert.equal(requests.length, 0);
    return;
  }
  assert.equal(reply.status, 200, `${name}: ${reply.text}`);
  const ignored = (reply.headers['x-claudegate-ignored-params'] ?? '').split(',')
    .map((one) => one.trim().split('.')[0]);
  assert.equal(ignored.includes(name), outcome === IGNORED, `${name}: ${ignored}`);
  if (outcome.served) await outcome.served(reply);
  else if (outcome !== IGNORED) outcome(seen(requests[0].body));
}

for (const [api, how] of Object.entries(apis)) {
  test(`${api}: every parameter of the SDK is decided about`, () => {
    for (const [file, type] of how.types) {
      for (const name of parametersOf(file, type)) {
        assert.ok(how.decisions[name] || (api === 'messages' && asHeaders[name]),
          `${name} is new in ${type}: does it reach upstream, is it refused, or is it ignored?`);
      }
    }
  });

  for (const [name, decision] of Object.entries(how.decisions)) {
    test(`${api}: ${name}`, () => check(how, name, decision));
  }
}

test('count_tokens knows the same parameters, and sends on what the client wrote', async () => {
  for (const folder of ['messages', 'beta/messages']) {
    for (const name of parametersOf(`${ANTHROPIC}/${folder}/messages.d.ts`, 'MessageCountTokensParams')) {
      if (asHeaders[name]) continue;
      await up.reset();
      const [value, outcome] = anthropic[name];
      const body = { model: MODEL, messages: [{ role: 'user', content: 'q' }], [name]: value };
      const reply = await post(gw, '/v1/messages/count_tokens', body);
      assert.equal(reply.status, outcome === REFUSED ? 400 : 200, `${name}: ${reply.text}`);
      if (outcome === REFUSED) assert.ok(reply.body.error.message.startsWith(`${name}: `), reply.text);
      else assert.deepEqual((await up.requests())[0].body, body);
    }
  }
});

test('parameters that the SDK sends as headers', async () => {
  const api = await client(gw);
  const ask = { model: MODEL, max_tokens: 64, messages: [{ role: 'user', content: 'q' }] };
  const count = { model: MODEL, messages: ask.messages };
  for (const [name, [value, outcome]] of Object.entries(asHeaders)) {
    for (const call of [() => api.beta.messages.create({ ...ask, [name]: value }),
      () => api.beta.messages.countTokens({ ...count, [name]: value })]) {
      await up.reset();
      if (typeof outcome === 'string') {
        await assert.rejects(call(), (e) => e.status === 400 && e.error.error.message.startsWith(`${outcome}: `));
        assert.equal((await up.requests()).length, 0);
      } else {
        await call();
        const [{ body, headers }] = await up.requests();
        outcome(body, headers);
      }
    }
  }
});

test('a parameter that nobody knows', async () => {
  for (const how of Object.values(apis)) {
    const reply = await how.send({ ...how.base, flavour: 1 });
    assert.equal(reply.status, 400);
    assert.ok(how.names(reply, 'flavour'), reply.text);
  }
});
