/* rewrite.h - changes the top level of a Messages API request, and nothing else of it. */
#ifndef CG_UPSTREAM_REWRITE_H
#define CG_UPSTREAM_REWRITE_H

#include "core/buf.h"
#include "core/err.h"

#include <jansson.h>

/* All borrowed; NULL = nothing is changed there. */
struct rewrite_opts {
    const json_t *params; /* object: each member is set in place of the body's own; null: removed */
    /* Array of blocks, added at the end of the body's `system`, which may be absent, null, a string
     * or an array. At most four cache_control markers are left in the request: those of the added
     * blocks give way, the first of them first. */
    const json_t *system;
    const json_t *messages; /* array, in place of the body's own */
    /* The cache marks of the client instead of the claude program's: those in the body's own
     * `system` go, and the one it puts on the last block of the last message becomes `last_mark`
     * (NULL = none). Marks elsewhere in `messages` are the client's and stay; so do those of
     * `system`. Not exact, and with `messages`: the program's mark goes to their last block. */
    bool exact;
    const json_t *last_mark;
};
/* Appends to `out` the JSON object `body` with these changes. All other bytes stay as they are.
 * ERR_INVALID when the body is not a JSON object, ERR_TOO_LARGE when it does not fit. */
MUST_USE int rewrite_request(struct str body, const struct rewrite_opts *how, struct buf *out,
                             struct err *err);

/* The string that is the member `key` of the JSON object `body`. False when there is none, when it
 * is there twice, or when it is no string without escapes. */
MUST_USE bool rewrite_find_string(struct str body, const char *key, struct str *ret_value);

#endif
