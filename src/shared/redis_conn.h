/* redis_conn.h - private to shared/: one connection to Redis that comes back by itself.
 *
 * Life: look up the host, connect, log in; ready() then has to say what else must be said and call
 * redis_conn_settled() when it was answered. All of that has one deadline. Whatever ends it - never
 * connected, refused, closed, dropped - is told once by lost(), and the next attempt comes after a
 * back-off of 100 ms to 5 s, which starts anew once a connection was settled. */
#ifndef CG_SHARED_REDIS_CONN_H
#define CG_SHARED_REDIS_CONN_H

#include "conf/redis_url.h"
#include "core/loop.h"

#include <hiredis/async.h>

struct redis_conn;

struct redis_conn_opts {
    struct loop *loop;
    const struct redis_url *url; /* borrowed */
    int64_t timeout_ms;          /* until settled */
    void (*ready)(void *ctx);
    void (*lost)(void *ctx, const char *why);
    void *ctx;
};

struct redis_conn *redis_conn_new(const struct redis_conn_opts *opts);
/* Callbacks of open commands run with a NULL reply; lost() does not. NULL is fine. */
void redis_conn_free(struct redis_conn *c);
/* Connected and logged in? Otherwise NULL. */
redisAsyncContext *redis_conn_context(struct redis_conn *c);
void redis_conn_settled(struct redis_conn *c);
/* Ends the connection, if there is one: callbacks of open commands get a NULL reply, from here or
 * (inside a callback of hiredis) soon. */
void redis_conn_drop(struct redis_conn *c, const char *why);

#endif
