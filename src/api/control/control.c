/* control.c - the second, local listener: a server of its own with a route table of its own. What
 * may be asked here is not reachable over the network, whatever a proxy in front is told. */
#include "api/control/control.h"

#include "api/routes.h"

#define BODY_MAX        4096
#define HEADER_MAX      8192
#define IDLE_S          30
#define READ_S          10
#define CONNECTIONS_MAX 16

struct http_server *control_open(struct gateway *g, const char *data_dir, struct err *err)
{
    AUTO(free_charp) char *listen = x_printf("unix:%s/%s", data_dir, CONTROL_SOCKET);
    struct http_opts o = {.listen = listen,
                          .max_body_bytes = BODY_MAX,
                          .max_header_bytes = HEADER_MAX,
                          .idle_timeout_s = IDLE_S,
                          .read_timeout_s = READ_S,
                          .max_connections = CONNECTIONS_MAX,
                          .routes = control_routes,
                          .route_count = control_route_count,
                          .authorise = gateway_authorise,
                          .ctx = g};
    return http_server_new(g->loop, &o, err);
}
