/* access.c - who may reach a route, and what a key may ask for.
 *
 * The route table's scope column decides; handlers never check credentials themselves. */
#include "gateway/gateway.h"

#include <arpa/inet.h>
#include <sodium.h>

struct pending {
    struct http_req *req;
    struct auth_check *check;
    bool answered;
};

static void key_unref(void *k)
{
    auth_key_unref(k);
}

static void on_gone(void *ctx)
{
    struct pending *p = ctx;
    if (p->check)
        auth_cancel(p->check);
    free(p);
}

static void on_verified(void *ctx, struct auth_key *k, const struct err *err)
{
    struct pending *p = ctx;
    struct http_req *req = p->req;
    bool async = p->check != NULL;
    p->answered = true;
    if (async) {
        http_req_on_gone(req, NULL, NULL);
        free(p);
    }
    if (err) {
        if (err->code == ERR_UNAUTHENTICATED)
            http_set_header(req, "WWW-Authenticate", "Bearer");
        http_reply_error(req, err);
        return;
    }
    auth_key_ref(k);
    http_req_set_data(req, k, key_unref);
    http_req_set_key_id(req, k->key.public_id);
    http_req_proceed(req);
}

static void authorise_key(struct gateway *g, struct http_req *req)
{
    struct str presented;
    struct err err;
    if (auth_key_from_headers(http_req_header(req, "authorization"),
                              http_req_header(req, "x-api-key"), &presented, &err) != 0) {
        http_set_header(req, "WWW-Authenticate", "Bearer");
        http_reply_error(req, &err);
        return;
    }
    struct pending *p = x_calloc(1, sizeof(*p));
    p->req = req;
    struct auth_check *check = auth_verify(g->auth, presented, on_verified, p);
    if (p->answered) {
        free(p);
        return;
    }
    p->check = check;
    http_req_on_gone(req, on_gone, p);
}

static bool is_loopback(const char *address)
{
    struct in_addr v4;
    struct in6_addr v6;
    if (inet_pton(AF_INET, address, &v4) == 1)
        return ntohl(v4.s_addr) >> 24 == 127;
    if (inet_pton(AF_INET6, address, &v6) != 1)
        return false;
    return IN6_IS_ADDR_LOOPBACK(&v6) || (IN6_IS_ADDR_V4MAPPED(&v6) && v6.s6_addr[12] == 127);
}

/* A request that came through a proxy on this machine is not a local one. */
static bool is_direct_local(const struct http_req *req)
{
    return is_loopback(http_req_peer(req)) && !http_req_header(req, "forwarded") &&
           !http_req_header(req, "x-forwarded-for") && !http_req_header(req, "x-real-ip");
}

static bool bearer_is(const struct http_req *req, const char *token)
{
    struct str presented;
    struct err ignored;
    if (auth_key_from_headers(http_req_header(req, "authorization"), NULL, &presented, &ignored) !=
        0)
        return false;
    return presented.len == strlen(token) && sodium_memcmp(presented.p, token, presented.len) == 0;
}

static void authorise_metrics(const struct gateway *g, struct http_req *req)
{
    struct err err;
    const char *token = g->conf->metrics.token;
    if (token && token[0] ? bearer_is(req, token) : is_direct_local(req)) {
        http_req_proceed(req);
        return;
    }
    err_set(&err, ERR_UNAUTHENTICATED,
            "Metrics need the token of metrics.token as 'Authorization: Bearer', or, when none is "
            "configured, a direct connection from this machine");
    http_reply_error(req, &err);
}

static void authorise_local(struct http_req *req)
{
    struct err err;
    if (strcmp(http_req_peer(req), "unix") == 0) {
        http_req_proceed(req);
        return;
    }
    err_set(&err, ERR_NOT_FOUND, "There is nothing here");
    http_reply_error(req, &err);
}

void gateway_authorise(struct http_req *req, enum http_scope scope, void *ctx)
{
    struct gateway *g = OBJ(ctx, struct gateway, GATEWAY_TAG);
    switch (scope) {
    case SCOPE_PUBLIC:
        http_req_proceed(req);
        break;
    case SCOPE_METRICS:
        authorise_metrics(g, req);
        break;
    case SCOPE_KEY:
        authorise_key(g, req);
        break;
    case SCOPE_LOCAL: /* the socket's mode admits this user and root only */
        authorise_local(req);
        break;
    }
}

struct auth_key *gateway_key(const struct http_req *req)
{
    return http_req_data(req);
}

int gateway_check_model(const struct api_key *key, const char *model, struct err *err)
{
    if (api_key_allows_model(key, model))
        return 0;
    err_set(err, ERR_FORBIDDEN, "model: this key may not use '%.100s'", model);
    snprintf(err->field, sizeof(err->field), "model");
    return -1;
}

int gateway_check_agent(const struct gateway *g, const struct api_key *key, struct err *err)
{
    if (!g->agent)
        return err_field(err, "profile",
                         "must be \"chat\": agent turns are not enabled on this server "
                         "(agent.enabled)");
    if (key->permissions.allow_agent)
        return 0;
    err_set(err, ERR_FORBIDDEN, "profile: this key may not have agent turns");
    snprintf(err->field, sizeof(err->field), "profile");
    return -1;
}

int gateway_check_permissions(const struct api_key *key, struct chat_request *r, struct err *err)
{
    const struct key_permissions *perm = &key->permissions;
    if (r->model && gateway_check_model(key, r->model, err) != 0)
        return -1;
    if (r->stream && !perm->allow_streaming) {
        err_set(err, ERR_FORBIDDEN, "stream: this key may not stream");
        snprintf(err->field, sizeof(err->field), "stream");
        return -1;
    }
    int64_t at_least = r->max_tokens ? r->max_tokens : 1;
    if (perm->max_tokens >= 0 && at_least > perm->max_tokens) {
        err_set(err, ERR_FORBIDDEN, "max tokens: this key allows at most %lld per request",
                (long long)perm->max_tokens);
        snprintf(err->field, sizeof(err->field), "max_tokens");
        return -1;
    }
    if (r->max_tokens == 0)
        r->max_tokens = perm->max_tokens > 0 ? perm->max_tokens : 4096;
    return 0;
}
