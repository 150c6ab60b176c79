/* models.c - GET /v1/models and GET /v1/models/:id, in the shape of the client that asks (see
 * DIALECT_CLIENT). Only models the key may use are shown. */
#include "api/models.h"

#include "core/clock.h"
#include "gateway/ask.h"

#define LOOK_TAG     TAG4('L', 'O', 'O', 'K')
#define REPLY_MAX    ((size_t)8 << 20)
#define PAGE_DEFAULT 20
#define PAGE_MAX     1000

struct look {
    uint32_t tag;
    struct gateway *g;
    struct http_req *http;
    struct models_wait *wait;
    bool one; /* of /v1/models/:id */
};

static void destroy(void *obj)
{
    struct look *k = OBJ(obj, struct look, LOOK_TAG);
    k->tag = 0;
    free(k);
}

static json_t *allowed(const struct http_req *req, const json_t *models)
{
    const struct auth_key *key = gateway_key(req);
    json_t *out = json_array(), *m;
    size_t i;
    json_array_foreach((json_t *)(uintptr_t)models, i, m)
    {
        const char *id = json_string_value(json_object_get(m, "id"));
        if (id && api_key_allows_model(&key->key, id))
            json_array_append(out, m);
    }
    return out;
}

static const json_t *find(const json_t *models, const char *id)
{
    size_t i;
    const json_t *m;
    json_array_foreach((json_t *)(uintptr_t)models, i, m)
    {
        if (str_eq_c(json_get_str(m, "id"), id))
            return m;
    }
    return NULL;
}

static void reply(struct http_req *req, const json_t *j)
{
    AUTO(buf_release) struct buf b;
    buf_init(&b, REPLY_MAX);
    json_write(&b, j);
    http_reply_json(req, 200, &b);
}

/* --- a page of the list, as the Anthropic API cuts it ------------------------------------ */

static int read_limit(const struct http_req *req, size_t *ret_limit, struct err *err)
{
    const char *text = http_req_query(req, "limit");
    uint64_t n = PAGE_DEFAULT;
    if (text && (!str_to_u64(str_c(text), &n) || n < 1 || n > PAGE_MAX))
        return err_field(err, "limit", "Input should be between 1 and %d", PAGE_MAX);
    *ret_limit = (size_t)n;
    return 0;
}

static size_t index_of(const json_t *models, const char *id, size_t otherwise)
{
    for (size_t i = 0; id && i < json_array_size(models); i++) {
        if (str_eq_c(json_get_str(json_array_get(models, i), "id"), id))
            return i;
    }
    return otherwise;
}

static void reply_page(struct http_req *req, const json_t *models)
{
    const char *after = http_req_query(req, "after_id"), *before = http_req_query(req, "before_id");
    size_t n = json_array_size(models), limit = 0;
    struct err err;
    if (read_limit(req, &limit, &err) != 0) {
        http_reply_error(req, &err);
        return;
    }
    size_t from = after ? index_of(models, after, n - 1) + 1 : 0;
    size_t to = before ? index_of(models, before, 0) : n;
    if (before && to > limit && !after)
        from = to - limit;
    json_t *data = json_array();
    for (size_t i = from; i < to && i < from + limit; i++)
        json_array_append(data, json_array_get(models, i));
    size_t shown = json_array_size(data);
    bool more = before && !after ? from > 0 : from + shown < to;
    AUTO(json_unref_p)
    json_t *page =
        json_pack("{s:o, s:b, s:O?, s:O?}", "data", data, "has_more", more, "first_id",
                  shown ? json_object_get(json_array_get(data, 0), "id") : NULL, "last_id",
                  shown ? json_object_get(json_array_get(data, shown - 1), "id") : NULL);
    if (shown == 0) {
        json_object_set_new(page, "first_id", json_null());
        json_object_set_new(page, "last_id", json_null());
    }
    reply(req, page);
}

static void reply_one(struct http_req *req, const json_t *model)
{
    struct err err;
    if (model) {
        reply(req, model);
        return;
    }
    err_set(&err, ERR_NOT_FOUND, "model: %.100s", http_req_param(req, "id"));
    http_reply_error(req, &err);
}

/* --- the handlers ------------------------------------------------------------------------ */

static void on_gone(void *ctx)
{
    struct look *k = OBJ(ctx, struct look, LOOK_TAG);
    models_cancel(k->wait);
    loop_defer(k->g->loop, destroy, k);
}

static void on_models(void *ctx, const json_t *models, const struct err *err)
{
    struct look *k = OBJ(ctx, struct look, LOOK_TAG);
    struct http_req *req = k->http;
    const char *id = k->one ? http_req_param(req, "id") : NULL;
    http_req_on_gone(req, NULL, NULL);
    loop_defer(k->g->loop, destroy, k);
    if (err) {
        http_reply_error(req, err);
        return;
    }
    AUTO(json_unref_p) json_t *mine = allowed(req, models);
    if (http_req_dialect(req) == DIALECT_OPENAI)
        openai_reply_models(k->g, req, mine, id);
    else if (id)
        reply_one(req, find(mine, id));
    else
        reply_page(req, mine);
}

static void look(struct http_req *req, void *ctx, bool one)
{
    struct gateway *g = OBJ(ctx, struct gateway, GATEWAY_TAG);
    struct look *k = x_calloc(1, sizeof(*k));
    *k = (struct look){.tag = LOOK_TAG, .g = g, .http = req, .one = one};
    http_req_on_gone(req, on_gone, k);
    k->wait = gateway_models(g, on_models, k);
}

void api_models(struct http_req *req, void *ctx)
{
    look(req, ctx, false);
}

void api_model(struct http_req *req, void *ctx)
{
    look(req, ctx, true);
}
