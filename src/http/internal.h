/* internal.h - the objects behind http.h and how the files of src/http share them.
 *
 * One struct http_conn per TCP connection, beside the library's evhttp_connection (which owns the
 * bufferevent and ends through evhttp_connection_free(), whoever calls it; our close callback then
 * takes the conn apart). One struct http_req per request that passed the guard. */
#ifndef CG_HTTP_INTERNAL_H
#define CG_HTTP_INTERNAL_H

#include "core/id.h"
#include "core/list.h"
#include "http/guard.h"
#include "http/http.h"

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/http.h>
#include <sys/types.h>

#define HTTP_SERVER_TAG TAG4('H', 'S', 'R', 'V')
#define HTTP_CONN_TAG   TAG4('H', 'C', 'O', 'N')
#define HTTP_REQ_TAG    TAG4('H', 'R', 'E', 'Q')

#define HTTP_PEER_SIZE 64 /* an IPv6 address with its zone */
#define HTTP_HSTS      "max-age=31536000"
#define HTTP_OPENAI    "2020-10-01" /* openai-version */

/* A connection is in exactly one state and in that state's list, in the order of `since`. */
enum conn_state {
    CONN_IDLE,     /* nothing of a request has arrived */
    CONN_READING,  /* first byte seen, request not complete */
    CONN_HANDLING, /* complete; the reply is not finished */
    CONN_SENDING,  /* reply finished, not all of it taken by the socket */
    CONN_CLOSING,  /* refused: says why, drains what the client still sends, closes */
    CONN_STATES,
    CONN_DEAD = CONN_STATES /* evhttp let go of it; freed next turn */
};

/* The name of a unix socket in the file system. */
struct unix_name {
    int dir;
    char *name; /* in dir; NULL = none */
    dev_t dev;
    ino_t ino;
};

struct http_server {
    uint32_t tag;
    struct loop *loop;
    struct http_opts opts;
    char *listen;
    char *address;
    struct unix_name unix_name; /* while it listens there */
    struct evhttp *http;
    struct evhttp_bound_socket *bound;
    struct list conns[CONN_STATES];
    struct http_conn **by_fd;
    size_t by_fd_size;
    size_t paused;      /* connections that stopped reading ahead */
    size_t active;      /* requests not finished */
    size_t observed;    /* connections, as the metric has them */
    struct timer sweep; /* time-outs of all connections */
    int64_t sweep_at_ms;
    bool is_unix, draining, closed;
};

struct http_conn {
    uint32_t tag;
    struct http_server *server;
    struct node node;
    enum conn_state state;
    int64_t since_ms;
    int64_t first_byte_us; /* of the request being read */
    struct bufferevent *bev;
    struct evhttp_connection *evcon;
    int fd;
    char peer[HTTP_PEER_SIZE];
    struct guard guard;
    enum guard_reason refusal;
    char refusal_id[ID_REQUEST_SIZE];
    size_t drained;     /* bytes thrown away while closing */
    uint64_t bytes_out; /* taken by the socket since the request began */
    struct http_req *req;
    bool started, paused, close_queued;
};

#define HTTP_MAX_PARAMS 4

struct http_req {
    uint32_t tag;
    struct http_server *server;
    struct http_conn *conn; /* NULL: the client has left */
    struct evhttp_request *ev;
    char id[ID_REQUEST_SIZE];
    char method[8];
    char *path; /* decoded */
    char *query;
    const struct http_route *route; /* NULL: none matched */
    enum http_dialect dialect;
    struct {
        struct str name;
        char *value;
    } params[HTTP_MAX_PARAMS];
    size_t param_count;
    char peer[HTTP_PEER_SIZE];
    bool logged; /* in a line of its owner's */
    char key_id[48];
    int64_t start_us;
    int status; /* 0: no reply yet */
    uint64_t bytes_out;
    bool http10, head, wants_close;
    bool streaming, chunked;
    bool ev_owned; /* evhttp no longer frees ev */
    bool done;     /* for its owner: replied, or the gone callback ran */
    bool gone_queued;
    http_gone_fn *gone_fn, *drain_fn;
    void *gone_ctx, *drain_ctx;
    size_t drain_low;
    bool drain_above, drain_due;
    void *data;
    void (*data_free)(void *);
    struct http_record *record; /* what this reply is written into as well; NULL = none */
    bool detached;              /* the client has left, the record goes on */
};

/* --- server.c -------------------------------------------------------------------------- */
void server_sweep_soon(struct http_server *s); /* time-outs are to be looked at */
void server_free_if_done(struct http_server *s);

/* --- listen.c: binds s->listen and fills in s->bound and s->address --------------------- */
MUST_USE int server_listen(struct http_server *s, struct err *err);
void server_unlisten(struct http_server *s);

/* --- listen_unix.c ---------------------------------------------------------------------- */
/* The listening descriptor, or -1. */
MUST_USE int unix_listen(const char *path, struct unix_name *ret_name, struct err *err);
/* Before that descriptor is closed. */
void unix_unlisten(struct unix_name *u);

/* --- conn.c ---------------------------------------------------------------------------- */
struct bufferevent *conn_accept(struct event_base *base, void *server); /* evhttp_set_bevcb */
void conn_start(void *conn); /* once evhttp has given it a socket; may be called again */
void conn_move(struct http_conn *c, enum conn_state state);
void conn_close(void *conn);
/* Answers with the reason's status and closes; the request never reaches a handler. */
void conn_refuse(struct http_conn *c, enum guard_reason reason);
void conn_watch(struct http_conn *c);      /* the reply comes later: notice a client that leaves */
void conn_reply_sent(struct http_conn *c); /* the socket has taken all of the reply */
void conn_flush(struct http_conn *c);      /* a finished reply: send it now */
void conn_close_later(struct http_conn *c);
bool conn_peer_left(const struct http_conn *c); /* asks the kernel */
int64_t conn_linger_ms(const struct http_conn *c);
struct http_conn *conn_of(struct http_server *s, struct evhttp_request *ev);

/* --- request.c ------------------------------------------------------------------------- */
void req_dispatch(struct evhttp_request *ev, void *server); /* evhttp_set_gencb */
void req_client_left(struct http_conn *c); /* the connection goes away under c->req */
void req_owner_done(struct http_req *req); /* replied: no more callbacks, its data is freed */
void req_drop_reply(struct http_req *req); /* replied, but nobody is there any more */
void req_abandon(struct http_req *req);    /* detached: its gone callback runs after all */

/* --- target.c: path and query of a target that passed the guard ------------------------- */
char *target_path(const char *target);  /* decoded, owned */
char *target_query(const char *target); /* "key\0value\0...\0", owned; NULL without a query */
const char *query_find(const char *query, const char *name);

/* --- router.c -------------------------------------------------------------------------- */
/* Of the path that the guard has read, whole or not; never DIALECT_CLIENT. */
enum http_dialect router_dialect(const struct http_opts *opts, const struct guard *g);
/* Sets req->route and its params. Without a match req->route is NULL and allow holds the methods
 * the path has ("" = unknown path). */
void router_find(const struct http_opts *opts, struct http_req *req, struct buf *allow);
void router_reply_unmatched(struct http_req *req, struct buf *allow);

/* --- reply.c --------------------------------------------------------------------------- */
const char *reply_phrase(int status);
int http_error_status(enum http_dialect dialect, const struct err *err);
/* The value of x-should-retry, or NULL. */
const char *reply_advice(enum http_dialect dialect, const struct err *err);
void reply_headers(struct http_req *req, int status, const char *content_type);

/* --- stream.c -------------------------------------------------------------------------- */
void stream_send(struct http_req *req, struct str data); /* to the client, and nowhere else */

/* --- observe.c: access log and metrics ------------------------------------------------- */
void observe_request(const struct http_req *req, bool aborted);
void observe_register(void);
void observe_fault(const struct http_req *req, const struct err *err);
void observe_refusal(const struct http_conn *c);
void observe_connections(struct http_server *s);
void observe_client_gone(void);

#endif
