/* native.h - the native API: POST /api/chat.
 *
 * Request: {message, model?, stream?, sessionId?, temperature?, maxTokens?, system?, profile?}.
 * message is a string or an array of {type:"text",text} and {type:"image",source} blocks. Answer:
 * {success, sessionId, response, usage{promptTokens,completionTokens,totalTokens}, ...}; with
 * stream:true server-sent events: start, delta..., end (with usage), then `data: [DONE]`.
 *
 * profile "agent": the program's own tools work in a directory of the session; such a stream has
 * tool_use and tool_result events as well. response is the last message, the deltas are all. */
#ifndef CG_API_NATIVE_NATIVE_H
#define CG_API_NATIVE_NATIVE_H

#include "gateway/gateway.h"

http_handler native_chat;

/* Body to request; NULL + err (ERR_INVALID naming the field) when it is not one. */
struct chat_request *native_parse_chat(struct str body, struct err *err);

#endif
