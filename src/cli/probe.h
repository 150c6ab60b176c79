/* probe.h - finds out whether a claude process still does what the pool builds on.
 *
 * Undocumented behaviour carries this server: history that is injected over stdin reaches the API,
 * and a compact_boundary line hides everything before it. So every new process is asked two
 * questions that are answered locally (see relay_begin_trial()), and what it would have sent
 * upstream is compared. The first answers of a process are slow (it loads code); this takes that
 * out of the first real turn as well. */
#ifndef CG_CLI_PROBE_H
#define CG_CLI_PROBE_H

#include "core/buf.h"

#include <jansson.h>

struct cli_probe {
    int step;
    char mark[4][24];  /* random words: in the two messages of the history, in the first question,
                          in the second; they must, or must not, turn up */
    bool injection;    /* found: injected history reaches the API, in order and as sent */
    bool boundary;     /* found: a boundary hides what came before */
    bool literal;      /* nothing found against: text that looks like a command or a file mention
                          stays text */
    char failure[200]; /* what was wrong first, for the log; "" = nothing */
};

void cli_probe_init(struct cli_probe *p);
/* Writes the next lines into `out`. True: a result line of the process is to be awaited, then call
 * again with the body of the request it made since (NULL = it made none). False: finished, nothing
 * was written. The process then holds the second question: a boundary belongs before its first
 * turn. */
MUST_USE bool cli_probe_next(struct cli_probe *p, const json_t *request, struct buf *out);

#endif
