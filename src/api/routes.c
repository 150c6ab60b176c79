/* routes.c - the route table. Handlers get `struct gateway *` as ctx. */
#include "api/routes.h"

#include "api/native/native.h"
#include "gateway/gateway.h"

const struct http_route api_routes[] = {
    {"GET", "/healthz", SCOPE_PUBLIC, DIALECT_NATIVE, gateway_healthz},
    {"GET", "/readyz", SCOPE_PUBLIC, DIALECT_NATIVE, gateway_readyz},
    {"GET", "/metrics", SCOPE_METRICS, DIALECT_NATIVE, gateway_metrics},
    {"POST", "/api/chat", SCOPE_KEY, DIALECT_NATIVE, native_chat},
};
const size_t api_route_count = ARRAY_SIZE(api_routes);
