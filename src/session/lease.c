/* lease.c - see the header.
 *
 * The next turn of a session may reach another server before the last one's "given back" has
 * reached Redis: a lease that is somebody else's is asked for a few times more, within a tenth of a
 * second. Held leases are renewed together; renewing takes a lease that Redis has forgotten. */
#include "session/lease.h"

#include <sodium.h>

#define LEASES_TAG TAG4('L', 'S', 'E', 'S')
#define TRY_TAG    TAG4('L', 'T', 'R', 'Y')
#define RENEW_MS   (LEASE_TTL_MS / 3)

static const int64_t pauses_ms[] = {5, 15, 30, 50};

struct leases {
    uint32_t tag;
    struct loop *loop;
    struct shared *shared;
    const char *me;
    struct list held, tries;
    struct timer renew;
};

struct lease_try {
    uint32_t tag;
    struct leases *ls; /* NULL: freed meanwhile */
    struct lease *lease;
    struct node node;
    struct timer pause;
    size_t count;
    lease_done_fn *done;
    void *ctx;
};

void lease_name(struct lease *l, const char *id, const char *owner)
{
    unsigned char hash[16];
    char hex[sizeof(hash) * 2 + 1];
    crypto_generichash_state state;
    crypto_generichash_init(&state, NULL, 0, sizeof(hash));
    crypto_generichash_update(&state, (const unsigned char *)id, strlen(id) + 1);
    crypto_generichash_update(&state, (const unsigned char *)owner, strlen(owner));
    crypto_generichash_final(&state, hash, sizeof(hash));
    snprintf(l->name, sizeof(l->name), "session:%s",
             sodium_bin2hex(hex, sizeof(hex), hash, sizeof(hash)));
}

static void free_try(struct lease_try *t)
{
    if (t->ls && node_linked(&t->node))
        list_remove(&t->ls->tries, &t->node);
    timer_release(&t->pause);
    t->tag = 0;
    free(t);
}

static void end_try(struct lease_try *t, bool held, bool mine)
{
    lease_done_fn *done = t->done;
    void *ctx = t->ctx;
    if (held && !node_linked(&t->lease->node))
        list_push_back(&t->ls->held, &t->lease->node);
    free_try(t);
    done(ctx, mine);
}

/* Redis away: whether it is ours is unknown, and the row's version decides. */
static void on_answer(void *ctx, const struct shared_lease *answer, const struct err *err)
{
    struct lease_try *t = OBJ(ctx, struct lease_try, TRY_TAG);
    if (!t->ls)
        free_try(t);
    else if (err || answer->mine)
        end_try(t, !err, true);
    else if (t->count < ARRAY_SIZE(pauses_ms))
        timer_set(&t->pause, pauses_ms[t->count++]);
    else
        end_try(t, false, false);
}

static void ask(void *obj)
{
    struct lease_try *t = OBJ(obj, struct lease_try, TRY_TAG);
    shared_lease(t->ls->shared, SHARED_LEASE_ACQUIRE, t->lease->name, t->ls->me, LEASE_TTL_MS,
                 on_answer, t);
}

void lease_take(struct leases *ls, struct lease *l, lease_done_fn *done, void *ctx)
{
    if (!ls->shared) {
        done(ctx, true);
        return;
    }
    struct lease_try *t = x_calloc(1, sizeof(*t));
    *t = (struct lease_try){.tag = TRY_TAG, .ls = ls, .lease = l, .done = done, .ctx = ctx};
    list_push_back(&ls->tries, &t->node);
    timer_init(&t->pause, ls->loop, ask, t);
    ask(t);
}

static void ignore(void *ctx, const struct shared_lease *lease, const struct err *err)
{
    (void)ctx;
    (void)lease;
    (void)err;
}

void lease_give(struct leases *ls, struct lease *l)
{
    if (!node_linked(&l->node))
        return;
    list_remove(&ls->held, &l->node);
    shared_lease(ls->shared, SHARED_LEASE_RELEASE, l->name, ls->me, LEASE_TTL_MS, ignore, NULL);
}

/* One that another server has taken meanwhile stays with it: the row's version tells at the end. */
static void on_renew(void *obj)
{
    struct leases *ls = OBJ(obj, struct leases, LEASES_TAG);
    LIST_EACH(&ls->held, n)
    {
        const struct lease *l = container_of(n, struct lease, node);
        shared_lease(ls->shared, SHARED_LEASE_ACQUIRE, l->name, ls->me, LEASE_TTL_MS, ignore, NULL);
    }
    timer_set(&ls->renew, RENEW_MS);
}

struct leases *leases_new(struct loop *loop, struct shared *shared, const char *me)
{
    struct leases *ls = x_calloc(1, sizeof(*ls));
    *ls = (struct leases){.tag = LEASES_TAG, .loop = loop, .me = me};
    ls->shared = shared && shared_is_remote(shared) ? shared : NULL;
    list_init(&ls->held);
    list_init(&ls->tries);
    timer_init(&ls->renew, loop, on_renew, ls);
    if (ls->shared)
        timer_set(&ls->renew, RENEW_MS);
    return ls;
}

/* A try that waits for Redis' answer is freed with it, one that pauses now. */
void leases_free(struct leases *ls)
{
    struct node *n;
    if (!ls)
        return;
    while ((n = list_pop_front(&ls->tries))) {
        struct lease_try *t = container_of(n, struct lease_try, node);
        bool pausing = timer_pending(&t->pause);
        t->ls = NULL;
        timer_release(&t->pause);
        if (pausing)
            free_try(t);
    }
    while ((n = list_pop_front(&ls->held))) {
        const struct lease *l = container_of(n, struct lease, node);
        shared_lease(ls->shared, SHARED_LEASE_RELEASE, l->name, ls->me, LEASE_TTL_MS, ignore, NULL);
    }
    timer_release(&ls->renew);
    ls->tag = 0;
    free(ls);
}
