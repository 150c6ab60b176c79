/* policy.c - see the header. */
#include "upstream/policy.h"

#include "core/buf.h"
#include "core/clock.h"

#include <curl/curl.h>

bool policy_may_pass(int status)
{
    return status == 429 || status == 500 || status == 502 || status == 503 || status == 529;
}

bool policy_may_differ(int status)
{
    return policy_may_pass(status) || status == 401 || status == 402 || status == 403;
}

int policy_retry_after(const char *value)
{
    uint64_t s;
    if (str_to_u64(str_c(value), &s))
        return s < 86400 ? (int)s : 86400;
    time_t at = curl_getdate(value, NULL);
    int64_t wait = at == (time_t)-1 ? 0 : (int64_t)at - clock_wall_ms() / 1000;
    return wait <= 0 ? 0 : wait < 86400 ? (int)wait : 86400;
}

int policy_should_retry(struct str value)
{
    return str_ieq_c(value, "true") ? 1 : str_ieq_c(value, "false") ? -1 : 0;
}

int policy_status_of(const char *error_type)
{
    static const struct {
        const char *type;
        int status;
    } rows[] = {
        {"invalid_request_error", 400}, {"authentication_error", 401}, {"permission_error", 403},
        {"not_found_error", 404},       {"request_too_large", 413},    {"rate_limit_error", 429},
        {"timeout_error", 504},         {"overloaded_error", 529},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        if (strcmp(rows[i].type, error_type) == 0)
            return rows[i].status;
    }
    return 500;
}

bool policy_for_cli(struct str name)
{
    static const char *const names[] = {"content-type", "request-id", "retry-after",
                                        "content-encoding", "x-should-retry"};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        if (str_ieq_c(name, names[i]))
            return true;
    }
    return str_ieq_c(str_n(name.p, name.len < 10 ? name.len : 10), "anthropic-");
}

/* Nothing that could end the line, and something at all. */
static bool is_plain_value(struct str value)
{
    for (size_t i = 0; i < value.len; i++) {
        if ((unsigned char)value.p[i] < 0x20 || value.p[i] == 0x7f)
            return false;
    }
    return value.len > 0;
}

bool policy_for_upstream(struct str name, struct str value)
{
    static const char *const names[] = {"anthropic-version", "anthropic-beta", "content-type",
                                        "user-agent",        "x-app",          "x-stainless-*",
                                        "x-claude-code-*"};
    char lower[64];
    if (name.len >= sizeof(lower) || !is_plain_value(value))
        return false;
    for (size_t i = 0; i < name.len; i++) {
        char c = name.p[i];
        lower[i] = (char)(c >= 'A' && c <= 'Z' ? c + 32 : c);
        if (c != '-' && !(c >= '0' && c <= '9') && !(lower[i] >= 'a' && lower[i] <= 'z'))
            return false;
    }
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        if (str_glob(names[i], str_n(lower, name.len)))
            return true;
    }
    return false;
}

static bool has_word(struct str list, struct str word)
{
    while (list.len) {
        if (str_eq(str_trim(str_split(&list, ',')), word))
            return true;
    }
    return false;
}

char *policy_join_betas(struct str own, struct str more)
{
    struct buf all;
    buf_init(&all, own.len + more.len + 2);
    buf_addstr(&all, own);
    while (more.len) {
        struct str word = str_trim(str_split(&more, ','));
        if (word.len == 0 || has_word(buf_str(&all), word))
            continue;
        buf_adds(&all, all.len ? "," : "");
        buf_addstr(&all, word);
    }
    BUG_ON(!buf_ok(&all));
    return all.data ? buf_take(&all) : x_strdup("");
}
