/* models.c - GET /api/models: the models the caller's key may use, with price and longest answer.
 *
 * Nobody can ask a price list for all models there are, so these are the ones that are known by a
 * name: those of the price table, the configured default, and those the key names itself. A key may
 * well use others: its patterns decide, not this list. */
#include "api/native/native.h"

#include "store/key_json.h"

#define ANSWER_MAX ((size_t)4 << 20)

/* Micro-USD per million tokens. */
static void put_rate(struct buf *b, const char *name, int64_t rate)
{
    buf_adds(b, name);
    key_money_write(b, rate * 1000);
}

static void put_rates(struct buf *b, const struct price_rates *r)
{
    put_rate(b, "\"input\":", r->input);
    put_rate(b, ",\"output\":", r->output);
    put_rate(b, ",\"cacheWrite\":", r->cache_write);
    put_rate(b, ",\"cacheRead\":", r->cache_read);
}

static void put_pricing(struct buf *b, const struct price *price)
{
    buf_adds(b, ",\"pricing\":");
    if (!price) {
        buf_adds(b, "null");
        return;
    }
    buf_adds(b, "{\"unit\":\"USD per million tokens\",");
    put_rates(b, &price->rates);
    if (price->long_over) {
        buf_adds(b, ",\"longPrompt\":{\"over\":");
        buf_int(b, price->long_over);
        buf_addc(b, ',');
        put_rates(b, &price->long_rates);
        buf_addc(b, '}');
    }
    buf_addc(b, '}');
}

static void put_max_tokens(struct buf *b, const struct price *price, const struct api_key *key)
{
    int64_t model = price && price->max_tokens ? price->max_tokens : -1;
    int64_t own = key->permissions.max_tokens;
    buf_adds(b, ",\"maxTokens\":");
    if (model < 0 && own < 0)
        buf_adds(b, "null");
    else
        buf_int(b, own < 0 || (model >= 0 && model < own) ? model : own);
}

static void put_model(struct buf *b, const struct gateway *g, const struct api_key *key,
                      const char *name)
{
    const struct price *price = prices_find(g->prices, name);
    buf_adds(b, b->data[b->len - 1] == '[' ? "{\"name\":" : ",{\"name\":");
    buf_json_str(b, str_c(name));
    buf_printf(b, ",\"default\":%s", strcmp(name, g->conf->claude.model) == 0 ? "true" : "false");
    put_max_tokens(b, price, key);
    put_pricing(b, price);
    buf_addc(b, '}');
}

static bool is_offered(const struct prices *prices, const char *name)
{
    for (size_t i = 0; i < prices_count(prices); i++) {
        const char *offered = prices_at(prices, i)->name;
        if (offered && strcmp(offered, name) == 0)
            return true;
    }
    return false;
}

void native_models(struct http_req *req, void *ctx)
{
    struct gateway *g = OBJ(ctx, struct gateway, GATEWAY_TAG);
    const struct api_key *key = &gateway_key(req)->key;
    const char *standard = g->conf->claude.model;
    AUTO(buf_release) struct buf b;
    buf_init(&b, ANSWER_MAX);
    buf_adds(&b, "{\"success\":true,\"models\":[");
    if (api_key_allows_model(key, standard) && !is_offered(g->prices, standard))
        put_model(&b, g, key, standard);
    for (char **own = key->permissions.models; own && *own; own++) {
        if (!strchr(*own, '*') && strcmp(*own, standard) != 0 && !is_offered(g->prices, *own))
            put_model(&b, g, key, *own);
    }
    for (size_t i = 0; i < prices_count(g->prices); i++) {
        const char *name = prices_at(g->prices, i)->name;
        if (name && api_key_allows_model(key, name))
            put_model(&b, g, key, name);
    }
    buf_adds(&b, "]}");
    http_reply_json(req, 200, &b);
}
