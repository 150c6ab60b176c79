/* pool.h - warm claude processes and the turns that wait for one.
 *
 * A turn is one question and its answer. pool_run() queues it; the pool gives it a worker of the
 * caller's isolation class, or a spare that from then on belongs to that class and never serves
 * another; spares are started in the background. A worker that dies before the first byte of an
 * answer is replaced and the turn tried once more.
 *
 * Callbacks: started() at most once per attempt, event() for each upstream stream event, done()
 * exactly once, never before pool_run() returned; nothing after done(). Loop thread only. */
#ifndef CG_POOL_POOL_H
#define CG_POOL_POOL_H

#include "cli/protocol.h"
#include "core/loop.h"
#include "upstream/relay.h"

struct pool;
struct turn;

struct pool_opts {
    struct upstream *upstream;
    const char *claude_bin, *model; /* model: what a worker starts with */
    const char *pass_env;           /* see launch.h */
    const char *run_dir;            /* sockets and homes; created, emptied at start and end */
    int64_t max_workers, min_spare, start_concurrency;
    int64_t max_requests, max_rss_mb, max_age_s, idle_timeout_s;
    int64_t start_timeout_ms, prepare_timeout_ms, silence_timeout_ms, turn_timeout_ms,
        interrupt_timeout_ms;
    int64_t queue_max, queue_timeout_ms;
};

struct pool *pool_new(struct loop *loop, const struct pool_opts *opts, struct err *err);
/* Ends every worker; done(ctx) when the last is reaped. Turns still there fail. Once. */
void pool_stop(struct pool *p, void (*done)(void *ctx), void *ctx);
void pool_free(struct pool *p); /* after pool_stop()'s done */

struct turn_request {     /* strings are copied, JSON values referenced */
    const char *class_id; /* isolation class: the API key's id */
    const char *model;
    const char *request_id;
    json_t *history; /* array of {"role","content":[...]}; NULL = none */
    json_t *content; /* the live user message: array of content blocks */
    json_t *params;  /* see struct relay_turn */
    json_t *system;
    /* A worker that holds exactly `holds` needs no reset and no history; afterwards it holds
     * `will_hold`. NULL or "" = no such claim. */
    const char *holds, *will_hold;
};

struct turn_result {
    bool ok;
    struct err err; /* when not ok: ERR_CLIENT_GONE, ERR_TIMEOUT, ERR_UPSTREAM, ERR_WORKER, ... */
    const struct cli_message *message; /* what was received, complete when ok; borrowed */
    char stop_reason[40];              /* the true one, as upstream said it */
    char cli_session_id[64];
    int64_t input_tokens, output_tokens, cache_creation_tokens, cache_read_tokens;
    bool estimated;
    int upstream_calls, retries;
    int64_t queue_ms; /* accepted to worker claimed; -1 = never claimed */
};

struct turn_ops {
    void (*started)(void *ctx); /* the question is on its way to a worker */
    void (*event)(void *ctx, const json_t *event);
    void (*done)(void *ctx, const struct turn_result *result);
};

/* NULL + err (ERR_OVERLOADED with retry_after_s, ERR_SHUTTING_DOWN): no callback will run. */
struct turn *pool_run(struct pool *p, const struct turn_request *req, const struct turn_ops *ops,
                      void *ctx, struct err *err);
/* Leaves the queue, or interrupts the worker; done() still comes, with `why`. Idempotent. */
void turn_cancel(struct turn *t, const struct err *why);

struct pool_status {
    size_t starting, spare, idle, busy, ending; /* workers */
    size_t queued;
    int64_t starts, start_failures_in_row;
    char last_start_error[400];
};
void pool_status(const struct pool *p, struct pool_status *ret);

#endif
