/* turn.h - one question on its way through the pool. Private to pool/. */
#ifndef CG_POOL_TURN_H
#define CG_POOL_TURN_H

#include "core/list.h"
#include "pool/pool.h"

struct turn {
    uint32_t tag;
    struct pool *pool;
    struct node node; /* in the pool's queue */
    const struct turn_ops *ops;
    void *ctx;
    char *class_id, *model, *request_id, *holds, *will_hold;
    json_t *history, *content;
    struct relay_turn relay;
    struct cli_message message;
    struct worker *worker; /* while one works on it */
    int64_t queued_at_us, claimed_at_us;
    int64_t waiting_since_us; /* this attempt's place in the queue */
    int attempts;
    bool any_event; /* something of the answer was handed out: no retry any more */
    bool cancelled;
    struct err cancel_err;
    /* totals over the upstream messages the CLI showed, for a CLI that needs no relay */
    int64_t seen_input, seen_output, seen_cache_creation, seen_cache_read;
    int seen_messages;
    char cli_session_id[64];
    char cli_error[48]; /* kind named by the CLI's synthetic error line */
};

struct turn *turn_new(struct pool *pool, const struct turn_request *req, const struct turn_ops *ops,
                      void *ctx);
void turn_free(struct turn *t);
/* Books one stream event and hands it out (not any more once cancelled). */
void turn_event(struct turn *t, const json_t *event);
/* Fills the result from what the CLI's result line and the relay said. msg NULL: no result line
 * came, `why` says why. */
void turn_conclude(struct turn *t, const struct cli_msg *msg, const struct err *why,
                   struct turn_result *ret);

#endif
