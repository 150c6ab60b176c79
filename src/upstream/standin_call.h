/* standin_call.h - one request to the stand-in, from its arrival until its response has left for
 * the socket, the client has gone, or we have broken the connection. Internal to standin*.c.
 *
 * A handler does exactly one of standin_call_send*(), standin_call_fail() and standin_call_begin();
 * the call then ends by itself and enters log and statistics. */
#ifndef CG_UPSTREAM_STANDIN_CALL_H
#define CG_UPSTREAM_STANDIN_CALL_H

#include "core/id.h"
#include "core/loop.h"
#include "upstream/standin_reply.h"

struct evbuffer;
struct event;
struct evhttp;
struct evhttp_connection;
struct evhttp_request;

struct standin {
    uint32_t tag;
    struct loop *loop;
    struct evhttp *http;
    bool scriptable;
    int word_delay_ms;
    char url[80];
    struct list calls;
    struct standin_script script;
    struct standin_log log;
    uint64_t messages, requests, aborted; /* ended ones */
    struct standin_usage told;
};

struct standin_call {
    uint32_t tag;
    struct node node;
    struct standin *s;
    struct evhttp_request *req;
    struct evhttp_connection *conn;
    struct event *closed_ev;
    struct timer timer;
    struct standin_entry *entry; /* NULL: not logged, or dropped from the log */
    char request_id[ID_REQUEST_SIZE];
    bool api;     /* a /v1/ request */
    bool message; /* POST /v1/messages, valid: counts as one of the API's calls */
    bool counted; /* no reset of the statistics since it came */
    bool started; /* response headers sent */
    bool cutting; /* break the connection when everything is flushed */
    bool flushed; /* everything is */
    bool ended;
    int polls; /* times we looked whether it is */
    int word_delay_ms;
    size_t bytes; /* of the response's body, handed to evhttp */
    struct standin_request request;
    struct standin_step step;
    struct standin_reply reply;
};

struct standin_call *standin_call_new(struct standin *s, struct evhttp_request *req);
/* The request's body; borrowed while the call lives. */
struct str standin_call_body(struct standin_call *c);

void standin_call_send(struct standin_call *c, int status, const char *content_type,
                       struct str body);
void standin_call_send_buf(struct standin_call *c, int status, const struct buf *json);
void standin_call_send_take(struct standin_call *c, int status, const char *content_type,
                            struct evbuffer *body);
/* An error in the API's shape, its type derived from the status. */
void standin_call_fail(struct standin_call *c, int status, const char *message);
/* Answers a message as c->request and c->step say, after the step's delay. */
void standin_call_begin(struct standin_call *c);

#endif
