/* cache.h - answers that are kept for requests which ask exactly the same again. Private to
 * gateway/.
 *
 * Kept are answers to requests of a key that has the permission responseCache, which give
 * temperature 0 themselves and have no session and no agent: what such a request gets depends on
 * nothing but itself. "The same" is what goes upstream: model, conversation, system text and
 * parameters (but for `metadata`, which only says who asks), API version and betas, together with
 * the API key, the upstream's address and the version of the claude program. How the answer is told
 * - which dialect, a stream or not - does not matter.
 *
 * The answers are in shared/ for setting cache.ttl, so a fleet with Redis has them together; sealed
 * where there is a master key. A cache that cannot be asked has no answers: nothing here fails, and
 * nothing waits longer than shared/ does. Loop thread only. */
#ifndef CG_GATEWAY_CACHE_H
#define CG_GATEWAY_CACHE_H

#include "gateway/gateway.h"

struct cache_entry;

/* The place of this request's answer. NULL: its answer is not one that is kept. The request's
 * Cache-Control is obeyed (RFC 9111, 5.2.1): with no-cache nothing is looked up, with no-store
 * nothing is stored. http is borrowed until the look-up is over or cancelled. */
struct cache_entry *cache_open(struct gateway *g, struct http_req *http, const struct api_key *key,
                               const struct chat_request *r);
void cache_close(struct cache_entry *c); /* NULL is fine */

/* kept: the answer, borrowed for the call, with nothing used; NULL: there is none. Runs once,
 * before cache_look_up() returns or later, unless cancelled. */
typedef void cache_done_fn(void *ctx, const struct turn_result *kept);
/* Also sets the response header x-claudegate-cache: hit, miss or bypass (nothing was looked up). */
void cache_look_up(struct cache_entry *c, cache_done_fn *done, void *ctx);
void cache_cancel(struct cache_entry *c);
/* Keeps the answer if it is complete, ended as answers do (end_turn, stop_sequence, tool_use,
 * max_tokens), used no tools of the upstream, and is not larger than what shared/ takes. */
void cache_store(struct cache_entry *c, const struct turn_result *r);

/* In memory the oldest answers make room. Redis would be full, which concerns the limits of all
 * keys: so each server stores at most max_bytes there at a time. False: not now. `at`:
 * clock_mono_ms(). */
MUST_USE bool cache_room_take(struct cache_room *room, int64_t at, int64_t ttl_ms, size_t max_bytes,
                              size_t bytes);

/* What the place is called: "answer:" and a BLAKE2b-256 hash. r->params is complete. */
#define CACHE_NAME_SIZE 64
void cache_name(const struct gateway *g, const char *key_id, const struct chat_request *r,
                char out[CACHE_NAME_SIZE]);

#endif
