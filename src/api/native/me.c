/* me.c - GET /api/me: what the caller's key is, may do, and has left. Looking costs nothing. */
#include "api/native/native.h"

#include "core/clock.h"
#include "store/key_json.h"

#define ME_TAG TAG4('N', 'A', 'M', 'E')
#define ME_MAX ((size_t)256 << 10)

struct me {
    uint32_t tag;
    struct gateway *g;
    struct http_req *http;
    struct limit_ticket ticket;
};

/* --- writing ------------------------------------------------------------------------------- */

static void put_time(struct buf *b, const char *name, int64_t at)
{
    char text[CLOCK_RFC3339_SIZE];
    buf_adds(b, name);
    if (at <= 0) {
        buf_adds(b, "null");
        return;
    }
    clock_rfc3339(at, text);
    buf_printf(b, "\"%s\"", text);
}

static void put_amount(struct buf *b, int64_t n, bool money)
{
    if (n < 0)
        buf_adds(b, "null");
    else if (money)
        key_money_write(b, n);
    else
        buf_int(b, n);
}

/* The key's own limit, even where this server gives only its share of it just now. What remains is
 * null where there is no limit, and while nobody knows. */
static void put_limit(struct buf *b, const char *name, int64_t limit, const struct limit_view *v,
                      bool money)
{
    buf_printf(b, "%s\"%s\":{\"limit\":", b->data[b->len - 1] == '{' ? "" : ",", name);
    put_amount(b, limit, money);
    buf_adds(b, ",\"remaining\":");
    put_amount(b, v->limit < 0 ? -1 : v->remaining, money);
    put_time(b, ",\"resetAt\":", v->limit < 0 ? 0 : v->reset_at);
    buf_addc(b, '}');
}

static void put_limits(struct buf *b, const struct key_limits *k, const struct limit_views *v)
{
    buf_adds(b, ",\"limits\":{");
    put_limit(b, "requestsPerMinute", k->requests_per_minute, &v->minute, false);
    put_limit(b, "requestsPerDay", k->requests_per_day, &v->day_requests, false);
    put_limit(b, "tokensPerDay", k->tokens_per_day, &v->day_tokens, false);
    put_limit(b, "maxConcurrent", k->max_concurrent, &v->concurrent, false);
    put_limit(b, "costPerDay", k->cost_per_day, &v->day_cost, true);
    put_limit(b, "costPerMonth", k->cost_per_month, &v->month_cost, true);
    buf_addc(b, '}');
}

static void put_key(struct buf *b, const struct api_key *key)
{
    buf_printf(b, "\"key\":{\"id\":\"%s\",\"name\":", key->public_id);
    buf_json_str(b, str_c(key->name));
    buf_printf(b, ",\"priority\":%d", key->priority);
    put_time(b, ",\"createdAt\":", key->created_at);
    put_time(b, ",\"expiresAt\":", key->expires_at);
    buf_addc(b, '}');
}

static void reply(struct me *me, const struct limit_views *views)
{
    const struct api_key *key = &gateway_key(me->http)->key;
    AUTO(buf_release) struct buf b;
    buf_init(&b, ME_MAX);
    buf_adds(&b, "{\"success\":true,");
    put_key(&b, key);
    buf_adds(&b, ",\"permissions\":");
    key_permissions_write(&b, &key->permissions);
    put_limits(&b, &key->limits, views);
    buf_adds(&b, ",\"timezone\":");
    buf_json_str(&b, str_c(me->g->conf->limits.timezone));
    buf_addc(&b, '}');
    gateway_limit_headers(me->http, views);
    http_reply_json(me->http, 200, &b);
}

/* --- asking -------------------------------------------------------------------------------- */

static void on_looked(void *ctx, const struct limit_views *views, const struct err *err)
{
    struct me *me = OBJ(ctx, struct me, ME_TAG);
    http_req_on_gone(me->http, NULL, NULL);
    if (err)
        http_reply_error(me->http, err);
    else
        reply(me, views);
    me->tag = 0;
    free(me);
}

static void on_gone(void *ctx)
{
    struct me *me = OBJ(ctx, struct me, ME_TAG);
    limit_cancel(me->g->limits, &me->ticket);
    me->tag = 0;
    free(me);
}

void native_me(struct http_req *req, void *ctx)
{
    struct gateway *g = OBJ(ctx, struct gateway, GATEWAY_TAG);
    struct me *me = x_calloc(1, sizeof(*me));
    *me = (struct me){.tag = ME_TAG, .g = g, .http = req};
    http_req_on_gone(req, on_gone, me);
    limit_look(g->limits, &gateway_key(req)->key, &me->ticket, on_looked, me);
}
