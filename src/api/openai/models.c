/* models.c - the list of models as the OpenAI API shows it: those the key may use, and the names
 * of models.aliases that stand for one of them. */
#include "api/models.h"
#include "api/openai/parts.h"

#include "core/clock.h"

#define REPLY_MAX ((size_t)8 << 20)

static const json_t *find_model(const json_t *models, struct str id)
{
    size_t i;
    const json_t *m;
    json_array_foreach(models, i, m)
    {
        if (str_eq(json_get_str(m, "id"), id))
            return m;
    }
    return NULL;
}

/* m as a client knows it that calls it `id`. */
static json_t *as_openai(const json_t *m, struct str id)
{
    const char *created = json_string_value(json_object_get(m, "created_at"));
    int64_t ms = 0;
    if (!created || !clock_parse_rfc3339(created, &ms))
        ms = 0;
    return json_pack("{s:s%, s:s, s:I, s:s}", "id", id.p, id.len, "object", "model", "created",
                     (json_int_t)(ms / 1000), "owned_by", "anthropic");
}

static void reply(struct http_req *req, const json_t *j)
{
    AUTO(buf_release) struct buf b;
    buf_init(&b, REPLY_MAX);
    json_write(&b, j);
    http_reply_json(req, 200, &b);
}

static json_t *all_models(const char *aliases, const json_t *models)
{
    json_t *list = json_array();
    struct str rest = str_c(aliases);
    size_t i;
    const json_t *m;
    json_array_foreach(models, i, m)
    {
        json_array_append_new(list, as_openai(m, json_get_str(m, "id")));
    }
    while (rest.len) {
        struct str target = str_split(&rest, ','), name = str_trim(str_split(&target, '='));
        m = find_model(models, str_trim(target));
        if (m && !memchr(name.p, '*', name.len))
            json_array_append_new(list, as_openai(m, name));
    }
    return list;
}

void openai_reply_models(const struct gateway *g, struct http_req *req, const json_t *models,
                         const char *id)
{
    const char *aliases = g->conf->models.aliases;
    struct err err;
    if (!id) {
        AUTO(json_unref_p)
        json_t *all =
            json_pack("{s:s, s:o}", "object", "list", "data", all_models(aliases, models));
        reply(req, all);
        return;
    }
    AUTO(free_charp) char *target = openai_model(aliases, str_c(id));
    const json_t *m = find_model(models, str_c(target));
    if (m) {
        AUTO(json_unref_p) json_t *one = as_openai(m, str_c(id));
        reply(req, one);
        return;
    }
    err_set(&err, ERR_NOT_FOUND, "The model '%.100s' does not exist or this key may not use it",
            id);
    snprintf(err.field, sizeof(err.field), "model");
    err.detail = "model_not_found";
    http_reply_error(req, &err);
}
