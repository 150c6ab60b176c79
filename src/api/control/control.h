/* control.h - what an operator on this machine asks of the running server, over a unix socket in
 * its data directory that only the server's own user can open. `claudegate workers` is its client.
 *
 *   GET  /control/workers            every worker, the queue, the pool
 *   POST /control/workers/drain      each worker ends after the turn it has: {"draining":N}
 *   POST /control/workers/:id/drain  this one; 404 when there is none */
#ifndef CG_API_CONTROL_CONTROL_H
#define CG_API_CONTROL_CONTROL_H

#include "gateway/gateway.h"

#define CONTROL_SOCKET "control.sock" /* in the data directory */

/* The caller owns the server and frees it before the gateway's parts. */
struct http_server *control_open(struct gateway *g, const char *data_dir, struct err *err);

/* workers.c */
http_handler control_workers, control_drain, control_drain_all;
/* The object that GET /control/workers answers with, appended to b. */
void workers_json(const struct pool *p, struct buf *b);

#endif
