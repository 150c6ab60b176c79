/* db.c - db.h's functions: finds the driver by the URL's scheme and hands over. */
#include "db/driver.h"

#include <event2/event.h>

static const struct db_driver *const drivers[] = {&db_driver_sqlite, &db_driver_postgres};

static bool takes(const struct db_driver *driver, const char *url)
{
    for (const char *const *scheme = driver->schemes; *scheme; scheme++) {
        if (strncmp(url, *scheme, strlen(*scheme)) == 0)
            return true;
    }
    return false;
}

static const struct db_driver *driver_of(const char *url, struct err *err)
{
    for (size_t i = 0; i < ARRAY_SIZE(drivers); i++) {
        if (takes(drivers[i], url))
            return drivers[i];
    }
    err_set(err, ERR_CONFIG, "the database URL must have the form sqlite:PATH or postgres://...");
    return NULL;
}

static struct db_opts with_defaults(const struct db_opts *opts)
{
    struct db_opts o = *opts;
    o.pool_size = o.pool_size ? o.pool_size : 4;
    o.connect_timeout_ms = o.connect_timeout_ms ? o.connect_timeout_ms : 5000;
    o.query_timeout_ms = o.query_timeout_ms ? o.query_timeout_ms : 30000;
    return o;
}

struct db *db_open_with(struct loop *loop, const struct db_opts *opts, struct err *err)
{
    const struct db_driver *driver = driver_of(opts->url, err);
    struct db_opts o = with_defaults(opts);
    return driver ? driver->open(loop, &o, err) : NULL;
}

struct db *db_open(struct loop *loop, const char *url, struct err *err)
{
    const struct db_opts opts = {.url = url};
    return db_open_with(loop, &opts, err);
}

int db_migrations(const struct db_opts *opts, bool apply, db_migration_fn *fn, void *ctx,
                  struct err *err)
{
    const struct db_driver *driver = driver_of(opts->url, err);
    struct db_opts o = with_defaults(opts);
    return driver ? driver->migrations(&o, apply, fn, ctx, err) : -1;
}

void db_close(struct db *db)
{
    if (db)
        db->driver->close(db);
}

void db_batch(struct db *db, const struct db_stmt *stmts, size_t count, db_done_fn *done, void *ctx)
{
    db->driver->batch(db, stmts, count, done, ctx);
}

void db_query(struct db *db, const char *sql, const struct db_param *params, size_t count,
              db_done_fn *done, void *ctx)
{
    const struct db_stmt stmt = {.sql = sql, .params = params, .param_count = count};
    db->driver->batch(db, &stmt, 1, done, ctx);
}

void db_poll_changed(struct db *db, db_changed_fn *done, void *ctx)
{
    db->driver->poll_changed(db, done, ctx);
}

/* --- waiting ------------------------------------------------------------------------------ */

#define WAIT_TAG TAG4('d', 'b', 'w', 't')
struct wait {
    uint32_t tag;
    bool finished, failed;
    db_done_fn *done;
    void *ctx;
    struct err *err;
};

static void wait_done(void *ctx, const struct db_result *r, const struct err *err)
{
    struct wait *wait = OBJ(ctx, struct wait, WAIT_TAG);
    wait->finished = true;
    wait->failed = err != NULL;
    if (err && wait->err)
        *wait->err = *err;
    if (wait->done)
        wait->done(wait->ctx, r, err);
}

int db_query_wait(struct db *db, const char *sql, const struct db_param *params, size_t count,
                  db_done_fn *done, void *ctx, struct err *err)
{
    struct wait wait = {.tag = WAIT_TAG, .done = done, .ctx = ctx, .err = err};
    db_query(db, sql, params, count, wait_done, &wait);
    while (!wait.finished) /* ends: every driver's waits are bounded */
        BUG_ON(event_base_loop(loop_base(db->loop), EVLOOP_ONCE) < 0);
    return wait.failed ? -1 : 0;
}
