/* chat_request.c - what every dialect's request is parsed into: its end, and a guess at its size.
 */
#include "gateway/gateway.h"

/* For the reservation only; the real count comes from upstream. */
#define IMAGE_TOKENS    1600
#define BYTES_PER_TOKEN 40 /* base64 of a document: about ten pages of text in 300 kB */

void chat_request_free(struct chat_request *r)
{
    if (!r)
        return;
    free(r->model);
    json_decref(r->history);
    json_decref(r->content);
    json_decref(r->params);
    json_decref(r->system);
    json_decref(r->messages);
    free(r->betas);
    free(r->ignored);
    if (r->extra_free)
        r->extra_free(r->extra);
    free(r);
}

/* A rough size in tokens of everything that is text. */
static int64_t estimate_tokens(const json_t *j)
{
    size_t i;
    int64_t sum = 0;
    const char *key;
    json_t *v;
    if (json_is_string(j))
        return (int64_t)json_string_length(j) / 4 + 1;
    if (json_is_object(j) && str_eq_c(json_get_str(j, "type"), "image"))
        return IMAGE_TOKENS;
    if (json_is_object(j) && str_eq_c(json_get_str(j, "type"), "base64"))
        return (int64_t)json_get_str(j, "data").len / BYTES_PER_TOKEN + 1;
    json_object_foreach((json_t *)(uintptr_t)j, key, v) sum += estimate_tokens(v);
    json_array_foreach(j, i, v) sum += estimate_tokens(v);
    return sum;
}

int64_t chat_request_tokens(const struct chat_request *r)
{
    return estimate_tokens(r->content) + estimate_tokens(r->history) +
           estimate_tokens(r->messages) + estimate_tokens(r->system) +
           estimate_tokens(json_object_get(r->params, "tools"));
}
