/* calls.c - statements whose answers are numbers, as more than one table has them. */
#include "store/row.h"
#include "store/store.h"

#define CALL_TAG TAG4('s', 't', 'o', 'c')
struct call {
    uint32_t tag;
    count_done_fn *counted; /* one of these */
    seal_counts_fn *seals;
    void *ctx;
};

static struct call *call_new(void *ctx)
{
    struct call *call = x_calloc(1, sizeof(*call));
    *call = (struct call){.tag = CALL_TAG, .ctx = ctx};
    return call;
}

static void changes_done(void *ctx, const struct db_result *r, const struct err *err)
{
    struct call *call = OBJ(ctx, struct call, CALL_TAG);
    if (call->counted)
        call->counted(call->ctx, err ? 0 : db_changes(r), err);
    free(call);
}

void write_counted(struct db *db, const char *sql, const struct db_param *params, size_t count,
                   count_done_fn *done, void *ctx)
{
    struct call *call = call_new(ctx);
    call->counted = done;
    db_query(db, sql, params, count, changes_done, call);
}

static void seals_done(void *ctx, const struct db_result *r, const struct err *err)
{
    struct call *call = OBJ(ctx, struct call, CALL_TAG);
    size_t n = err ? 0 : db_rows(r);
    struct seal_count *counts = x_calloc(n + 1, sizeof(*counts));
    for (size_t i = 0; i < n; i++) {
        ROW_FIXED(counts[i].key, r, i, 0);
        counts[i].count = db_int(r, i, 1);
    }
    call->seals(call->ctx, counts, n, err);
    free(counts);
    free(call);
}

void read_seal_counts(struct db *db, const char *sql, seal_counts_fn *done, void *ctx)
{
    struct call *call = call_new(ctx);
    call->seals = done;
    db_query(db, sql, NULL, 0, seals_done, call);
}
