/* limits.c - what a decision about limits costs: `bench-limits memory`, `bench-limits redis URL`.
 *
 * A thousand keys in turn, each with all six limits. Every decision is timed by itself, and after
 * it, in the same loop, the smallest thing of its kind: in memory a look at a hash table with the
 * same keys, with Redis a GET of a name that is not there, over the same connection. One line of
 * JSON: nanoseconds (median, 99th of a hundred, mean) and decisions per second with 64 waiting.
 */
#include "core/clock.h"
#include "core/log.h"
#include "limit/limit.h"

#define HASH_FUNCTION HASH_FNV
#include <uthash.h>

#define KEYS         1000
#define MEMORY_TURNS 200000
#define REDIS_TURNS  20000
#define AT_ONCE      64
#define READY_MS     5000

struct entry {
    char id[ID_UUID_SIZE];
    UT_hash_handle hh;
};

static struct loop *loop;
static struct shared *shared;
static struct limits *limits;
static struct api_key keys[KEYS];
static struct entry entries[KEYS], *table;
static volatile uintptr_t seen; /* so that the look is not left out */

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static int by_size(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void print_times(const char *name, int64_t *ns, size_t count)
{
    int64_t sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += ns[i];
    qsort(ns, count, sizeof(*ns), by_size);
    printf("\"%s\":{\"median\":%lld,\"p99\":%lld,\"mean\":%lld}", name, (long long)ns[count / 2],
           (long long)ns[count / 100 * 99], (long long)(sum / (int64_t)count));
}

static void make_keys(void)
{
    const int64_t plenty = INT64_C(1000000000000);
    for (int i = 0; i < KEYS; i++) {
        snprintf(keys[i].id, sizeof(keys[i].id), "%08d-1111-7111-8111-111111111111", i);
        keys[i].limits = (struct key_limits){.requests_per_minute = 1000000,
                                             .requests_per_day = plenty,
                                             .tokens_per_day = plenty,
                                             .max_concurrent = 1000,
                                             .cost_per_day = plenty,
                                             .cost_per_month = plenty};
        memcpy(entries[i].id, keys[i].id, sizeof(entries[i].id));
        HASH_ADD_STR(table, id, &entries[i]);
    }
}

/* --- one after the other ------------------------------------------------------------------- */

static bool answered;

static void on_decided(void *ctx, const struct limit_views *views, const struct err *err)
{
    (void)ctx;
    (void)views;
    BUG_ON(err); /* the limits are wide */
    answered = true;
    loop_stop(loop);
}

static void on_got(void *ctx, struct str value, const struct err *err)
{
    (void)ctx;
    BUG_ON(err || value.p);
    answered = true;
    loop_stop(loop);
}

static void wait_answer(void)
{
    while (!answered)
        loop_run(loop);
    answered = false;
}

static int64_t time_decision(int turn)
{
    const struct limit_need need = {.tokens = 4096, .cost = 60000000};
    struct limit_ticket ticket = {0};
    int64_t from = now_ns();
    limit_acquire(limits, &keys[turn % KEYS], &need, &ticket, on_decided, NULL);
    wait_answer();
    int64_t took = now_ns() - from;
    limit_settle(limits, &ticket, 500, 7500000);
    return took;
}

static int64_t time_lookup(int turn)
{
    struct entry *e;
    int64_t from = now_ns();
    HASH_FIND_STR(table, keys[turn % KEYS].id, e);
    seen += (uintptr_t)e;
    return now_ns() - from;
}

static int64_t time_get(void)
{
    int64_t from = now_ns();
    shared_cache_get(shared, "nothing", on_got, NULL);
    wait_answer();
    return now_ns() - from;
}

static void one_by_one(int turns, bool remote)
{
    int64_t *ours = x_calloc((size_t)turns, sizeof(*ours));
    int64_t *least = x_calloc((size_t)turns, sizeof(*least));
    for (int i = -turns / 10; i < turns; i++) { /* the first tenth warms up */
        int64_t a = time_decision(i + turns), b = remote ? time_get() : time_lookup(i + turns);
        if (i >= 0) {
            ours[i] = a;
            least[i] = b;
        }
    }
    print_times("decision", ours, (size_t)turns);
    putchar(',');
    print_times("least", least, (size_t)turns);
    free(ours);
    free(least);
}

/* --- many at once -------------------------------------------------------------------------- */

static struct limit_ticket tickets[AT_ONCE];
static int begun, ended;

static void on_one_of_many(void *ctx, const struct limit_views *views, const struct err *err)
{
    struct limit_ticket *ticket = ctx;
    const struct limit_need need = {.tokens = 4096, .cost = 60000000};
    (void)views;
    BUG_ON(err);
    limit_settle(limits, ticket, 500, 7500000);
    if (++ended == REDIS_TURNS)
        loop_stop(loop);
    else if (begun < REDIS_TURNS)
        limit_acquire(limits, &keys[begun++ % KEYS], &need, ticket, on_one_of_many, ticket);
}

static void many_at_once(void)
{
    const struct limit_need need = {.tokens = 4096, .cost = 60000000};
    int64_t from = now_ns();
    for (int i = 0; i < AT_ONCE; i++)
        limit_acquire(limits, &keys[begun++ % KEYS], &need, &tickets[i], on_one_of_many,
                      &tickets[i]);
    while (ended < REDIS_TURNS)
        loop_run(loop);
    printf(",\"per_second\":%.0f", REDIS_TURNS * 1e9 / (double)(now_ns() - from));
}

/* --- life ---------------------------------------------------------------------------------- */

static void on_up(void *ctx, bool up)
{
    (void)ctx;
    (void)up;
    loop_stop(loop);
}

static void on_late(void *obj)
{
    (void)obj;
    fprintf(stderr, "bench-limits: Redis does not answer\n");
    exit(1);
}

static void wait_up(void)
{
    struct timer late = {0};
    timer_init(&late, loop, on_late, NULL);
    timer_set(&late, READY_MS);
    shared_watch(shared, on_up, NULL);
    while (!shared_is_up(shared))
        loop_run(loop);
    shared_unwatch(shared, on_up, NULL);
    timer_release(&late);
}

int main(int argc, char **argv)
{
    bool remote = argc == 3 && strcmp(argv[1], "redis") == 0;
    struct shared_opts so = {
        .url = remote ? argv[2] : NULL, .prefix = "bench:", .timeout_ms = 1000};
    struct limits_opts lo = {.away = LIMIT_AWAY_CLOSED};
    struct err err;
    if (!remote && (argc != 2 || strcmp(argv[1], "memory") != 0)) {
        fprintf(stderr, "usage: bench-limits memory | bench-limits redis URL\n");
        return 2;
    }
    id_init();
    make_keys();
    lo.loop = loop = loop_new();
    lo.shared = shared = shared_open(loop, &so, &err);
    if (!shared) {
        fprintf(stderr, "bench-limits: %s\n", err.msg);
        return 1;
    }
    if (remote)
        wait_up();
    limits = limits_new(&lo);
    putchar('{');
    one_by_one(remote ? REDIS_TURNS : MEMORY_TURNS, remote);
    if (remote)
        many_at_once();
    puts("}");
    limits_free(limits);
    shared_close(shared);
    HASH_CLEAR(hh, table);
    loop_free(loop);
    return 0;
}
