/* replay.h - a paid answer is made once: Idempotency-Key, and streams that can be resumed.
 *
 * Stands between authorisation and the handler of a paid route (struct http_route). Three request
 * headers count; without them nothing is kept and nothing changes:
 *   Idempotency-Key (draft-ietf-httpapi-idempotency-key-header): of this API key, 1 to 255 visible
 *     ASCII characters. The first request with it runs. A later one with the same method, target,
 *     body and API version gets the same answer: it follows the first while that runs, here, and
 *     has the stored bytes afterwards, on every server of the database, until ttl_s. A different
 *     request is ERR_KEY_REUSED. Only complete successes are kept; after anything else the next
 *     request runs anew.
 *   X-Claudegate-Resumable: true: a stream of server-sent events that this server keeps, so that a
 *     request with
 *   Last-Event-ID: <request id>:<n>, by the same API key to the same path, gets what came after
 *     that event. Streams with an Idempotency-Key can be resumed, too.
 * When the client of such a request leaves, its turn goes on for grace_s, waiting for somebody to
 * come back. Loop thread only. */
#ifndef CG_GATEWAY_REPLAY_H
#define CG_GATEWAY_REPLAY_H

#include "gateway/gateway.h"

struct replays_opts { /* all borrowed */
    struct loop *loop;
    struct db *db;
    struct vault *vault;
    int64_t ttl_s, grace_s;
    size_t key_bytes; /* of one answer with an Idempotency-Key; of a larger one nothing is kept */
    size_t stream_bytes; /* of one resumable stream; its oldest events go first */
    size_t total_bytes;  /* of all in memory; those that are over go first, oldest first */
};
struct replays *replays_new(const struct replays_opts *opts);
/* No timers any more, and nothing new is asked of the database: it is going to be closed. NULL is
 * fine. */
void replays_stop(struct replays *rs);
/* After the HTTP server and the database were closed. NULL is fine. */
void replays_free(struct replays *rs);
/* For authorise: answers the request, or lets it go on to its handler, now or later. */
void replays_enter(struct replays *rs, struct http_req *req);
/* The server stops: nobody can come back to a stream that is not stored either. */
void replays_drain(struct replays *rs);

#endif
