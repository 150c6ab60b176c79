/* limit.c - per-key buckets in one hash table; every check comes before anything is taken.
 *
 * Requests per minute: GCRA in its "continuous-state leaky bucket" form, in whole numbers so that
 * nothing is rounded. One request adds MINUTE_MS units, the bucket drains `limit` units per
 * millisecond and holds limit * MINUTE_MS. The level counts requests, not time: a limit that is
 * raised frees the difference at once.
 *
 * Days: counters belong to st->day. A clock that steps back over midnight goes on counting in the
 * later day, so that it gives no second allowance; a clock that was wrong by more starts anew.
 *
 * A state exists per key that was ever admitted, so the table is as large as the key table. */
#include "limit/limit.h"

#include "core/clock.h"

#define HASH_FUNCTION HASH_FNV /* ids are ours; the default warns under clang */
#include <uthash.h>

#define MINUTE_MS   INT64_C(60000)
#define DAY_MS      INT64_C(86400000)
#define MAX_PER_MIN INT64_C(1000000000) /* more is not different, and products cannot overflow */
#define RETRY_S_MAX 60

struct key_state {
    char id[ID_UUID_SIZE];
    int64_t level;      /* units, see above */
    int64_t drained_at; /* wall ms */
    int64_t day;
    int64_t requests, tokens_used, tokens_reserved; /* of st->day */
    UT_hash_handle hh;
};

struct limits {
    struct key_state *keys;
};

static int64_t add_saturated(int64_t a, int64_t b)
{
    int64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? INT64_MAX : sum;
}

static int64_t div_up(int64_t a, int64_t b)
{
    return a <= 0 ? 0 : (a - 1) / b + 1;
}

static int64_t day_of(int64_t wall_ms)
{
    int64_t day = wall_ms / DAY_MS;
    return wall_ms % DAY_MS < 0 ? day - 1 : day;
}

struct limits *limits_new(void)
{
    return x_calloc(1, sizeof(struct limits));
}

void limits_free(struct limits *l)
{
    if (!l)
        return;
    struct key_state *st, *next;
    HASH_ITER(hh, l->keys, st, next)
    {
        HASH_DEL(l->keys, st);
        free(st);
    }
    free(l);
}

static struct key_state *find_state(struct limits *l, const char *id)
{
    struct key_state *st;
    HASH_FIND_STR(l->keys, id, st);
    return st;
}

static void start_day(struct key_state *st, int64_t day)
{
    st->day = day;
    st->requests = st->tokens_used = st->tokens_reserved = 0;
}

static void roll_day(struct key_state *st, int64_t now_wall_ms)
{
    int64_t day = day_of(now_wall_ms);
    if (day != st->day && day != st->day - 1)
        start_day(st, day);
}

static struct key_state *get_state(struct limits *l, const char *id, int64_t now_wall_ms)
{
    struct key_state *st = find_state(l, id);
    if (!st) {
        st = x_calloc(1, sizeof(*st));
        snprintf(st->id, sizeof(st->id), "%s", id);
        st->drained_at = now_wall_ms;
        start_day(st, day_of(now_wall_ms));
        HASH_ADD_STR(l->keys, id, st);
    }
    roll_day(st, now_wall_ms);
    return st;
}

static int64_t per_minute(const struct api_key *key)
{
    int64_t limit = key->limits.requests_per_minute;
    return limit > MAX_PER_MIN ? MAX_PER_MIN : limit;
}

/* What the bucket holds now. limit > 0. */
static int64_t drained_level(const struct key_state *st, int64_t limit, int64_t now_wall_ms)
{
    int64_t full = limit * MINUTE_MS, level = st->level;
    int64_t elapsed = now_wall_ms - st->drained_at;
    if (level > full) /* the limit was lowered */
        level = full;
    if (elapsed <= 0) /* the clock went back: do not drain */
        return level;
    if (elapsed >= MINUTE_MS || elapsed * limit >= level)
        return 0;
    return level - elapsed * limit;
}

static int refuse_minute(struct err *err, int64_t limit, int64_t wait_ms)
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
    if (err)
        err->retry_after_s = (int)wait_s;
    return -1;
}

static int check_minute(const struct key_state *st, int64_t limit, int64_t now_wall_ms,
                        struct err *err)
{
    if (limit < 0)
        return 0;
    if (limit == 0)
        return refuse_minute(err, limit, MINUTE_MS);
    int64_t over = drained_level(st, limit, now_wall_ms) + MINUTE_MS - limit * MINUTE_MS;
    return over <= 0 ? 0 : refuse_minute(err, limit, div_up(over, limit));
}

static const char *day_end(const struct key_state *st, char out[CLOCK_RFC3339_SIZE])
{
    return clock_rfc3339((st->day + 1) * DAY_MS, out);
}

static int check_day(const struct key_state *st, const struct key_limits *lim, int64_t estimate,
                     struct err *err)
{
    char end[CLOCK_RFC3339_SIZE];
    if (lim->requests_per_day >= 0 && st->requests >= lim->requests_per_day)
        return err_set(err, ERR_QUOTA,
                       "The limit of %lld requests per day is reached; it resets at %s.",
                       (long long)lim->requests_per_day, day_end(st, end));
    if (lim->tokens_per_day < 0)
        return 0;
    if (st->tokens_used >= lim->tokens_per_day)
        return err_set(err, ERR_QUOTA,
                       "The limit of %lld tokens per day is reached; it resets at %s.",
                       (long long)lim->tokens_per_day, day_end(st, end));
    int64_t unused = lim->tokens_per_day - st->tokens_used;
    int64_t left = unused - st->tokens_reserved; /* < 0 when a request used more than reserved */
    if (estimate <= left)
        return 0;
    if (left < 0)
        left = 0;
    return err_set(err, ERR_QUOTA,
                   "This request may need %lld tokens, but %lld of the limit of %lld tokens per "
                   "day remain (%lld more are reserved by running requests); it resets at %s.",
                   (long long)estimate, (long long)left, (long long)lim->tokens_per_day,
                   (long long)(unused - left), day_end(st, end));
}

int limit_acquire(struct limits *l, const struct api_key *key, int64_t tokens_estimate,
                  int64_t now_wall_ms, struct limit_ticket *ret_ticket, struct err *err)
{
    BUG_ON(tokens_estimate < 0);
    struct key_state *st = get_state(l, key->id, now_wall_ms);
    int64_t limit = per_minute(key);
    /* The day first: "try again in 6 s" would be untrue when the day is spent. */
    if (check_day(st, &key->limits, tokens_estimate, err) != 0 ||
        check_minute(st, limit, now_wall_ms, err) != 0)
        return -1;
    st->level = limit > 0 ? drained_level(st, limit, now_wall_ms) + MINUTE_MS : 0;
    st->drained_at = now_wall_ms;
    st->requests = add_saturated(st->requests, 1);
    st->tokens_reserved = add_saturated(st->tokens_reserved, tokens_estimate);
    *ret_ticket =
        (struct limit_ticket){.reserved_tokens = tokens_estimate, .day = st->day, .held = true};
    memcpy(ret_ticket->api_key_id, st->id, sizeof(st->id));
    return 0;
}

void limit_settle(struct limits *l, struct limit_ticket *ticket, int64_t tokens_used)
{
    BUG_ON(!ticket->held || tokens_used < 0);
    ticket->held = false;
    struct key_state *st = find_state(l, ticket->api_key_id);
    if (!st || st->day != ticket->day)
        return;
    /* Less can be reserved than this ticket took only after the clock went away and came back. */
    st->tokens_reserved = st->tokens_reserved > ticket->reserved_tokens
                              ? st->tokens_reserved - ticket->reserved_tokens
                              : 0;
    st->tokens_used = add_saturated(st->tokens_used, tokens_used);
}

void limit_restore(struct limits *l, const char *api_key_id, int64_t requests, int64_t tokens,
                   int64_t now_wall_ms)
{
    BUG_ON(requests < 0 || tokens < 0);
    struct key_state *st = get_state(l, api_key_id, now_wall_ms);
    st->requests = add_saturated(st->requests, requests);
    st->tokens_used = add_saturated(st->tokens_used, tokens);
}

static struct limit_view view_minute(const struct key_state *st, int64_t limit, int64_t now_wall_ms)
{
    if (limit < 0)
        return (struct limit_view){-1, -1, 0};
    int64_t level = limit > 0 ? drained_level(st, limit, now_wall_ms) : 0;
    return (struct limit_view){.limit = limit,
                               .remaining = limit - div_up(level, MINUTE_MS),
                               .reset_s = limit > 0 ? div_up(div_up(level, limit), 1000) : 0};
}

static struct limit_view view_day(int64_t limit, int64_t spent, int64_t reset_s)
{
    if (limit < 0)
        return (struct limit_view){-1, -1, 0};
    return (struct limit_view){
        .limit = limit, .remaining = spent < limit ? limit - spent : 0, .reset_s = reset_s};
}

void limit_view(struct limits *l, const struct api_key *key, int64_t now_wall_ms,
                struct limit_view *ret_minute, struct limit_view *ret_day_requests,
                struct limit_view *ret_day_tokens)
{
    struct key_state *found = find_state(l, key->id), st = {.day = day_of(now_wall_ms)};
    if (found) {
        st = *found; /* looking changes nothing */
        roll_day(&st, now_wall_ms);
    }
    int64_t reset_s = div_up((st.day + 1) * DAY_MS - now_wall_ms, 1000);
    *ret_minute = view_minute(&st, per_minute(key), now_wall_ms);
    *ret_day_requests = view_day(key->limits.requests_per_day, st.requests, reset_s);
    *ret_day_tokens = view_day(key->limits.tokens_per_day,
                               add_saturated(st.tokens_used, st.tokens_reserved), reset_s);
}
