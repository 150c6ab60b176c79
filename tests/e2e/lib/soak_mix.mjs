// What the requests of a soak are: a random mix, and what each of them may come to.
//
// planOf(mix, seed, i, tag) says all about request i before it is sent, so that a seed names the
// same requests in every run, whatever their timing.
//
//   kind       its name
//   step       what the fake claude program does (a directive in the message), or
//   upstream   what the stand-in does, for runs with the real program
//   text       the answer's text, when it must be exactly that
//   echo       the answer is the conversation as the worker knows it
//   bytes      the answer's length
//   tokens     [input, output] that a row of a good answer must show
//   stream     whether it is streamed
//   session    a turn of a conversation that the sender holds
//   quitMs, quitDeltas, unread   when the client leaves: after that time, after that many pieces
//              of the answer, or after a time in which it has read nothing
//   codes      the outcomes it may have (default: ok)
//   kill       a signal for some process of the server while this request is under way
//   deaths     workers that it leaves dead or deaf, so that one question each may get lost

/** mulberry32: small, fast, the same everywhere. */
export class Random {
  #state;

  constructor(seed) {
    this.#state = seed >>> 0;
  }

  next() {
    this.#state = (this.#state + 0x6D2B79F5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  }

  int(from, to) {
    return from + Math.floor(this.next() * (to - from + 1));
  }

  chance(p) {
    return this.next() < p;
  }

  pick(list) {
    return list[this.int(0, list.length - 1)];
  }
}

const WORDS = 'one two three four five six seven eight nine ten ';

/** A good answer, said in one piece or in some, with usage that the row must repeat. */
function good(r, tag, more = {}) {
  const tokens = [r.int(1, 5000), r.int(1, 500)];
  const text = `answer to ${tag}`;
  return {
    text,
    tokens,
    stream: r.chance(0.5),
    step: {
      text,
      chunk: r.chance(0.5) ? 5 : 100,
      delay_ms: r.int(0, 6),
      start_delay_ms: r.int(0, 10),
      usage: { input_tokens: tokens[0], output_tokens: tokens[1] },
      ...more,
    },
  };
}

/** The same, but the answer is all that the worker knows of the conversation. */
export function echoing(plan) {
  return { ...plan, step: { ...plan.step, echo_history: true }, text: undefined, echo: true };
}

/** The worker breaks: what the client is told depends on when. */
function crash(r, tag) {
  const step = {
    text: WORDS, chunk: 7, exit_at: r.pick(['message_start', 'delta', 'delta', 'before_result']),
    exit_after: r.int(1, 4), exit_partial: r.chance(0.3),
    ...(r.chance(0.5) ? { signal: r.pick([9, 11, 6]) } : { exit_code: r.int(0, 3) }),
    ...(r.chance(0.1) && { grandchild_ms: 200 }),
  };
  return { step, stream: r.chance(0.7), codes: ['worker_failed'] };
}

const silences = [
  { stall: true },
  { text: WORDS, chunk: 7, stall: true, stall_after: 2 },
  { text: 'whole', no_result: true },
];

const fakeKinds = [
  ['plain', 170, (r, tag) => good(r, tag)],
  ['alone', 30, (r, tag) => echoing(good(r, tag))],
  ['session', 190, (r, tag) => ({ ...good(r, tag), session: true })],
  ['other model', 60, (r, tag) => ({ ...good(r, tag), model: 'claude-another' })],
  ['strange lines', 40, (r, tag) => good(r, tag, r.pick([
    { garbage_at: r.pick(['init', 'message_start', 'delta', 'before_result']) },
    { unknown_event_at: 'delta' },
    { split: { bytes: r.int(1, 40), pause_us: 0 } },
    { key_order: 'reversed' },
  ]))],
  ['big answer', 15, (r) => {
    const bytes = r.int(50_000, 900_000);
    return { step: { huge: bytes }, bytes, stream: r.chance(0.5) };
  }],
  ['quit early', 110, (r, tag) => ({ ...good(r, tag), quitMs: r.int(0, 60) })],
  ['quit in stream', 100, (r) => ({
    step: { text: WORDS.repeat(10), chunk: 5, delay_ms: r.int(0, 15) }, stream: true,
    quitDeltas: r.int(1, 12),
  })],
  ['reads nothing', 2, () => ({ step: { flood: 1e9 }, stream: true, unread: 1000 })],
  ['dies once', 40, (r, tag, once) => ({
    step: { exit_at: 'init', exit_code: r.int(0, 3), once, then: good(r, tag).step },
    text: `answer to ${tag}`, stream: r.chance(0.5),
  })],
  ['dies twice', 12, (r) => ({
    step: { exit_at: 'init', signal: r.pick([9, 15]) }, stream: r.chance(0.5),
    codes: ['worker_failed'],
  })],
  ['dies in answer', 50, crash],
  ['falls silent', 14, (r) => ({
    step: r.pick(silences), stream: r.chance(0.5), codes: ['timeout'],
  })],
  ['deaf to interrupt', 8, (r) => ({
    step: {
      text: WORDS, chunk: 7, stall: true, stall_after: 1, ignore_interrupt: true,
      ignore_sigterm: r.chance(0.5),
    },
    stream: r.chance(0.5), codes: ['timeout'],
  })],
  ['error as success', 45, (r) => ({
    step: { error: { status: r.pick([400, 413, 429, 500, 529]), message: 'no' } },
    stream: r.chance(0.5), codes: ['upstream_error', 'request_too_large'],
  })],
  ['dies after result', 30, (r, tag) => ({
    ...good(r, tag, { exit_at: 'after_result' }), deaths: 1,
  })],
  ['dies when asked', 8, (r, tag) => ({
    ...good(r, tag, { later: { at: 'question', do: 'exit', code: 1 } }), deaths: 1,
  })],
  ['hangs after result', 4, (r, tag) => ({
    ...good(r, tag, { hang_after_result: true }), deaths: 1,
  })],
  ['kill -9', 6, (r, tag) => ({ ...good(r, tag), kill: 'SIGKILL', deaths: 1 })],
  ['kill -STOP', 2, (r, tag) => ({ ...good(r, tag), kill: 'SIGSTOP', deaths: 1 })],
];

/** The stand-in's answer. */
function said(r, tag, more = {}) {
  const tokens = [r.int(1, 5000), r.int(1, 500)];
  const text = `answer to ${tag}`;
  return {
    text,
    tokens,
    stream: r.chance(0.5),
    upstream: {
      blocks: [{ type: 'text', text }],
      usage: { input_tokens: tokens[0], output_tokens: tokens[1] },
      word_delay_ms: r.int(0, 10),
      ...more,
    },
  };
}

const long = (r, ms) => ({ blocks: [{ type: 'text', text: WORDS.repeat(10) }], word_delay_ms: ms });

const realKinds = [
  ['plain', 250, (r, tag) => said(r, tag)],
  ['session', 230, (r, tag) => ({ ...said(r, tag), session: true })],
  ['other model', 60, (r, tag) => ({ ...said(r, tag), model: 'claude-opus-4-5' })],
  ['big answer', 20, (r) => {
    const text = WORDS.repeat(r.int(1000, 6000));
    const blocks = [{ type: 'text', text, chunk: 2000 }];
    return { text, upstream: { blocks }, stream: r.chance(0.5) };
  }],
  ['quit early', 110, (r, tag) => ({ ...said(r, tag), quitMs: r.int(0, 80) })],
  ['quit in stream', 110, (r) => ({
    upstream: long(r, r.int(5, 30)), stream: true, quitDeltas: r.int(1, 12),
  })],
  ['upstream retried', 40, (r, tag) => {
    const plan = said(r, tag);
    return { ...plan, upstream: [{ status: 529 }, plan.upstream] };
  }],
  ['upstream error', 60, (r) => ({
    upstream: { status: r.pick([400, 404, 429, 529]) },
    stream: r.chance(0.5), codes: ['upstream_error'],
  })],
  ['upstream silent', 15, (r) => ({
    upstream: { ...long(r, 1), stall_after: r.pick([-1, 3, 10]) }, stream: r.chance(0.5),
    codes: ['timeout'],
  })],
  ['upstream cut', 25, (r) => ({
    upstream: { ...long(r, 1), cut_after: r.pick([-1, 4, 10]) }, stream: r.chance(0.5),
    codes: ['upstream_error', 'upstream_unreachable'],
  })],
  ['kill -9', 20, (r, tag) => ({ ...said(r, tag), kill: 'SIGKILL', deaths: 1 })],
  ['kill -STOP', 8, (r, tag) => ({ ...said(r, tag), kill: 'SIGSTOP', deaths: 1 })],
];

export const mixes = { fake: fakeKinds, real: realKinds };

export function planOf(mix, seed, i, tag, once) {
  const r = new Random(Math.imul(seed, 2654435761) + Math.imul(i + 1, 40503));
  let at = r.next() * mix.reduce((sum, [, weight]) => sum + weight, 0);
  const [kind, , make] = mix.find(([, weight]) => (at -= weight) < 0) ?? mix[0];
  return {
    kind, codes: ['ok'], deaths: 0, keyAt: r.next(), turns: r.int(2, 5), random: r,
    ...make(r, tag, once),
  };
}
