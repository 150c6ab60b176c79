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
/* GET /api/me: the caller's key: {success, key{id,name,priority,createdAt,expiresAt}, permissions,
 * limits{requestsPerMinute{limit,remaining,resetAt}, ...}, timezone}. */
http_handler native_me;
/* GET /api/usage?from&to&group=day|hour|model: {success, from, to, group, usage[...], totals};
 * GET /api/usage/requests?limit&before: {success, requests[...], next}; both of the caller's key.
 */
http_handler native_usage, native_usage_requests;
/* GET /api/models: {success, models[{name,default,maxTokens,pricing}]}: what the key may use. */
http_handler native_models;

/* GET /api/sessions?limit&before: {success, sessions[{id,createdAt,lastAccessedAt,expiresAt,model,
 * messageCount}], next}, newest first; GET /api/sessions/:id: {success, session{..., profile,
 * system, messages}}; DELETE ends it: 204. */
http_handler native_sessions, native_session, native_session_delete;

/* Body to request; NULL + err (ERR_INVALID naming the field) when it is not one. */
struct chat_request *native_parse_chat(struct str body, struct err *err);

#endif
