/* routes.c - the route tables. Handlers get `struct gateway *` as ctx. */
#include "api/routes.h"

#include "api/anthropic/messages.h"
#include "api/control/control.h"
#include "api/docs/docs.h"
#include "api/models.h"
#include "api/native/native.h"
#include "api/openai/openai.h"
#include "gateway/gateway.h"

const struct http_route api_routes[] = {
    {"GET", "/healthz", SCOPE_PUBLIC, DIALECT_NATIVE, gateway_healthz, false},
    {"GET", "/readyz", SCOPE_PUBLIC, DIALECT_NATIVE, gateway_readyz, false},
    {"GET", "/metrics", SCOPE_METRICS, DIALECT_NATIVE, gateway_metrics, false},
    {"GET", "/openapi.json", SCOPE_PUBLIC, DIALECT_NATIVE, docs_file, false},
    {"GET", "/docs", SCOPE_PUBLIC, DIALECT_NATIVE, docs_file, false},
    {"GET", "/docs/page.js", SCOPE_PUBLIC, DIALECT_NATIVE, docs_file, false},
    {"GET", "/docs/swagger-ui.js", SCOPE_PUBLIC, DIALECT_NATIVE, docs_file, false},
    {"GET", "/docs/swagger-ui.css", SCOPE_PUBLIC, DIALECT_NATIVE, docs_file, false},
    {"POST", "/api/chat", SCOPE_KEY, DIALECT_NATIVE, native_chat, true},
    {"GET", "/api/me", SCOPE_KEY, DIALECT_NATIVE, native_me, false},
    {"GET", "/api/models", SCOPE_KEY, DIALECT_NATIVE, native_models, false},
    {"GET", "/api/usage", SCOPE_KEY, DIALECT_NATIVE, native_usage, false},
    {"GET", "/api/usage/requests", SCOPE_KEY, DIALECT_NATIVE, native_usage_requests, false},
    {"GET", "/api/sessions", SCOPE_KEY, DIALECT_NATIVE, native_sessions, false},
    {"GET", "/api/sessions/:id", SCOPE_KEY, DIALECT_NATIVE, native_session, false},
    {"DELETE", "/api/sessions/:id", SCOPE_KEY, DIALECT_NATIVE, native_session_delete, false},
    {"POST", "/v1/messages", SCOPE_KEY, DIALECT_ANTHROPIC, anthropic_messages, true},
    {"POST", "/v1/messages/count_tokens", SCOPE_KEY, DIALECT_ANTHROPIC, anthropic_count_tokens,
     false},
    {"POST", "/v1/chat/completions", SCOPE_KEY, DIALECT_OPENAI, openai_chat_completions, true},
    {"POST", "/v1/responses", SCOPE_KEY, DIALECT_OPENAI, openai_responses, true},
    {"GET", "/v1/responses/:id", SCOPE_KEY, DIALECT_OPENAI, openai_response_get, false},
    {"DELETE", "/v1/responses/:id", SCOPE_KEY, DIALECT_OPENAI, openai_response_delete, false},
    {"GET", "/v1/models", SCOPE_KEY, DIALECT_CLIENT, api_models, false},
    {"GET", "/v1/models/:id", SCOPE_KEY, DIALECT_CLIENT, api_model, false},
};
const size_t api_route_count = ARRAY_SIZE(api_routes);

const struct http_route control_routes[] = {
    {"GET", "/control/workers", SCOPE_LOCAL, DIALECT_NATIVE, control_workers, false},
    {"POST", "/control/workers/drain", SCOPE_LOCAL, DIALECT_NATIVE, control_drain_all, false},
    {"POST", "/control/workers/:id/drain", SCOPE_LOCAL, DIALECT_NATIVE, control_drain, false},
};
const size_t control_route_count = ARRAY_SIZE(control_routes);
