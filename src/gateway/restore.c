/* restore.c - the limits learn what the database knows.
 *
 * Journal to the database, sums of the day and month from the database, to the limits, which are
 * only ever raised by it. At start, and whenever Redis has come back: it may have lost its memory,
 * and what was used while it was away it never knew. What ends just while the sums are made is in
 * neither, so it is done once more a little later; and every few minutes, because Redis may forget
 * without going away (a failover, an eviction, a flush). One at a time, and again until the
 * database answers.
 *
 * Redis is told of many keys in small parts: requests wait for it meanwhile. At midnight what was
 * asked is not what is told any more: once again. */
#include "gateway/gateway.h"

#include "core/log.h"

#define RESTORE_TAG TAG4('R', 'S', 'T', 'R')
#define RETRY_MS    5000 /* the database did not answer */
#define SOON_MS     5000 /* after Redis has come back */
#define PERIOD_MS   300000
#define PART        100 /* keys told to Redis at once */
#define PART_MS     20

struct restore {
    uint32_t tag;
    struct gateway *g;
    store_done_fn *done;
    void *ctx;
    int64_t day, month; /* what was asked for */
    struct usage_sum *sums;
    size_t count, next; /* of sums, told so far */
    struct timer part;
};

/* Until the next; -1: there is none, nobody else counts. */
static int64_t pause_after(struct gateway *g, bool again, const struct err *err)
{
    bool soon = g->restore_soon;
    if (err)
        return RETRY_MS;
    if (again)
        return 0;
    g->restore_soon = false;
    return !shared_is_remote(g->shared) ? -1 : soon ? SOON_MS : PERIOD_MS;
}

static void free_restore(struct restore *r)
{
    r->g->restoring = NULL;
    timer_release(&r->part);
    free(r->sums);
    r->tag = 0;
    free(r);
}

static void end_restore(struct restore *r, const struct err *err)
{
    struct gateway *g = r->g;
    store_done_fn *done = r->done;
    void *ctx = r->ctx;
    bool midnight = !err && r->day != limit_day_start(g->limits);
    bool again = g->restore_again || midnight;
    free_restore(r);
    g->restore_again = false;
    if (err && !g->restore_failed)
        log_warn("the limits could not be told what was used", LF_S("error", err->msg));
    g->restore_failed = err != NULL;
    if (done)
        done(ctx, err);
    int64_t pause_ms = pause_after(g, again, err);
    if (pause_ms >= 0 && g->restore.ev)
        timer_set(&g->restore, pause_ms);
}

static void tell(struct restore *r, const struct usage_sum *sum)
{
    const struct limit_spent spent = {.requests = sum->requests,
                                      .tokens = sum->tokens,
                                      .day_cost = sum->day_cost,
                                      .month_cost = sum->month_cost,
                                      .day = r->day,
                                      .month = r->month};
    limit_restore(r->g->limits, sum->api_key_id, &spent);
}

static void tell_part(void *obj)
{
    struct restore *r = OBJ(obj, struct restore, RESTORE_TAG);
    for (size_t i = 0; i < PART && r->next < r->count; i++)
        tell(r, &r->sums[r->next++]);
    if (r->next < r->count)
        timer_set(&r->part, PART_MS);
    else
        end_restore(r, NULL);
}

static void on_sums(void *ctx, const struct usage_sum *sums, size_t count, const struct err *err)
{
    struct restore *r = OBJ(ctx, struct restore, RESTORE_TAG);
    if (!err && count > PART && shared_is_up(r->g->shared) && shared_is_remote(r->g->shared)) {
        r->sums = x_calloc(count, sizeof(*sums));
        memcpy(r->sums, sums, count * sizeof(*sums));
        r->count = count;
        tell_part(r);
        return;
    }
    for (size_t i = 0; i < count && !err; i++)
        tell(r, &sums[i]);
    end_restore(r, err);
}

static void on_flushed(void *ctx, const struct err *err)
{
    struct restore *r = OBJ(ctx, struct restore, RESTORE_TAG);
    if (err) {
        end_restore(r, err);
        return;
    }
    r->day = limit_day_start(r->g->limits);
    r->month = limit_month_start(r->g->limits);
    usage_sums_since(r->g->db, r->day, r->month, on_sums, r);
}

void gateway_restore_limits(struct gateway *g, store_done_fn *done, void *ctx)
{
    struct restore *r = x_calloc(1, sizeof(*r));
    BUG_ON(g->restoring);
    *r = (struct restore){.tag = RESTORE_TAG, .g = g, .done = done, .ctx = ctx};
    g->restoring = r;
    timer_init(&r->part, g->loop, tell_part, r);
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
    struct gateway *g = OBJ(ctx, struct gateway, GATEWAY_TAG);
    if (!up)
        return;
    g->restore_soon = true;
    restore_now(g);
}

void gateway_watch_shared(struct gateway *g)
{
    timer_init(&g->restore, g->loop, restore_now, g);
    shared_watch(g->shared, on_shared, g);
    if (shared_is_remote(g->shared))
        timer_set(&g->restore, PERIOD_MS);
}

void gateway_unwatch_shared(struct gateway *g)
{
    if (g->restore.ev)
        shared_unwatch(g->shared, on_shared, g);
    timer_release(&g->restore);
    if (g->restoring && g->restoring->sums) /* others are answered by the journal, the database */
        free_restore(g->restoring);
}
