/* relay.h - a worker's only way to the API: one unix socket per worker, served by us.
 *
 * The CLI inside the worker talks plain HTTP to its socket with a dummy key. The relay knows the
 * worker by its socket, puts in the operator's credential, writes the parameters the CLI has no
 * flag for into the request's JSON, forwards with libcurl (TLS verified) and streams the response
 * back, reading usage, stop reason, status, request id and retry-after as they pass. A call that
 * comes while no turn is open is refused (403) and counted. `HEAD /` is answered here. What a tool
 * inside the worker can take of this server through the socket is limited: see door.h.
 *
 * A stop_reason "max_tokens" or "model_context_window_exceeded" is shown to the CLI as "end_turn"
 * (it would otherwise go on by itself with hidden extra calls); the true one is in the turn. */
#ifndef CG_UPSTREAM_RELAY_H
#define CG_UPSTREAM_RELAY_H

#include "core/err.h"
#include "core/loop.h"

#include <jansson.h>

#define UPSTREAM_MAX_TARGETS 16

/* A credential and where it belongs; see targets.h. */
struct upstream_target {
    const char *name;       /* for logs, metrics and the choice; NULL = "default" */
    const char *base_url;   /* http(s)://host[:port][/prefix] */
    const char *api_key;    /* x-api-key; or */
    const char *auth_token; /* Authorization: Bearer; NULL or "" = none */
    int weight;             /* of its share; 0 = a backup */
};

/* Shared by all relays: the libcurl multi handle, the targets, time-outs. */
struct upstream;
struct upstream_opts {
    struct upstream_target targets[UPSTREAM_MAX_TARGETS];
    size_t target_count; /* at least 1 */
    /* http://, https://, socks5:// or socks5h://[user:password@]host:port for every target, but one
     * on this machine only if the proxy is on it, too. NULL or "" = what the variables https_proxy,
     * http_proxy, all_proxy and no_proxy say, and never to this machine. */
    const char *proxy;
    bool http2; /* where TLS agrees on it (ALPN); one request at a time on a connection */
    int64_t connect_timeout_ms, first_byte_timeout_ms, idle_timeout_ms;
    int max_retries; /* before the first byte of a response: 429, 500, 502, 503, 529, connect; not
                        counted are those that go to another target at once */
    int64_t retry_base_ms; /* delay before the first retry, doubled for each further one; 0 = 500 */
    int64_t request_timeout_ms; /* for a worker's request to come in whole; 0 = 30 s */
    const char *ca_file; /* PEM certificates to trust instead of the system's; NULL = those */
};
struct upstream *upstream_new(struct loop *loop, const struct upstream_opts *opts, struct err *err);
void upstream_free(struct upstream *up);

/* What one turn wants changed in the upstream request, and what upstream told about it. Owned by
 * the caller, zeroed but for what goes in; must outlive the turn (until relay_end_turn), which
 * adds what is still missing. Calls to count_tokens leave no trace here but in `calls`. */
struct relay_turn {
    /* in: */
    json_t
        *params;            /* object, keys set in the request's top level (temperature,
                               max_tokens, stop_sequences, ...); a null value removes the key; NULL = none */
    json_t *system;         /* array of blocks appended to the request's `system`; NULL = none */
    json_t *messages;       /* array: the conversation that upstream gets, whatever the CLI was
                               told; NULL = the CLI's. Only /v1/messages, nothing else */
    bool exact;             /* the cache marks of the client instead of the CLI's own */
    json_t *last_mark;      /* with exact: that of the question's last block; NULL = none */
    const char *version;    /* the header anthropic-version instead of the CLI's; NULL = that */
    const char *betas;      /* comma-separated, added to the header anthropic-beta; NULL = none */
    const char *request_id; /* for logs */
    uint64_t affinity;      /* calls with the same number go to the same target; 0 = to any */
    bool many;              /* the turn may call again after an answer (a tool loop does), but no
                               other model than at first: a tool can reach the socket, too */
    const char *only_model; /* with many: the one to call; NULL or "" = that of the first call */
    int max_calls;          /* with many: more are refused; 0 = no limit */
    /* out: (relay_begin_turn clears what is "of the last call", and keeps the counts) */
    int calls; /* requests forwarded (retries not counted) */
    int retries;
    int64_t input_tokens, output_tokens, cache_creation_tokens, cache_read_tokens;
    char model[100];      /* with many: only_model, or that of the first call */
    bool answered;        /* a whole message came and was passed on; further calls are refused */
    bool half;            /* it ended inside a block: upstream left out the block's end */
    bool estimated;       /* a call was cut off before its final usage: output is an estimate,
                             one token per 4 bytes of text seen, at least what was reported */
    char stop_reason[40]; /* of the last call, the true one; "" = none seen */
    int status;           /* HTTP status of the last call; 0 = none. A stream that opened with an
                             error event has that error's status (overloaded_error: 529) */
    int retry_after_s;    /* of the last non-2xx response, 0 = none */
    int should_retry;     /* its x-should-retry: 1 yes, -1 no, 0 none */
    char upstream_request_id[64];
    char error_type[48]; /* error.type and error.message of the last non-2xx or `event: error` */
    char error_message[300];
    char *error_json; /* the whole `error` object, the caller's to free; NULL = none, or too long */
    enum {
        RELAY_OK,
        RELAY_UNREACHABLE,
        RELAY_TIMED_OUT
    } failure; /* of the last call: no
response at all, or (with status 2xx) one that was cut or fell silent */
};

struct relay;
/* Listens on `socket_path` (created 0600, removed at the end). */
struct relay *relay_new(struct upstream *up, const char *socket_path, struct err *err);
/* The relay must have no open turn. */
void relay_begin_turn(struct relay *r, struct relay_turn *turn);
/* The turn was cancelled: a call that has not begun yet is refused. */
void relay_no_more_calls(struct relay *r);
/* Aborts upstream calls still running and completes the turn's numbers. */
void relay_end_turn(struct relay *r);
void relay_free(struct relay *r);

/* A trial: calls to /v1/messages are answered here, with a short stream of one text block, and
 * nothing goes upstream. For finding out what the CLI sends. Never together with a turn. */
struct relay_trial {
    const char *answer; /* in: the text; borrowed */
    int calls;          /* out */
    json_t *request;    /* out: body of the last call, NULL = none yet; the caller's to decref */
};
void relay_begin_trial(struct relay *r, struct relay_trial *trial);
void relay_end_trial(struct relay *r);

#endif
