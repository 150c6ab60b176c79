/* gateway.h - one request from accepted to settled: the only place that joins authorisation,
 * limits, sessions, the pool and usage. Loop thread only. */
#ifndef CG_GATEWAY_GATEWAY_H
#define CG_GATEWAY_GATEWAY_H

#include "auth/auth.h"
#include "auth/throttle.h"
#include "conf/conf.h"
#include "conf/networks.h"
#include "gateway/chat_request.h" /* IWYU pragma: export */
#include "http/http.h"
#include "limit/inflight.h"
#include "limit/journal.h"
#include "limit/limit.h"
#include "pool/pool.h"
#include "price/price.h"
#include "session/session.h"
#include "session/workspace.h"
#include "vault/vault.h"

struct replays; /* replay.h */

/* What every handler gets as its ctx; built once by app.c, all parts borrowed. */
struct gateway {
    uint32_t tag; /* GATEWAY_TAG */
    struct loop *loop;
    const struct conf *conf;
    struct db *db;
    struct auth *auth;
    struct throttle *throttle;
    struct networks *proxies; /* server.trusted_proxies */
    struct shared *shared;
    struct vault *vault; /* seals nothing without a master key */
    struct limits *limits;
    struct journal *journal;
    struct inflight *inflight;
    struct prices *prices;
    struct sessions *sessions;
    struct replays *replays;
    struct pool *pool;
    struct upstream *upstream;
    json_t *models; /* what upstream offers, asked for at models_at_ms (clock_mono_ms); NULL = not
                       yet */
    int64_t models_at_ms;
    struct cache_room {
        int64_t since;      /* clock_mono_ms(): the window of cache.ttl that now is in */
        size_t now, before; /* bytes of answers that were stored in it, and in the one before */
    } cache_room;
    struct sandbox *sandbox;
    struct workspaces *workspaces;
    const struct cli_profile *agent; /* NULL = agent turns are not enabled */
    struct http_server *server;
    struct timer keepalive;
    struct timer restore;      /* the limits, once more, after the database was away */
    struct list jobs;          /* all that are not settled */
    const char *upstream_kind; /* "anthropic", "custom" or "demo": what /healthz says */
    const char *cli_version;
    int64_t started_wall_ms;
    bool draining, aborted;
    struct restore *restoring; /* the limits */
    bool restore_again;
    bool restore_soon;       /* Redis has just come back */
    bool restore_failed;     /* the last time; it was logged */
    void (*idle)(void *ctx); /* when draining: the last job has settled */
    void *idle_ctx;
};
#define GATEWAY_TAG TAG4('G', 'A', 'T', 'E')

struct job;

/* How a dialect writes its answer. Each ends up in exactly one of finish() and fail(). */
struct dialect {
    const char *name;
    /* Streaming only: before the first event, then each upstream event. The stream of server-sent
     * events is open already. */
    void (*begin)(struct job *job);
    void (*event)(struct job *job, const json_t *event);
    /* Streaming only, agents only: see struct turn_ops. */
    void (*tool)(struct job *job, const json_t *block);
    /* Streaming only, may be NULL: the stream, which is open, was silent for a while. Without it a
     * comment is sent. */
    void (*ping)(struct job *job);
    /* Must finish the HTTP request. */
    void (*finish)(struct job *job, const struct turn_result *result);
    /* An error inside the open stream, perhaps before begin(); must finish the HTTP request. Errors
     * before that are plain HTTP errors, written by the gateway. */
    void (*fail)(struct job *job, const struct err *err);
};

/* Around everything else: keep-alives of silent streams; limits told anew when Redis is back. */
void gateway_start(struct gateway *g);
void gateway_stop(struct gateway *g);

/* restore.c: the limits learn what the database knows of the day, the journal's rows included.
 * done(ctx, err) runs once, later; NULL is fine. */
void gateway_restore_limits(struct gateway *g, store_done_fn *done, void *ctx);
/* limit_headers.c: what is left, as headers of the reply in the words of its dialect. */
void gateway_limit_headers(struct http_req *http, const struct limit_views *views);

/* From now on, whenever Redis has come back. */
void gateway_watch_shared(struct gateway *g);
void gateway_unwatch_shared(struct gateway *g);

/* session_events.c: from now on workers and workspaces follow what becomes of sessions. */
void gateway_watch_sessions(struct gateway *g);

/* Takes req_take over. Answers, now or later, through the dialect or with an HTTP error. */
void gateway_submit(struct gateway *g, struct http_req *http, struct chat_request *req_take,
                    const struct dialect *dialect);

struct http_req *job_http(const struct job *job);
const struct chat_request *job_request(const struct job *job);
struct gateway *job_gateway(const struct job *job);
const char *job_session_id(const struct job *job); /* "" without a session */

/* No new work; what was accepted goes on until idle() is called. */
void gateway_drain(struct gateway *g, void (*idle)(void *ctx), void *ctx);
/* The deadline has passed: interrupts what still runs. */
void gateway_abort(struct gateway *g);

/* --- cost.c: what turns cost, and whether that can be written down ------------------------- */
/* Sets the row's cost, by the model that answered ("": the one that was asked); nothing for an
 * answer out of the cache. */
void gateway_price(const struct gateway *g, struct usage_row *row, const char *answered);
/* At most, as far as is known; 0 = unknown. ERR_FORBIDDEN: the key has a limit of cost, and the
 * model (NULL: not known yet) no price. */
MUST_USE int gateway_estimate_cost(const struct gateway *g, const struct api_key *key,
                                   const char *model, int64_t input_tokens, int64_t max_tokens,
                                   int64_t *ret_nano, struct err *err);
/* ERR_UNAVAILABLE: the journal's disk is full, and the policy is to refuse. */
MUST_USE int gateway_check_journal(const struct gateway *g, struct err *err);
/* What a usage row knows of its request from the start; the cost is unknown. */
void gateway_begin_row(struct usage_row *row, const struct http_req *http,
                       const struct auth_key *key, const char *model);
/* Its end: status and error (NULL: 200), then into the journal. */
void gateway_end_row(const struct gateway *g, struct usage_row *row, const struct err *err);

/* affinity.c: history: the messages before r->content, NULL = none. Never 0. */
uint64_t gateway_affinity(const char *key_id, const struct chat_request *r, const json_t *history);

/* --- access.c: who may reach a route (for http_opts.authorise) ---------------------------- */
http_authorise_fn gateway_authorise;
/* client.c: the address of the client, behind trusted proxies too; "unix". Returns out. */
#define GATEWAY_CLIENT_SIZE 64
const char *gateway_client(const struct gateway *g, const struct http_req *req,
                           char out[GATEWAY_CLIENT_SIZE]);
/* signed.c: is the request signed, if it must be, and rightly so, if it is? done() runs once, now
 * or later, unless cancelled; NULL = already done. */
struct signed_check;
typedef void signed_done_fn(void *ctx, const struct err *err);
struct signed_check *gateway_check_signature(struct gateway *g, struct http_req *req,
                                             const struct api_key *key, signed_done_fn *done,
                                             void *ctx);
void gateway_cancel_signature(struct signed_check *check); /* NULL is fine */
/* The caller's key, on a SCOPE_KEY route. */
struct auth_key *gateway_key(const struct http_req *req);
MUST_USE int gateway_check_model(const struct api_key *key, const char *model, struct err *err);
/* Model (if given), max_tokens, streaming: ERR_FORBIDDEN or 0. Sets r->max_tokens when it was not
 * given. */
MUST_USE int gateway_check_permissions(const struct api_key *key, struct chat_request *r,
                                       struct err *err);

/* May this key have agent turns here? ERR_INVALID: nobody may; ERR_FORBIDDEN: this key may not. */
MUST_USE int gateway_check_agent(const struct gateway *g, const struct api_key *key,
                                 struct err *err);

/* --- health.c ----------------------------------------------------------------------------- */
http_handler gateway_healthz, gateway_readyz, gateway_metrics;

#endif
