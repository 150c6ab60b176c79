/* postgres.c - the driver for PostgreSQL: the queue, and the pool of connections that work it off.
 *
 * Submitted operations wait in `queue`. A connection that has nothing to do takes its share of
 * them as one group: single statements together (group commit), a batch by itself. When one
 * statement of a group fails, the server undoes all of it, and each operation is sent again alone,
 * so that the one at fault fails alone. Connections are opened when work waits and none is free,
 * one at a time, up to the size of the pool; one is kept up always.
 *
 * A new connection first gets its settings as an operation of our own (`greeting`); until that is
 * answered it takes no work.
 *
 * Connecting happens on a thread (pg_open.c says why) and is repeated with growing pauses. While
 * no connection is up, operations wait for one up to the connect time-out and then fail; while all
 * are busy, up to the time-outs of connecting and of a statement together, so that a table that
 * somebody has locked does not hold up everything else for ever. When a
 * connection is lost, the operations it had in flight fail, except for single reads: those are
 * sent once more, because the usual cause is that the server was restarted. */
#include "db/driver.h"
#include "db/migrate.h"
#include "db/op.h"
#include "db/pg_conn.h"
#include "db/pg_open.h"
#include "db/pg_types.h"

#include "core/clock.h"
#include "core/log.h"
#include "metrics/metrics.h"

#include <errno.h>
#include <poll.h>
#include <sodium.h>

#define PG_TAG          TAG4('d', 'b', 'p', 'g')
#define ATTEMPT_TAG     TAG4('p', 'g', 'a', 't')
#define GROUP_MAX       128
#define QUEUE_MAX       10000
#define QUEUE_MAX_BYTES (256u << 20)
#define POOL_MAX        100
#define REPEATS_MAX     3
#define BACKOFF_MIN_MS  100
#define BACKOFF_MAX_MS  5000
#define SILENCE_MORE_MS 2000 /* the server's own time-out comes first and says more */

static struct metric m_connections = {.name = "claudegate_db_connections",
                                      .help = "Connections to PostgreSQL that are up.",
                                      .type = METRIC_GAUGE};
static struct metric m_waiting = {.name = "claudegate_db_waiting",
                                  .help = "Statements that wait for a connection to PostgreSQL.",
                                  .type = METRIC_GAUGE};
static struct metric m_lost = {.name = "claudegate_db_connections_lost_total",
                               .help = "Connections to PostgreSQL that broke.",
                               .type = METRIC_COUNTER};

struct slot {
    struct pg_conn *conn;
    struct op *greeting; /* in flight: not ready for work */
};

struct pg_db {
    uint32_t tag;
    struct db base;
    char *url;
    int64_t connect_ms, query_ms;

    struct list queue;
    struct list refused; /* they have their error already */
    size_t bytes;        /* of all operations that were not told yet */
    struct slot slots[POOL_MAX];
    int pool_size;

    struct work *connector;
    bool connecting, closing;
    int64_t pause_ms;   /* before the next attempt to connect; 0: the last one went well */
    int64_t away_since; /* mono ms; 0: a connection is ready */
    struct timer start; /* what one turn of the loop submits is handed out together */
    struct timer reconnect, expire;
    int64_t version; /* of key_changes */
};

static struct pg_db *pg_db_of(struct db *base)
{
    return OBJ(container_of(base, struct pg_db, base), struct pg_db, PG_TAG);
}

/* --- operations --------------------------------------------------------------------------- */

static void deliver_poll(struct pg_db *db, struct op *op)
{
    bool changed = false;
    if (!op->err && db_rows(&op->result) == 1) {
        int64_t version = db_int(&op->result, 0, 0);
        changed = version != db->version;
        db->version = version;
    }
    op->changed(op->ctx, changed); /* a database that is away has not changed: caches may go on */
}

static void tell(struct pg_db *db, struct op *op)
{
    db->bytes -= op->size;
    if (op->changed)
        deliver_poll(db, op);
    else
        op->done(op->ctx, op->err ? NULL : &op->result, op->err);
    op_free(op);
}

static void fail(struct pg_db *db, struct op *op, const struct err *err)
{
    op_fail(op, err);
    tell(db, op);
}

static void again(struct pg_db *db, struct op *op)
{
    free(op->err);
    op->err = NULL;
    op->since = clock_mono_ms();
    list_push_front(&db->queue, &op->node);
}

/* Those that are refused at once: told later, as the contract says. */
static void tell_refused(struct pg_db *db)
{
    struct node *node;
    for (size_t n = db->refused.len; n && (node = list_pop_front(&db->refused)); n--)
        tell(db, container_of(node, struct op, node));
}

/* --- handing out -------------------------------------------------------------------------- */

static bool ready(const struct slot *slot)
{
    return pg_conn_up(slot->conn) && !slot->greeting;
}

static bool idle(const struct slot *slot)
{
    return ready(slot) && !pg_conn_busy(slot->conn);
}

static int count_slots(const struct pg_db *db, bool (*what)(const struct slot *slot))
{
    int n = 0;
    for (int i = 0; i < db->pool_size; i++)
        n += what(&db->slots[i]);
    return n;
}

static bool needs_own_group(const struct op *op)
{
    return op->count != 1 || op->alone;
}

/* The next group: at most `share` single statements, or one that goes by itself. */
static size_t take_group(struct pg_db *db, size_t share, struct op *ops[GROUP_MAX])
{
    size_t n = 0;
    while (n < share && db->queue.len) {
        struct op *op = container_of(list_first(&db->queue), struct op, node);
        if (n && needs_own_group(op))
            break;
        list_remove(&db->queue, &op->node);
        ops[n++] = op;
        if (needs_own_group(op))
            break;
    }
    return n;
}

static void connect_soon(struct pg_db *db);
static void set_expire(struct pg_db *db);

static void hand_out(struct pg_db *db)
{
    size_t free_slots = (size_t)count_slots(db, idle);
    for (int i = 0; i < db->pool_size && db->queue.len && free_slots; i++) {
        struct op *ops[GROUP_MAX];
        if (!idle(&db->slots[i]))
            continue;
        size_t share = (db->queue.len + free_slots - 1) / free_slots;
        size_t n = take_group(db, share < GROUP_MAX ? share : GROUP_MAX, ops);
        pg_conn_send(db->slots[i].conn, ops, n);
        free_slots--;
    }
    connect_soon(db);
    set_expire(db);
}

static void on_start(void *obj)
{
    struct pg_db *db = OBJ(obj, struct pg_db, PG_TAG);
    tell_refused(db);
    hand_out(db);
}

static void start_soon(struct pg_db *db)
{
    if (!db->closing && !timer_pending(&db->start)) /* pg_close() hands out by itself */
        timer_set(&db->start, 0);
}

/* --- waiting for a connection ------------------------------------------------------------- */

static int64_t deadline_of(const struct pg_db *db, const struct op *op)
{
    int64_t since = op->since > db->away_since ? op->since : db->away_since;
    int64_t away = since + db->connect_ms, busy = op->born + db->connect_ms + db->query_ms;
    return db->away_since && away < busy ? away : busy;
}

static void fail_waiting(struct pg_db *db, bool all)
{
    struct err err;
    int64_t now = clock_mono_ms();
    err_set(&err, ERR_UNAVAILABLE, "database: %s",
            all || db->away_since ? "there is no connection" : "all connections are busy");
    for (size_t n = db->queue.len; n && db->queue.len; n--) {
        struct op *op = container_of(list_first(&db->queue), struct op, node);
        if (!all && deadline_of(db, op) > now)
            break;
        list_remove(&db->queue, &op->node);
        fail(db, op, &err);
    }
}

static void set_expire(struct pg_db *db)
{
    if (!db->queue.len || db->closing) {
        timer_stop(&db->expire);
        return;
    }
    const struct op *op = container_of(list_first(&db->queue), struct op, node);
    int64_t left = deadline_of(db, op) - clock_mono_ms();
    timer_set(&db->expire, left > 0 ? left : 0);
}

static void on_expire(void *obj)
{
    struct pg_db *db = OBJ(obj, struct pg_db, PG_TAG);
    fail_waiting(db, false);
    set_expire(db);
}

/* --- connecting --------------------------------------------------------------------------- */

struct attempt {
    uint32_t tag;
    struct pg_db *db;
    char *url; /* the thread's own */
    int64_t timeout_ms;
    PGconn *pq;
    struct err err;
};

static void attempt_run(void *arg)
{
    struct attempt *a = OBJ(arg, struct attempt, ATTEMPT_TAG);
    a->pq = pg_connect(a->url, a->timeout_ms, &a->err);
}

static void note_away(struct pg_db *db, const struct err *why)
{
    if (db->away_since || count_slots(db, ready))
        return;
    db->away_since = clock_mono_ms();
    if (!db->closing)
        log_warn("the database cannot be reached, trying again", LF_S("error", why->msg));
}

static void note_ready(struct pg_db *db)
{
    db->pause_ms = 0;
    if (!db->away_since)
        return;
    log_info("the database can be reached", LF_I("away_ms", clock_mono_ms() - db->away_since));
    db->away_since = 0;
}

/* The pauses of replicas that lost the same server drift apart. */
static void pause_more(struct pg_db *db)
{
    int64_t pause = db->pause_ms ? db->pause_ms * 2 : BACKOFF_MIN_MS;
    db->pause_ms = pause < BACKOFF_MAX_MS ? pause : BACKOFF_MAX_MS;
    if (!db->closing)
        timer_set(&db->reconnect, db->pause_ms - randombytes_uniform((uint32_t)db->pause_ms / 5));
}

static struct slot *free_slot(struct pg_db *db)
{
    for (int i = 0; i < db->pool_size; i++) {
        if (!pg_conn_up(db->slots[i].conn))
            return &db->slots[i];
    }
    return NULL;
}

/* Settings of the connection: an operation like any other, so that a server that does not answer
 * is noticed like any other. */
static void greet(struct pg_db *db, struct slot *slot, PGconn *pq)
{
    static const char sql[] = "SELECT set_config('statement_timeout', $1, false), "
                              "set_config('idle_in_transaction_session_timeout', $2, false)";
    char query_ms[PG_NUMBER], idle_ms[PG_NUMBER];
    snprintf(query_ms, sizeof(query_ms), "%lld", (long long)db->query_ms);
    snprintf(idle_ms, sizeof(idle_ms), "%lld", (long long)db->query_ms + SILENCE_MORE_MS);
    const struct db_param params[] = {DBP_S(query_ms), DBP_S(idle_ms)};
    const struct db_stmt stmt = {.sql = sql, .params = params, .param_count = 2};
    slot->greeting = op_new(&stmt, 1);
    pg_conn_start(slot->conn, pq);
    pg_conn_send(slot->conn, &slot->greeting, 1);
}

static void attempt_done(void *arg)
{
    struct attempt *a = OBJ(arg, struct attempt, ATTEMPT_TAG);
    struct pg_db *db = a->db;
    struct slot *slot = free_slot(db);
    db->connecting = false;
    if (a->pq && slot) {
        greet(db, slot, a->pq);
    } else if (a->pq) {
        PQfinish(a->pq);
    } else {
        note_away(db, &a->err);
        pause_more(db);
        log_debug("cannot connect to the database", LF_S("error", a->err.msg));
    }
    free(a->url);
    free(a);
}

static bool wants_connection(const struct pg_db *db)
{
    bool one_coming = false;
    for (int i = 0; i < db->pool_size; i++)
        one_coming |= db->slots[i].greeting != NULL;
    if (one_coming || db->connecting)
        return false;
    return count_slots(db, ready) == 0 || (db->queue.len && count_slots(db, idle) == 0);
}

static void connect_soon(struct pg_db *db)
{
    if (db->closing || timer_pending(&db->reconnect) || !wants_connection(db) || !free_slot(db))
        return;
    struct attempt *a = x_calloc(1, sizeof(*a));
    *a = (struct attempt){
        .tag = ATTEMPT_TAG, .db = db, .url = x_strdup(db->url), .timeout_ms = db->connect_ms};
    db->connecting = true;
    work_submit(db->connector, attempt_run, attempt_done, a);
}

static void on_reconnect(void *obj)
{
    connect_soon(OBJ(obj, struct pg_db, PG_TAG));
}

/* --- answers ------------------------------------------------------------------------------ */

static void greeted(struct pg_db *db, struct slot *slot, const struct pg_answer *a)
{
    op_free(TAKE_PTR(slot->greeting));
    if (a->outcome == PG_DONE) {
        note_ready(db);
        return;
    }
    note_away(db, &a->why);
    pause_more(db);
    pg_conn_drop(slot->conn, &a->why);
}

/* A group of several: nothing of it has happened, and each can be tried by itself. */
static void part_group(struct pg_db *db, const struct pg_answer *a)
{
    for (size_t i = a->count; i-- > 0;) {
        a->ops[i]->alone = true;
        again(db, a->ops[i]);
    }
}

static void undone(struct pg_db *db, const struct pg_answer *a)
{
    if (a->count > 1)
        part_group(db, a);
    else if (a->may_repeat && a->ops[0]->repeats++ < REPEATS_MAX)
        again(db, a->ops[0]);
    else
        fail(db, a->ops[0], &a->why);
}

static bool may_send_again(const struct op *op, const struct pg_answer *a)
{
    return op->count == 1 && !a->timed_out && op->repeats == 0 && pg_is_read(op->stmts[0].sql);
}

static void lost(struct pg_db *db, const struct pg_answer *a)
{
    metric_add(&m_lost, 1);
    note_away(db, &a->why);
    for (size_t i = a->count; i-- > 0;) {
        struct op *op = a->ops[i];
        if (!may_send_again(op, a))
            continue;
        a->ops[i] = NULL;
        op->repeats++;
        again(db, op);
    }
    for (size_t i = 0; i < a->count; i++) {
        if (a->ops[i])
            fail(db, a->ops[i], &a->why);
    }
}

static void answered(void *ctx, struct pg_conn *conn, const struct pg_answer *a)
{
    struct pg_db *db = OBJ(ctx, struct pg_db, PG_TAG);
    struct slot *slot = db->slots;
    while (slot->conn != conn)
        slot++;
    if (slot->greeting) {
        greeted(db, slot, a);
    } else if (a->outcome == PG_LOST) {
        lost(db, a);
    } else if (a->outcome == PG_UNDONE) {
        undone(db, a);
    } else {
        for (size_t i = 0; i < a->count; i++)
            tell(db, a->ops[i]);
    }
    hand_out(db);
}

/* --- the driver --------------------------------------------------------------------------- */

static bool refused(const struct pg_db *db, const struct op *op, struct err *err)
{
    if (db->queue.len >= QUEUE_MAX || op->size > QUEUE_MAX_BYTES - db->bytes) {
        err_set(err, ERR_UNAVAILABLE, "database: too many statements are waiting");
        return true;
    }
    for (size_t i = 0; i < op->count; i++) {
        if (pg_refuses(&op->stmts[i], err))
            return true;
    }
    return false;
}

/* Told later, and its parameters gone at once: it counts for nothing. */
static struct op *refuse(struct pg_db *db, struct op *op, const struct err *err)
{
    op_free(op);
    op = op_new(NULL, 0);
    op->size = 0;
    op_fail(op, err);
    list_push_back(&db->refused, &op->node);
    return op;
}

static struct op *submit(struct pg_db *db, const struct db_stmt *stmts, size_t count)
{
    struct op *op = op_new(stmts, count);
    struct err err;
    start_soon(db);
    if (refused(db, op, &err))
        return refuse(db, op, &err);
    db->bytes += op->size;
    op->born = op->since = clock_mono_ms();
    /* Without a statement there is nothing to do: told with those that are refused. */
    list_push_back(count ? &db->queue : &db->refused, &op->node);
    return op;
}

static void pg_batch(struct db *base, const struct db_stmt *stmts, size_t count, db_done_fn *done,
                     void *ctx)
{
    struct op *op = submit(pg_db_of(base), stmts, count);
    op->done = done;
    op->ctx = ctx;
}

#define VERSION_SQL "SELECT version FROM key_changes"

static void pg_poll_changed(struct db *base, db_changed_fn *done, void *ctx)
{
    const struct db_stmt stmt = {.sql = VERSION_SQL};
    struct op *op = submit(pg_db_of(base), &stmt, 1);
    op->changed = done;
    op->ctx = ctx;
}

/* --- closing ------------------------------------------------------------------------------ */

/* Waits for sockets; false when nothing came. */
static bool poll_once(struct pg_db *db, int64_t ms)
{
    struct pollfd fds[POOL_MAX];
    struct pg_conn *conns[POOL_MAX];
    nfds_t n = 0;
    for (int i = 0; i < db->pool_size; i++) {
        if (!pg_conn_up(db->slots[i].conn))
            continue;
        conns[n] = db->slots[i].conn;
        fds[n].fd = pg_conn_fd(conns[n], &fds[n].events);
        n++;
    }
    int came = poll(fds, n, (int)ms);
    if (came <= 0)
        return came < 0 && errno == EINTR;
    for (nfds_t i = 0; i < n; i++) {
        if (fds[i].revents && pg_conn_up(conns[i]))
            pg_conn_turn(conns[i]);
    }
    return true;
}

static bool up(const struct slot *slot)
{
    return pg_conn_up(slot->conn);
}

static bool busy(const struct slot *slot)
{
    return pg_conn_busy(slot->conn);
}

static void drop_all(struct pg_db *db)
{
    struct err why;
    err_set(&why, ERR_UNAVAILABLE, "database: no answer while closing");
    for (int i = 0; i < db->pool_size; i++)
        pg_conn_drop(db->slots[i].conn, &why);
}

/* The loop may not run any more, so this is a small one of our own. */
static void finish(struct pg_db *db)
{
    int64_t silence_ms = db->query_ms + SILENCE_MORE_MS;
    while (db->queue.len || db->refused.len || count_slots(db, busy)) {
        tell_refused(db);
        hand_out(db);
        if (!count_slots(db, up))
            fail_waiting(db, true);
        else if (count_slots(db, busy) && !poll_once(db, silence_ms))
            drop_all(db);
    }
}

static void collect(void *ctx)
{
    struct pg_db *db = OBJ(ctx, struct pg_db, PG_TAG);
    metric_set(&m_connections, (double)count_slots(db, ready));
    metric_set(&m_waiting, (double)db->queue.len);
}

static void pg_close(struct db *base)
{
    struct pg_db *db = pg_db_of(base);
    db->closing = true;
    metrics_remove_collector(collect, db);
    timer_release(&db->start);
    timer_release(&db->reconnect);
    timer_release(&db->expire);
    work_free(db->connector); /* an attempt that is on its way is waited for */
    finish(db);
    for (int i = 0; i < db->pool_size; i++)
        pg_conn_free(db->slots[i].conn);
    sodium_memzero(db->url, strlen(db->url));
    free(db->url);
    free(db);
}

/* --- opening ------------------------------------------------------------------------------ */

static int prepare(PGconn *pq, int64_t *ret_version, struct err *err)
{
    struct db_result r;
    result_init(&r);
    int failed = pg_migrate(pq, db_migrations_postgres, db_migrations_postgres_count, err);
    if (!failed)
        failed = pg_exec(pq, VERSION_SQL, NULL, 0, &r, err);
    if (!failed && db_rows(&r) == 1)
        *ret_version = db_int(&r, 0, 0);
    result_release(&r);
    return failed;
}

static struct pg_db *new_db(struct loop *loop, const struct db_opts *opts)
{
    struct pg_db *db = x_calloc(1, sizeof(*db));
    *db = (struct pg_db){.tag = PG_TAG,
                         .base = {.driver = &db_driver_postgres, .loop = loop},
                         .url = x_strdup(opts->url),
                         .connect_ms = opts->connect_timeout_ms,
                         .query_ms = opts->query_timeout_ms,
                         .pool_size = opts->pool_size};
    BUG_ON(db->pool_size < 1 || db->pool_size > POOL_MAX);
    list_init(&db->queue);
    list_init(&db->refused);
    for (int i = 0; i < db->pool_size; i++)
        db->slots[i].conn = pg_conn_new(loop, db->query_ms + SILENCE_MORE_MS, answered, db);
    timer_init(&db->start, loop, on_start, db);
    timer_init(&db->reconnect, loop, on_reconnect, db);
    timer_init(&db->expire, loop, on_expire, db);
    db->connector = work_new(loop, "db-connect", 1);
    return db;
}

static struct db *pg_open(struct loop *loop, const struct db_opts *opts, struct err *err)
{
    int64_t version = 0;
    PGconn *pq = pg_connect(opts->url, opts->connect_timeout_ms, err);
    if (!pq || prepare(pq, &version, err) != 0) {
        PQfinish(pq);
        err_prefix(err, "cannot open the PostgreSQL database");
        return NULL;
    }
    struct pg_db *db = new_db(loop, opts);
    db->version = version;
    greet(db, &db->slots[0], pq);
    metric_register(&m_connections);
    metric_register(&m_waiting);
    metric_register(&m_lost);
    metrics_add_collector(collect, db);
    return &db->base;
}

const struct db_driver db_driver_postgres = {
    .schemes = {"postgres:", "postgresql:"},
    .open = pg_open,
    .close = pg_close,
    .batch = pg_batch,
    .poll_changed = pg_poll_changed,
    .migrations = pg_migrations,
};
