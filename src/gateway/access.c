/* access.c - who may reach a route, and what a key may ask for.
 *
 * The route table's scope column decides; handlers never check credentials themselves. */
#include "gateway/gateway.h"
#include "gateway/replay.h"

#include "metrics/metrics.h"

#include <arpa/inet.h>
#include <sodium.h>

/* A request on its way to its handler: its key is verified, then its signature. The parts may
 * answer at once, inside the call that asks them: `inside` is set while that runs. */
struct access {
    struct gateway *g;
    struct http_req *req; /* NULL: answered, or the client has left */
    struct str presented; /* borrowed from the headers */
    struct auth_key *key;
    struct auth_check *check;
    struct signed_check *signature;
    bool inside;
};

static struct metric failures_total = {.name = "claudegate_auth_failures_total",
                                       .help = "Requests with a wrong key or signature.",
                                       .type = METRIC_COUNTER,
                                       .labels = {"what"}};
static struct metric throttled_total = {
    .name = "claudegate_auth_throttled_total",
    .help = "Requests refused unseen, because their address has had too many wrong keys.",
    .type = METRIC_COUNTER};

static void key_unref(void *k)
{
    auth_key_unref(k);
}

static void access_free(struct access *a)
{
    auth_key_unref(a->key);
    free(a);
}

static void on_gone(void *ctx)
{
    struct access *a = ctx;
    auth_cancel(a->check);
    gateway_cancel_signature(a->signature);
    access_free(a);
}

/* The request is handed on or answered: this is over. */
static struct http_req *leave(struct access *a)
{
    struct http_req *req = TAKE_PTR(a->req);
    http_req_on_gone(req, NULL, NULL);
    if (!a->inside)
        access_free(a);
    return req;
}

static void refuse(struct access *a, const struct err *err)
{
    struct http_req *req = leave(a);
    if (err->code == ERR_UNAUTHENTICATED)
        http_set_header(req, "WWW-Authenticate", "Bearer");
    http_reply_error(req, err);
}

static void failed(const struct access *a, const char *what)
{
    char client[GATEWAY_CLIENT_SIZE];
    metric_add(&failures_total, 1, what);
    throttle_failed(a->g->throttle, gateway_client(a->g, a->req, client));
}

static void on_signature(void *ctx, const struct err *err)
{
    struct access *a = ctx;
    a->signature = NULL;
    if (err) {
        if (err->code == ERR_UNAUTHENTICATED)
            failed(a, "signature");
        refuse(a, err);
        return;
    }
    struct auth_key *k = TAKE_PTR(a->key);
    struct replays *replays = a->g->replays;
    struct http_req *req = leave(a);
    http_req_set_data(req, k, key_unref);
    replays_enter(replays, req); /* to its handler, or to another request's reply */
}

static void on_verified(void *ctx, struct auth_key *k, const struct err *err)
{
    struct access *a = ctx;
    a->check = NULL;
    if (err) {
        /* A right secret of a key that has ended is no guess. */
        if (err->code == ERR_UNAUTHENTICATED && !auth_remembers(a->g->auth, a->presented))
            failed(a, "key");
        refuse(a, err);
        return;
    }
    auth_key_ref(k);
    a->key = k;
    http_req_set_key_id(a->req, k->key.public_id);
    bool was_inside = a->inside;
    a->inside = true;
    struct signed_check *check = gateway_check_signature(a->g, a->req, &k->key, on_signature, a);
    a->inside = was_inside;
    if (a->req) {
        a->signature = check;
    } else if (!was_inside) { /* answered, and nobody has it any more */
        access_free(a);
    }
}

/* An address that has tried too much waits, but not for keys that are known to be good: it may be
 * shared by many. */
static int check_throttle(struct gateway *g, const struct http_req *req, struct str presented,
                          struct err *err)
{
    char client[GATEWAY_CLIENT_SIZE];
    int64_t wait = throttle_wait_ms(g->throttle, gateway_client(g, req, client));
    if (wait == 0 || auth_remembers(g->auth, presented))
        return 0;
    metric_add(&throttled_total, 1);
    int seconds = (int)((wait + 999) / 1000);
    err_set(err, ERR_RATE_LIMITED,
            "Too many wrong API keys came from this address; try again in %d s", seconds);
    err->retry_after_s = seconds;
    return -1;
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
    if (check_throttle(g, req, presented, &err) != 0) {
        http_reply_error(req, &err);
        return;
    }
    struct access *a = x_calloc(1, sizeof(*a));
    *a = (struct access){.g = g, .req = req, .presented = presented, .inside = true};
    struct auth_check *check = auth_verify(g->auth, presented, on_verified, a);
    a->inside = false;
    if (!a->req) {
        access_free(a);
        return;
    }
    a->check = check;
    http_req_on_gone(req, on_gone, a);
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
    if (r->params && json_object_get(r->params, "tools") && !perm->allow_tools) {
        err_set(err, ERR_FORBIDDEN, "tools: this key may not define tools");
        snprintf(err->field, sizeof(err->field), "tools");
        return -1;
    }
    int64_t at_least = r->max_tokens ? r->max_tokens : 1;
    if (perm->max_tokens >= 0 && at_least > perm->max_tokens) {
        err_set(
            err, ERR_FORBIDDEN,
            "max tokens: this key allows at most %lld per request. The operator can raise that: "
            "claudegate key set %s --max-tokens %lld",
            (long long)perm->max_tokens, key->public_id, (long long)at_least);
        snprintf(err->field, sizeof(err->field), "max_tokens");
        return -1;
    }
    if (r->max_tokens == 0)
        r->max_tokens = perm->max_tokens > 0 ? perm->max_tokens : 4096;
    return 0;
}
