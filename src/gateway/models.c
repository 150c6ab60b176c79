/* models.c - which models there are: what the upstream API lists, remembered for five minutes. */
#include "gateway/ask.h"

#include "core/clock.h"

#define WAIT_TAG      TAG4('M', 'O', 'D', 'W')
#define REMEMBERED_MS (5 * 60 * 1000)

struct models_wait {
    uint32_t tag;
    struct gateway *g;
    struct ask *ask;
    models_done_fn *done;
    void *ctx;
};

static void destroy(void *obj)
{
    struct models_wait *w = OBJ(obj, struct models_wait, WAIT_TAG);
    w->tag = 0;
    free(w);
}

static void remember(struct gateway *g, json_t *models_take)
{
    json_decref(g->models);
    g->models = models_take;
    g->models_at_ms = clock_mono_ms();
}

static json_t *configured(const struct gateway *g)
{
    return json_pack("[{s:s, s:s, s:s, s:s}]", "type", "model", "id", g->conf->claude.model,
                     "display_name", g->conf->claude.model, "created_at", "1970-01-01T00:00:00Z");
}

static json_t *read_list(struct str body)
{
    AUTO(json_unref_p) json_t *j = json_loadb(body.p, body.len, JSON_ALLOW_NUL, NULL);
    json_t *data = json_object_get(j, "data");
    return json_is_array(data) ? json_incref(data) : NULL;
}

static void on_answer(void *ctx, struct str body, const struct err *err)
{
    struct models_wait *w = OBJ(ctx, struct models_wait, WAIT_TAG);
    struct gateway *g = w->g;
    struct err bad;
    json_t *list = NULL;
    if (!err) {
        list = read_list(body);
        err_set(&bad, ERR_UPSTREAM, "The upstream API's list of models is not understood");
    } else {
        bad = *err;
        list = err->status == 404 ? configured(g) : NULL;
    }
    if (list)
        remember(g, list);
    loop_defer(g->loop, destroy, w);
    w->done(w->ctx, list, list ? NULL : &bad);
}

struct models_wait *gateway_models(struct gateway *g, models_done_fn *done, void *ctx)
{
    static const struct ask_opts question = {.path = "/v1/models?limit=1000", .get = true};
    if (g->models && clock_mono_ms() - g->models_at_ms < REMEMBERED_MS) {
        done(ctx, g->models, NULL);
        return NULL;
    }
    struct models_wait *w = x_calloc(1, sizeof(*w));
    *w = (struct models_wait){.tag = WAIT_TAG, .g = g, .done = done, .ctx = ctx};
    w->ask = ask_upstream(g, &question, on_answer, w);
    return w;
}

void models_cancel(struct models_wait *w)
{
    ask_cancel(w->ask);
    loop_defer(w->g->loop, destroy, w);
}
