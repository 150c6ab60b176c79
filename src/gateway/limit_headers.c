/* limit_headers.c - what is left of a key's limits, in the words of each dialect.
 *
 * Requests: of minute and day the one that is nearer to its end. Tokens: the day's. A limit that a
 * key does not have, or that nobody knows just now, has no headers. */
#include "gateway/gateway.h"

#include "core/clock.h"

static const struct limit_view *nearer(const struct limit_view *minute,
                                       const struct limit_view *day)
{
    bool day_is_nearer = day->limit >= 0 && day->remaining < minute->remaining;
    return minute->limit < 0 || day_is_nearer ? day : minute;
}

static void put_number(struct http_req *http, const char *name, int64_t n)
{
    char text[24];
    snprintf(text, sizeof(text), "%lld", (long long)n);
    http_set_header(http, name, text);
}

static void native(struct http_req *http, const struct limit_view *v)
{
    if (v->limit < 0)
        return;
    put_number(http, "RateLimit-Limit", v->limit);
    put_number(http, "RateLimit-Remaining", v->remaining);
    put_number(http, "RateLimit-Reset", v->reset_s);
}

/* When all of it is there again as a time. */
static void anthropic(struct http_req *http, const char *const names[3], const struct limit_view *v)
{
    char at[CLOCK_RFC3339_SIZE];
    if (v->limit < 0)
        return;
    put_number(http, names[0], v->limit);
    put_number(http, names[1], v->remaining);
    clock_rfc3339(v->reset_at ? v->reset_at : clock_wall_ms(), at);
    memcpy(at + strlen("2026-11-23T10:11:12"), "Z", 2); /* whole seconds, as the API does */
    http_set_header(http, names[2], at);
}

/* ... and as a duration: "1h0m20s", "6m0s", "3s". */
static void openai(struct http_req *http, const char *const names[3], const struct limit_view *v)
{
    char text[48];
    long long s = v->reset_s, h = s / 3600, m = s / 60 % 60;
    if (v->limit < 0)
        return;
    put_number(http, names[0], v->limit);
    put_number(http, names[1], v->remaining);
    if (h)
        snprintf(text, sizeof(text), "%lldh%lldm%llds", h, m, s % 60);
    else if (m)
        snprintf(text, sizeof(text), "%lldm%llds", m, s % 60);
    else
        snprintf(text, sizeof(text), "%llds", s);
    http_set_header(http, names[2], text);
}

void gateway_limit_headers(struct http_req *http, const struct limit_views *views)
{
    static const char *const anthropic_requests[] = {"anthropic-ratelimit-requests-limit",
                                                     "anthropic-ratelimit-requests-remaining",
                                                     "anthropic-ratelimit-requests-reset"};
    static const char *const anthropic_tokens[] = {"anthropic-ratelimit-tokens-limit",
                                                   "anthropic-ratelimit-tokens-remaining",
                                                   "anthropic-ratelimit-tokens-reset"};
    static const char *const openai_requests[] = {"x-ratelimit-limit-requests",
                                                  "x-ratelimit-remaining-requests",
                                                  "x-ratelimit-reset-requests"};
    static const char *const openai_tokens[] = {
        "x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"};
    const struct limit_view *requests = nearer(&views->minute, &views->day_requests);
    switch (http_req_dialect(http)) {
    case DIALECT_NATIVE:
        native(http, requests);
        break;
    case DIALECT_ANTHROPIC:
        anthropic(http, anthropic_requests, requests);
        anthropic(http, anthropic_tokens, &views->day_tokens);
        break;
    case DIALECT_OPENAI:
        openai(http, openai_requests, requests);
        openai(http, openai_tokens, &views->day_tokens);
        break;
    case DIALECT_CLIENT:
        break; /* no request has it */
    }
}
