/* pool.h - warm claude processes and the turns that wait for one.
 *
 * A turn is one question and its answer. pool_run() queues it; the pool gives it a worker of the
 * caller's isolation class, or a spare that from then on belongs to that class and never serves
 * another; spares are started in the background. A turn that needs what only a process's start can
 * give (a profile, a transcript) has one started for it. A worker that dies before the first byte
 * of an answer is replaced and the turn tried once more.
 *
 * Callbacks: started() at most once per attempt, event() for each upstream stream event, tool()
 * for each use of a tool and its result, done() exactly once, never before pool_run() returned;
 * nothing after done(). Loop thread only. */
#ifndef CG_POOL_POOL_H
#define CG_POOL_POOL_H

#include "child/sandbox.h"
#include "cli/launch.h"
#include "cli/protocol.h"
#include "core/loop.h"
#include "upstream/relay.h"

struct pool;
struct turn;

/* Who may share a process, one after the other. */
enum pool_isolation {
    ISOLATE_KEY,     /* the requests of one API key */
    ISOLATE_REQUEST, /* nobody: it ends after one request */
    ISOLATE_SHARED   /* everybody */
};

/* How a process gets the history of a conversation. */
enum pool_history {
    HISTORY_AUTO,   /* each new process is probed; the first that fails switches to RESUME */
    HISTORY_INJECT, /* over stdin, unprobed */
    HISTORY_RESUME  /* a written transcript and a new process */
};

struct pool_opts {
    struct upstream *upstream;
    struct sandbox *sandbox;
    enum pool_isolation isolation;
    enum pool_history history;
    const char *claude_bin, *model; /* model: what a worker starts with */
    const char *pass_env;           /* see launch.h */
    const char *run_dir;            /* sockets and homes; created, emptied at start and end */
    int64_t max_workers, min_spare, start_concurrency;
    int64_t max_requests, max_rss_mb, max_age_s, idle_timeout_s;
    int64_t start_timeout_ms, prepare_timeout_ms, silence_timeout_ms, turn_timeout_ms,
        interrupt_timeout_ms;
    int64_t queue_max, queue_max_per_key, queue_timeout_ms;
};

struct pool *pool_new(struct loop *loop, const struct pool_opts *opts, struct err *err);
/* Ends every worker; done(ctx) when the last is reaped. Turns still there fail. Once. */
void pool_stop(struct pool *p, void (*done)(void *ctx), void *ctx);
void pool_free(struct pool *p); /* after pool_stop()'s done */

struct turn_request {   /* strings are copied, JSON values referenced */
    const char *key_id; /* the API key's id: for isolation and for the queue's fairness */
    int priority;       /* the key's weight in the queue, 1..10; 0 = 1 */
    const char *model;
    const char *request_id;
    const struct cli_profile *profile; /* NULL = no built-in tools; must outlive the pool */
    /* With a profile: the directory the process works in, and who it belongs to. Only turns with
     * the same workspace_id ever run in that process. */
    const char *workspace, *workspace_id;
    json_t *history; /* array of {"role","content":[...]}; NULL = none */
    json_t *content; /* the live user message: array of content blocks */
    json_t *params;  /* see struct relay_turn, and the next ones, too */
    json_t *system;
    json_t *messages;
    bool exact;
    const char *version; /* a static string */
    const char *betas;
    uint64_t affinity;
    /* A worker that holds exactly `holds` needs no reset and no history; afterwards it holds
     * `will_hold`. NULL or "" = no such claim. */
    const char *holds, *will_hold;
};

struct turn_result {
    bool ok;
    struct err err; /* when not ok: ERR_CLIENT_GONE, ERR_TIMEOUT, ERR_UPSTREAM, ERR_WORKER, ... */
    const struct cli_message *message; /* what was received, complete when ok; borrowed */
    char stop_reason[40];              /* the true one, as upstream said it; or "max_turns": the
                                        * profile's limit ended the loop of tools */
    /* With a profile: what the turn adds to the conversation behind the question, as messages
     * {"role","content"}, tool calls and their results among them; borrowed. Else NULL: the
     * message is all. */
    json_t *added;
    char cli_session_id[64];
    int64_t input_tokens, output_tokens, cache_creation_tokens, cache_read_tokens;
    bool estimated;
    int upstream_calls, retries;
    int64_t queue_ms; /* accepted to worker claimed; -1 = never claimed */
};

struct turn_ops {
    void (*started)(void *ctx); /* the question is on its way to a worker */
    void (*event)(void *ctx, const json_t *event);
    /* With a profile: a finished tool_use block, or the tool_result block that answers one. */
    void (*tool)(void *ctx, const json_t *block);
    void (*done)(void *ctx, const struct turn_result *result);
};

/* NULL + err (ERR_OVERLOADED with retry_after_s, ERR_SHUTTING_DOWN): no callback will run. */
struct turn *pool_run(struct pool *p, const struct turn_request *req, const struct turn_ops *ops,
                      void *ctx, struct err *err);
/* Leaves the queue, or interrupts the worker; done() still comes, with `why`. Idempotent. */
void turn_cancel(struct turn *t, const struct err *why);

/* 1 = the next of those that wait; 0 = has a worker. An estimate: others may be preferred. */
size_t turn_position(const struct turn *t);

struct pool_status {
    size_t starting, spare, idle, busy, ending; /* workers */
    size_t queued;
    int64_t starts, start_failures_in_row;
    int64_t breaker_open_ms;   /* no start is tried for so long; 0 = closed */
    bool ready_once;           /* some process has started */
    enum pool_history history; /* in force: AUTO (nothing probed yet), INJECT or RESUME */
    char last_start_error[400];
};
void pool_status(const struct pool *p, struct pool_status *ret);
const char *pool_history_name(enum pool_history h); /* "auto", "inject", "resume" */

/* One worker, for operators. Strings are borrowed for the call. */
struct pool_worker {
    unsigned id;
    int pid;
    const char *state;  /* starting, probing, spare, idle, preparing, running, cancelling, clearing,
                           ending */
    const char *key_id; /* whose it is; "" = nobody's yet */
    const char *profile; /* "chat" or "agent" */
    const char *model;
    const char *request_id;  /* of the turn it works on, or "" */
    const char *stderr_tail; /* what it last said there, or "" */
    bool draining;
    int64_t age_ms, state_ms; /* since it was started; since it entered this state */
    int64_t turns, rss_kb, cpu_ms;
};
typedef void pool_worker_fn(void *ctx, const struct pool_worker *w);
void pool_each_worker(const struct pool *p, pool_worker_fn *fn, void *ctx); /* by id */
/* The worker takes no further turn and ends after the one it has; another is started when needed.
 * id 0 = all. Returns how many were told, 0 = there is none with this id. */
size_t pool_drain(struct pool *p, unsigned id);
/* The same for those of this workspace: it is about to be removed. */
size_t pool_drain_workspace(struct pool *p, const char *workspace_id);
/* Whatever idle workers hold of this conversation (the part of `holds` before the colon) is given
 * up, and cleared in the background. */
void pool_forget(struct pool *p, const char *conversation);

#endif
