/* standin_reply.h - one answer of the stand-in, as a message or as the events of a stream.
 *
 * Events are made one at a time, when they are asked for: an answer takes no more memory than its
 * script, however long it is. */
#ifndef CG_UPSTREAM_STANDIN_REPLY_H
#define CG_UPSTREAM_STANDIN_REPLY_H

#include "upstream/standin_log.h"
#include "upstream/standin_script.h"

enum standin_phase {
    PHASE_START,
    PHASE_BLOCK_START,
    PHASE_DELTA,
    PHASE_SIGNATURE,
    PHASE_BLOCK_STOP,
    PHASE_MESSAGE_DELTA,
    PHASE_MESSAGE_STOP,
    PHASE_END
};

struct standin_reply {
    const struct standin_step *step; /* borrowed; never NULL */
    json_t *blocks;                  /* owned reference: array */
    char id[32];
    struct str model; /* borrowed from the request */
    const char *stop_reason;
    struct str stop_sequence; /* p == NULL: null */
    struct standin_usage usage;

    /* Where the stream stands. */
    enum standin_phase phase;
    size_t block;    /* the block being sent */
    struct buf text; /* its text, thinking or input */
    size_t pos;      /* of which so much is sent */
    bool pinged;
    bool opened;               /* the empty delta that begins a tool's input is sent */
    size_t events;             /* sent so far */
    bool was_delta;            /* the last one was a delta of content */
    struct standin_usage told; /* what the client was last told it used */
};

/* Both must outlive the reply. */
void standin_reply_init(struct standin_reply *r, const struct standin_request *q,
                        const struct standin_step *step);
void standin_reply_release(struct standin_reply *r);
/* Appends the next event ("event: ...\ndata: ...\n\n"); false = there is none left. */
bool standin_reply_next(struct standin_reply *r, struct buf *out);
/* Appends the whole message as JSON. */
void standin_reply_message(struct standin_reply *r, struct buf *out);

#endif
