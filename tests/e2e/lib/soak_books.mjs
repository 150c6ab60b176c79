// The books of a soak: what the clients saw, the server's usage_logs and log, and what the worker
// side says it was asked must be the same story, request by request.
//
// A question may get lost on its way into a worker that has just died or is deaf; the server then
// asks another one, or says that the worker failed. So for each row
//
//     turns begun = 1 + retries - lost
//
// with nothing lost but what the plans' `deaths` explain, and no turn at all for what never left
// the queue.

const VICTIM = ['worker_failed', 'timeout']; // what somebody else's dying worker may cost
const UNASKED = ['client_gone', 'overloaded', 'shutting_down']; // may have left the queue unserved

// By chance five crashes of one key come in a row now and then, and it has to pause.
const PAUSED = 'ended one claude process after the other';
const PAUSED_SHARE = 0.02;

const codeOf = (row) => (row.status_code === 200 ? 'ok' : row.error.split(':')[0]);

/** Rows by the name that the client gave its request. */
function rowsByTag(rows, logs) {
  const tags = new Map(logs.filter((line) => line.message === 'request' && line.outcome)
    .map((line) => [line.request_id, line.client_request_id]));
  const byTag = new Map();
  const strangers = [];
  for (const row of rows) {
    const tag = tags.get(row.request_id);
    if (tag === undefined) strangers.push(row.request_id);
    byTag.set(tag, [...(byTag.get(tag) ?? []), row]);
  }
  return { byTag, strangers };
}

class Books {
  faults = [];
  sums = {
    accepted: 0, unseen: 0, retries: 0, turns: 0, lost: 0, unasked: 0, victims: 0, struck: 0,
    paused: 0,
  };

  fault(record, what) {
    this.faults.push(`${record.tag} (${record.plan.kind}): ${what}`);
  }

  /** What the client was told is what the row says. */
  #told(record, row) {
    const code = codeOf(row);
    if (record.code !== 'gone' && record.code !== code) {
      this.fault(record, `the client was told ${record.code}, the row says ${code}`);
    }
    if (record.code === 'ok' && record.plan.tokens) {
      const seen = [row.input_tokens, row.output_tokens];
      const due = record.plan.tokens;
      // an attempt that died may have cost something too
      const right = seen.every((n, i) => (row.retries ? n >= due[i] : n === due[i]));
      if (!right) this.fault(record, `tokens ${seen} instead of ${due}`);
    }
  }

  /** Returns how many of its questions got lost. */
  #asked(record, row, turns) {
    const lost = 1 + row.retries - turns;
    if (lost < 0) {
      this.fault(record, `asked ${turns} times, ${row.retries} retries in its row`);
      return 0;
    }
    if (codeOf(row) === 'ok' && turns === 0) this.fault(record, 'answered without being asked');
    if (UNASKED.includes(codeOf(row))) {
      this.sums.unasked += lost;
      return 0;
    }
    this.sums.lost += lost;
    return lost;
  }

  #expected(record, lost, row) {
    if (record.code === 'gone' || record.plan.codes.includes(record.code)) return;
    if (record.code === 'overloaded' && row.error.includes(PAUSED)) {
      this.sums.paused++;
    } else if (!VICTIM.includes(record.code)) {
      this.fault(record, `ended with ${record.code}: ${record.detail ?? row.error}`);
    } else if (lost) {
      this.sums.victims++;
    } else {
      this.sums.struck++;
    }
  }

  enter(record, rows, turns) {
    if (rows.length > 1) this.fault(record, `${rows.length} rows`);
    if (rows.length === 0) {
      this.sums.unseen++;
      if (record.code !== 'gone') this.fault(record, `${record.code}, but no row`);
      if (turns) this.fault(record, `no row, but asked ${turns} times`);
      return;
    }
    this.sums.accepted++;
    this.sums.retries += rows[0].retries;
    this.sums.turns += turns;
    this.#told(record, rows[0]);
    this.#expected(record, this.#asked(record, rows[0], turns), rows[0]);
  }
}

/**
 * records  [{tag, plan, code, detail}] of every request that has ended
 * rows     usage_logs; logs: the server's log lines
 * turns    Map of tag to turns begun on the worker's side
 * deaths   workers that died or fell deaf besides those that the plans tell of
 * Returns {faults: [text], sums}.
 */
export function closeBooks({ records, rows, logs, turns, deaths }) {
  const books = new Books();
  const { byTag, strangers } = rowsByTag(rows, logs);
  for (const id of strangers) books.faults.push(`${id}: a row without a line in the log`);
  for (const record of records) {
    books.enter(record, byTag.get(record.tag) ?? [], turns.get(record.tag) ?? 0);
  }
  const { sums } = books;
  const known = new Set(records.map((record) => record.tag));
  for (const tag of turns.keys()) {
    if (!known.has(tag)) books.faults.push(`a turn of nobody: ${tag}`);
  }
  if (sums.accepted !== rows.length) {
    books.faults.push(`${sums.accepted} requests have a row, but there are ${rows.length} rows`);
  }
  const sum = (test) => records.filter(test).reduce((n, record) => n + record.plan.deaths, 0);
  sums.deaths = deaths + sum(() => true);
  if (sums.lost > sums.deaths) {
    books.faults.push(`${sums.lost} questions lost, ` +
      `but only ${sums.deaths} workers died under one`);
  }
  const kills = sum((record) => record.plan.kill);
  if (sums.struck > kills) {
    books.faults.push(`${sums.struck} requests failed through no fault of theirs, ` +
      `but only ${kills} processes were killed under load`);
  }
  if (sums.paused > 5 + sums.accepted * PAUSED_SHARE) {
    books.faults.push(`${sums.paused} requests were told to pause`);
  }
  return { faults: books.faults, sums };
}
