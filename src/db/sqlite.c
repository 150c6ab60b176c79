/* sqlite.c - the driver for SQLite: the queue on the loop, and the thread behind it.
 *
 * Submitted operations wait in `queue`. When the database thread is free, all that wait (up to
 * GROUP_MAX) become its group; group.c runs it, and back on the loop each operation's callback is
 * called in submission order. The connection and the group belong to the thread while a group
 * runs, to the loop otherwise; core's work pool is the only place where the two meet, so there is
 * no lock here. One group per turn of the loop: callbacks that submit again cannot starve it.
 *
 * Checkpoints, which wait for the disk, run beside it on a second thread with a connection of its
 * own, so that no statement waits for fsync. While writing goes on they never reach the WAL's
 * end, and only then could it begin anew. So at WAL_PAGES_MAX pages statements do wait: no group
 * starts during a checkpoint, and the next one ends with a checkpoint of its own, which nobody
 * writes against. */
#include "db/driver.h"
#include "db/group.h"
#include "db/sqlite_open.h"

#include "core/log.h"

#define DB_TAG           TAG4('d', 'b', 's', 'q')
#define GROUP_MAX        1024
#define QUEUE_MAX_BYTES  (256u << 20)
#define CHECKPOINT_PAGES 1000  /* 4 MB: SQLite's own default */
#define WAL_PAGES_MAX    16384 /* 64 MB */

struct sqlite_db {
    uint32_t tag;
    struct db base;
    char *path;

    struct list queue;
    size_t queue_bytes; /* of queue and group */
    struct work *thread;
    struct sqlite_conn *conn;
    struct op *group[GROUP_MAX];
    size_t group_count; /* 0 = the thread is free */
    struct timer start; /* what one turn of the loop submits goes into one group */
    int64_t data_version;

    struct work *checkpoint_thread;
    struct sqlite_conn *checkpoint_conn; /* opened when first needed: subcommands never do */
    bool checkpointing, closing, warned;
    struct err checkpoint_err, own_checkpoint_err; /* of either thread; code ERR_NONE = none */
    int wal_pages;                                 /* after the last group */
    int checkpoint_at;                             /* start the next one at this many pages */
};

static void start_group(struct sqlite_db *db);

static struct sqlite_db *sqlite_db_of(struct db *base)
{
    return OBJ(container_of(base, struct sqlite_db, base), struct sqlite_db, DB_TAG);
}

/* --- checkpoints -------------------------------------------------------------------------- */

static void run_checkpoint(void *arg)
{
    struct sqlite_db *db = OBJ(arg, struct sqlite_db, DB_TAG);
    struct err err = {.code = ERR_NONE};
    if (!db->checkpoint_conn)
        db->checkpoint_conn = sqlite_conn_open(db->path, &err);
    if (db->checkpoint_conn && sqlite_conn_checkpoint(db->checkpoint_conn, &err) == 0)
        err.code = ERR_NONE;
    db->checkpoint_err = err;
}

/* Once per outage. */
static void report_checkpoint(struct sqlite_db *db, const struct err *err)
{
    if (err->code != ERR_NONE && !db->warned)
        log_warn("database checkpoint failed, going on", LF_S("error", err->msg));
    db->warned = err->code != ERR_NONE;
}

static void checkpoint_done(void *arg)
{
    struct sqlite_db *db = OBJ(arg, struct sqlite_db, DB_TAG);
    db->checkpointing = false;
    report_checkpoint(db, &db->checkpoint_err);
    if (!db->group_count)
        start_group(db);
}

static void maybe_checkpoint(struct sqlite_db *db, int wal_pages)
{
    if (wal_pages < db->wal_pages) /* it has begun anew */
        db->checkpoint_at = CHECKPOINT_PAGES;
    db->wal_pages = wal_pages;
    if (db->checkpointing || db->closing || wal_pages < db->checkpoint_at ||
        wal_pages >= WAL_PAGES_MAX)
        return;
    db->checkpointing = true;
    db->checkpoint_at = wal_pages + CHECKPOINT_PAGES;
    work_submit(db->checkpoint_thread, run_checkpoint, checkpoint_done, db);
}

/* --- groups ------------------------------------------------------------------------------- */

static void run_group(void *arg)
{
    struct sqlite_db *db = OBJ(arg, struct sqlite_db, DB_TAG);
    int before = sqlite_conn_wal_pages(db->conn);
    group_run(db->conn, db->group, db->group_count);
    int after = sqlite_conn_wal_pages(db->conn);
    struct err err;
    if (after == before || after < WAL_PAGES_MAX)
        return;
    if (sqlite_conn_checkpoint(db->conn, &err) == 0)
        err.code = ERR_NONE;
    db->own_checkpoint_err = err;
}

static void deliver_poll(struct sqlite_db *db, struct op *op)
{
    bool changed = false;
    if (!op->err) { /* a database that is away has not changed: caches may go on */
        int64_t version = db_int(&op->result, 0, 0);
        changed = version != db->data_version;
        db->data_version = version;
    }
    op->changed(op->ctx, changed);
}

static void group_done(void *arg)
{
    struct sqlite_db *db = OBJ(arg, struct sqlite_db, DB_TAG);
    if (db->own_checkpoint_err.code != ERR_NONE)
        report_checkpoint(db, &db->own_checkpoint_err);
    maybe_checkpoint(db, sqlite_conn_wal_pages(db->conn));
    for (size_t i = 0; i < db->group_count; i++) {
        struct op *op = TAKE_PTR(db->group[i]);
        db->queue_bytes -= op->size;
        if (op->changed)
            deliver_poll(db, op);
        else
            op->done(op->ctx, op->err ? NULL : &op->result, op->err);
        op_free(op);
    }
    db->group_count = 0;
    start_group(db);
}

static void start_group(struct sqlite_db *db)
{
    struct node *node;
    if (db->checkpointing && db->wal_pages >= WAL_PAGES_MAX)
        return; /* checkpoint_done() comes back here */
    while (db->group_count < GROUP_MAX && (node = list_pop_front(&db->queue)))
        db->group[db->group_count++] = container_of(node, struct op, node);
    if (db->group_count)
        work_submit(db->thread, run_group, group_done, db);
}

static void start_now(void *obj)
{
    struct sqlite_db *db = OBJ(obj, struct sqlite_db, DB_TAG);
    if (!db->group_count)
        start_group(db);
}

/* A group of its own for each operation would cost a wake-up and a commit each. */
static void start_soon(struct sqlite_db *db)
{
    if (db->group_count)
        return; /* group_done() takes what has come */
    if (db->closing)
        start_group(db); /* the loop may not run any more */
    else if (!timer_pending(&db->start))
        timer_set(&db->start, 0);
}

static struct op *submit(struct sqlite_db *db, const struct db_stmt *stmts, size_t count)
{
    struct op *op = op_new(stmts, count);
    if (op->size > QUEUE_MAX_BYTES - db->queue_bytes) {
        struct err err;
        op_free(op);
        op = op_new(NULL, 0);
        err_set(&err, ERR_UNAVAILABLE, "database: too much is waiting to be written");
        op_fail(op, &err);
        op->size = 0; /* counts for nothing, so that the sum stays within its limit */
    }
    db->queue_bytes += op->size;
    list_push_back(&db->queue, &op->node);
    return op;
}

/* --- the driver --------------------------------------------------------------------------- */

static void sqlite_batch(struct db *base, const struct db_stmt *stmts, size_t count,
                         db_done_fn *done, void *ctx)
{
    struct sqlite_db *db = sqlite_db_of(base);
    struct op *op = submit(db, stmts, count);
    op->done = done;
    op->ctx = ctx;
    start_soon(db);
}

#define DATA_VERSION "PRAGMA data_version"

static void sqlite_poll_changed(struct db *base, db_changed_fn *done, void *ctx)
{
    struct sqlite_db *db = sqlite_db_of(base);
    const struct db_stmt stmt = {.sql = DATA_VERSION};
    struct op *op = submit(db, &stmt, 1);
    op->changed = done;
    op->ctx = ctx;
    start_soon(db);
}

static int read_data_version(struct sqlite_db *db, struct err *err)
{
    struct db_result r;
    result_init(&r);
    int failed = sqlite_conn_exec(db->conn, DATA_VERSION, NULL, 0, &r, err);
    if (!failed)
        db->data_version = db_int(&r, 0, 0);
    result_release(&r);
    return failed;
}

static void sqlite_close(struct db *base)
{
    struct sqlite_db *db = sqlite_db_of(base);
    BUG_ON(db->group_count && !work_pending(db->thread)); /* called from a done() */
    db->closing = true;
    timer_release(&db->start);
    start_now(db);
    work_free(db->checkpoint_thread); /* first: groups may be waiting for it */
    work_free(db->thread);
    BUG_ON(db->queue.len || db->group_count);
    sqlite_conn_close(db->checkpoint_conn);
    sqlite_conn_close(db->conn); /* last of all: moves the whole WAL into the database file */
    free(db->path);
    free(db);
}

static struct db *sqlite_open(struct loop *loop, const struct db_opts *opts, struct err *err)
{
    const char *path = sqlite_path(opts->url, err);
    struct sqlite_conn *conn = path ? sqlite_open_migrated(path, err) : NULL;
    if (!conn)
        return NULL;
    struct sqlite_db *db = x_calloc(1, sizeof(*db));
    *db = (struct sqlite_db){.tag = DB_TAG,
                             .base = {.driver = &db_driver_sqlite, .loop = loop},
                             .conn = conn,
                             .path = x_strdup(path)};
    list_init(&db->queue);
    db->checkpoint_at = CHECKPOINT_PAGES;
    timer_init(&db->start, loop, start_now, db);
    db->thread = work_new(loop, "db", 1);
    db->checkpoint_thread = work_new(loop, "db-checkpoint", 1);
    if (read_data_version(db, err) == 0)
        return &db->base;
    sqlite_close(&db->base);
    return NULL;
}

const struct db_driver db_driver_sqlite = {
    .schemes = {"sqlite:"},
    .open = sqlite_open,
    .close = sqlite_close,
    .batch = sqlite_batch,
    .poll_changed = sqlite_poll_changed,
    .migrations = sqlite_migrations,
};
