/* turn.h - one question on its way through the pool. Private to pool/. */
#ifndef CG_POOL_TURN_H
#define CG_POOL_TURN_H

#include "pool/pool.h"
#include "pool/queue.h"

struct turn {
    uint32_t tag;
    struct pool *pool;
    struct queued queued; /* its place in the pool's queue */
    const struct turn_ops *ops;
    void *ctx;
    char *key_id, *class_id; /* class: whose workers may serve it; "" = a new one only */
    char *model, *request_id, *holds, *will_hold, *workspace, *betas;
    const struct cli_profile *profile;
    int priority;
    json_t *history, *content;
    struct relay_turn relay;
    struct cli_message message;
    struct worker *worker; /* while one works on it */
    int64_t queued_at_us, served_at_us, claimed_at_us;
    int attempts;
    bool counted_own; /* among the pool's turns that wait for a process of their own */
    bool any_event;   /* something of the answer was handed out: no retry any more */
    bool cancelled;
    struct err cancel_err, start_err;
    bool message_over; /* of the message at hand: what comes now is none of it */
    bool extra;        /* something came all the same: the process knows what nobody was told */
    /* totals over the upstream messages the CLI showed, for a CLI that needs no relay */
    int64_t seen_input, seen_output, seen_cache_creation, seen_cache_read;
    int seen_messages;
    /* with a profile: what the turn adds to the conversation */
    json_t *added;       /* messages that are complete */
    json_t *results;     /* blocks: what the tools of `message` said so far, NULL = nothing */
    size_t results_told; /* handed out, of them */
    size_t added_bytes;
    char cli_session_id[64];
    char cli_error[48]; /* kind named by the CLI's synthetic error line */
};

/* class_id: see above; copied. */
struct turn *turn_new(struct pool *pool, const struct turn_request *req, const char *class_id,
                      const struct turn_ops *ops, void *ctx);
void turn_free(struct turn *t);
/* Books one stream event and hands it out (not any more once cancelled). */
void turn_event(struct turn *t, const json_t *event);
/* Tools of the latest message have run. blocks: of the CLI's line, `bytes` long. */
void turn_tool_results(struct turn *t, const json_t *blocks, size_t bytes);
/* Fills the result from what the CLI's result line and the relay said. msg NULL: no result line
 * came, `why` says why. */
void turn_conclude(struct turn *t, const struct cli_msg *msg, const struct err *why,
                   struct turn_result *ret);

#endif
