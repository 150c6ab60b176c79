/* limit_headers.c - what a key has left, as the headers each dialect's clients look for.
 *
 * native     RateLimit-{Limit,Remaining,Reset}: seconds
 * Anthropic  anthropic-ratelimit-{requests,tokens}-{limit,remaining,reset}: RFC 3339
 * OpenAI     x-ratelimit-{limit,remaining,reset}-{requests,tokens}: a duration like 1m2s */
#include "gateway/gateway.h"

#include "core/clock.h"

#include <inttypes.h>

static void set_number(struct http_req *http, const char *name, int64_t v)
{
    char text[32];
    snprintf(text, sizeof(text), "%" PRId64, v);
    http_set_header(http, name, text);
}

static void set_native(struct http_req *http, const struct limit_view *v)
{
    set_number(http, "RateLimit-Limit", v->limit);
    set_number(http, "RateLimit-Remaining", v->remaining);
    set_number(http, "RateLimit-Reset", v->reset_s);
}

static void set_anthropic(struct http_req *http, const char *what, const struct limit_view *v)
{
    char name[64], when[CLOCK_RFC3339_SIZE];
    snprintf(name, sizeof(name), "anthropic-ratelimit-%s-limit", what);
    set_number(http, name, v->limit);
    snprintf(name, sizeof(name), "anthropic-ratelimit-%s-remaining", what);
    set_number(http, name, v->remaining);
    snprintf(name, sizeof(name), "anthropic-ratelimit-%s-reset", what);
    clock_rfc3339(clock_wall_ms() + v->reset_s * 1000, when);
    memcpy(when + strlen("2026-11-23T10:11:12"), "Z", 2); /* whole seconds, as the API does */
    http_set_header(http, name, when);
}

static void set_openai(struct http_req *http, const char *what, const struct limit_view *v)
{
    char name[64], text[64];
    int64_t s = v->reset_s;
    snprintf(name, sizeof(name), "x-ratelimit-limit-%s", what);
    set_number(http, name, v->limit);
    snprintf(name, sizeof(name), "x-ratelimit-remaining-%s", what);
    set_number(http, name, v->remaining);
    snprintf(name, sizeof(name), "x-ratelimit-reset-%s", what);
    if (s >= 3600)
        snprintf(text, sizeof(text), "%" PRId64 "h%" PRId64 "m%" PRId64 "s", s / 3600, s / 60 % 60,
                 s % 60);
    else if (s >= 60)
        snprintf(text, sizeof(text), "%" PRId64 "m%" PRId64 "s", s / 60, s % 60);
    else
        snprintf(text, sizeof(text), "%" PRId64 "s", s);
    http_set_header(http, name, text);
}

void gateway_set_limit_headers(struct http_req *http, const struct limit_views *views)
{
    const struct limit_view *minute = &views->minute, *day = &views->day_requests;
    bool day_is_nearer = day->limit >= 0 && day->remaining < minute->remaining;
    const struct limit_view *v = minute->limit < 0 || day_is_nearer ? day : minute;
    const struct limit_view *tokens = &views->day_tokens;
    switch (http_req_dialect(http)) {
    case DIALECT_NATIVE:
        if (v->limit >= 0)
            set_native(http, v);
        break;
    case DIALECT_ANTHROPIC:
        if (v->limit >= 0)
            set_anthropic(http, "requests", v);
        if (tokens->limit >= 0)
            set_anthropic(http, "tokens", tokens);
        break;
    case DIALECT_OPENAI:
        if (v->limit >= 0)
            set_openai(http, "requests", v);
        if (tokens->limit >= 0)
            set_openai(http, "tokens", tokens);
        break;
    }
}
