// What the tests of the Anthropic API share: the official client, and what upstream should see.
import Anthropic from '@anthropic-ai/sdk';
import assert from 'node:assert/strict';

const REMINDER = /^<system-reminder>\nAs you answer the user's questions, you can use the /;

/** The official client on a gateway. */
export async function client(gw, { key, ...options } = {}) {
  return new Anthropic({
    baseURL: gw.url, apiKey: key ?? await gw.key(), maxRetries: 0, timeout: 20_000, ...options,
  });
}

const blocks = (content) =>
  (typeof content === 'string' ? [{ type: 'text', text: content }] : content);

/** What a request to upstream says once the claude program's own is taken out of it. told: whether
 * the conversation was told to the program, which then adds a text of its own, or went around it. */
export function asAsked(body, { told = true } = {}) {
  const { stream, metadata, system, messages, ...rest } = body;
  assert.equal(stream, true);
  const [billing, identity, ...own] = system;
  assert.match(billing.text, /^x-anthropic-billing-header: /);
  assert.match(identity.text, /^You are a Claude agent/);
  assert.deepEqual(Object.keys(identity), ['type', 'text'], 'no cache mark that nobody asked for');
  const [first, ...others] = messages;
  if (told) assert.match(first.content[0].text, REMINDER);
  const asked = told ? [{ ...first, content: first.content.slice(1) }, ...others]
    : messages.map(({ role, content }) => ({ role, content: blocks(content) }));
  return {
    ...rest,
    ...(own.length && { system: own }),
    ...(!isProgramsOwn(metadata) && { metadata }),
    messages: asked,
  };
}

function isProgramsOwn(metadata) {
  return /^\{"device_id"/.test(metadata?.user_id ?? '');
}

/** A request as the client wrote it, comparable with asAsked(). */
export function asWritten({ stream: _, ...body }) {
  return {
    ...body,
    ...(body.system && { system: blocks(body.system) }),
    messages: body.messages.map(({ role, content }) => ({ role, content: blocks(content) })),
  };
}

/** All events of a stream as raw text: [{event, data}]. */
export async function rawEvents(response) {
  let text = '';
  for await (const chunk of response) text += chunk;
  return text.split('\n\n').filter((part) => part && !part.startsWith(':')).map((part) => {
    const match = /^event: (.*)\ndata: (.*)$/.exec(part);
    assert.ok(match, `an event with a name and one line of data: ${part}`);
    return { event: match[1], data: JSON.parse(match[2]) };
  });
}

/** POST to an Anthropic path with the headers its clients send. */
export async function post(gw, path, body, { headers, key, signal } = {}) {
  const reply = await gw.request('POST', path, {
    body, signal,
    headers: { 'x-api-key': key ?? await gw.key(), 'anthropic-version': '2023-06-01', ...headers },
  });
  return reply;
}
