/* router.c - finds the row of the route table for a request.
 *
 * The table has a few dozen rows, so it is walked; the pattern's literal segments are compared on
 * the decoded path, which cannot have gained or lost a slash by decoding (see guard_target.c). A
 * trailing slash makes a different path. */
#include "http/internal.h"

static void clear_params(struct http_req *req)
{
    for (size_t i = 0; i < req->param_count; i++)
        free(req->params[i].value);
    req->param_count = 0;
}

static void add_param(struct http_req *req, struct str name, struct str value)
{
    BUG_ON(req->param_count == HTTP_MAX_PARAMS);
    req->params[req->param_count].name = name;
    req->params[req->param_count++].value = x_strndup(value.p, value.len);
}

/* req takes the parameters; NULL: nobody wants them. */
static bool match_path(const char *pattern, const char *path, struct http_req *req)
{
    if (req)
        clear_params(req);
    while (*pattern && *path) {
        if (*pattern == ':') {
            size_t name = strcspn(++pattern, "/"), value = strcspn(path, "/");
            if (value == 0)
                return false;
            if (req)
                add_param(req, str_n(pattern, name), str_n(path, value));
            pattern += name;
            path += value;
        } else if (*pattern++ != *path++) {
            return false;
        }
    }
    return *pattern == '\0' && *path == '\0';
}

static bool match_method(const char *route, const char *method)
{
    return strcmp(route, method) == 0 || (strcmp(route, "GET") == 0 && strcmp(method, "HEAD") == 0);
}

static void allow_method(struct buf *allow, const char *method)
{
    if (allow->len)
        buf_adds(allow, ", ");
    buf_adds(allow, method);
    if (strcmp(method, "GET") == 0)
        buf_adds(allow, ", HEAD");
}

enum http_dialect router_dialect(const struct http_opts *opts, const struct guard *g)
{
    const char *shared = opts->client_paths;
    enum http_dialect dialect = DIALECT_NATIVE;
    if (shared && strncmp(g->path, shared, strlen(shared)) == 0)
        dialect = DIALECT_CLIENT;
    for (size_t i = 0; i < opts->route_count; i++) {
        if (match_path(opts->routes[i].path, g->path, NULL))
            dialect = opts->routes[i].dialect;
    }
    if (dialect != DIALECT_CLIENT)
        return dialect;
    return g->anthropic ? DIALECT_ANTHROPIC : DIALECT_OPENAI;
}

void router_find(const struct http_opts *opts, struct http_req *req, struct buf *allow)
{
    for (size_t i = 0; i < opts->route_count; i++) {
        const struct http_route *route = &opts->routes[i];
        if (!match_path(route->path, req->path, req))
            continue;
        if (match_method(route->method, req->method)) {
            req->route = route;
            return;
        }
        allow_method(allow, route->method);
    }
    clear_params(req);
    if (allow->len)
        allow_method(allow, "OPTIONS");
}

void router_reply_unmatched(struct http_req *req, struct buf *allow)
{
    bool options = strcmp(req->method, "OPTIONS") == 0;
    struct err err;
    if (strcmp(req->path, "*") == 0) {
        buf_clear(allow);
        buf_adds(allow, "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
    }
    if (allow->len)
        http_set_header(req, "Allow", buf_cstr(allow));
    if (allow->len && options) {
        http_reply(req, 204, NULL, str_n("", 0));
        return;
    }
    if (allow->len)
        err_set(&err, ERR_METHOD, "The path exists, but not with the method %s.", req->method);
    else
        err_set(&err, ERR_NOT_FOUND, "There is nothing at this path.");
    http_reply_error(req, &err);
}
