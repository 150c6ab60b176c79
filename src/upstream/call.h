/* call.h - one request of the CLI and its answer, with retries: the heart of the relay. */
#ifndef CG_UPSTREAM_CALL_H
#define CG_UPSTREAM_CALL_H

#include "upstream/relay.h"

#include "core/list.h"

struct call;
struct door;
struct evbuffer;
struct evhttp_request;

struct call_home {
    struct upstream *up;
    struct door *door; /* through which all the requests came */
    struct list calls; /* of struct call */
    bool settled;      /* the turn has had its answer, or its failure */
};

void call_home_init(struct call_home *home, struct upstream *up, struct door *door);
/* Takes the request over. The call leaves home->calls by itself when it is over; its numbers have
 * been added to `turn` then, which is not touched any more. */
void call_start(struct call_home *home, struct relay_turn *turn, struct evhttp_request *req,
                bool count_tokens);
/* Ends the oldest call at once: the CLI sees its connection cut. */
void call_cut_first(struct call_home *home);

/* call_refuse.c: an error in the API's own shape; as a whole answer. */
void call_write_error(struct evbuffer *out, const char *type, const char *message);
void call_refuse(struct evhttp_request *req, int status, const char *type, const char *message);

#endif
