/* http.h - the HTTP/1.1 server: evhttp behind a strict guard, routes, replies, streams.
 *
 * Everything runs on the loop's thread. A request object lives from the moment its head and body
 * are complete until the reply is finished or the client has left, whichever is first:
 *   - http_reply*() and http_stream_end() finish it: the pointer is dead afterwards;
 *   - if the client leaves earlier, the gone callback (if set) runs exactly once, and the pointer
 *     is dead when that callback returns. Without a callback the reply is dropped in silence.
 * One that is recorded (record.h) may outlive its client: then the callback runs when the record is
 * abandoned, or never.
 * Malformed requests (RFC 9112 and the list in ARCHITECTURE.md) never reach a handler. Neither does
 * GET, HEAD or OPTIONS with a body; a body with DELETE is read and may be ignored. The refusal
 * speaks the dialect of the path, as far as that was read. */
#ifndef CG_HTTP_HTTP_H
#define CG_HTTP_HTTP_H

#include "core/buf.h"
#include "core/err.h"
#include "core/loop.h"

struct http_server;
struct http_req;

/* Whose shape a route speaks. DIALECT_CLIENT stands in tables only: the client's own, which is
 * Anthropic's when it sends anthropic-version or x-api-key, as its clients do, and OpenAI's when it
 * sends neither. */
enum http_dialect { DIALECT_NATIVE, DIALECT_ANTHROPIC, DIALECT_OPENAI, DIALECT_CLIENT };

/* What a caller must show to reach a route: a column of the table, so no handler can forget it. */
enum http_scope {
    SCOPE_PUBLIC,  /* anybody: health */
    SCOPE_METRICS, /* metrics token, or a direct loopback peer */
    SCOPE_KEY,     /* a valid API key */
    SCOPE_LOCAL    /* a peer on a unix socket: only this server's own user can open it */
};

typedef void http_handler(struct http_req *req, void *ctx);

struct http_route {
    const char *method; /* "GET" (serves HEAD too), "POST", "DELETE", ... */
    const char *path;   /* "/api/sessions/:id": a segment ":name" matches one non-empty segment */
    enum http_scope scope;
    enum http_dialect dialect;
    http_handler *handler;
    /* What it answers costs money: Idempotency-Key, Last-Event-ID and X-Claudegate-Resumable count
     * (gateway/replay.h), before the handler runs. */
    bool paid;
};

/* Called for every matched route that is not SCOPE_PUBLIC, before its handler. Must, now or
 * later, call exactly one of http_req_proceed() and http_reply_error() - or neither, after the
 * request's gone callback ran. */
typedef void http_authorise_fn(struct http_req *req, enum http_scope scope, void *ctx);

struct http_opts {
    const char *listen;      /* "127.0.0.1:3001", "[::1]:3001", ":3001" (all), port 0 = any, or
                                "unix:PATH": mode 0600; replaces what an ended server left there */
    size_t max_body_bytes;   /* over it: 413 */
    size_t max_header_bytes; /* whole head; over it: 431. At most 100 header lines. */
    int idle_timeout_s;      /* a connection without a request in progress */
    int read_timeout_s;      /* from a request's first byte to its last */
    int max_connections;     /* over it: accepted and closed with 503 */
    bool hsts;
    const struct http_route *routes;
    size_t route_count;
    const char *client_paths; /* a path that begins so and is no route's is refused in
                                 DIALECT_CLIENT, any other in DIALECT_NATIVE; NULL = none */
    http_authorise_fn *authorise;
    void *ctx; /* for handlers and authorise */
};

/* NULL + err when the address cannot be bound. Makes the process ignore SIGPIPE. */
struct http_server *http_server_new(struct loop *loop, const struct http_opts *opts,
                                    struct err *err);
/* "127.0.0.1:41234" or "unix:PATH": the address really bound. Owned by the server. */
const char *http_server_address(const struct http_server *s);
/* Stops accepting and removes a unix socket's name; idle connections close, replies still to be
 * sent carry "Connection: close". */
void http_server_drain(struct http_server *s);
size_t http_server_active(const struct http_server *s); /* requests not finished */
size_t http_server_connections(const struct http_server *s);
/* Drops connections; gone callbacks run. Not from inside a handler or one of its callbacks. */
void http_server_free(struct http_server *s);

/* --- reading a request ------------------------------------------------------------------- */
const char *http_req_id(const struct http_req *req); /* "req_..." made by us */
/* The client's own X-Request-Id when it is fit to be logged, or NULL. */
const char *http_req_client_id(const struct http_req *req);
const char *http_req_method(const struct http_req *req);
const char *http_req_path(const struct http_req *req);  /* decoded, without query */
const char *http_req_route(const struct http_req *req); /* the pattern, for metrics and usage */
const char *http_req_peer(const struct http_req *req);  /* its IP address, or "unix" */
bool http_req_is_paid(const struct http_req *req);      /* its route's column */
enum http_dialect http_req_dialect(const struct http_req *req); /* never DIALECT_CLIENT */
const char *http_req_header(const struct http_req *req, const char *name); /* NULL when absent */
/* All lines of that name, joined by ", " as RFC 9110 says; false when absent or over out's limit.
 */
bool http_req_header_all(const struct http_req *req, const char *name, struct buf *out);
/* Path and query as they stand in the request line. */
const char *http_req_target(const struct http_req *req);
const char *http_req_param(const struct http_req *req, const char *name); /* of the pattern */
const char *http_req_query(const struct http_req *req, const char *name); /* decoded, or NULL */
/* Contiguous, borrowed until the request ends or http_req_drop_body(). */
struct str http_req_body(struct http_req *req);
void http_req_drop_body(struct http_req *req);         /* frees the memory early */
int64_t http_req_start_us(const struct http_req *req); /* clock_mono_us() at its first byte */

void http_req_proceed(struct http_req *req); /* for authorise: run the handler */

/* One pointer of the caller's, for authorise to hand to the handler. free_fn (may be NULL) runs
 * when the request ends, whichever way. */
void http_req_set_data(struct http_req *req, void *data, void (*free_fn)(void *));
void *http_req_data(const struct http_req *req);
/* The caller logs this request in a line of its own: the access line is of level debug then. */
void http_req_set_logged(struct http_req *req);
/* For the access log line. */
void http_req_set_key_id(struct http_req *req, const char *public_id);

/* fn(ctx) runs at most once: the client left (also a half-close) before the reply was finished.
 * Noticed within 100 ms. NULL clears it. */
typedef void http_gone_fn(void *ctx);
void http_req_on_gone(struct http_req *req, http_gone_fn *fn, void *ctx);

/* --- answering --------------------------------------------------------------------------- */
/* Adds or replaces a response header; before the reply or stream begins. Every reply has
 * request-id, x-request-id, X-Content-Type-Options and, for JSON, Cache-Control of its own; in
 * OpenAI's dialect also openai-version and openai-processing-ms. */
void http_set_header(struct http_req *req, const char *name, const char *value);
void http_reply(struct http_req *req, int status, const char *content_type, struct str body);
void http_reply_json(struct http_req *req, int status, const struct buf *body);
/* In the dialect of the request's route; sets Retry-After from err->retry_after_s, x-should-retry
 * from err->should_retry, and "x-should-retry: false" for ERR_QUOTA and, but in the native dialect,
 * for what the same request will always get. Logs errors that are our or upstream's fault, with the
 * message the client may not see. */
void http_reply_error(struct http_req *req, const struct err *err);
/* The same body, for errors inside a stream: native {"success":false,"error":...,"code":...,
 * "requestId":...}. */
void http_error_body(enum http_dialect dialect, const char *request_id, const struct err *err,
                     struct buf *out);

/* What is written from now on ends in an error, inside a stream that has begun: no recorder keeps
 * it as an answer. */
void http_req_set_failed(struct http_req *req);

/* Streams: chunked, headers sent with the first call. */
void http_stream_begin(struct http_req *req, int status, const char *content_type);
void http_stream_write(struct http_req *req, struct str data);
void http_stream_end(struct http_req *req);
/* Bytes accepted by http_stream_write() and not yet taken by the client's socket. */
size_t http_stream_backlog(const struct http_req *req);
/* fn(ctx) each time the backlog falls to `low` bytes or less after having been above it. */
void http_stream_on_drain(struct http_req *req, size_t low, http_gone_fn *fn, void *ctx);

/* Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html): sets the
 * headers a proxy needs (Cache-Control: no-cache, X-Accel-Buffering: no) and begins the stream. */
void http_sse_begin(struct http_req *req);
void http_sse_event(struct http_req *req, const char *event,
                    struct str data); /* event may be NULL */
void http_sse_comment(struct http_req *req, const char *text);

#endif
