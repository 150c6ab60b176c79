/* routes.c - the route tables. Handlers get `struct gateway *` as ctx. */
#include "api/routes.h"

#include "api/control/control.h"
#include "api/native/native.h"
#include "gateway/gateway.h"

const struct http_route api_routes[] = {
    {"GET", "/healthz", SCOPE_PUBLIC, DIALECT_NATIVE, gateway_healthz},
    {"GET", "/readyz", SCOPE_PUBLIC, DIALECT_NATIVE, gateway_readyz},
    {"GET", "/metrics", SCOPE_METRICS, DIALECT_NATIVE, gateway_metrics},
    {"POST", "/api/chat", SCOPE_KEY, DIALECT_NATIVE, native_chat},
    {"GET", "/api/me", SCOPE_KEY, DIALECT_NATIVE, native_me},
    {"GET", "/api/models", SCOPE_KEY, DIALECT_NATIVE, native_models},
    {"GET", "/api/usage", SCOPE_KEY, DIALECT_NATIVE, native_usage},
    {"GET", "/api/usage/requests", SCOPE_KEY, DIALECT_NATIVE, native_usage_requests},
    {"GET", "/api/sessions", SCOPE_KEY, DIALECT_NATIVE, native_sessions},
    {"GET", "/api/sessions/:id", SCOPE_KEY, DIALECT_NATIVE, native_session},
    {"DELETE", "/api/sessions/:id", SCOPE_KEY, DIALECT_NATIVE, native_session_delete},
};
const size_t api_route_count = ARRAY_SIZE(api_routes);

const struct http_route control_routes[] = {
    {"GET", "/control/workers", SCOPE_LOCAL, DIALECT_NATIVE, control_workers},
    {"POST", "/control/workers/drain", SCOPE_LOCAL, DIALECT_NATIVE, control_drain_all},
    {"POST", "/control/workers/:id/drain", SCOPE_LOCAL, DIALECT_NATIVE, control_drain},
};
const size_t control_route_count = ARRAY_SIZE(control_routes);
