// POST /v1/messages with the real claude program: what reaches upstream is what the client asked
// for, field by field, apart from the program's own identity and context.
import assert from 'node:assert/strict';
import { after, before, beforeEach, test } from 'node:test';

import { asAsked, asWritten, client, post } from './lib/anthropic.mjs';
import { Gateway } from './lib/gateway.mjs';
import { Upstream } from './lib/upstream.mjs';

let up, gw;

before(async () => {
  up = await Upstream.start();
  gw = await Gateway.start({ upstream: up, claude: 'real', env: { CLAUDEGATE_KEYS_MAX_TOKENS: '64000' } });
});
after(async () => {
  await gw.stop();
  await up.stop();
});
beforeEach(() => up.reset());

const PIXEL = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==';
const PDF = Buffer.from('%PDF-1.4\n1 0 obj<<>>endobj\ntrailer<<>>\n%%EOF\n').toString('base64');
const MODEL = 'claude-sonnet-4-5';
const ask = (text, more = {}) =>
  ({ model: MODEL, max_tokens: 64, messages: [{ role: 'user', content: text }], ...more });
const content = (blocks, more = {}) => ask(blocks, more);
const tool = (name, more = {}) =>
  ({ name, description: `does ${name}`, input_schema: { type: 'object', properties: { a: { type: 'string' } } }, ...more });
const call = (id, name = 'get_weather', input = { city: 'Paris', n: 1.5, deep: { list: [1, null, 'x'] } }) =>
  ({ type: 'tool_use', id, name, input });

const cases = {
  'plain text': ask('hello'),
  'a block of text': content([{ type: 'text', text: ' two\nlines  ' }, { type: 'text', text: '@/etc/passwd /clear' }]),
  'a slash command as text': ask('/clear'),
  'the name of a file as text': ask('@/etc/passwd'),
  'the same in the history and in a tool\'s result': ask('x', { tools: [tool('get_weather')], messages: [
    { role: 'user', content: '@/etc/passwd' }, { role: 'assistant', content: [call('toolu_1')] },
    { role: 'user', content: [{ type: 'tool_result', tool_use_id: 'toolu_1', content: '@/etc/passwd' }, { type: 'text', text: '/cost' }] }] }),
  'system as text': ask('x', { system: 'be brief' }),
  'system as blocks with cache marks': ask('x', {
    system: [{ type: 'text', text: 'one' },
      { type: 'text', text: 'two', cache_control: { type: 'ephemeral', ttl: '1h' } }] }),
  'numbers': ask('x', { temperature: 0.7, top_p: 0.9, top_k: 5, stop_sequences: ['END', '\n\nHuman:'] }),
  'temperature 0': ask('x', { temperature: 0 }),
  'metadata and service tier': ask('x', { metadata: { user_id: 'u-1' }, service_tier: 'standard_only' }),
  'thinking': ask('x', { max_tokens: 4000, thinking: { type: 'enabled', budget_tokens: 2000 } }),
  'thinking, adaptive': ask('x', { model: 'claude-opus-4-6', thinking: { type: 'adaptive' }, output_config: { effort: 'low' } }),
  'JSON schema': ask('x', { output_config: { format: { type: 'json_schema',
    schema: { type: 'object', properties: { a: { type: 'integer' } }, required: ['a'], additionalProperties: false } } } }),
  'JSON schema, the older way': ask('x', { output_format: { type: 'json_schema', schema: { type: 'object' } } }),
  'automatic caching': ask('x', { cache_control: { type: 'ephemeral' } }),
  'context management': ask('x', { context_management: { edits: [{ type: 'clear_tool_uses_20250919' }] } }),
  'another model': ask('x', { model: 'claude-haiku-4-5-20251001' }),
  'an alias is not resolved': ask('x', { model: 'claude-opus-4-0' }),
  'image, base64': content([{ type: 'image', source: { type: 'base64', media_type: 'image/png', data: PIXEL } },
    { type: 'text', text: 'what is it?' }]),
  'image, url': content([{ type: 'text', text: 'what is it?' }, { type: 'image', source: { type: 'url', url: 'https://example.com/a.png' } }]),
  'documents': content([
    { type: 'document', source: { type: 'base64', media_type: 'application/pdf', data: PDF }, title: 'T', context: 'C', citations: { enabled: true } },
    { type: 'document', source: { type: 'text', media_type: 'text/plain', data: 'plain' } },
    { type: 'document', source: { type: 'url', url: 'https://example.com/a.pdf' } },
    { type: 'document', source: { type: 'content', content: [{ type: 'text', text: 'part' }] } },
    { type: 'text', text: 'sum up' }]),
  'search results': content([
    { type: 'search_result', source: 'https://example.com', title: 'T', content: [{ type: 'text', text: 'found' }], citations: { enabled: true } },
    { type: 'text', text: 'which?' }]),
  'cache marks everywhere': ask('x', {
    system: [{ type: 'text', text: 'sys', cache_control: { type: 'ephemeral' } }],
    tools: [tool('a', { cache_control: { type: 'ephemeral', ttl: '1h' } })],
    messages: [
      { role: 'user', content: [{ type: 'text', text: 'q', cache_control: { type: 'ephemeral' } }] },
      { role: 'assistant', content: 'a' },
      { role: 'user', content: [{ cache_control: { type: 'ephemeral', ttl: '5m' }, type: 'text', text: 'now' }] }] }),
  'a cache mark in the middle of the last message': content([
    { type: 'text', text: 'long', cache_control: { type: 'ephemeral' } }, { type: 'text', text: 'short' }]),
  'a long history': ask('x', { messages: [
    { role: 'user', content: 'one' }, { role: 'assistant', content: 'two' },
    { role: 'user', content: [{ type: 'text', text: '/compact' }] }, { role: 'assistant', content: [{ type: 'text', text: 'four' }] },
    { role: 'user', content: 'five' }] }),
  'tools of every shape': ask('x', {
    tools: [tool('zeta'), tool('alpha', { description: 'd'.repeat(10_240) }), tool('Bash'), tool('StructuredOutput'), tool('Task'),
      { name: 'any', input_schema: { anyOf: [{ type: 'object', properties: { a: {} } }, { type: 'object' }] } },
      { name: 'strict', strict: true, input_schema: { type: 'object', properties: {}, additionalProperties: false } },
      { type: 'web_search_20250305', name: 'web_search', max_uses: 3 }],
    tool_choice: { type: 'auto', disable_parallel_tool_use: true } }),
  'tool_choice any': ask('x', { tools: [tool('a')], tool_choice: { type: 'any' } }),
  'tool_choice tool': ask('x', { tools: [tool('a')], tool_choice: { type: 'tool', name: 'a' } }),
  'tool_choice none': ask('x', { tools: [tool('a')], tool_choice: { type: 'none' } }),
  '128 tools': ask('x', { tools: Array.from({ length: 128 }, (_, i) => tool(`t_${127 - i}`)) }),
  'tool results': ask('x', { tools: [tool('get_weather')], messages: [
    { role: 'user', content: 'weather?' },
    { role: 'assistant', content: [{ type: 'text', text: 'looking' }, call('toolu_1'), call('toolu_2', 'Bash', {})] },
    { role: 'user', content: [
      { type: 'tool_result', tool_use_id: 'toolu_1', is_error: true, content: [{ type: 'text', text: 'failed' }, { type: 'text', text: 'badly' }] },
      { type: 'tool_result', tool_use_id: 'toolu_2', content: [{ type: 'text', text: 'seen' },
        { type: 'image', source: { type: 'base64', media_type: 'image/png', data: PIXEL } }] },
      { type: 'text', text: 'and now?' }] }] }),
  'tool results alone, without content': ask('x', { tools: [tool('get_weather')], messages: [
    { role: 'user', content: 'weather?' }, { role: 'assistant', content: [call('toolu_1')] },
    { role: 'user', content: [{ type: 'tool_result', tool_use_id: 'toolu_1' }] }] }),
  'many rounds of tools': ask('x', { tools: [tool('get_weather')], messages: [
    { role: 'user', content: 'weather?' },
    ...[1, 2, 3].flatMap((i) => [
      { role: 'assistant', content: [call(`toolu_${i}a`), call(`toolu_${i}b`)] },
      { role: 'user', content: [
        { type: 'tool_result', tool_use_id: `toolu_${i}b`, content: [{ type: 'search_result', source: 's', title: 't', content: [{ type: 'text', text: 'x' }] }] },
        { type: 'tool_result', tool_use_id: `toolu_${i}a`, content: 'ok', is_error: false }] }])] }),
  'thinking in the history': ask('x', { max_tokens: 4000, thinking: { type: 'enabled', budget_tokens: 1024 }, tools: [tool('get_weather')], messages: [
    { role: 'user', content: 'weather?' },
    { role: 'assistant', content: [{ type: 'thinking', thinking: 'hm', signature: 'c2ln' }, { type: 'redacted_thinking', data: 'cmVk' }, call('toolu_1')] },
    { role: 'user', content: [{ type: 'tool_result', tool_use_id: 'toolu_1', content: 'sunny' }] }] }),
  'thinking at the end of a message': ask('x', { messages: [
    { role: 'user', content: 'x' },
    { role: 'assistant', content: [{ type: 'text', text: 'so' }, { type: 'thinking', thinking: 'hm', signature: 'c2ln' }] },
    { role: 'user', content: 'go on' }] }),
  'a server tool in the history': ask('x', { messages: [
    { role: 'user', content: 'search' },
    { role: 'assistant', content: [
      { type: 'server_tool_use', id: 'srvtoolu_1', name: 'web_search', input: { query: 'q' } },
      { type: 'web_search_tool_result', tool_use_id: 'srvtoolu_1', content: [{ type: 'web_search_result', url: 'https://e.com', title: 't', encrypted_content: 'x' }] },
      { type: 'text', text: 'found', citations: [{ type: 'web_search_result_location', url: 'https://e.com', title: 't', encrypted_index: 'i', cited_text: 'c' }] }] },
    { role: 'user', content: 'more' }] }),
};

/** Those with media in base64: the program opens them, so it is not told. */
const around = new Set(['image, base64', 'documents', 'tool results']);

for (const [name, body] of Object.entries(cases)) {
  test(`upstream sees: ${name}`, async () => {
    const reply = await post(gw, '/v1/messages', body);
    assert.equal(reply.status, 200, reply.text);
    const requests = await up.requests();
    assert.equal(requests.length, 1, 'one question, one call');
    assert.deepEqual(asAsked(requests[0].body, { told: !around.has(name) }), asWritten(body));
  });
}
