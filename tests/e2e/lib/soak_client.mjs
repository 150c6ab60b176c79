// One request of a soak: sent, read or left, and what came of it in one word.
import { setTimeout as sleep } from 'node:timers/promises';

const PATIENCE_MS = 60_000; // a request without an end is one by then

/** The events of a whole or broken stream; comments are skipped. */
function eventsOf(text) {
  return text.split('\n\n').slice(0, -1).filter((block) => block.startsWith('data: '))
    .map((block) => block.slice(6))
    .map((data) => (data.startsWith('[') ? data : JSON.parse(data)));
}

function outcomeOfStream(text) {
  const events = eventsOf(text);
  const failed = events.find((event) => event.error !== undefined);
  if (failed) return { code: failed.code };
  const end = events.find((event) => event.type === 'end');
  if (!end || events.at(-1) !== '[DONE]') return { code: 'torn' };
  return {
    code: 'ok',
    sessionId: end.sessionId,
    text: events.filter((event) => event.type === 'delta').map((event) => event.delta).join(''),
  };
}

function outcomeOf(response, text) {
  if (response.headers['content-type']?.startsWith('text/event-stream')) {
    return outcomeOfStream(text);
  }
  const body = JSON.parse(text);
  return body.success
    ? { code: 'ok', sessionId: body.sessionId, text: body.response } : { code: body.code };
}

async function readAll(response, plan, leave) {
  let text = '';
  let deltas = 0;
  response.setEncoding('utf8');
  if (plan.unread) {
    response.pause();
    await sleep(plan.unread);
    leave();
  }
  for await (const chunk of response) {
    text += chunk;
    if (plan.quitDeltas === undefined) continue;
    deltas += chunk.split('"type":"delta"').length - 1;
    if (deltas >= plan.quitDeltas) leave();
  }
  return text;
}

/**
 * Sends a plan's request. Returns {code, text, sessionId}; code is "ok", the error's code, "gone"
 * when the client left on purpose, "torn" for a stream without a proper end, "none" when the
 * connection broke or nothing came in time.
 */
export async function send(gw, key, tag, body, plan) {
  const abort = new AbortController();
  let left = false;
  const leave = () => {
    left = true;
    abort.abort();
  };
  const quit = plan.quitMs === undefined ? null : setTimeout(leave, plan.quitMs);
  const patience = setTimeout(() => abort.abort(), PATIENCE_MS);
  try {
    const response = await gw.open('POST', '/api/chat', {
      body, signal: abort.signal,
      headers: { authorization: `Bearer ${key}`, 'x-request-id': tag },
    });
    const text = await readAll(response, plan, leave);
    return left ? { code: 'gone' } : outcomeOf(response, text);
  } catch (error) {
    if (left) return { code: 'gone' };
    return { code: 'none', text: `${error.code ?? error.name}: ${error.message}` };
  } finally {
    clearTimeout(quit);
    clearTimeout(patience);
  }
}
