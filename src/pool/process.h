/* process.h - a claude process with what belongs to it alone: directory, relay socket, sandbox.
 * Private to pool/. */
#ifndef CG_POOL_PROCESS_H
#define CG_POOL_PROCESS_H

#include "pool/rundir.h"
#include "pool/turn.h"

#define PROCESS_LINE_MAX  ((size_t)96 << 20) /* of one line it writes */
#define PROCESS_STDIN_MAX ((size_t)96 << 20) /* of what waits to be read by it */

struct process {
    struct rundir dir;
    struct relay *relay;
    struct sandboxed boxed;
    struct child *child;
    char *system; /* what the model is told about the place it works in; "" = nothing */
};

/* own: the turn it is started for, whose profile and workspace it gets and, with resume, whose
 * history it reads from a transcript. NULL = a spare. p is zeroed by the caller but for dir.all,
 * and may be released after a failure. */
MUST_USE int process_start(struct process *p, struct loop *loop, const struct pool_opts *opts,
                           unsigned id, const struct turn *own, bool resume,
                           const struct child_ops *ops, void *ctx, struct err *err);
/* After the child has ended, or was never started. */
void process_release(struct process *p);

#endif
