/* door.h - who may be connected to a relay at one time, for how long, and with how much.
 *
 * A worker runs tools that nobody wrote for us, and each of them can reach its worker's socket.
 * What they can take of the server is limited here: connections, time until a request has come in,
 * and bytes of requests that are not answered yet. */
#ifndef CG_UPSTREAM_DOOR_H
#define CG_UPSTREAM_DOOR_H

#include "core/list.h"
#include "core/loop.h"

struct evconnlistener;
struct evhttp;
struct evhttp_connection;
struct evhttp_request;

struct door {
    uint32_t tag;
    struct loop *loop;
    struct evhttp *http;
    struct evconnlistener *listener; /* the evhttp's; NULL once it is going */
    struct list conns;
    struct timer sweep;
    int64_t timeout_ms; /* for a request to come in, from its first byte on; and for the first */
    size_t held;        /* bytes that came of requests not answered yet */
    bool open;          /* large requests are welcome: somebody pays for them */
};

/* Takes the evhttp's bufferevent and close callbacks and its body limit; timeout_ms 0 = 30 s. */
void door_init(struct door *d, struct loop *loop, struct evhttp *http,
               struct evconnlistener *listener, int64_t timeout_ms);
void door_set_open(struct door *d, bool open);
/* To be told of each request that is complete, before it is answered. */
void door_request(struct door *d, struct evhttp_request *req);
/* In place of evhttp_connection_set_closecb(), which is taken; fn NULL = none any more. */
typedef void door_gone_fn(struct evhttp_connection *evcon, void *ctx);
void door_watch(struct door *d, struct evhttp_connection *evcon, door_gone_fn *fn, void *ctx);
/* Right before evhttp_free(), and right after it. */
void door_close(struct door *d);
void door_release(struct door *d);

#endif
