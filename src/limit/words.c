/* words.c - what a client is told: headers, and why a request is refused. */
#include "core/clock.h"
#include "limit/hold.h"
#include "store/key_json.h"

#define RETRY_S_MAX 60

const char *bucket_name(enum bucket b)
{
    static const char *const names[] = {
        [B_REQUESTS] = "rd",   [B_TOKENS] = "td", [B_DAY_COST] = "cd",
        [B_MONTH_COST] = "cm", [B_MINUTE] = "rm", [B_CONCURRENT] = "n"};
    return names[b];
}

static int64_t div_up(int64_t a, int64_t b)
{
    return a <= 0 ? 0 : (a - 1) / b + 1;
}

/* --- headers ------------------------------------------------------------------------------- */

static struct limit_view view(const struct shared_level *level, int64_t limit, int64_t now_ms)
{
    if (limit < 0)
        return (struct limit_view){-1, -1, 0, 0};
    return (struct limit_view){.limit = limit,
                               .remaining = level->remaining,
                               .reset_s = div_up(level->reset_ms, 1000),
                               .reset_at = level->reset_ms ? now_ms + level->reset_ms : 0};
}

struct limit_views hold_views(const struct limit_hold *h, const struct shared_taken *taken)
{
    struct limit_views v;
    struct limit_view *const all[] = {
        [B_REQUESTS] = &v.day_requests, [B_TOKENS] = &v.day_tokens, [B_DAY_COST] = &v.day_cost,
        [B_MONTH_COST] = &v.month_cost, [B_MINUTE] = &v.minute,     [B_CONCURRENT] = &v.concurrent};
    for (size_t i = 0; i < B_COUNT; i++)
        *all[i] = (struct limit_view){-1, -1, 0, 0};
    for (size_t i = 0; taken && i < h->count; i++)
        *all[h->buckets[i].which] = view(&taken->levels[i], h->buckets[i].limit, taken->now_ms);
    return v;
}

/* --- refusals ------------------------------------------------------------------------------ */

static int refuse_minute(int64_t limit, int64_t wait_ms, struct err *err)
{
    int64_t wait_s = div_up(wait_ms, 1000);
    if (wait_s < 1)
        wait_s = 1;
    if (wait_s > RETRY_S_MAX)
        wait_s = RETRY_S_MAX;
    if (limit == 0)
        err_set(err, ERR_RATE_LIMITED, "This key may make 0 requests per minute.");
    else
        err_set(err, ERR_RATE_LIMITED,
                "The limit of %lld requests per minute is reached; try again in %lld s.",
                (long long)limit, (long long)wait_s);
    err->retry_after_s = (int)wait_s;
    return -1;
}

static int refuse_concurrent(int64_t limit, struct err *err)
{
    err_set(err, ERR_RATE_LIMITED,
            limit == 0 ? "This key may have %lld requests at once."
                       : "The limit of %lld requests at once is reached; try again when one of "
                         "them has ended.",
            (long long)limit);
    err->retry_after_s = 1;
    return -1;
}

/* Tokens and requests as they are, money in USD. */
static const char *number(enum bucket b, int64_t n, char out[32])
{
    struct buf text;
    buf_init(&text, 32);
    if (b == B_DAY_COST || b == B_MONTH_COST)
        key_money_write(&text, n);
    else
        buf_int(&text, n);
    snprintf(out, 32, "%s", buf_cstr(&text));
    buf_release(&text);
    return out;
}

static int refuse_counter(enum bucket b, int64_t limit, int64_t need,
                          const struct shared_level *level, struct err *err)
{
    char end[CLOCK_RFC3339_SIZE], all[32], wanted[32], left[32], held[32];
    const char *span = b == B_MONTH_COST ? "month" : "day";
    const char *unit = b == B_REQUESTS ? "requests" : b == B_TOKENS ? "tokens" : "USD";
    clock_rfc3339(level->window_end, end);
    number(b, limit, all);
    if (level->used >= limit || b == B_REQUESTS)
        return err_set(err, ERR_QUOTA, "The limit of %s %s per %s is reached; it resets at %s.",
                       all, unit, span, end);
    return err_set(err, ERR_QUOTA,
                   "This request may need %s %s, but %s of the limit of %s %s per %s remain (%s "
                   "more are reserved by running requests); it resets at %s.",
                   number(b, need, wanted), unit, number(b, level->remaining, left), all, unit,
                   span, number(b, limit - level->used - level->remaining, held), end);
}

int hold_refused(const struct limit_hold *h, const struct shared_taken *taken, struct err *err)
{
    const struct hold_bucket *b = &h->buckets[taken->refused];
    if (b->which == B_MINUTE)
        return refuse_minute(b->limit, taken->retry_ms, err);
    if (b->which == B_CONCURRENT)
        return refuse_concurrent(b->limit, err);
    return refuse_counter(b->which, b->limit, b->which == B_TOKENS ? h->need.tokens : h->need.cost,
                          &taken->levels[taken->refused], err);
}
