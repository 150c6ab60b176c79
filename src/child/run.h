/* run.h - runs a process to its end, blocking. Private to child/; child_run() is the public form.
 */
#ifndef CG_CHILD_RUN_H
#define CG_CHILD_RUN_H

#include "child/spawn.h"
#include "core/buf.h"

/* Kills it after timeout_ms. stdin is empty; out and errout (may be NULL) take what it writes. 0
 * when it exited with status 0. */
MUST_USE int run_process(const struct spawn_opts *o, int64_t timeout_ms, struct buf *out,
                         struct buf *errout, struct err *err);

#endif
