/* shared.c - what both drivers have in common: checks of the arguments, watches, subscriptions.
 *
 * Arguments are our own code's, so a wrong one is a bug and not an error. Watches and subscriptions
 * may be removed from inside their own callbacks: they are only marked then. */
#include "shared/driver.h"

struct watch {
    struct node node;
    shared_watch_fn *fn;
    void *ctx;
    bool gone;
};

struct shared_subscription {
    struct node node;
    char channel[SHARED_NAME_MAX + 1];
    shared_message_fn *fn;
    void *ctx;
    bool gone;
};

static struct shared *check(struct shared *s)
{
    return OBJ(s, struct shared, SHARED_TAG);
}

static bool is_name(const char *name)
{
    size_t n = 0;
    for (; name[n]; n++) {
        unsigned char c = (unsigned char)name[n];
        if (c <= ' ' || c >= 0x7F || c == '{' || c == '}')
            return false;
    }
    return n > 0 && n <= SHARED_NAME_MAX;
}

static void ignore_done(void *ctx, const struct err *err)
{
    (void)ctx;
    (void)err;
}

static shared_done_fn *or_ignore(shared_done_fn *done)
{
    return done ? done : ignore_done;
}

/* --- life -------------------------------------------------------------------------------- */

struct shared *shared_open(struct loop *loop, const struct shared_opts *opts, struct err *err)
{
    if (opts->url && opts->url[0])
        return shared_redis_open(loop, opts, err);
    return shared_memory_open(loop, opts);
}

void shared_init(struct shared *s, const struct shared_ops *ops, struct loop *loop, bool remote)
{
    s->tag = SHARED_TAG;
    s->ops = ops;
    s->loop = loop;
    s->remote = remote;
    s->up = !remote;
    list_init(&s->watches);
    list_init(&s->subscriptions);
}

static void free_lists(struct shared *s)
{
    struct node *n;
    while ((n = list_pop_front(&s->watches)))
        free(container_of(n, struct watch, node));
    while ((n = list_pop_front(&s->subscriptions)))
        free(container_of(n, struct shared_subscription, node));
}

void shared_close(struct shared *s)
{
    if (!s)
        return;
    check(s);
    BUG_ON(s->calling);
    free_lists(s);
    s->ops->close(s);
}

void shared_health(const struct shared *s, struct shared_health *ret_health)
{
    *ret_health = (struct shared_health){.remote = s->remote, .up = s->up, .replicas = 1};
    s->ops->health(s, ret_health);
}

bool shared_is_remote(const struct shared *s)
{
    return s->remote;
}

bool shared_is_up(const struct shared *s)
{
    return s->up;
}

/* --- watches and subscriptions ----------------------------------------------------------- */

static void sweep(struct shared *s)
{
    if (--s->calling > 0)
        return;
    LIST_EACH(&s->watches, n)
    {
        struct watch *w = container_of(n, struct watch, node);
        if (w->gone) {
            list_remove(&s->watches, n);
            free(w);
        }
    }
    LIST_EACH(&s->subscriptions, n)
    {
        struct shared_subscription *sub = container_of(n, struct shared_subscription, node);
        if (sub->gone) {
            list_remove(&s->subscriptions, n);
            free(sub);
        }
    }
}

void shared_watch(struct shared *s, shared_watch_fn *fn, void *ctx)
{
    struct watch *w = x_calloc(1, sizeof(*w));
    w->fn = fn;
    w->ctx = ctx;
    list_push_back(&check(s)->watches, &w->node);
}

void shared_unwatch(struct shared *s, shared_watch_fn *fn, void *ctx)
{
    s->calling++;
    LIST_EACH(&check(s)->watches, n)
    {
        struct watch *w = container_of(n, struct watch, node);
        if (w->fn == fn && w->ctx == ctx)
            w->gone = true;
    }
    sweep(s);
}

void shared_set_up(struct shared *s, bool up)
{
    if (s->up == up)
        return;
    s->up = up;
    s->calling++;
    LIST_EACH(&s->watches, n)
    {
        struct watch *w = container_of(n, struct watch, node);
        if (!w->gone)
            w->fn(w->ctx, up);
    }
    sweep(s);
}

struct shared_subscription *shared_subscribe(struct shared *s, const char *channel,
                                             shared_message_fn *fn, void *ctx)
{
    BUG_ON(!is_name(channel));
    struct shared_subscription *sub = x_calloc(1, sizeof(*sub));
    snprintf(sub->channel, sizeof(sub->channel), "%s", channel);
    sub->fn = fn;
    sub->ctx = ctx;
    list_push_back(&check(s)->subscriptions, &sub->node);
    return sub;
}

void shared_unsubscribe(struct shared *s, struct shared_subscription *sub)
{
    if (!sub)
        return;
    s->calling++;
    sub->gone = true;
    sweep(check(s));
}

void shared_deliver(struct shared *s, struct str channel, struct str payload)
{
    s->calling++;
    LIST_EACH(&s->subscriptions, n)
    {
        struct shared_subscription *sub = container_of(n, struct shared_subscription, node);
        if (!sub->gone && str_eq_c(channel, sub->channel))
            sub->fn(sub->ctx, payload, false);
    }
    sweep(s);
}

void shared_deliver_missed(struct shared *s)
{
    s->calling++;
    LIST_EACH(&s->subscriptions, n)
    {
        struct shared_subscription *sub = container_of(n, struct shared_subscription, node);
        if (!sub->gone)
            sub->fn(sub->ctx, STR(""), true);
    }
    sweep(s);
}

/* --- operations -------------------------------------------------------------------------- */

static bool is_amount(int64_t v)
{
    return v >= 0 && v <= SHARED_AMOUNT_MAX;
}

static void check_bucket(const struct shared_bucket *b, bool may_hold)
{
    BUG_ON(strlen(b->name) > 7 || b->limit < -1 || b->limit > SHARED_AMOUNT_MAX);
    BUG_ON(b->kind == SHARED_RATE &&
           (b->period_ms <= 0 || b->limit > SHARED_AMOUNT_MAX / b->period_ms));
    BUG_ON(b->kind == SHARED_COUNTER && (!is_amount(b->spend) || !is_amount(b->hold)));
    BUG_ON(b->kind == SHARED_COUNTER &&
           (b->window[0] >= b->window[1] || b->window[1] >= b->window[2]));
    BUG_ON(!may_hold && b->hold);
}

void shared_take(struct shared *s, const struct shared_take *take, shared_take_fn *done, void *ctx)
{
    BUG_ON(!is_name(take->group) || take->count > SHARED_BUCKETS_MAX);
    BUG_ON(take->ticket && (!is_name(take->ticket) || take->ticket_ms <= 0));
    for (size_t i = 0; i < take->count; i++)
        check_bucket(&take->buckets[i], take->ticket || take->look);
    check(s)->ops->take(s, take, done, ctx);
}

void shared_adjust(struct shared *s, const char *group, const char *ticket,
                   const struct shared_use *uses, size_t count, shared_done_fn *done, void *ctx)
{
    BUG_ON(!is_name(group) || (ticket && !is_name(ticket)) || count > SHARED_BUCKETS_MAX);
    for (size_t i = 0; i < count; i++)
        BUG_ON(strlen(uses[i].name) > 7 || uses[i].add < -SHARED_AMOUNT_MAX ||
               uses[i].add > SHARED_AMOUNT_MAX);
    check(s)->ops->adjust(s, group, ticket, uses, count, or_ignore(done), ctx);
}

void shared_renew(struct shared *s, const char *group, const char *const *tickets, size_t count,
                  int64_t ticket_ms, shared_done_fn *done, void *ctx)
{
    BUG_ON(!is_name(group) || ticket_ms <= 0);
    check(s)->ops->renew(s, group, tickets, count, ticket_ms, or_ignore(done), ctx);
}

void shared_seed(struct shared *s, const char *group, const struct shared_seed *seeds, size_t count,
                 shared_done_fn *done, void *ctx)
{
    BUG_ON(!is_name(group) || count > SHARED_BUCKETS_MAX);
    for (size_t i = 0; i < count; i++)
        BUG_ON(strlen(seeds[i].name) > 7 || !is_amount(seeds[i].at_least));
    check(s)->ops->seed(s, group, seeds, count, or_ignore(done), ctx);
}

void shared_lease(struct shared *s, enum shared_lease_op op, const char *name, const char *owner,
                  int64_t ttl_ms, shared_lease_fn *done, void *ctx)
{
    BUG_ON(!is_name(name) || !is_name(owner) || ttl_ms <= 0);
    check(s)->ops->lease(s, op, name, owner, ttl_ms, done, ctx);
}

void shared_nonce(struct shared *s, const char *value, int64_t ttl_ms, shared_nonce_fn *done,
                  void *ctx)
{
    BUG_ON(!value[0] || strlen(value) > 4 * SHARED_NAME_MAX || ttl_ms <= 0);
    check(s)->ops->nonce(s, value, ttl_ms, done, ctx);
}

void shared_publish(struct shared *s, const char *channel, struct str payload, shared_done_fn *done,
                    void *ctx)
{
    BUG_ON(!is_name(channel) || payload.len > SHARED_MESSAGE_MAX);
    check(s)->ops->publish(s, channel, payload, or_ignore(done), ctx);
}

void shared_cache_get(struct shared *s, const char *name, shared_value_fn *done, void *ctx)
{
    BUG_ON(!is_name(name));
    check(s)->ops->cache_get(s, name, done, ctx);
}

void shared_cache_set(struct shared *s, const char *name, struct str value, int64_t ttl_ms,
                      shared_done_fn *done, void *ctx)
{
    BUG_ON(!is_name(name) || value.len > SHARED_VALUE_MAX || ttl_ms <= 0);
    check(s)->ops->cache_set(s, name, value, ttl_ms, or_ignore(done), ctx);
}

void shared_cache_delete(struct shared *s, const char *name, shared_done_fn *done, void *ctx)
{
    BUG_ON(!is_name(name));
    check(s)->ops->cache_delete(s, name, or_ignore(done), ctx);
}
