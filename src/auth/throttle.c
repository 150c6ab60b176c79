/* throttle.c - see the header.
 *
 * Of each place one number is kept: the time at which all its failures will be forgotten (GCRA).
 * A failure moves it on by a minute divided by max_failures; a place whose number is further away
 * than a minute less one step has to wait. Two lists would be one too many: places stand in the
 * order of their latest failure, and what is forgotten is found at the front. The table is bounded:
 * when it is full the place that was quiet longest is let go. */
#include "auth/throttle.h"

#include "core/clock.h"
#include "core/list.h"
#include "core/log.h"
#include "metrics/metrics.h"

#include <arpa/inet.h>
#define HASH_FUNCTION HASH_FNV /* the default warns in clang; MAX_PLACES bounds what collides */
#include <uthash.h>

#define THROTTLE_TAG TAG4('T', 'H', 'R', 'O')
#define COUNT_TAG    TAG4('T', 'C', 'N', 'T')
#define CHANNEL      "auth-wait"
#define PERIOD_MS    60000
#define MAX_PLACES   20000
#define MAX_COUNTS   1000  /* questions to Redis at once; past it only this server counts */
#define SAY_EVERY_MS 60000 /* of one place */
#define SAY_MOST     10    /* lines in that time: a flood from everywhere must not fill the log */

struct place {
    char name[THROTTLE_PLACE_SIZE];
    int64_t calm_us; /* monotonic: all its failures are forgotten */
    int64_t said_ms; /* in the log; 0 = not yet */
    struct node node;
    UT_hash_handle hh;
};

/* A failure on its way to Redis. */
struct count {
    uint32_t tag;
    struct throttle *t; /* NULL: throttle_free() came first */
    struct node node;
    char name[THROTTLE_PLACE_SIZE];
};

struct throttle {
    uint32_t tag;
    struct shared *shared;
    int64_t max, step_us;
    struct place *places;
    struct list by_failure, counts;
    int64_t said_since_ms;
    int said; /* since then, the unsaid ones included */
    struct shared_subscription *waits;
};

static struct metric throttled_places = {
    .name = "claudegate_auth_throttled_addresses_total",
    .help = "Times that an address had to wait after too many refused keys.",
    .type = METRIC_COUNTER};

const char *throttle_place(const char *address, char out[THROTTLE_PLACE_SIZE])
{
    struct in6_addr v6;
    char plain[THROTTLE_PLACE_SIZE], text[INET6_ADDRSTRLEN];
    snprintf(plain, sizeof(plain), "%.*s", (int)strcspn(address, "%"), address); /* no zone */
    if (inet_pton(AF_INET6, plain, &v6) != 1) {
        snprintf(out, THROTTLE_PLACE_SIZE, "%s", plain);
    } else if (IN6_IS_ADDR_V4MAPPED(&v6)) {
        inet_ntop(AF_INET, &v6.s6_addr[12], out, THROTTLE_PLACE_SIZE);
    } else {
        memset(&v6.s6_addr[8], 0, 8);
        inet_ntop(AF_INET6, &v6, text, sizeof(text));
        snprintf(out, THROTTLE_PLACE_SIZE, "%s/64", text);
    }
    return out;
}

static struct place *oldest(const struct throttle *t)
{
    struct node *n = list_first(&t->by_failure);
    return n ? container_of(n, struct place, node) : NULL;
}

static void place_free(struct throttle *t, struct place *p)
{
    HASH_DEL(t->places, p);
    list_remove(&t->by_failure, &p->node);
    free(p);
}

static struct place *place_find(const struct throttle *t, const char *name)
{
    struct place *p;
    HASH_FIND_STR(t->places, name, p);
    return p;
}

static struct place *place_get(struct throttle *t, const char *name)
{
    struct place *p = place_find(t, name), *old;
    if (p) {
        list_remove(&t->by_failure, &p->node);
        list_push_back(&t->by_failure, &p->node);
        return p;
    }
    while ((old = oldest(t)) &&
           (old->calm_us <= clock_mono_us() || t->by_failure.len >= MAX_PLACES))
        place_free(t, old);
    p = x_calloc(1, sizeof(*p));
    snprintf(p->name, sizeof(p->name), "%s", name);
    HASH_ADD_STR(t->places, name, p);
    list_push_back(&t->by_failure, &p->node);
    return p;
}

/* What a place whose failures are forgotten at calm_us has to wait. */
static int64_t wait_us(const struct throttle *t, int64_t calm_us)
{
    int64_t wait = calm_us + t->step_us - PERIOD_MS * INT64_C(1000) - clock_mono_us();
    return wait > 0 ? wait : 0;
}

static void say(struct throttle *t, struct place *p, int64_t wait)
{
    int64_t now = clock_mono_ms();
    if (p->said_ms && now - p->said_ms < SAY_EVERY_MS)
        return;
    p->said_ms = now;
    metric_add(&throttled_places, 1);
    if (now - t->said_since_ms >= SAY_EVERY_MS) {
        if (t->said > SAY_MOST)
            log_warn("more addresses had to wait", LF_I("addresses", t->said - SAY_MOST));
        t->said_since_ms = now;
        t->said = 0;
    }
    if (t->said++ < SAY_MOST)
        log_warn("too many refused keys from an address, it has to wait", LF_S("address", p->name),
                 LF_I("wait_ms", wait / 1000));
}

/* A wait that was decided elsewhere: never shortens one. */
static void make_wait(struct throttle *t, const char *name, int64_t wait_ms)
{
    struct place *p = place_get(t, name);
    int64_t most = PERIOD_MS * INT64_C(1000);
    int64_t us = wait_ms < PERIOD_MS ? wait_ms * 1000 : most;
    int64_t calm = clock_mono_us() + most - t->step_us + us;
    if (calm > p->calm_us)
        p->calm_us = calm;
    if (us > 0)
        say(t, p, us);
}

static void on_wait(void *ctx, struct str payload, bool missed)
{
    struct throttle *t = OBJ(ctx, struct throttle, THROTTLE_TAG);
    char name[THROTTLE_PLACE_SIZE];
    uint64_t ms;
    struct str rest = payload;
    if (missed || !str_to_u64(str_split(&rest, ' '), &ms) || ms > PERIOD_MS || rest.len == 0 ||
        rest.len >= sizeof(name))
        return;
    snprintf(name, sizeof(name), "%.*s", (int)rest.len, rest.p);
    make_wait(t, name, (int64_t)ms);
}

/* With none left the next one would be refused: wait until one is back. */
static int64_t wait_of(const struct throttle *t, const struct shared_taken *taken)
{
    if (!taken->admitted)
        return taken->retry_ms;
    if (taken->levels[0].remaining > 0)
        return 0;
    int64_t ms = taken->levels[0].reset_ms - PERIOD_MS + t->step_us / 1000;
    return ms > 1 ? ms : 1;
}

static void on_counted(void *ctx, const struct shared_taken *taken, const struct err *err)
{
    struct count *c = OBJ(ctx, struct count, COUNT_TAG);
    struct throttle *t = c->t;
    int64_t ms = t && !err ? wait_of(t, taken) : 0;
    if (t)
        list_remove(&t->counts, &c->node);
    if (ms > 0) {
        char text[THROTTLE_PLACE_SIZE + 24];
        snprintf(text, sizeof(text), "%lld %s", (long long)ms, c->name);
        make_wait(t, c->name, ms);
        shared_publish(t->shared, CHANNEL, str_c(text), NULL, NULL);
    }
    free(c);
}

static void count_with_others(struct throttle *t, const char *name)
{
    char group[SHARED_NAME_MAX + 1];
    if (!shared_is_remote(t->shared) || t->counts.len >= MAX_COUNTS)
        return;
    struct count *c = x_calloc(1, sizeof(*c));
    *c = (struct count){.tag = COUNT_TAG, .t = t};
    snprintf(c->name, sizeof(c->name), "%s", name);
    list_push_back(&t->counts, &c->node);
    snprintf(group, sizeof(group), "auth:%s", name);
    const struct shared_bucket bucket = {
        .kind = SHARED_RATE, .name = "fail", .limit = t->max, .period_ms = PERIOD_MS};
    const struct shared_take take = {.group = group, .buckets = &bucket, .count = 1};
    shared_take(t->shared, &take, on_counted, c);
}

int64_t throttle_wait_ms(struct throttle *t, const char *address)
{
    char name[THROTTLE_PLACE_SIZE];
    if (t->max == 0 || !t->places)
        return 0;
    const struct place *p = place_find(t, throttle_place(address, name));
    return p ? (wait_us(t, p->calm_us) + 999) / 1000 : 0;
}

void throttle_failed(struct throttle *t, const char *address)
{
    char name[THROTTLE_PLACE_SIZE];
    if (t->max == 0)
        return;
    struct place *p = place_get(t, throttle_place(address, name));
    int64_t now = clock_mono_us(), most = now + PERIOD_MS * INT64_C(1000);
    int64_t calm = (p->calm_us > now ? p->calm_us : now) + t->step_us;
    p->calm_us = calm < most ? calm : most; /* those that were tried at once end with one wait */
    int64_t wait = wait_us(t, p->calm_us);
    if (wait > 0)
        say(t, p, wait);
    count_with_others(t, name);
}

struct throttle *throttle_new(struct shared *shared, int64_t max_failures)
{
    struct throttle *t = x_calloc(1, sizeof(*t));
    t->tag = THROTTLE_TAG;
    t->shared = shared;
    t->max = max_failures;
    t->step_us = max_failures ? PERIOD_MS * INT64_C(1000) / max_failures : 0;
    list_init(&t->by_failure);
    list_init(&t->counts);
    metric_register(&throttled_places);
    t->waits = shared_subscribe(shared, CHANNEL, on_wait, t);
    return t;
}

void throttle_free(struct throttle *t)
{
    struct node *n;
    struct place *p;
    if (!t)
        return;
    shared_unsubscribe(t->shared, t->waits);
    while ((n = list_pop_front(&t->counts)))
        container_of(n, struct count, node)->t = NULL;
    while ((p = oldest(t)))
        place_free(t, p);
    t->tag = 0;
    free(t);
}
