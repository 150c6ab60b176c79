/* standin_script.h - the steps a test gives the stand-in, and who takes which.
 *
 * POST /_standin/script takes an array of steps and appends them; DELETE forgets steps, log and
 * statistics. A valid POST /v1/messages takes the first step whose `match` fits; with none, the
 * demo answer is given. An unknown field or a wrong type refuses the whole array. A step is an
 * object, every field optional:
 *
 *   match          {text: substring of the last user text, model: the exact model}
 *   repeat         how many requests it serves (default 1); -1 = for ever
 *   blocks         [{type:"text", text, chunk} | {type:"thinking", thinking, signature, chunk} |
 *                  {type:"tool_use", id, name, input, chunk}]; chunk = bytes per delta, default
 *                  word by word (tool input: 20 bytes). Without blocks: the demo text
 *   empty          true: no content blocks at all
 *   stop_reason, stop_sequence
 *   usage          {input_tokens, output_tokens, cache_creation_input_tokens,
 *                  cache_read_input_tokens}: each replaces the estimate
 *   headers        {name: value}: added to the response, whatever its status
 *   status, error  {type, message}: a non-200 answer; either may be left out
 *   body           raw text of that answer instead (text/html unless headers say otherwise)
 *   not_json       true: 200 with an HTML page
 *   raw_events     [{event, data}]: sent verbatim instead of a message; data that is not a string
 *                  is written as JSON; event may be left out. [] = a stream without events.
 *                  Usage in them is not read: such a request counts no tokens
 *   delay_ms       before the response headers
 *   word_delay_ms  between deltas (default 0)
 *   stall_after    nothing more is sent after this many events; -1: not even the headers
 *   cut_after      the connection is broken after this many events; -1: before the headers
 *   cut_with       "reset" (default: TCP reset) or "close" (clean end of the TCP stream)
 *   sse_error      {type, message, after}: `event: error` after that many events (default 0),
 *                  then the stream ends; a request that does not stream gets it as a status
 *
 * A request that does not stream has no events: stall_after and cut_after of 0 or more then act
 * after half of the body. */
#ifndef CG_UPSTREAM_STANDIN_SCRIPT_H
#define CG_UPSTREAM_STANDIN_SCRIPT_H

#include "core/json.h"
#include "core/list.h"
#include "upstream/standin_request.h"

/* Values are borrowed from src, except src itself. A zeroed step is the demo answer. */
struct standin_step {
    json_t *src; /* owned reference */
    json_t *match, *blocks, *usage, *headers, *error, *sse_error, *raw_events;
    struct str stop_reason, stop_sequence, body, cut_with;
    int64_t repeat, status, delay_ms, word_delay_ms, stall_after, cut_after;
    bool empty, not_json, has_repeat, has_body, has_stall, has_cut, has_stop_sequence;
};

struct standin_script {
    struct list steps;
    size_t bytes; /* of JSON accepted since the last clear: bounds the memory */
};

void standin_script_init(struct standin_script *script);
void standin_script_clear(struct standin_script *script);
/* All of the steps or, on failure, none. */
MUST_USE int standin_script_add(struct standin_script *script, struct str json, struct err *err);
/* The step this request takes; false = none fits. *ret_step then needs standin_step_release(). */
bool standin_script_take(struct standin_script *script, const struct standin_request *q,
                         struct standin_step *ret_step);
void standin_step_release(struct standin_step *step);

#endif
