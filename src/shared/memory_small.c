/* memory_small.c - leases, nonces, cached values and messages in this process.
 *
 * A table holds entries that end by the monotonic clock. Whether one still counts is looked at when
 * it is found; what has ended is freed from the oldest on, a few with every call. Each table is
 * bounded: the cache forgets its oldest then, the others refuse, because what they know must not be
 * forgotten. */
#include "shared/memory.h"

#include "core/clock.h"

#define HASH_FUNCTION                                                          \
    HASH_FNV /* the default warns under clang; see MAX_* for who may fill them \
              */
#include <uthash.h>

#define MAX_LEASES   100000
#define MAX_NONCES   1000000
#define MAX_MESSAGES 10000
#define SWEEP        4 /* ended entries freed per call; more than one call adds */

struct entry {
    char *name;
    struct node node;
    int64_t ends_at; /* monotonic ms */
    bool wanted;     /* leases */
    char *value;     /* leases: the holder */
    size_t len;
    UT_hash_handle hh;
};

struct message {
    struct node node;
    struct str channel, payload;
    char bytes[];
};

static struct memory *memory_of(struct shared *s)
{
    return container_of(s, struct memory, common);
}

/* --- tables ------------------------------------------------------------------------------ */

/* What it takes, and not what its value takes: a million empty values are not nothing. */
static size_t entry_bytes(const struct entry *e)
{
    return sizeof(*e) + strlen(e->name) + e->len;
}

static void drop(struct table *t, struct entry *e)
{
    HASH_DEL(t->entries, e);
    list_remove(&t->by_age, &e->node);
    t->bytes -= entry_bytes(e);
    free(e->name);
    free(e->value);
    free(e);
}

static struct entry *oldest(const struct table *t)
{
    struct node *n = list_first(&t->by_age);
    return n ? container_of(n, struct entry, node) : NULL;
}

static void sweep(struct table *t)
{
    int64_t now = clock_mono_ms();
    struct entry *e;
    for (int i = 0; i < SWEEP && (e = oldest(t)) && e->ends_at <= now; i++)
        drop(t, e);
}

/* NULL when it is not there or has ended. */
static struct entry *find(struct table *t, const char *name)
{
    struct entry *e;
    sweep(t);
    HASH_FIND_STR(t->entries, name, e);
    if (e && e->ends_at <= clock_mono_ms()) {
        drop(t, e);
        e = NULL;
    }
    return e;
}

static struct entry *add(struct table *t, const char *name, struct str value)
{
    struct entry *e = x_calloc(1, sizeof(*e));
    e->name = x_strdup(name);
    e->value = str_dup(value);
    e->len = value.len;
    HASH_ADD_KEYPTR(hh, t->entries, e->name, strlen(e->name), e);
    list_push_back(&t->by_age, &e->node);
    t->bytes += entry_bytes(e);
    return e;
}

/* The end moved: the order in which they are freed is roughly that of their ends. */
static void last_until(struct table *t, struct entry *e, int64_t ttl_ms)
{
    e->ends_at = clock_mono_ms() + ttl_ms;
    list_remove(&t->by_age, &e->node);
    list_push_back(&t->by_age, &e->node);
}

static void free_table(struct table *t)
{
    struct entry *e;
    while ((e = oldest(t)))
        drop(t, e);
}

/* --- leases ------------------------------------------------------------------------------ */

static void ask_for(struct memory *m, struct entry *e)
{
    AUTO(free_charp) char *text = x_printf("%s %s", e->value, e->name);
    e->wanted = true;
    shared_publish(&m->common, SHARED_LEASE_CHANNEL, str_c(text), NULL, NULL);
}

void memory_lease(struct shared *s, enum shared_lease_op op, const char *name, const char *owner,
                  int64_t ttl_ms, shared_lease_fn *done, void *ctx)
{
    struct memory *m = memory_of(s);
    struct entry *e = find(&m->leases, name);
    struct shared_lease out = {0};
    bool mine = e && strcmp(e->value, owner) == 0;
    struct err err;
    if (!e && op == SHARED_LEASE_ACQUIRE) {
        if (m->leases.by_age.len >= MAX_LEASES) {
            err_set(&err, ERR_OVERLOADED, "too many leases");
            done(ctx, NULL, &err);
            return;
        }
        e = add(&m->leases, name, str_c(owner));
        mine = true;
    }
    if (mine && op == SHARED_LEASE_RELEASE) {
        drop(&m->leases, e);
        e = NULL;
    } else if (mine && op != SHARED_LEASE_WANT) {
        last_until(&m->leases, e, ttl_ms);
    } else if (e && !mine && op == SHARED_LEASE_WANT) {
        ask_for(m, e);
    }
    if (e) {
        out.mine = mine;
        out.wanted = e->wanted;
        snprintf(out.holder, sizeof(out.holder), "%s", e->value);
    }
    done(ctx, &out, NULL);
}

/* --- nonces ------------------------------------------------------------------------------ */

void memory_nonce(struct shared *s, const char *value, int64_t ttl_ms, shared_nonce_fn *done,
                  void *ctx)
{
    struct memory *m = memory_of(s);
    bool seen = find(&m->nonces, value) != NULL;
    struct err err;
    if (!seen && m->nonces.by_age.len >= MAX_NONCES) {
        err_set(&err, ERR_OVERLOADED, "too many nonces");
        done(ctx, false, &err);
        return;
    }
    if (!seen)
        last_until(&m->nonces, add(&m->nonces, value, STR("")), ttl_ms);
    done(ctx, !seen, NULL);
}

/* --- cached values ------------------------------------------------------------------------ */

void memory_cache_get(struct shared *s, const char *name, shared_value_fn *done, void *ctx)
{
    struct entry *e = find(&memory_of(s)->cache, name);
    done(ctx, e ? str_n(e->value, e->len) : str_n(NULL, 0), NULL);
}

void memory_cache_set(struct shared *s, const char *name, struct str value, int64_t ttl_ms,
                      shared_done_fn *done, void *ctx)
{
    struct table *t = &memory_of(s)->cache;
    struct entry *e = find(t, name);
    if (e)
        drop(t, e);
    last_until(t, add(t, name, value), ttl_ms);
    while (t->bytes > memory_of(s)->cache_bytes && (e = oldest(t)))
        drop(t, e);
    done(ctx, NULL);
}

void memory_cache_delete(struct shared *s, const char *name, shared_done_fn *done, void *ctx)
{
    struct table *t = &memory_of(s)->cache;
    struct entry *e = find(t, name);
    if (e)
        drop(t, e);
    done(ctx, NULL);
}

/* --- messages ----------------------------------------------------------------------------- */

static void on_deliver(void *obj)
{
    struct memory *m = memory_of(OBJ(obj, struct shared, SHARED_TAG));
    struct node *node;
    for (size_t n = m->messages.len; n > 0 && (node = list_pop_front(&m->messages)); n--) {
        struct message *msg = container_of(node, struct message, node);
        shared_deliver(&m->common, msg->channel, msg->payload);
        free(msg);
    }
    if (m->messages.len)
        timer_set(&m->deliver, 0);
}

void memory_publish(struct shared *s, const char *channel, struct str payload, shared_done_fn *done,
                    void *ctx)
{
    struct memory *m = memory_of(s);
    size_t n = strlen(channel);
    struct err err;
    if (m->messages.len >= MAX_MESSAGES) {
        err_set(&err, ERR_OVERLOADED, "too many messages wait");
        done(ctx, &err);
        return;
    }
    struct message *msg = x_calloc(1, sizeof(*msg) + n + payload.len);
    memcpy(msg->bytes, channel, n);
    if (payload.len)
        memcpy(msg->bytes + n, payload.p, payload.len);
    msg->channel = str_n(msg->bytes, n);
    msg->payload = str_n(msg->bytes + n, payload.len);
    list_push_back(&m->messages, &msg->node);
    if (!timer_pending(&m->deliver))
        timer_set(&m->deliver, 0);
    done(ctx, NULL);
}

/* --- life -------------------------------------------------------------------------------- */

void memory_small_init(struct memory *m)
{
    list_init(&m->leases.by_age);
    list_init(&m->nonces.by_age);
    list_init(&m->cache.by_age);
    list_init(&m->messages);
    timer_init(&m->deliver, m->common.loop, on_deliver, &m->common);
}

void memory_small_release(struct memory *m)
{
    struct node *n;
    free_table(&m->leases);
    free_table(&m->nonces);
    free_table(&m->cache);
    while ((n = list_pop_front(&m->messages)))
        free(container_of(n, struct message, node));
    timer_release(&m->deliver);
}
