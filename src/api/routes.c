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
    {"GET", "/healthz", SCOPE_PUBLIC, DIALECT_NATIVE, gateway_healthz},
    {"GET", "/readyz", SCOPE_PUBLIC, DIALECT_NATIVE, gateway_readyz},
    {"GET", "/metrics", SCOPE_METRICS, DIALECT_NATIVE, gateway_metrics},
    {"GET", "/openapi.json", SCOPE_PUBLIC, DIALECT_NATIVE, docs_file},
    {"GET", "/docs", SCOPE_PUBLIC, DIALECT_NATIVE, docs_file},
    {"GET", "/docs/page.js", SCOPE_PUBLIC, DIALECT_NATIVE, docs_file},
    {"GET", "/docs/swagger-ui.js", SCOPE_PUBLIC, DIALECT_NATIVE, docs_file},
    {"GET", "/docs/swagger-ui.css", SCOPE_PUBLIC, DIALECT_NATIVE, docs_file},
    {"POST", "/api/chat", SCOPE_KEY, DIALECT_NATIVE, native_chat},
    {"GET", "/api/me", SCOPE_KEY, DIALECT_NATIVE, native_me},
    {"GET", "/api/models", SCOPE_KEY, DIALECT_NATIVE, native_models},
    {"GET", "/api/usage", SCOPE_KEY, DIALECT_NATIVE, native_usage},
    {"GET", "/api/usage/requests", SCOPE_KEY, DIALECT_NATIVE, native_usage_requests},
    {"GET", "/api/sessions", SCOPE_KEY, DIALECT_NATIVE, native_sessions},
    {"GET", "/api/sessions/:id", SCOPE_KEY, DIALECT_NATIVE, native_session},
    {"DELETE", "/api/sessions/:id", SCOPE_KEY, DIALECT_NATIVE, native_session_delete},
    {"POST", "/v1/messages", SCOPE_KEY, DIALECT_ANTHROPIC, anthropic_messages},
    {"POST", "/v1/messages/count_tokens", SCOPE_KEY, DIALECT_ANTHROPIC, anthropic_count_tokens},
    {"POST", "/v1/chat/completions", SCOPE_KEY, DIALECT_OPENAI, openai_chat_completions},
    {"POST", "/v1/responses", SCOPE_KEY, DIALECT_OPENAI, openai_responses},
    {"GET", "/v1/responses/:id", SCOPE_KEY, DIALECT_OPENAI, openai_response_get},
    {"GET", "/v1/models", SCOPE_KEY, DIALECT_ANTHROPIC, api_models},
    {"GET", "/v1/models/:id", SCOPE_KEY, DIALECT_ANTHROPIC, api_model},
};
const size_t api_route_count = ARRAY_SIZE(api_routes);

const struct http_route control_routes[] = {
    {"GET", "/control/workers", SCOPE_LOCAL, DIALECT_NATIVE, control_workers},
    {"POST", "/control/workers/drain", SCOPE_LOCAL, DIALECT_NATIVE, control_drain_all},
    {"POST", "/control/workers/:id/drain", SCOPE_LOCAL, DIALECT_NATIVE, control_drain},
};
const size_t control_route_count = ARRAY_SIZE(control_routes);
