/* fake_upstream.h - one upstream request on its way; fake_upstream.c does HTTP, fake_sse.c the
 * events. */
#ifndef FAKE_UPSTREAM_H
#define FAKE_UPSTREAM_H

#include "fake.h"

enum up_state { UP_IDLE, UP_SENDING, UP_HEAD, UP_BODY, UP_WAIT };

struct upstream {
    enum up_state state;
    int fd, preheat_fd;
    int64_t wake; /* retry time or time limit */
    struct buf request;
    size_t sent;
    struct buf in, body, line, data;
    int status, retry_after, first_errors;
    bool may_retry, chunked, saw_event;
    int64_t left; /* of the chunk or the body; -1 = unknown */
    char request_id[64];
};

/* Bytes of the event stream. Whatever ends the turn's response leaves state != UP_BODY. */
void sse_feed(struct fake *f, struct str bytes);
void upstream_again(struct fake *f, int64_t delay_us); /* the same request once more */

#endif
