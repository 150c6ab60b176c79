/* key_options.c - see the header. Each complaint names the option, its rule, and what was given. */
#include "cmd/key_options.h"

#include "cmd/cmd.h"
#include "core/clock.h"
#include "core/json.h"
#include "setup/make_key.h"
#include "store/key_json.h"

#define EXPIRES_DAYS_MAX 36500
#define OVERLAP_MAX_MS   (INT64_C(90) * 86400000)
#define OVERLAP_MS       (INT64_C(24) * 3600000)
#define MODELS_MAX       64
#define METADATA_PARSED  ((size_t)1 << 20)

static bool complain(const char *option, const char *rule, const char *text)
{
    fprintf(stderr, "claudegate: --%s: %s; got '%s'\n", option, rule, text);
    return false;
}

static bool apply_name(const char *text, struct api_key *k)
{
    size_t len = strlen(text);
    if (len == 0 || len > KEY_NAME_MAX || !str_is_utf8(str_c(text))) {
        fprintf(stderr, "claudegate: --name: is required and may be %d bytes of UTF-8 long\n",
                KEY_NAME_MAX);
        return false;
    }
    x_replace(&k->name, text);
    return true;
}

static bool parse_days(const char *text, int64_t *ret_at)
{
    uint64_t days;
    size_t n = strlen(text);
    if (n < 2 || text[n - 1] != 'd' || !str_to_u64(str_n(text, n - 1), &days) || days == 0 ||
        days > EXPIRES_DAYS_MAX)
        return false;
    *ret_at = clock_wall_ms() + (int64_t)days * 86400000;
    return true;
}

static bool apply_expires(const char *text, struct api_key *k)
{
    if (strcmp(text, "never") == 0) {
        k->expires_at = 0;
        return true;
    }
    if (parse_days(text, &k->expires_at))
        return true;
    if (!clock_parse_rfc3339(text, &k->expires_at))
        return complain("expires",
                        "must be a date such as 2027-01-31, a time such as 2027-01-31T12:00:00Z, "
                        "a number of days such as 30d, or 'never'",
                        text);
    if (k->expires_at <= clock_wall_ms()) {
        fprintf(stderr, "claudegate: --expires: '%s' is in the past\n", text);
        return false;
    }
    return true;
}

static bool apply_priority(const char *text, struct api_key *k)
{
    uint64_t v;
    if (!str_to_u64(str_c(text), &v) || v < 1 || v > KEY_PRIORITY_MAX) {
        fprintf(stderr, "claudegate: --priority: must be a whole number from 1 to %d; got '%s'\n",
                KEY_PRIORITY_MAX, text);
        return false;
    }
    k->priority = (int)v;
    return true;
}

static bool parse_models(const char *list, char **out)
{
    struct str rest = str_c(list);
    size_t n = 0;
    do {
        struct str one = str_trim(str_split(&rest, ','));
        if (one.len == 0 || n == MODELS_MAX || !str_is_utf8(one)) {
            fprintf(stderr, "claudegate: --models: must list 1 to %d names; got '%s'\n", MODELS_MAX,
                    list);
            return false;
        }
        out[n++] = str_dup(one);
    } while (rest.len);
    return true;
}

static bool apply_models(const char *list, struct api_key *k)
{
    char *models[MODELS_MAX + 1] = {0};
    bool ok = parse_models(list, models);
    if (ok)
        new_key_set_models(k, models);
    for (size_t i = 0; models[i]; i++)
        free(models[i]);
    return ok;
}

/* PostgreSQL's JSONB has no \u0000, and jansson only takes it when asked to. */
static bool has_nul(const char *text)
{
    json_error_t why;
    json_t *j = json_loads(text, 0, &why);
    json_decref(j);
    return !j;
}

static bool apply_metadata(const char *text, struct api_key *k)
{
    struct err err = {0};
    struct buf b AUTO(buf_release);
    buf_init(&b, METADATA_PARSED);
    if (!*text) { /* "": none any more */
        free(TAKE_PTR(k->metadata));
        return true;
    }
    AUTO(json_unref_p) json_t *j = json_parse(str_c(text), &err);
    if (json_is_object(j))
        json_write(&b, j);
    if (!json_is_object(j) || !buf_ok(&b) || b.len > KEY_METADATA_MAX || has_nul(text)) {
        fprintf(stderr,
                "claudegate: --metadata: must be a JSON object of at most %d bytes, without "
                "\\u0000%s%s\n",
                KEY_METADATA_MAX, err.msg[0] ? "; " : "", err.msg);
        return false;
    }
    x_replace(&k->metadata, buf_cstr(&b));
    return true;
}

/* A sum in USD, or "unlimited". */
static bool parse_cost(const char *option, const char *text, int64_t *ret_nano)
{
    *ret_nano = -1;
    if (strcmp(text, "unlimited") == 0 || key_money_parse(str_c(text), ret_nano))
        return true;
    return complain(option,
                    "must be a sum in USD such as 2.50, at most 4000000 and with at most nine "
                    "digits after the point, or 'unlimited'",
                    text);
}

static bool apply_limits(const struct key_options *o, struct key_limits *l)
{
    const struct {
        const char *option, *text;
        int64_t *value;
        bool (*parse)(const char *option, const char *text, int64_t *ret_value);
    } rows[] = {
        {"requests-per-minute", o->rpm, &l->requests_per_minute, cmd_parse_limit},
        {"requests-per-day", o->rpd, &l->requests_per_day, cmd_parse_limit},
        {"tokens-per-day", o->tpd, &l->tokens_per_day, cmd_parse_limit},
        {"max-concurrent", o->max_concurrent, &l->max_concurrent, cmd_parse_limit},
        {"cost-per-day", o->cost_per_day, &l->cost_per_day, parse_cost},
        {"cost-per-month", o->cost_per_month, &l->cost_per_month, parse_cost},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        if (rows[i].text && !rows[i].parse(rows[i].option, rows[i].text, rows[i].value))
            return false;
    }
    return true;
}

static bool apply_flags(const struct key_options *o, struct key_permissions *p)
{
    const struct {
        const char *on_name, *off_name;
        bool on, off;
        bool *value;
    } rows[] = {
        {"allow-streaming", "no-streaming", o->allow_streaming, o->no_streaming,
         &p->allow_streaming},
        {"allow-agent", "no-agent", o->allow_agent, o->no_agent, &p->allow_agent},
        {"allow-tools", "no-tools", o->allow_tools, o->no_tools, &p->allow_tools},
        {"require-signature", "no-signature", o->require_signature, o->no_signature,
         &p->require_signature},
        {"response-cache", "no-response-cache", o->response_cache, o->no_response_cache,
         &p->response_cache},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        if (rows[i].on && rows[i].off) {
            fprintf(stderr, "claudegate: --%s: cannot be given together with --%s\n",
                    rows[i].on_name, rows[i].off_name);
            return false;
        }
        if (rows[i].on || rows[i].off)
            *rows[i].value = rows[i].on;
    }
    return true;
}

bool key_options_apply(const struct key_options *o, struct api_key *k)
{
    return (!o->name || apply_name(o->name, k)) && apply_limits(o, &k->limits) &&
           (!o->max_tokens ||
            cmd_parse_limit("max-tokens", o->max_tokens, &k->permissions.max_tokens)) &&
           (!o->models || apply_models(o->models, k)) &&
           (!o->expires || apply_expires(o->expires, k)) &&
           (!o->priority || apply_priority(o->priority, k)) &&
           (!o->metadata || apply_metadata(o->metadata, k)) && apply_flags(o, &k->permissions);
}

bool key_options_any(const struct key_options *o)
{
    const char *const texts[] = {
        o->name, o->models, o->expires,    o->priority,       o->metadata,     o->rpm,
        o->rpd,  o->tpd,    o->max_tokens, o->max_concurrent, o->cost_per_day, o->cost_per_month};
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        if (texts[i])
            return true;
    }
    return o->allow_streaming || o->no_streaming || o->allow_agent || o->no_agent ||
           o->allow_tools || o->no_tools || o->require_signature || o->no_signature ||
           o->response_cache || o->no_response_cache || o->signing_secret;
}

bool key_options_overlap(const struct key_options *o, int64_t *ret_ms)
{
    static const struct {
        char letter;
        int64_t ms;
    } units[] = {{'s', 1000}, {'m', 60000}, {'h', 3600000}, {'d', 86400000}};
    uint64_t n;
    *ret_ms = OVERLAP_MS;
    if (!o->overlap)
        return true;
    if (strcmp(o->overlap, "0") == 0) {
        *ret_ms = 0;
        return true;
    }
    struct str number = str_c(o->overlap);
    for (size_t i = 0; number.len > 1 && i < ARRAY_SIZE(units); i++) {
        if (number.p[number.len - 1] != units[i].letter ||
            !str_to_u64(str_n(number.p, number.len - 1), &n) ||
            n > (uint64_t)(OVERLAP_MAX_MS / units[i].ms))
            continue;
        *ret_ms = (int64_t)n * units[i].ms;
        return true;
    }
    return complain("overlap", "must be 0, or a time such as 90s, 30m, 24h or 7d, at most 90d",
                    o->overlap);
}
