/* openai.h - the OpenAI API: chat completions and responses, over the Messages API's own path.
 *
 * A body is written anew as one of the Messages API (chat_request.c, responses_request.c), which
 * messages_parse() then checks like a client's own; events and the message come back as chunks
 * (chat_answer.c, responses_answer.c). So both APIs have the same abilities and limits. */
#ifndef CG_API_OPENAI_OPENAI_H
#define CG_API_OPENAI_OPENAI_H

#include "api/openai/parts.h"
#include "gateway/gateway.h"

http_handler openai_chat_completions, openai_responses, openai_response_get, openai_response_delete;

/* Thoughts are not told: a comment now and then, so that no proxy takes the stream for dead. */
struct openai_quiet {
    int64_t told_us;
};
void openai_keep_alive(struct openai_quiet *q, const struct job *job, bool tells);

/* What a translation needs to know of server and key. */
struct openai_env openai_env_of(const struct gateway *g, const struct http_req *req);
/* The parsed request out of the translated one, with what was ignored, and what the key may do
 * checked under the client's names of the fields; NULL + err. */
struct chat_request *openai_parse(const struct http_req *req, const struct openai_request *t,
                                  bool responses, const char *max_tokens_name, struct err *err);
/* "chatcmpl-" + what is random in the request's id. */
void openai_make_id(const struct http_req *req, const char *prefix, char *out, size_t size);
/* Which configuration answers: "fp_" + 10 hex digits. */
void openai_fingerprint(const struct gateway *g, const char *model, char out[24]);

#endif
