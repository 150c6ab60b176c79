/* messages.h - the Anthropic API: POST /v1/messages and what belongs to it.
 *
 * messages_parse() turns the JSON body of POST /v1/messages into the one struct chat_request that
 * gateway_submit() takes. Other dialects write such a body themselves and use it, too: what the
 * Messages API can say is checked in one place. What it does:
 *   - every field is honoured, or refused with ERR_INVALID whose err.field names it in the API's
 *     own way ("messages.0.content.1.source.url"); nothing is dropped in silence;
 *   - `messages` become r->history and r->content (the live message); strings become text blocks,
 *     neighbours of one role become one message. A conversation that the claude program would alter
 *     (conversation.c says which) becomes r->messages, as it is, and the program is asked something
 *     else in its place; blocks that are not known here are among them, for the API to judge;
 *   - what the upstream request shall hold becomes r->params: model, stream, messages and system
 *     excepted, each parameter of the API stands there as the client gave it, or as null, which
 *     removes what the claude program would say by itself. Only metadata stays the program's own
 *     when absent. A caller may change r->params before it submits;
 *   - `max_tokens` may be absent here: the key's limit then; `stream` is r->stream; `system` is
 * r->system (text or blocks). r->exact is true: cache marks reach upstream as the request has them,
 * the claude program's own are taken out. A dialect whose API caches by itself (OpenAI's does) sets
 * it to false: then the program's own marks stay, and the client pays less for long conversations.
 * r->with_session stays false: one request, no session. To continue a
 * conversation that was stored elsewhere, put its messages into the body.
 *
 * A dialect then sees, in this order (names are those of the API's stream events):
 *   message_start   {type, message:{id,type,role,model,content:[],stop_reason,usage,...}}: verbatim
 *                   from upstream; model and usage are the true ones
 *   content_block_start / content_block_delta (text_delta, input_json_delta, thinking_delta,
 *                   signature_delta, citations_delta) / content_block_stop, with `index`
 *   message_delta   {type, delta:{stop_reason, stop_sequence}, usage}: stop_reason is the true one
 *                   (end_turn, max_tokens, stop_sequence, tool_use, pause_turn, refusal,
 *                   model_context_window_exceeded), never what the claude program was shown
 *   message_stop    write nothing of it: the answer may still turn out to be broken off. It is over
 *                   when finish() is called; fail() instead means an error after what was sent
 * `ping` events do not come. Then exactly one of finish() and fail(). In finish():
 *   result->message->head     the whole message as POST /v1/messages would return it but for its
 *                             content: id, type, role, model, stop_reason, stop_sequence, usage
 * (all fields, the later ones merged over the first); borrowed result->message->content  its
 * content blocks; tool_use blocks with `input` parsed result->stop_reason       the true one Tools
 * are the client's: a message that ends with tool_use ends the turn, and the results come in the
 * next request, which any worker may serve.
 *
 * Before the first event an error is a plain HTTP error, written by the gateway in the shape of the
 * route's dialect. What upstream itself said stands in err->upstream_type ("" = not upstream's) and
 * err_upstream_msg(). */
#ifndef CG_API_ANTHROPIC_MESSAGES_H
#define CG_API_ANTHROPIC_MESSAGES_H

#include "gateway/gateway.h"

http_handler anthropic_messages, anthropic_count_tokens;

/* The header anthropic-version; *ret_version is static. Without one: the oldest. */
MUST_USE int messages_check_version(const struct http_req *http, const char **ret_version,
                                    struct err *err);

/* The names in the header anthropic-beta look like such, and no header is there that asks for
 * what only the operator's own account could give (the SDK's user_profile_id and workspace_id). */
MUST_USE int messages_check_headers(const struct http_req *http, struct err *err);
/* The body of count_tokens, as far as this server must know it. *ret_model is the caller's. */
MUST_USE int messages_check_count(struct str body, char **ret_model, struct err *err);

/* NULL + err when the body is not one. The caller frees it, or hands it to gateway_submit(). */
struct chat_request *messages_parse(const json_t *body, struct err *err);
/* The same from a client's own text: max_tokens is required, as the API does. ERR_TOO_LARGE above
 * the API's own limit. */
struct chat_request *messages_parse_text(struct str body, struct err *err);

/* Names one more parameter that was ignored, as the real service would ignore it, too. */
void messages_ignore(struct chat_request *r, const char *name);
/* Before the reply: the header x-claudegate-ignored-params, if there are any. */
void messages_tell_ignored(struct http_req *http, const struct chat_request *r);

#endif
