/* chat_request.h - the body of POST /v1/chat/completions, as a request of the Messages API. */
#ifndef CG_API_OPENAI_CHAT_REQUEST_H
#define CG_API_OPENAI_CHAT_REQUEST_H

#include "api/openai/parts.h"

/* -1 + err. r: initialised; the caller releases it in either case. */
MUST_USE int openai_chat_translate(const json_t *body, const struct openai_env *env,
                                   struct openai_request *r, struct err *err);
/* "max_completion_tokens" if the body has that, else "max_tokens". */
const char *openai_chat_max_tokens_name(const json_t *body);

/* The messages alone: appended to r. */
MUST_USE int openai_chat_messages(const json_t *messages, struct openai_request *r,
                                  struct err *err);

#endif
