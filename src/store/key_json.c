/* key_json.c - see the header. */
#include "store/key_json.h"

#include "core/json.h"

#define NANO INT64_C(1000000000)

static void write_number(struct buf *out, int64_t v)
{
    if (v < 0)
        buf_adds(out, "null");
    else
        buf_printf(out, "%lld", (long long)v);
}

void key_money_write(struct buf *out, int64_t nano)
{
    char digits[16];
    int n = snprintf(digits, sizeof(digits), "%09lld", (long long)(nano % NANO));
    while (n > 0 && digits[n - 1] == '0')
        n--;
    buf_printf(out, "%lld", (long long)(nano / NANO));
    if (n > 0)
        buf_printf(out, ".%.*s", n, digits);
}

bool key_money_parse(struct str text, int64_t *ret_nano)
{
    uint64_t whole, part = 0;
    bool has_point = text.len && memchr(text.p, '.', text.len);
    struct str digits = text, before = str_split(&digits, '.');
    if (!str_to_u64(before, &whole) || whole > (uint64_t)(KEY_MONEY_MAX / NANO) ||
        (has_point && (digits.len > 9 || !str_to_u64(digits, &part))))
        return false;
    for (size_t i = digits.len; i < 9; i++)
        part *= 10;
    *ret_nano = (int64_t)whole * NANO + (int64_t)part;
    return *ret_nano <= KEY_MONEY_MAX;
}

static void write_money(struct buf *out, int64_t nano)
{
    if (nano < 0)
        buf_adds(out, "null");
    else
        key_money_write(out, nano);
}

void key_limits_write(struct buf *out, const struct key_limits *limits)
{
    buf_adds(out, "{\"requestsPerMinute\":");
    write_number(out, limits->requests_per_minute);
    buf_adds(out, ",\"requestsPerDay\":");
    write_number(out, limits->requests_per_day);
    buf_adds(out, ",\"tokensPerDay\":");
    write_number(out, limits->tokens_per_day);
    buf_adds(out, ",\"maxConcurrent\":");
    write_number(out, limits->max_concurrent);
    buf_adds(out, ",\"costPerDay\":");
    write_money(out, limits->cost_per_day);
    buf_adds(out, ",\"costPerMonth\":");
    write_money(out, limits->cost_per_month);
    buf_addc(out, '}');
}

static void write_flag(struct buf *out, const char *name, bool v)
{
    buf_printf(out, ",\"%s\":%s", name, v ? "true" : "false");
}

void key_permissions_write(struct buf *out, const struct key_permissions *permissions)
{
    buf_adds(out, "{\"models\":[");
    for (char **m = permissions->models; m && *m; m++) {
        if (m != permissions->models)
            buf_addc(out, ',');
        buf_json_str(out, str_c(*m));
    }
    buf_adds(out, "],\"maxTokens\":");
    write_number(out, permissions->max_tokens);
    write_flag(out, "allowStreaming", permissions->allow_streaming);
    write_flag(out, "allowAgent", permissions->allow_agent);
    write_flag(out, "allowTools", permissions->allow_tools);
    write_flag(out, "requireSignature", permissions->require_signature);
    write_flag(out, "responseCache", permissions->response_cache);
    buf_addc(out, '}');
}

static int read_number(const json_t *obj, const char *name, int64_t *ret, struct err *err)
{
    const json_t *v = json_object_get(obj, name);
    if (json_is_null(v))
        *ret = -1;
    else if (json_is_integer(v) && json_integer_value(v) >= 0)
        *ret = json_integer_value(v);
    else
        return err_set(err, ERR_INTERNAL, "%s is not a count or null", name);
    return 0;
}

static int read_newer_number(const json_t *obj, const char *name, int64_t *ret, struct err *err)
{
    *ret = -1;
    return json_object_get(obj, name) ? read_number(obj, name, ret, err) : 0;
}

static int read_money(const json_t *obj, const char *name, int64_t *ret, struct err *err)
{
    const json_t *v = json_object_get(obj, name);
    double usd = json_number_value(v);
    *ret = -1;
    if (!v || json_is_null(v))
        return 0;
    if (!json_is_number(v) || !(usd >= 0) || usd > (double)(KEY_MONEY_MAX / NANO))
        return err_set(err, ERR_INTERNAL, "%s is not a sum of USD or null", name);
    *ret = (int64_t)(usd * (double)NANO + 0.5);
    return 0;
}

static json_t *read_object(struct str text, struct err *err)
{
    json_t *obj = json_parse(text, err);
    if (!obj)
        err->code = ERR_INTERNAL; /* the database's fault, not the client's */
    return obj;
}

int key_limits_read(struct str text, struct key_limits *ret_limits, struct err *err)
{
    AUTO(json_unref_p) json_t *obj = read_object(text, err);
    struct key_limits limits;
    if (!obj || read_number(obj, "requestsPerMinute", &limits.requests_per_minute, err) != 0 ||
        read_number(obj, "requestsPerDay", &limits.requests_per_day, err) != 0 ||
        read_number(obj, "tokensPerDay", &limits.tokens_per_day, err) != 0 ||
        read_newer_number(obj, "maxConcurrent", &limits.max_concurrent, err) != 0 ||
        read_money(obj, "costPerDay", &limits.cost_per_day, err) != 0 ||
        read_money(obj, "costPerMonth", &limits.cost_per_month, err) != 0)
        return err_prefix(err, "limits");
    *ret_limits = limits;
    return 0;
}

static char **read_models(const json_t *array, struct err *err)
{
    if (!json_is_array(array)) {
        err_set(err, ERR_INTERNAL, "models is not a list");
        return NULL;
    }
    size_t count = json_array_size(array);
    char **models = x_calloc(count + 1, sizeof(*models));
    for (size_t i = 0; i < count; i++) {
        struct str model = json_str_of(json_array_get(array, i));
        if (model.len == 0 || strlen(model.p) != model.len) {
            key_models_free(models);
            err_set(err, ERR_INTERNAL, "models[%zu] is not a name", i);
            return NULL;
        }
        models[i] = str_dup(model);
    }
    return models;
}

/* `missing` is what an older row, which has none, means. */
static int read_flag(const json_t *obj, const char *name, bool missing, bool *ret, struct err *err)
{
    const json_t *v = json_object_get(obj, name);
    if (v && !json_is_boolean(v))
        return err_set(err, ERR_INTERNAL, "%s is not true or false", name);
    *ret = v ? json_is_true(v) : missing;
    return 0;
}

static int read_flags(const json_t *obj, struct key_permissions *p, struct err *err)
{
    if (!json_object_get(obj, "allowStreaming"))
        return err_set(err, ERR_INTERNAL, "allowStreaming is not true or false");
    if (read_flag(obj, "allowStreaming", false, &p->allow_streaming, err) != 0 ||
        read_flag(obj, "allowAgent", false, &p->allow_agent, err) != 0 ||
        read_flag(obj, "allowTools", true, &p->allow_tools, err) != 0 ||
        read_flag(obj, "requireSignature", false, &p->require_signature, err) != 0)
        return -1;
    return read_flag(obj, "responseCache", false, &p->response_cache, err);
}

int key_permissions_read(struct str text, struct key_permissions *ret_permissions, struct err *err)
{
    AUTO(json_unref_p) json_t *obj = read_object(text, err);
    struct key_permissions p = {0};
    if (!obj || read_number(obj, "maxTokens", &p.max_tokens, err) != 0 ||
        read_flags(obj, &p, err) != 0)
        return err_prefix(err, "permissions");
    p.models = read_models(json_object_get(obj, "models"), err);
    if (!p.models)
        return err_prefix(err, "permissions");
    *ret_permissions = p;
    return 0;
}

void key_models_free(char **models)
{
    for (char **m = models; m && *m; m++)
        free(*m);
    free(models);
}
