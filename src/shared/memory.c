/* memory.c - buckets in this process: one hash table of groups, one of tickets.
 *
 * Rates are GCRA in its "continuous-state leaky bucket" form
 * (https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm), in whole numbers so that nothing is
 * rounded. One request adds period_ms units, the bucket drains `limit` units per millisecond and
 * holds limit * period_ms. The level counts requests, not time: a limit that is raised frees the
 * difference at once.
 *
 * Rates and windows follow the wall clock, which may step; a ticket lasts by the monotonic one. A
 * group's tickets are in the order of their ends, so expired ones stand in front. The scripts
 * (*.lua) do the same in Redis; what one of them changes the other must, too: the contract suite
 * runs a model against both.
 *
 * A group exists per key that was ever admitted: the table is as large as the table of keys. */
#include "shared/memory.h"

#include "core/clock.h"

#define HASH_FUNCTION HASH_FNV /* names are ours; the default warns under clang */
#include <uthash.h>

#define CACHE_BYTES ((size_t)64 << 20)

struct slot { /* one bucket of a group */
    char name[8];
    int64_t level, drained_at;      /* rates */
    int64_t window_end, used, held; /* counters */
};

struct group {
    char name[SHARED_NAME_MAX + 1];
    struct slot slots[SHARED_BUCKETS_MAX];
    size_t slot_count;
    struct list tickets;
    UT_hash_handle hh;
};

struct ticket_key {
    struct group *group;
    char id[SHARED_NAME_MAX + 1];
};

struct ticket {
    struct ticket_key key;
    struct node node;
    int64_t ends_at; /* monotonic ms */
    struct {
        struct slot *slot;
        int64_t window_end, amount;
    } holds[SHARED_BUCKETS_MAX];
    size_t hold_count;
    UT_hash_handle hh;
};

static struct memory *memory_of(struct shared *s)
{
    return container_of(s, struct memory, common);
}

static int64_t div_up(int64_t a, int64_t b)
{
    return a <= 0 ? 0 : (a - 1) / b + 1;
}

static int64_t clamp(int64_t v)
{
    return v < 0 ? 0 : v > SHARED_AMOUNT_MAX ? SHARED_AMOUNT_MAX : v;
}

/* --- groups, slots, tickets -------------------------------------------------------------- */

static struct group *get_group(struct memory *m, const char *name)
{
    struct group *g;
    HASH_FIND_STR(m->groups, name, g);
    if (!g) {
        g = x_calloc(1, sizeof(*g));
        snprintf(g->name, sizeof(g->name), "%s", name);
        list_init(&g->tickets);
        HASH_ADD_STR(m->groups, name, g);
    }
    return g;
}

static struct slot *get_slot(struct group *g, const char *name)
{
    for (size_t i = 0; i < g->slot_count; i++) {
        if (strcmp(g->slots[i].name, name) == 0)
            return &g->slots[i];
    }
    BUG_ON(g->slot_count == SHARED_BUCKETS_MAX);
    struct slot *slot = &g->slots[g->slot_count++];
    snprintf(slot->name, sizeof(slot->name), "%s", name);
    return slot;
}

static struct ticket_key ticket_key(struct group *g, const char *id)
{
    struct ticket_key key;
    memset(&key, 0, sizeof(key)); /* with the padding: it is hashed as bytes */
    key.group = g;
    snprintf(key.id, sizeof(key.id), "%s", id);
    return key;
}

static struct ticket *find_ticket(struct memory *m, struct group *g, const char *id)
{
    struct ticket_key key = ticket_key(g, id);
    struct ticket *t;
    HASH_FIND(hh, m->tickets, &key, sizeof(key), t);
    return t;
}

/* Into the list by its end. All last equally long as a rule, so this looks at one other. */
static void file_ticket(struct group *g, struct ticket *t, int64_t ticket_ms)
{
    t->ends_at = clock_mono_ms() + ticket_ms;
    struct node *at = &g->tickets.head;
    while (at->prev != &g->tickets.head &&
           container_of(at->prev, struct ticket, node)->ends_at > t->ends_at)
        at = at->prev;
    list_insert_(&g->tickets, at, &t->node);
}

static struct ticket *add_ticket(struct memory *m, struct group *g, const char *id,
                                 int64_t ticket_ms)
{
    struct ticket *t = x_calloc(1, sizeof(*t));
    t->key = ticket_key(g, id);
    HASH_ADD(hh, m->tickets, key, sizeof(t->key), t);
    file_ticket(g, t, ticket_ms);
    return t;
}

static void renew_ticket(struct memory *m, struct group *g, const char *id, int64_t ticket_ms)
{
    struct ticket *t = find_ticket(m, g, id);
    if (!t) {
        add_ticket(m, g, id, ticket_ms);
        return;
    }
    list_remove(&g->tickets, &t->node);
    file_ticket(g, t, ticket_ms);
}

static void end_ticket(struct memory *m, struct ticket *t)
{
    for (size_t i = 0; i < t->hold_count; i++) {
        struct slot *slot = t->holds[i].slot;
        if (slot->window_end == t->holds[i].window_end)
            slot->held = clamp(slot->held - t->holds[i].amount);
    }
    list_remove(&t->key.group->tickets, &t->node);
    HASH_DEL(m->tickets, t);
    free(t);
}

static void end_expired(struct memory *m, struct group *g)
{
    int64_t now = clock_mono_ms();
    struct node *n;
    while ((n = list_first(&g->tickets))) {
        struct ticket *t = container_of(n, struct ticket, node);
        if (t->ends_at > now)
            return;
        end_ticket(m, t);
    }
}

/* --- counters ---------------------------------------------------------------------------- */

/* Which window `now` is in: its end, and the end up to which a counter that is ahead may be. */
static int64_t window_at(const int64_t window[3], int64_t now, int64_t *ret_next)
{
    size_t i = now < window[0] ? 0 : now < window[1] ? 1 : 2;
    *ret_next = window[i < 2 ? i + 1 : 2];
    return window[i];
}

static void begin_window(struct slot *slot, int64_t window_end)
{
    slot->window_end = window_end;
    slot->used = slot->held = 0;
}

/* A counter is one window ahead when the clock has stepped back over its beginning: it goes on
 * there, so that there is no second allowance. One that is further ahead is of a wrong clock. */
static void roll(struct slot *slot, const int64_t window[3], int64_t now)
{
    int64_t next, end = window_at(window, now, &next);
    if (slot->window_end < end || slot->window_end > next)
        begin_window(slot, end);
}

/* --- rates ------------------------------------------------------------------------------- */

/* What the bucket holds now. limit > 0. */
static int64_t drained_level(const struct slot *slot, const struct shared_bucket *b, int64_t now)
{
    int64_t full = b->limit * b->period_ms, level = slot->level;
    int64_t elapsed = now - slot->drained_at;
    if (level > full) /* the limit was lowered */
        level = full;
    if (elapsed <= 0) /* the clock went back: do not drain */
        return level;
    if (elapsed >= b->period_ms || elapsed * b->limit >= level)
        return 0;
    return level - elapsed * b->limit;
}

/* --- taking ------------------------------------------------------------------------------ */

/* Milliseconds until it could work; 0: it would now. -1: it would not, who knows until when. */
static int64_t wait_for(const struct group *g, struct slot *slot, const struct shared_bucket *b,
                        int64_t now)
{
    if (b->limit < 0)
        return 0;
    if (b->kind == SHARED_TICKETS)
        return (int64_t)g->tickets.len < b->limit ? 0 : -1;
    if (b->kind == SHARED_COUNTER) {
        bool fits =
            slot->used < b->limit && slot->used + slot->held + b->spend + b->hold <= b->limit;
        int64_t left = slot->window_end - now;
        return fits ? 0 : left > 0 ? left : 1;
    }
    if (b->limit == 0)
        return b->period_ms;
    int64_t over = drained_level(slot, b, now) + b->period_ms - b->limit * b->period_ms;
    return over <= 0 ? 0 : div_up(over, b->limit);
}

static void take_one(struct slot *slot, struct ticket *t, const struct shared_bucket *b,
                     int64_t now)
{
    if (b->kind == SHARED_RATE) {
        slot->level = b->limit > 0 ? drained_level(slot, b, now) + b->period_ms : 0;
        slot->drained_at = now;
    } else if (b->kind == SHARED_COUNTER) {
        slot->used = clamp(slot->used + b->spend);
        slot->held = clamp(slot->held + b->hold);
        if (b->hold) {
            t->holds[t->hold_count].slot = slot;
            t->holds[t->hold_count].window_end = slot->window_end;
            t->holds[t->hold_count++].amount = b->hold;
        }
    }
}

static void tell_level(const struct group *g, const struct slot *slot,
                       const struct shared_bucket *b, int64_t now, struct shared_level *out)
{
    *out = (struct shared_level){.remaining = -1};
    if (b->kind == SHARED_TICKETS) {
        out->used = (int64_t)g->tickets.len;
        out->remaining = b->limit < 0 ? -1 : clamp(b->limit - out->used);
    } else if (b->kind == SHARED_COUNTER) {
        out->used = slot->used;
        out->held = slot->held;
        out->window_end = slot->window_end;
        out->reset_ms = clamp(slot->window_end - now);
        out->remaining = b->limit < 0 ? -1 : clamp(b->limit - slot->used - slot->held);
    } else if (b->limit >= 0) {
        int64_t level = b->limit ? drained_level(slot, b, now) : 0;
        out->remaining = b->limit - div_up(level, b->period_ms);
        out->reset_ms = b->limit ? div_up(level, b->limit) : 0;
    }
}

/* Who only looks gets copies, so that a counter does not begin a window by it. */
static void look_first(struct group *g, const struct shared_take *take,
                       struct slot *slots[SHARED_BUCKETS_MAX],
                       struct slot copies[SHARED_BUCKETS_MAX], struct shared_taken *out)
{
    out->admitted = true;
    for (size_t i = 0; i < take->count; i++) {
        const struct shared_bucket *b = &take->buckets[i];
        slots[i] = b->kind == SHARED_TICKETS ? NULL : get_slot(g, b->name);
        if (take->look && slots[i]) {
            copies[i] = *slots[i];
            slots[i] = &copies[i];
        }
        if (b->kind == SHARED_COUNTER)
            roll(slots[i], b->window, out->now_ms);
        int64_t wait_ms = wait_for(g, slots[i], b, out->now_ms);
        if (wait_ms != 0 && out->admitted && !take->look) {
            out->admitted = false;
            out->refused = i;
            out->retry_ms = wait_ms > 0 ? wait_ms : 0;
        }
    }
}

static void memory_take(struct shared *s, const struct shared_take *take, shared_take_fn *done,
                        void *ctx)
{
    struct memory *m = memory_of(s);
    struct group *g = get_group(m, take->group);
    struct slot *slots[SHARED_BUCKETS_MAX], copies[SHARED_BUCKETS_MAX];
    struct shared_taken out = {.now_ms = m->wall_ms()};
    end_expired(m, g);
    look_first(g, take, slots, copies, &out);
    if (out.admitted && !take->look) {
        struct ticket *t = take->ticket ? find_ticket(m, g, take->ticket) : NULL;
        if (t)
            end_ticket(m, t);
        t = take->ticket ? add_ticket(m, g, take->ticket, take->ticket_ms) : NULL;
        for (size_t i = 0; i < take->count; i++)
            take_one(slots[i], t, &take->buckets[i], out.now_ms);
    }
    for (size_t i = 0; i < take->count; i++)
        tell_level(g, slots[i], &take->buckets[i], out.now_ms, &out.levels[i]);
    done(ctx, &out, NULL);
}

static void use_one(struct slot *slot, const struct shared_use *u, int64_t now)
{
    if (u->kind == SHARED_RATE) {
        int64_t level = slot->level + u->add * u->period_ms;
        slot->level = level > 0 ? level : 0;
        return;
    }
    if (slot->window_end < u->window_end && now < u->window_end && u->add > 0)
        begin_window(slot, u->window_end);
    if (slot->window_end == u->window_end)
        slot->used = clamp(slot->used + u->add);
}

static void memory_adjust(struct shared *s, const char *group, const char *ticket,
                          const struct shared_use *uses, size_t count, shared_done_fn *done,
                          void *ctx)
{
    struct memory *m = memory_of(s);
    struct group *g = get_group(m, group);
    struct ticket *t = ticket ? find_ticket(m, g, ticket) : NULL;
    if (t)
        end_ticket(m, t);
    for (size_t i = 0; i < count; i++)
        use_one(get_slot(g, uses[i].name), &uses[i], m->wall_ms());
    done(ctx, NULL);
}

static void memory_renew(struct shared *s, const char *group, const char *const *tickets,
                         size_t count, int64_t ticket_ms, shared_done_fn *done, void *ctx)
{
    struct memory *m = memory_of(s);
    struct group *g = get_group(m, group);
    end_expired(m, g);
    for (size_t i = 0; i < count; i++)
        renew_ticket(m, g, tickets[i], ticket_ms);
    done(ctx, NULL);
}

static void memory_seed(struct shared *s, const char *group, const struct shared_seed *seeds,
                        size_t count, shared_done_fn *done, void *ctx)
{
    struct memory *m = memory_of(s);
    struct group *g = get_group(m, group);
    for (size_t i = 0; i < count; i++) {
        struct slot *slot = get_slot(g, seeds[i].name);
        roll(slot, seeds[i].window, m->wall_ms());
        if (slot->window_end == seeds[i].window[1] && slot->used < seeds[i].at_least)
            slot->used = seeds[i].at_least;
    }
    done(ctx, NULL);
}

/* --- life -------------------------------------------------------------------------------- */

static void memory_close(struct shared *s)
{
    struct memory *m = memory_of(s);
    struct ticket *t, *next_ticket;
    struct group *g, *next;
    HASH_ITER(hh, m->tickets, t, next_ticket)
    {
        HASH_DEL(m->tickets, t);
        free(t);
    }
    HASH_ITER(hh, m->groups, g, next)
    {
        HASH_DEL(m->groups, g);
        free(g);
    }
    memory_small_release(m);
    m->common.tag = 0;
    free(m);
}

static void memory_health(const struct shared *s, struct shared_health *ret_health)
{
    (void)s; /* what shared.c has filled in is all there is */
    (void)ret_health;
}

static const struct shared_ops memory_ops = {.close = memory_close,
                                             .health = memory_health,
                                             .take = memory_take,
                                             .adjust = memory_adjust,
                                             .renew = memory_renew,
                                             .seed = memory_seed,
                                             .lease = memory_lease,
                                             .nonce = memory_nonce,
                                             .publish = memory_publish,
                                             .cache_get = memory_cache_get,
                                             .cache_set = memory_cache_set,
                                             .cache_delete = memory_cache_delete};

struct shared *shared_memory_open(struct loop *loop, const struct shared_opts *opts)
{
    struct memory *m = x_calloc(1, sizeof(*m));
    shared_init(&m->common, &memory_ops, loop, false);
    m->wall_ms = opts->wall_ms ? opts->wall_ms : clock_wall_ms;
    m->cache_bytes = opts->cache_bytes ? opts->cache_bytes : CACHE_BYTES;
    memory_small_init(m);
    return &m->common;
}
