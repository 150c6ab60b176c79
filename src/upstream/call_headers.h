/* call_headers.h - the headers of a call: those of the CLI that go upstream, with the version and
 * the betas of the client. The credential is none of them: that is the target's. */
#ifndef CG_UPSTREAM_CALL_HEADERS_H
#define CG_UPSTREAM_CALL_HEADERS_H

#include "core/str.h"
#include "upstream/relay.h"

#define CALL_HEADERS_MAX 64

struct evhttp_request;

struct call_headers {
    struct str list[CALL_HEADERS_MAX][2]; /* name, value; in the request, or constants */
    size_t count;
    char *betas; /* the header's value, when the turn adds to it */
};

/* Borrows from both. */
void call_headers_pick(struct call_headers *h, struct evhttp_request *req,
                       const struct relay_turn *turn);
void call_headers_release(struct call_headers *h); /* a zeroed one is fine */

#endif
