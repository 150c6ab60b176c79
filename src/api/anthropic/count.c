/* count.c - POST /v1/messages/count_tokens: asked of the upstream API as the client wrote it, so
 * the count is of the client's own request, without what the claude program adds. It takes a
 * request out of the key's limits, those of a minute and of a day, and no tokens: upstream limits
 * counts too, and what one tenant asks is missing to the others. Each that is asked is in the
 * books, as a row without tokens that costs nothing; so the day's number of requests is the same
 * after a restart, which takes it from there. */
#include "api/anthropic/messages.h"
#include "core/clock.h"
#include "gateway/ask.h"

#define COUNT_TAG TAG4('C', 'N', 'T', '_')

struct count {
    uint32_t tag;
    struct gateway *g;
    struct http_req *http;
    const char *version;
    struct limit_ticket ticket;
    struct usage_row usage;
    struct ask *ask; /* NULL: not asked yet */
};

static void destroy(void *obj)
{
    struct count *c = OBJ(obj, struct count, COUNT_TAG);
    c->tag = 0;
    free(c);
}

static void leave(struct count *c, const struct err *err)
{
    if (c->ask) {
        c->usage.upstream_calls = 1;
        c->usage.response_time_ms = (clock_mono_us() - http_req_start_us(c->http)) / 1000;
        gateway_end_row(c->g, &c->usage, err);
    }
    if (limit_is_held(&c->ticket))
        limit_settle(c->g->limits, &c->ticket, 0, 0);
    loop_defer(c->g->loop, destroy, c);
}

static void on_gone(void *ctx)
{
    struct count *c = OBJ(ctx, struct count, COUNT_TAG);
    struct err err;
    err_set(&err, ERR_CLIENT_GONE, "the client left");
    if (c->ask)
        ask_cancel(c->ask);
    else
        limit_cancel(c->g->limits, &c->ticket);
    leave(c, &err);
}

static void answer(struct count *c, struct str body, const struct err *err)
{
    struct http_req *http = c->http;
    leave(c, err);
    http_req_on_gone(http, NULL, NULL);
    if (err)
        http_reply_error(http, err);
    else
        http_reply(http, 200, "application/json", body);
}

static void on_counted(void *ctx, struct str body, const struct err *err)
{
    answer(OBJ(ctx, struct count, COUNT_TAG), body, err);
}

static void on_limits(void *ctx, const struct limit_views *views, const struct err *err)
{
    struct count *c = OBJ(ctx, struct count, COUNT_TAG);
    gateway_limit_headers(c->http, views);
    if (err) {
        answer(c, STR(""), err);
        return;
    }
    struct ask_opts opts = {.path = "/v1/messages/count_tokens",
                            .body = http_req_body(c->http),
                            .version = c->version,
                            .betas = http_req_header(c->http, "anthropic-beta")};
    c->ask = ask_upstream(c->g, &opts, on_counted, c);
}

void anthropic_count_tokens(struct http_req *req, void *ctx)
{
    struct gateway *g = OBJ(ctx, struct gateway, GATEWAY_TAG);
    const struct auth_key *key = gateway_key(req);
    struct limit_need nothing = {0};
    struct err err;
    char *model = NULL;
    const char *version = NULL;
    if (messages_check_version(req, &version, &err) != 0 ||
        messages_check_count(http_req_body(req), &model, &err) != 0 ||
        messages_check_headers(req, &err) != 0 ||
        gateway_check_model(&key->key, model, &err) != 0 || gateway_check_journal(g, &err) != 0) {
        free(model);
        http_reply_error(req, &err);
        return;
    }
    struct count *c = x_calloc(1, sizeof(*c));
    *c = (struct count){.tag = COUNT_TAG, .g = g, .http = req, .version = version};
    gateway_begin_row(&c->usage, req, key, model);
    c->usage.cost_nano = 0;
    c->usage.ttft_ms = -1;
    free(model);
    http_req_on_gone(req, on_gone, c);
    limit_acquire(g->limits, &key->key, &nothing, &c->ticket, on_limits, c);
}
