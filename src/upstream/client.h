/* client.h - HTTP exchanges with the API, on the loop: libcurl's multi interface over libevent.
 *
 * An exchange is one request and its response, tried once. Life: exchange_start() -> any number of
 * header/head/body calls -> exactly one end call, never from inside a function called here. After
 * end, exchange_abort() or exchange_let_go() the pointer is dead and no call follows. An exchange
 * may be aborted from anywhere but its own header, head and body calls. */
#ifndef CG_UPSTREAM_CLIENT_H
#define CG_UPSTREAM_CLIENT_H

#include "upstream/relay.h"
#include "upstream/targets.h"

#include "core/str.h"

struct exchange;

struct exchange_end {
    enum {
        EXCHANGE_DONE,      /* the response is complete */
        EXCHANGE_NO_ANSWER, /* no response began: connection refused, reset, TLS, DNS */
        EXCHANGE_CUT,       /* the response ended before its time */
        EXCHANGE_BAD        /* could not even be tried (URL) */
    } result;
    bool timed_out;  /* one of the three time-outs was the reason */
    bool connected;  /* the request, or a part of it, had been sent */
    bool untrusted;  /* the server's certificate was refused */
    bool by_proxy;   /* the proxy refused: it wants other credentials, or forbids the host */
    const char *why; /* for logs */
};

struct exchange_ops {
    void (*header)(void *ctx, struct str name, struct str value);
    void (*head)(void *ctx, int status); /* all headers were told */
    /* False: not now. The same bytes come again after exchange_resume(). */
    bool (*body)(void *ctx, struct str bytes);
    void (*end)(void *ctx, const struct exchange_end *end);
};

struct exchange_req {
    struct target *target;          /* whose base URL and credential; its state follows from this */
    const char *path;               /* "/v1/messages?beta=true", put behind the base URL */
    const struct str (*headers)[2]; /* name, value; copied */
    size_t header_count;
    bool get;        /* GET instead of POST; without a body */
    struct str body; /* borrowed until the exchange is dead */
};

struct exchange *exchange_start(struct upstream *up, const struct exchange_req *req,
                                const struct exchange_ops *ops, void *ctx);
void exchange_resume(struct exchange *ex);
/* From now on the response may be silent for `ms` only. */
void exchange_hurry(struct exchange *ex, int64_t ms);
/* Closes the connection, so that upstream stops working. */
void exchange_abort(struct exchange *ex);
/* All that matters has come: reads what is left for a moment, so that the connection can be used
 * again, and tells nobody. The request's body is no longer borrowed afterwards. */
void exchange_let_go(struct exchange *ex);

/* The response, whatever its status was, holds an error that stands for this one. */
void exchange_judge(struct exchange *ex, int status);

/* The request, or a part of it, has left. */
bool exchange_is_sent(const struct exchange *ex);

struct targets *upstream_targets(const struct upstream *up);
struct loop *upstream_loop(const struct upstream *up);
int upstream_max_retries(const struct upstream *up);
int64_t upstream_retry_base_ms(const struct upstream *up);
int64_t upstream_request_timeout_ms(const struct upstream *up); /* 0 = the usual */

#endif
