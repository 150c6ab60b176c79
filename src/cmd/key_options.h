/* key_options.h - what the options of `claudegate key` say about a key. Private to cmd/. */
#ifndef CG_CMD_KEY_OPTIONS_H
#define CG_CMD_KEY_OPTIONS_H

#include "store/store.h"

/* As they were given; NULL, false: not given. */
struct key_options {
    const char *config, *name, *user, *models, *expires, *priority, *metadata, *overlap;
    const char *rpm, *rpd, *tpd, *max_tokens, *max_concurrent, *cost_per_day, *cost_per_month;
    bool allow_streaming, no_streaming, allow_agent, no_agent, allow_tools, no_tools;
    bool require_signature, no_signature, response_cache, no_response_cache, signing_secret, json;
};

/* Writes into the key what was given, and nothing else. False after having said what is wrong. */
MUST_USE bool key_options_apply(const struct key_options *o, struct api_key *key);
/* Were any of those given? */
bool key_options_any(const struct key_options *o);
/* --overlap, or a day. */
MUST_USE bool key_options_overlap(const struct key_options *o, int64_t *ret_ms);

#endif
