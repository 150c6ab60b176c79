/* record.h - the reply to one request, kept while it is written, for others to follow.
 *
 * A record that a request was attached to gets its status, its headers (not those that speak of the
 * moment: request ids, connection, what is left of limits) and its body. Server-sent events have an
 * id then, "<request id>:<n>" with n counting from 1
 * (https://html.spec.whatwg.org/multipage/server-sent-events.html), and the record knows where each
 * begins; comments are passed on and not kept. When the request's client leaves, the request goes
 * on without it ("detached") until it is finished or abandoned.
 *
 * Any number of other requests follow: each gets the reply from its beginning, or from behind an
 * event, and then what is written. A follower takes at its own pace out of the record; it is cut
 * off when what it needs next is no longer held. Loop thread only. */
#ifndef CG_HTTP_RECORD_H
#define CG_HTTP_RECORD_H

#include "core/buf.h"
#include "core/err.h"

struct http_req;
struct http_record;

/* Called from inside what changes the record: must not free it, abandon it, or follow it. */
struct http_record_ops {
    /* It holds more bytes; trimming is allowed here. */
    void (*grew)(void *ctx);
    /* Nobody listens: the client has left, or the reply is over, and no follower is there (any
     * more). Perhaps again, after followers have come and gone. */
    void (*alone)(void *ctx);
    /* The reply is over; the attached request is dead or about to be. Once. */
    void (*over)(void *ctx);
};

/* max_bytes: of the body; of a longer stream the oldest events are dropped, a longer plain reply is
 * not kept. */
struct http_record *http_record_new(size_t max_bytes, const struct http_record_ops *ops, void *ctx);
/* Followers are cut off; an attached request goes on unrecorded, a detached one is abandoned.
 * NULL is fine. */
void http_record_free(struct http_record *rec);

/* From now on the reply of req, which has not begun, goes into rec as well: once per record.
 * always: it outlives its client from the beginning; otherwise from its first event on. */
void http_record_attach(struct http_record *rec, struct http_req *req, bool always);
/* The request whose client has left is told so, as if it left now. Without one nothing happens. */
void http_record_abandon(struct http_record *rec);
/* Has the attached request lost its client? */
bool http_record_is_detached(const struct http_record *rec);

/* Answers req with the record: from its beginning (after 0), or with what came after that event.
 * ERR_NOT_FOUND: there is no such event; with status 410: it is no longer held. ERR_CONFLICT: the
 * beginning is no longer held. On failure req is untouched. */
MUST_USE int http_record_follow(struct http_record *rec, struct http_req *req, uint64_t after,
                                struct err *err);
size_t http_record_followers(const struct http_record *rec);
/* Cuts off followers of a reply that is over whose clients have taken nothing for
 * http_opts.idle_timeout_s, as a connection is closed that does not take a reply's end. To be
 * called now and then: what was taken is compared with the last call. */
void http_record_cut_stalled(struct http_record *rec);

size_t http_record_bytes(const struct http_record *rec); /* held of the body */
/* So many events it has had; 0: it cannot be resumed (yet). */
uint64_t http_record_events(const struct http_record *rec);
/* Drops the oldest events until no more than max are held. */
void http_record_trim(struct http_record *rec, size_t max);
bool http_record_is_over(const struct http_record *rec);
/* Over, complete, and a success: 2xx, and not failed half-way. */
bool http_record_is_good(const struct http_record *rec);
bool http_record_is_whole(const struct http_record *rec); /* nothing of it was dropped */

/* As text, of one that is good and whole; and from that text, into a new record, which is over. */
size_t http_record_text_size(const struct http_record *rec);
void http_record_write(const struct http_record *rec, struct buf *out);
MUST_USE int http_record_read(struct http_record *rec, struct str text, struct err *err);

#endif
