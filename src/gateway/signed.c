/* signed.c - the signature of a request, and whether its nonce was seen before.
 *
 * Where servers share Redis the nonces are there, and a captured request cannot be sent to another
 * server either. Otherwise this process remembers them; what an earlier process has seen is not
 * known, so what was signed before this one started is refused. Without an answer from the store
 * nothing is accepted. */
#include "gateway/gateway.h"

#include "auth/signature.h"
#include "core/clock.h"

#define SIGNED_TAG TAG4('S', 'G', 'N', 'D')

struct signed_check {
    uint32_t tag;
    bool cancelled, answered, inside;
    signed_done_fn *done;
    void *ctx;
};

static int check(const struct gateway *g, struct http_req *req, const struct api_key *key,
                 const char *header, struct signature *ret, struct err *err)
{
    if (signature_parse(header, ret, err) != 0)
        return -1;
    const struct signed_request request = {
        .method = http_req_method(req), .target = http_req_target(req), .body = http_req_body(req)};
    const struct signature_rules rules = {.vault = g->vault,
                                          .now_ms = clock_wall_ms(),
                                          .window_ms = g->conf->auth.signature_window * 1000,
                                          .not_before_ms =
                                              shared_is_remote(g->shared) ? 0 : g->started_wall_ms};
    return signature_check(ret, key, &request, &rules, err);
}

static void tell(struct signed_check *c, bool first, const struct err *err)
{
    struct err own = {0};
    if (!err && !first) {
        err_set(&own, ERR_UNAUTHENTICATED,
                "Replayed signature: its nonce was used before; each request needs a new one");
        err = &own;
    } else if (err) {
        err_set(&own, ERR_UNAVAILABLE, "the nonce of a signature cannot be checked: %s", err->msg);
        own.retry_after_s = 1;
        err = &own;
    }
    c->done(c->ctx, err);
}

static void on_nonce(void *ctx, bool first, const struct err *err)
{
    struct signed_check *c = OBJ(ctx, struct signed_check, SIGNED_TAG);
    c->answered = true;
    if (!c->cancelled)
        tell(c, first, err);
    if (!c->inside)
        free(c);
}

/* Until the time of the signature is too old by itself, also for a server whose clock is behind. */
static struct signed_check *ask_nonce(struct gateway *g, const struct api_key *key,
                                      const struct signature *s, signed_done_fn *done, void *ctx)
{
    char name[KEY_PUBLIC_ID_LEN + SIGNATURE_NONCE_MAX + 8];
    int64_t until = (s->time_s + 2 * g->conf->auth.signature_window) * 1000;
    int64_t ttl = until - clock_wall_ms();
    struct signed_check *c = x_calloc(1, sizeof(*c));
    *c = (struct signed_check){.tag = SIGNED_TAG, .inside = true, .done = done, .ctx = ctx};
    snprintf(name, sizeof(name), "s:%s:%s", key->public_id, s->nonce);
    shared_nonce(g->shared, name, ttl > 1 ? ttl : 1, on_nonce, c);
    c->inside = false;
    if (!c->answered)
        return c;
    free(c);
    return NULL;
}

struct signed_check *gateway_check_signature(struct gateway *g, struct http_req *req,
                                             const struct api_key *key, signed_done_fn *done,
                                             void *ctx)
{
    struct buf header AUTO(buf_release); /* two headers make one that is malformed */
    struct signature signature;
    struct err err = {0};
    buf_init(&header, 1024);
    if (!http_req_header_all(req, SIGNATURE_HEADER, &header) && buf_ok(&header)) {
        if (key->permissions.require_signature)
            err_set(&err, ERR_UNAUTHENTICATED,
                    "Missing signature: requests with this key must be signed with the "
                    "header " SIGNATURE_HEADER);
        done(ctx, err.code ? &err : NULL);
        return NULL;
    }
    if (check(g, req, key, buf_cstr(&header), &signature, &err) != 0) {
        done(ctx, &err);
        return NULL;
    }
    return ask_nonce(g, key, &signature, done, ctx);
}

void gateway_cancel_signature(struct signed_check *c)
{
    if (c)
        c->cancelled = true;
}
