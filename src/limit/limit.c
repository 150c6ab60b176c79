/* limit.c - reservations: asked for, held, renewed, given back.
 *
 *   limit_acquire -> pending -> held -> settled
 *                       |  \-> refused
 *                       \----> cancelled: given back when the answer comes
 *
 * With a remote store each key that has asked for something here is a "spender": its holds, which
 * a timer renews, and what the store last said of its counters. Should the store go away, the
 * policy "share" opens a store in this process' memory: it begins with what is known, and its
 * limits are this server's part. It is thrown away when the real one is back. What was used
 * meanwhile is told as requests end (their tickets included, so that those still running count
 * again), and what has ended before is in the database: limit_restore(). */
#include "limit/hold.h"

#include "core/clock.h"
#include "core/log.h"
#include "metrics/metrics.h"

#define HASH_FUNCTION HASH_FNV /* ids are ours; the default warns under clang */
#include <uthash.h>

#define LIMITS_TAG  TAG4('L', 'I', 'M', 'T')
#define HOLD_TAG    TAG4('H', 'O', 'L', 'D')
#define MINUTE_MS   INT64_C(60000)
#define LEASE_MS    30000
#define FOR_EVER_MS (INT64_C(86400000) * 365) /* in this process' memory nobody can die alone */
#define AWAY_S      5                         /* advice when limits cannot be checked */
#define RENEW_MAX   256                       /* holds renewed with one call */

struct spender {
    char id[ID_UUID_SIZE];
    struct list holds;
    struct node busy; /* on the list of those with holds */
    int64_t used[COUNTERS], windows[COUNTERS];
    bool moved; /* into the local store */
    UT_hash_handle hh;
};

struct limits {
    uint32_t tag;
    struct limits_opts o;
    struct zone *utc;
    struct spender *spenders;
    struct list busy, all; /* spenders with holds; holds */
    struct timer renew;
    struct shared *local; /* while the store is away, with the policy "share" */
    int64_t parts;        /* of which that one is */
    int64_t day[3], month[3];
    char id[13]; /* of this server in tickets */
    uint64_t next;
};

static struct metric decisions_total = {
    .name = "claudegate_limit_decisions_total",
    .help = "Requests decided: admitted, refused (by which limit), or unavailable: nobody knew.",
    .type = METRIC_COUNTER,
    .labels = {"outcome", "limit"}};
static struct metric away_total = {
    .name = "claudegate_limit_without_redis_total",
    .help = "Requests decided while Redis was away, by limits.when_redis_is_away.",
    .type = METRIC_COUNTER,
    .labels = {"policy"}};

static const char *const metric_names[] = {
    [B_REQUESTS] = "requests_per_day",  [B_TOKENS] = "tokens_per_day",
    [B_DAY_COST] = "cost_per_day",      [B_MONTH_COST] = "cost_per_month",
    [B_MINUTE] = "requests_per_minute", [B_CONCURRENT] = "concurrent"};
static const char *const policy_names[] = {
    [LIMIT_AWAY_CLOSED] = "closed", [LIMIT_AWAY_OPEN] = "open", [LIMIT_AWAY_SHARE] = "share"};

static int64_t clamp(int64_t v)
{
    return v > SHARED_AMOUNT_MAX ? SHARED_AMOUNT_MAX : v;
}

/* --- time ---------------------------------------------------------------------------------- */

static void look_at_clock(struct limits *l)
{
    int64_t now = l->o.wall_ms();
    if (now >= l->day[0] && now < l->day[1])
        return;
    zone_days(l->o.zone, now, l->day);
    zone_months(l->o.zone, now, l->month);
}

static const int64_t *window_of(const struct limits *l, enum bucket b)
{
    return b == B_MONTH_COST ? l->month : l->day;
}

int64_t limit_day_start(struct limits *l)
{
    look_at_clock(l);
    return l->day[0];
}

int64_t limit_month_start(struct limits *l)
{
    look_at_clock(l);
    return l->month[0];
}

/* --- spenders ------------------------------------------------------------------------------ */

static struct spender *get_spender(struct limits *l, const char *id)
{
    struct spender *s;
    HASH_FIND_STR(l->spenders, id, s);
    if (!s) {
        s = x_calloc(1, sizeof(*s));
        snprintf(s->id, sizeof(s->id), "%s", id);
        list_init(&s->holds);
        HASH_ADD_STR(l->spenders, id, s);
    }
    return s;
}

static void know(struct spender *s, enum bucket b, int64_t used, int64_t window_end)
{
    if (window_end == s->windows[b] && used < s->used[b])
        return;
    s->used[b] = used;
    s->windows[b] = window_end;
}

/* What the store has not told yet, and will not if it goes away now: should the local one begin
 * later, it knows. */
static void know_more(struct spender *s, const struct limit_hold *h, int64_t tokens, int64_t cost)
{
    const int64_t more[COUNTERS] = {
        [B_TOKENS] = tokens, [B_DAY_COST] = cost, [B_MONTH_COST] = cost};
    for (int i = 0; i < COUNTERS; i++) {
        if (s->windows[i] == h->windows[i])
            s->used[i] = clamp(s->used[i] + clamp(more[i]));
    }
}

static void link_hold(struct limits *l, struct limit_hold *h)
{
    if (!shared_is_remote(l->o.shared))
        return;
    h->spender = get_spender(l, h->key_id);
    if (h->spender->holds.len == 0)
        list_push_back(&l->busy, &h->spender->busy);
    list_push_back(&h->spender->holds, &h->node);
}

static void free_hold(struct limit_hold *h)
{
    struct spender *s = h->spender;
    if (s) {
        list_remove(&s->holds, &h->node);
        if (s->holds.len == 0)
            list_remove(&h->l->busy, &s->busy);
    }
    if (h->l)
        list_remove(&h->l->all, &h->all);
    h->tag = 0;
    free(h);
}

static void renew_holds(struct shared *store, const struct spender *s, int64_t ms)
{
    const char *ids[RENEW_MAX];
    size_t n = 0;
    LIST_EACH(&s->holds, node)
    {
        ids[n++] = container_of(node, struct limit_hold, node)->id;
        if (n == RENEW_MAX || node->next == &s->holds.head) {
            shared_renew(store, s->id, ids, n, ms, NULL, NULL);
            n = 0;
        }
    }
}

static void on_renew(void *obj)
{
    struct limits *l = OBJ(obj, struct limits, LIMITS_TAG);
    timer_set(&l->renew, l->o.lease_ms / 3);
    if (!shared_is_up(l->o.shared))
        return;
    LIST_EACH(&l->busy, n)
    renew_holds(l->o.shared, container_of(n, struct spender, busy), l->o.lease_ms);
}

/* --- asking a store ------------------------------------------------------------------------ */

static int64_t limit_of(const struct key_limits *k, enum bucket b)
{
    switch (b) {
    case B_REQUESTS:
        return k->requests_per_day;
    case B_TOKENS:
        return k->tokens_per_day;
    case B_DAY_COST:
        return k->cost_per_day;
    case B_MONTH_COST:
        return k->cost_per_month;
    case B_MINUTE: /* more is not different */
        return k->requests_per_minute < SHARED_AMOUNT_MAX / MINUTE_MS
                   ? k->requests_per_minute
                   : SHARED_AMOUNT_MAX / MINUTE_MS;
    case B_CONCURRENT:
        return k->max_concurrent;
    case B_COUNT:
        break;
    }
    BUG_ON(true);
    return -1;
}

/* A part that is not nothing: a limit of 1 on three servers is 1 on each, not 0. */
static int64_t part_of(int64_t limit, int64_t parts)
{
    return limit <= 0 ? limit : limit / parts > 0 ? limit / parts : 1;
}

static struct shared_bucket make_bucket(const struct limit_hold *h, enum bucket b, int64_t limit)
{
    struct shared_bucket out = {.kind = SHARED_COUNTER, .name = bucket_name(b), .limit = limit};
    if (b == B_MINUTE || b == B_CONCURRENT) {
        out.kind = b == B_MINUTE ? SHARED_RATE : SHARED_TICKETS;
        out.period_ms = MINUTE_MS;
        return out;
    }
    memcpy(out.window, window_of(h->l, b), sizeof(out.window));
    if (b == B_REQUESTS)
        out.spend = 1;
    else
        out.hold = clamp(b == B_TOKENS ? h->need.tokens : h->need.cost);
    return out;
}

/* Requests and tokens of the day are counted even without a limit, so that one that is set later
 * knows of them. */
static size_t make_buckets(struct limit_hold *h, int64_t parts,
                           struct shared_bucket out[SHARED_BUCKETS_MAX])
{
    h->count = 0;
    for (int i = 0; i < B_COUNT; i++) {
        enum bucket b = (enum bucket)i;
        int64_t limit = clamp(part_of(limit_of(&h->limits, b), parts));
        if (limit < 0 && b != B_REQUESTS && b != B_TOKENS)
            continue;
        out[h->count] = make_bucket(h, b, limit < 0 ? -1 : limit);
        h->buckets[h->count++] = (struct hold_bucket){b, limit};
    }
    return h->count;
}

static void ask(struct limit_hold *h, struct shared *store, int64_t parts, int64_t ticket_ms,
                shared_take_fn *done)
{
    struct shared_bucket buckets[SHARED_BUCKETS_MAX];
    struct shared_take t = {.group = h->key_id,
                            .ticket = h->look ? NULL : h->id,
                            .ticket_ms = ticket_ms,
                            .buckets = buckets,
                            .count = make_buckets(h, parts, buckets),
                            .look = h->look};
    shared_take(store, &t, done, h);
}

/* --- answering ----------------------------------------------------------------------------- */

/* The last that is done with a hold that is not held: it is freed. */
static void answer_refused(struct limit_hold *h, const struct limit_views *views,
                           const struct err *err)
{
    limit_done_fn *done = h->done;
    void *ctx = h->ctx;
    h->ticket->hold = NULL;
    free_hold(h);
    done(ctx, views, err);
}

static void answer_held(struct limit_hold *h, const struct limit_views *views)
{
    metric_add(&decisions_total, 1, "admitted", "");
    h->pending = false;
    link_hold(h->l, h);
    h->done(h->ctx, views, NULL);
}

static void answer(struct limit_hold *h, const struct shared_taken *taken)
{
    struct limit_views views = hold_views(h, taken);
    struct err err;
    if (h->look) {
        answer_refused(h, &views, NULL);
    } else if (!taken->admitted) {
        metric_add(&decisions_total, 1, "refused", metric_names[h->buckets[taken->refused].which]);
        hold_refused(h, taken, &err);
        answer_refused(h, &views, &err);
    } else {
        answer_held(h, &views);
    }
}

static void note_windows(struct limit_hold *h, const struct shared_taken *taken)
{
    for (size_t i = 0; i < h->count; i++) {
        if (h->buckets[i].which < COUNTERS)
            h->windows[h->buckets[i].which] = taken->levels[i].window_end;
    }
}

static void give_back(const struct limit_hold *h)
{
    struct shared_use uses[] = {
        {.kind = SHARED_COUNTER,
         .name = bucket_name(B_REQUESTS),
         .add = -1,
         .window_end = h->windows[B_REQUESTS]},
        {.kind = SHARED_RATE, .name = bucket_name(B_MINUTE), .add = -1, .period_ms = MINUTE_MS}};
    shared_adjust(h->l->o.shared, h->key_id, h->id, uses, ARRAY_SIZE(uses), NULL, NULL);
}

/* --- while the store is away --------------------------------------------------------------- */

static void on_local(void *ctx, const struct shared_taken *taken, const struct err *err)
{
    struct limit_hold *h = OBJ(ctx, struct limit_hold, HOLD_TAG);
    BUG_ON(err || !taken); /* memory */
    note_windows(h, taken);
    answer(h, taken);
}

/* What is known of the key's use goes to a store: a part of it, rounded up. */
static void seed_spender(struct limits *l, struct shared *store, const struct spender *s,
                         int64_t parts)
{
    struct shared_seed seeds[COUNTERS];
    size_t n = 0;
    for (int i = 0; i < COUNTERS; i++) {
        const int64_t *window = window_of(l, (enum bucket)i);
        if (s->windows[i] != window[1] || !s->used[i])
            continue;
        seeds[n] = (struct shared_seed){.name = bucket_name((enum bucket)i),
                                        .at_least = clamp((s->used[i] - 1) / parts + 1)};
        memcpy(seeds[n++].window, window, sizeof(seeds[0].window));
    }
    if (n)
        shared_seed(store, s->id, seeds, n, NULL, NULL);
}

/* This server's part, and the requests that run. */
static void move_spender(struct limits *l, struct spender *s)
{
    if (s->moved)
        return;
    s->moved = true;
    seed_spender(l, l->local, s, l->parts);
    renew_holds(l->local, s, FOR_EVER_MS);
}

static void open_local(struct limits *l)
{
    struct shared_opts o = {.wall_ms = l->o.wall_ms};
    struct shared_health health;
    struct err err;
    struct spender *s, *next;
    shared_health(l->o.shared, &health);
    l->parts = (int64_t)health.replicas;
    l->local = shared_open(l->o.loop, &o, &err);
    BUG_ON(!l->local); /* memory cannot fail */
    HASH_ITER(hh, l->spenders, s, next)
    s->moved = false;
    log_warn("limits are kept by this server alone until Redis is back", LF_I("parts", l->parts));
}

static void decide_away(struct limit_hold *h, const struct err *why)
{
    struct limits *l = h->l;
    struct limit_views unknown = hold_views(h, NULL);
    if (!h->look)
        metric_add(&away_total, 1, policy_names[l->o.away]);
    h->counted = false;
    if (l->o.away == LIMIT_AWAY_SHARE) {
        if (!l->local)
            open_local(l);
        move_spender(l, get_spender(l, h->key_id));
        ask(h, l->local, l->parts, FOR_EVER_MS, on_local);
    } else if (l->o.away == LIMIT_AWAY_OPEN) {
        if (h->look)
            answer_refused(h, &unknown, NULL);
        else
            answer_held(h, &unknown);
    } else {
        struct err err;
        err_set(&err, ERR_UNAVAILABLE, "limits cannot be checked: %s", why->msg);
        err.retry_after_s = AWAY_S;
        if (!h->look)
            metric_add(&decisions_total, 1, "unavailable", "");
        answer_refused(h, &unknown, &err);
    }
}

static void close_local(struct limits *l)
{
    shared_close(TAKE_PTR(l->local));
}

static void on_store(void *ctx, bool up)
{
    struct limits *l = OBJ(ctx, struct limits, LIMITS_TAG);
    struct spender *s, *next;
    close_local(l); /* also one that a refusing Redis left behind: it knows old times only */
    if (!up)
        return;
    /* It may come back empty, and the database may be away: what this server knows comes before
     * anything else is asked of it. The rest is for whoever restores the limits. */
    HASH_ITER(hh, l->spenders, s, next)
    seed_spender(l, l->o.shared, s, 1);
    on_renew(l); /* those that began meanwhile are not known there yet */
}

/* --- the calls ----------------------------------------------------------------------------- */

static void on_taken(void *ctx, const struct shared_taken *taken, const struct err *err)
{
    struct limit_hold *h = OBJ(ctx, struct limit_hold, HOLD_TAG);
    if (taken)
        note_windows(h, taken);
    if (taken && h->l) /* it had not gone away, only refused what it was asked: out of memory */
        close_local(h->l);
    if (!h->ticket) {
        if (h->l && taken && taken->admitted && !h->look)
            give_back(h);
        free_hold(h);
        return;
    }
    if (err) {
        decide_away(h, err);
        return;
    }
    if (shared_is_remote(h->l->o.shared)) {
        struct spender *s = get_spender(h->l, h->key_id);
        for (size_t i = 0; i < h->count; i++) {
            if (h->buckets[i].which < COUNTERS)
                know(s, h->buckets[i].which, taken->levels[i].used, taken->levels[i].window_end);
        }
    }
    answer(h, taken);
}

static void start(struct limits *l, const struct api_key *key, const struct limit_need *need,
                  struct limit_ticket *ticket, bool look, limit_done_fn *done, void *ctx)
{
    BUG_ON(ticket->hold || need->tokens < 0 || need->cost < 0);
    struct limit_hold *h = x_calloc(1, sizeof(*h));
    h->tag = HOLD_TAG;
    h->l = l;
    h->ticket = ticket;
    h->done = done;
    h->ctx = ctx;
    h->look = look;
    h->pending = h->counted = true;
    h->limits = key->limits;
    h->need = *need;
    memcpy(h->key_id, key->id, sizeof(h->key_id));
    snprintf(h->id, sizeof(h->id), "%s-%llx", l->id, (unsigned long long)l->next++);
    look_at_clock(l);
    for (int i = 0; i < COUNTERS; i++)
        h->windows[i] = window_of(l, (enum bucket)i)[1];
    ticket->hold = h;
    list_push_back(&l->all, &h->all);
    ask(h, l->o.shared, 1, shared_is_remote(l->o.shared) ? l->o.lease_ms : FOR_EVER_MS, on_taken);
}

void limit_acquire(struct limits *l, const struct api_key *key, const struct limit_need *need,
                   struct limit_ticket *ticket, limit_done_fn *done, void *ctx)
{
    start(l, key, need, ticket, false, done, ctx);
}

void limit_look(struct limits *l, const struct api_key *key, struct limit_ticket *ticket,
                limit_done_fn *done, void *ctx)
{
    const struct limit_need nothing = {0, 0};
    start(l, key, &nothing, ticket, true, done, ctx);
}

void limit_cancel(struct limits *l, struct limit_ticket *ticket)
{
    struct limit_hold *h = TAKE_PTR(ticket->hold);
    BUG_ON(!h || h->l != l || !h->pending);
    h->ticket = NULL;
}

bool limit_is_held(const struct limit_ticket *ticket)
{
    return ticket->hold && !ticket->hold->pending;
}

static void add_use(struct shared_use uses[SHARED_BUCKETS_MAX], size_t *count,
                    const struct limit_hold *h, enum bucket b, int64_t add)
{
    if (add)
        uses[(*count)++] = (struct shared_use){.kind = SHARED_COUNTER,
                                               .name = bucket_name(b),
                                               .add = clamp(add),
                                               .window_end = h->windows[b]};
}

void limit_settle(struct limits *l, struct limit_ticket *ticket, int64_t tokens, int64_t cost)
{
    struct limit_hold *h = TAKE_PTR(ticket->hold);
    struct shared_use uses[SHARED_BUCKETS_MAX];
    size_t count = 0;
    BUG_ON(!h || h->l != l || h->pending || tokens < 0 || cost < 0);
    add_use(uses, &count, h, B_TOKENS, tokens);
    add_use(uses, &count, h, B_DAY_COST, cost);
    add_use(uses, &count, h, B_MONTH_COST, cost);
    if (l->local)
        shared_adjust(l->local, h->key_id, h->id, uses, count, NULL, NULL);
    if (!h->counted)
        add_use(uses, &count, h, B_REQUESTS, 1);
    if (h->spender)
        know_more(h->spender, h, tokens, cost);
    shared_adjust(l->o.shared, h->key_id, h->id, uses, count, NULL, NULL);
    free_hold(h);
}

/* Requests that run here were counted when they were admitted, but a store that has lost its memory
 * does not know, and the database will not before they end. */
static int64_t running_requests(const struct limits *l, const char *api_key_id)
{
    const struct spender *s;
    int64_t count = 0;
    HASH_FIND_STR(l->spenders, api_key_id, s);
    if (!s)
        return 0;
    LIST_EACH(&s->holds, n)
    {
        const struct limit_hold *h = container_of(n, struct limit_hold, node);
        count += h->counted && h->windows[B_REQUESTS] == l->day[1];
    }
    return count;
}

void limit_restore(struct limits *l, const char *api_key_id, const struct limit_spent *spent)
{
    look_at_clock(l);
    const int64_t running = running_requests(l, api_key_id);
    const int64_t all[COUNTERS] = {[B_REQUESTS] = spent->requests + running,
                                   [B_TOKENS] = spent->tokens,
                                   [B_DAY_COST] = spent->day_cost,
                                   [B_MONTH_COST] = spent->month_cost};
    struct shared_seed seeds[COUNTERS];
    size_t n = 0;
    for (int i = 0; i < COUNTERS; i++) {
        const int64_t *window = window_of(l, (enum bucket)i);
        BUG_ON(all[i] < 0);
        int64_t since = i == B_MONTH_COST ? spent->month : spent->day;
        if (!all[i] || (since && since != window[0]))
            continue;
        seeds[n] =
            (struct shared_seed){.name = bucket_name((enum bucket)i), .at_least = clamp(all[i])};
        memcpy(seeds[n++].window, window, sizeof(seeds[0].window));
        if (shared_is_remote(l->o.shared))
            know(get_spender(l, api_key_id), (enum bucket)i, clamp(all[i]), window[1]);
    }
    if (n)
        shared_seed(l->o.shared, api_key_id, seeds, n, NULL, NULL);
}

/* --- life ---------------------------------------------------------------------------------- */

struct limits *limits_new(const struct limits_opts *opts)
{
    struct limits *l = x_calloc(1, sizeof(*l));
    struct err err;
    l->tag = LIMITS_TAG;
    l->o = *opts;
    l->o.lease_ms = opts->lease_ms ? opts->lease_ms : LEASE_MS;
    l->o.wall_ms = opts->wall_ms ? opts->wall_ms : clock_wall_ms;
    if (!opts->zone) {
        l->utc = zone_new("UTC", &err);
        l->o.zone = l->utc;
    }
    id_alnum(l->id, sizeof(l->id) - 1);
    list_init(&l->busy);
    list_init(&l->all);
    timer_init(&l->renew, opts->loop, on_renew, l);
    if (shared_is_remote(opts->shared)) {
        timer_set(&l->renew, l->o.lease_ms / 3);
        shared_watch(opts->shared, on_store, l);
    }
    return l;
}

/* One that waits for an answer is freed when that comes. */
static void forget_hold(struct limits *l, struct limit_hold *h)
{
    if (!h->pending) {
        free_hold(h);
        return;
    }
    list_remove(&l->all, &h->all);
    h->l = NULL;
    h->ticket = NULL;
}

void limits_free(struct limits *l)
{
    struct spender *s, *next;
    if (!l)
        return;
    if (shared_is_remote(l->o.shared))
        shared_unwatch(l->o.shared, on_store, l);
    LIST_EACH(&l->all, n)
    forget_hold(l, container_of(n, struct limit_hold, all));
    HASH_ITER(hh, l->spenders, s, next)
    {
        HASH_DEL(l->spenders, s);
        free(s);
    }
    shared_close(l->local);
    timer_release(&l->renew);
    zone_free(l->utc);
    l->tag = 0;
    free(l);
}
