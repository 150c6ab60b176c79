/* standin_request.h - a body of POST /v1/messages as the stand-in understands it. */
#ifndef CG_UPSTREAM_STANDIN_REQUEST_H
#define CG_UPSTREAM_STANDIN_REQUEST_H

#include "core/json.h"

struct standin_request {
    json_t *root;     /* owned; the borrowed values below point into it */
    struct str model; /* borrowed */
    int64_t max_tokens;
    bool stream;
    int64_t input_tokens;   /* an estimate: see standin_tokens() */
    struct buf user_text;   /* the last user message that has text, reminders left out */
    json_t *stop_sequences; /* borrowed array, or NULL */
};

/* Checks what the real API checks first. `counting`: the body of count_tokens, which needs no
 * max_tokens. On failure *err is ERR_INVALID in the API's words and q needs no release. */
MUST_USE int standin_request_parse(struct standin_request *q, struct str body, bool counting,
                                   struct err *err);
void standin_request_release(struct standin_request *q); /* accepts a zeroed one */

/* One token per 4 bytes, at least 1. */
int64_t standin_tokens(size_t bytes);
/* The longest prefix of s that is at most n bytes and splits no UTF-8 character. */
struct str standin_utf8_prefix(struct str s, size_t n);

#endif
