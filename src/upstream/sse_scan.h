/* sse_scan.h - server-sent events, cut into complete events as the bytes arrive.
 *
 * Bytes go in at any split; out come the same bytes, in runs that end on event boundaries, so that
 * nothing is held back but the one event that is not complete yet. Each complete event is shown to
 * `event` first, which may put other data in its place.
 * Format: https://html.spec.whatwg.org/multipage/server-sent-events.html */
#ifndef CG_UPSTREAM_SSE_SCAN_H
#define CG_UPSTREAM_SSE_SCAN_H

#include "core/buf.h"

/* An incomplete event larger than this ends the scanning: everything passes unseen. */
#define SSE_MAX_EVENT ((size_t)16 << 20)

struct sse_ops {
    /* True: `ret_data` (empty at the call) replaces the data of this event; it must hold no line
     * ends. The texts are borrowed until the function returns. */
    bool (*event)(void *ctx, struct str name, struct str data, struct buf *ret_data);
    void (*emit)(void *ctx, struct str bytes);
};

struct sse_scan {
    const struct sse_ops *ops;
    void *ctx;
    struct buf held;    /* bytes not yet emitted */
    struct buf joined;  /* scratch: data of several lines */
    struct buf changed; /* scratch: what ops->event put in */
    size_t pos;         /* held bytes already looked at */
    size_t line;        /* where the line under way began */
    bool skip_lf;       /* the byte before was a CR that ended a line */
    bool begun;         /* past the place where a byte order mark may stand */
    bool raw;           /* an event was too large: nothing is looked at any more */
};

void sse_scan_init(struct sse_scan *s, const struct sse_ops *ops, void *ctx);
void sse_scan_release(struct sse_scan *s);
void sse_scan_feed(struct sse_scan *s, struct str bytes);
/* The stream ended in order: what is still held is looked at and emitted too. */
void sse_scan_finish(struct sse_scan *s);

#endif
