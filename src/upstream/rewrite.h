/* rewrite.h - changes the top level of a Messages API request, and nothing else of it. */
#ifndef CG_UPSTREAM_REWRITE_H
#define CG_UPSTREAM_REWRITE_H

#include "core/buf.h"
#include "core/err.h"

#include <jansson.h>

/* Appends to `out` the JSON object `body` with
 *   - each member of `params` set in place of the body's own (null: removed); NULL = none;
 *   - the blocks of the array `system` added at the end of its `system`, which may be absent,
 *     null, a string or an array; NULL = none. At most four cache_control markers are left in
 *     the request: those of the added blocks give way, the first of them first.
 * All other bytes stay as they are. ERR_INVALID when the body is not a JSON object. */
MUST_USE int rewrite_request(struct str body, const json_t *params, const json_t *system,
                             struct buf *out, struct err *err);

/* The same with the cache marks of the client instead of the claude program's: those in the body's
 * own `system` go, and the one it puts on the last block of the last message becomes `last_mark`
 * (NULL = none). Marks elsewhere in `messages` are the client's and stay; so do those of `system`.
 */
MUST_USE int rewrite_request_exact(struct str body, const json_t *params, const json_t *system,
                                   const json_t *last_mark, struct buf *out, struct err *err);

/* The string that is the member `key` of the JSON object `body`. False when there is none, when it
 * is there twice, or when it is no string without escapes. */
MUST_USE bool rewrite_find_string(struct str body, const char *key, struct str *ret_value);

#endif
