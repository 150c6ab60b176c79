/* restore.c - the limits learn what the database knows.
 *
 * Journal to the database, sums of the day from the database, to the limits, which are only ever
 * raised by it. At start, and whenever Redis has come back: it may have lost its memory, and what
 * was used while it was away it never knew. One at a time, and again until the database answers. */
#include "gateway/gateway.h"

#include "core/log.h"

#define RESTORE_TAG TAG4('R', 'S', 'T', 'R')
#define RETRY_MS    5000

struct restore {
    uint32_t tag;
    struct gateway *g;
    store_done_fn *done;
    void *ctx;
};

static void end_restore(struct restore *r, const struct err *err)
{
    struct gateway *g = r->g;
    store_done_fn *done = r->done;
    void *ctx = r->ctx;
    bool again = g->restore_again;
    r->tag = 0;
    free(r);
    g->restoring = g->restore_again = false;
    if (err)
        log_warn("the limits could not be told what was used today", LF_S("error", err->msg));
    if (done)
        done(ctx, err);
    if ((again || err) && g->restore.ev)
        timer_set(&g->restore, err ? RETRY_MS : 0);
}

static void on_sums(void *ctx, const struct usage_sum *sums, size_t count, const struct err *err)
{
    struct restore *r = OBJ(ctx, struct restore, RESTORE_TAG);
    for (size_t i = 0; i < count && !err; i++) {
        struct limit_spent spent = {.requests = sums[i].requests, .tokens = sums[i].tokens};
        limit_restore(r->g->limits, sums[i].api_key_id, &spent);
    }
    end_restore(r, err);
}

static void on_flushed(void *ctx, const struct err *err)
{
    struct restore *r = OBJ(ctx, struct restore, RESTORE_TAG);
    if (err)
        end_restore(r, err);
    else
        usage_sums_since(r->g->db, limit_day_start(r->g->limits), on_sums, r);
}

void gateway_restore_limits(struct gateway *g, store_done_fn *done, void *ctx)
{
    struct restore *r = x_calloc(1, sizeof(*r));
    BUG_ON(g->restoring);
    g->restoring = true;
    *r = (struct restore){.tag = RESTORE_TAG, .g = g, .done = done, .ctx = ctx};
    journal_flush(g->journal, on_flushed, r);
}

static void restore_now(void *obj)
{
    struct gateway *g = OBJ(obj, struct gateway, GATEWAY_TAG);
    if (g->restoring)
        g->restore_again = true;
    else
        gateway_restore_limits(g, NULL, NULL);
}

static void on_shared(void *ctx, bool up)
{
    if (up)
        restore_now(ctx);
}

void gateway_watch_shared(struct gateway *g)
{
    timer_init(&g->restore, g->loop, restore_now, g);
    shared_watch(g->shared, on_shared, g);
}

void gateway_unwatch_shared(struct gateway *g)
{
    if (g->restore.ev)
        shared_unwatch(g->shared, on_shared, g);
    timer_release(&g->restore);
}
