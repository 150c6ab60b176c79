/* pg_conn.c - see the header.
 *
 * A group goes out as: [prepare] execute [prepare] execute ... sync. Up to the sync the server
 * treats it as one transaction, which the sync commits; after an error it skips the rest and rolls
 * back. `expect` is the list of what answers are still to come, in the order libpq gives them: for
 * each prepare and each execute results and then NULL, for the sync one result without NULL.
 *
 * Statements are prepared once per connection and found again by their text and the marks of
 * their parameters' types. Past PREPARED_MAX (texts built on the fly: a mistake, but a harmless
 * one) they are sent unprepared. Rows come one by one (single row mode), so that the limit of a
 * result holds in libpq's memory as well.
 *
 * The server may stop reading while it writes results, so we read whenever there is something to
 * read, also before all is sent. */
#include "db/pg_conn.h"

#include "db/pg_types.h"

#include <event2/event.h>
#include <poll.h>
#define HASH_FUNCTION HASH_FNV /* the default warns under clang */
#include <uthash.h>

#define CONN_TAG     TAG4('p', 'g', 'c', 'n')
#define PREPARED_MAX 256
#define KEY_MAX      (1u << 20)

struct prepared {
    char *key; /* type marks, a colon, the statement */
    char name[16];
    bool ready; /* the server has it; otherwise it was sent with the group in flight */
    UT_hash_handle hh;
};

struct expect {
    enum { EXPECT_PREPARE, EXPECT_EXECUTE, EXPECT_SYNC } kind;
    struct op *op;             /* EXPECT_EXECUTE */
    struct prepared *prepared; /* EXPECT_PREPARE */
};

struct pg_conn {
    uint32_t tag;
    struct loop *loop;
    PGconn *pq; /* NULL: not connected */
    struct event *readable, *writable;
    struct timer silence;
    int64_t silence_ms;
    pg_answer_fn *answer;
    void *ctx;

    struct op **ops; /* the group in flight */
    size_t count, ops_cap;
    struct expect *expect;
    size_t expect_at, expect_count, expect_cap;
    struct pg_answer outcome; /* as far as it is known */
    bool broken;              /* not all of the group could be sent */
    bool first_result;        /* of the statement whose results are being read */

    struct prepared *prepared;
    unsigned last_name;
    bool stale; /* prepared statements do not fit the schema any more */
    struct pg_params params;
    struct buf key;
};

bool pg_conn_up(const struct pg_conn *conn)
{
    return conn->pq != NULL;
}

bool pg_conn_busy(const struct pg_conn *conn)
{
    return conn->count > 0;
}

/* --- prepared statements ------------------------------------------------------------------ */

static void forget(struct pg_conn *conn, struct prepared *p)
{
    HASH_DEL(conn->prepared, p);
    free(p->key);
    free(p);
}

/* All of them, or only those that the server may not have. */
static void forget_prepared(struct pg_conn *conn, bool all)
{
    struct prepared *p, *next;
    HASH_ITER(hh, conn->prepared, p, next)
    {
        if (all || !p->ready)
            forget(conn, p);
    }
}

static void make_key(struct buf *key, const struct db_stmt *stmt)
{
    buf_clear(key);
    for (size_t i = 0; i < stmt->param_count; i++)
        buf_addc(key, pg_type_mark(&stmt->params[i]));
    buf_addc(key, ':');
    buf_adds(key, stmt->sql);
}

static struct prepared *find_prepared(struct pg_conn *conn)
{
    struct prepared *p = NULL;
    if (buf_ok(&conn->key))
        HASH_FIND(hh, conn->prepared, conn->key.data, conn->key.len, p);
    return p;
}

/* NULL: it goes unprepared. */
static struct prepared *new_prepared(struct pg_conn *conn)
{
    if (HASH_COUNT(conn->prepared) >= PREPARED_MAX || !buf_ok(&conn->key))
        return NULL;
    struct prepared *p = x_calloc(1, sizeof(*p));
    p->key = x_strndup(conn->key.data, conn->key.len);
    snprintf(p->name, sizeof(p->name), "s%u", ++conn->last_name);
    HASH_ADD_KEYPTR(hh, conn->prepared, p->key, conn->key.len, p);
    return p;
}

/* --- the end of a group, and of a connection ---------------------------------------------- */

static void tell(struct pg_conn *conn)
{
    struct pg_answer a = conn->outcome;
    struct op **ops = TAKE_PTR(conn->ops);
    a.ops = ops;
    a.count = conn->count;
    conn->count = conn->ops_cap = 0;
    conn->expect_at = conn->expect_count = 0;
    conn->outcome = (struct pg_answer){.outcome = PG_DONE};
    timer_stop(&conn->silence);
    conn->answer(conn->ctx, conn, &a);
    if (conn->ops)
        free(ops);
    else
        conn->ops = ops; /* its memory serves the next group */
}

static void close_socket(struct pg_conn *conn)
{
    event_del(conn->readable); /* before its descriptor is closed */
    event_del(conn->writable);
    PQfinish(conn->pq);
    conn->pq = NULL;
    conn->broken = false;
    forget_prepared(conn, true);
}

void pg_conn_drop(struct pg_conn *conn, const struct err *why)
{
    if (!conn->pq)
        return;
    close_socket(conn);
    conn->outcome.outcome = PG_LOST;
    conn->outcome.why = *why;
    tell(conn);
}

static void lost(struct pg_conn *conn)
{
    struct err why;
    pg_conn_error(conn->pq, &why);
    pg_conn_drop(conn, &why);
}

static void on_silence(void *obj)
{
    struct pg_conn *conn = OBJ(obj, struct pg_conn, CONN_TAG);
    struct err why;
    err_set(&why, ERR_UNAVAILABLE, "database: no answer for %lld ms", (long long)conn->silence_ms);
    conn->outcome.timed_out = true;
    pg_conn_drop(conn, &why);
}

/* --- answers ------------------------------------------------------------------------------ */

/* The statement whose results come next: rows one by one. */
static void want_single_rows(struct pg_conn *conn)
{
    if (conn->expect_at == conn->expect_count ||
        conn->expect[conn->expect_at].kind != EXPECT_EXECUTE)
        return;
    conn->first_result = true;
    PQsetSingleRowMode(conn->pq); /* where it cannot, they come all at once */
}

static void note_failure(struct pg_conn *conn, const PGresult *res)
{
    bool stale;
    if (conn->outcome.outcome == PG_UNDONE)
        return; /* the first one is the cause */
    conn->outcome.outcome = PG_UNDONE;
    conn->outcome.may_repeat = pg_may_repeat(res, &stale);
    conn->stale |= stale;
    pg_error(res, &conn->outcome.why);
}

/* Rows of op's current statement; only those of its last one are kept. */
static void take_rows(struct pg_conn *conn, struct op *op, const PGresult *res)
{
    struct err err;
    if (conn->first_result) {
        result_release(&op->result);
        result_init(&op->result);
        conn->first_result = false;
    }
    if (!op->err && pg_result_take(&op->result, res, &err) != 0)
        op_fail(op, &err); /* the rest is read and thrown away */
}

static void take_result(struct pg_conn *conn, struct expect *e, const PGresult *res)
{
    ExecStatusType status = PQresultStatus(res);
    struct err err;
    if (status == PGRES_FATAL_ERROR) {
        note_failure(conn, res);
    } else if (e->kind == EXPECT_PREPARE) {
        e->prepared->ready = status == PGRES_COMMAND_OK;
    } else if (status == PGRES_EMPTY_QUERY) {
        err_set(&err, ERR_INTERNAL, "database: an empty statement");
        op_fail(e->op, &err);
    } else if (status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK ||
               status == PGRES_SINGLE_TUPLE) {
        take_rows(conn, e->op, res);
    } /* else PGRES_PIPELINE_ABORTED: skipped after an error */
}

/* The whole group was answered. */
static void end_group(struct pg_conn *conn)
{
    struct err why;
    if (PQtransactionStatus(conn->pq) != PQTRANS_IDLE) {
        err_set(&why, ERR_INTERNAL, "database: a statement left a transaction open");
        pg_conn_drop(conn, &why);
        return;
    }
    forget_prepared(conn, conn->stale);
    conn->stale = false;
    tell(conn);
}

/* One step; false when nothing more can be read now. */
static bool next_result(struct pg_conn *conn)
{
    if (!conn->pq || conn->expect_at == conn->expect_count || PQisBusy(conn->pq))
        return false;
    struct expect *e = &conn->expect[conn->expect_at];
    PGresult *res = PQgetResult(conn->pq);
    if (!res && e->kind != EXPECT_SYNC) {
        conn->expect_at++;
        want_single_rows(conn);
    } else if (!res) {
        return PQstatus(conn->pq) == CONNECTION_OK && !PQisBusy(conn->pq);
    } else if (PQresultStatus(res) == PGRES_PIPELINE_SYNC) {
        BUG_ON(e->kind != EXPECT_SYNC);
        PQclear(res);
        end_group(conn);
        return true;
    } else {
        take_result(conn, e, res);
    }
    PQclear(res);
    return PQstatus(conn->pq) == CONNECTION_OK;
}

static void read_answers(struct pg_conn *conn)
{
    if (!PQconsumeInput(conn->pq)) {
        lost(conn);
        return;
    }
    while (next_result(conn))
        ;
    if (conn->pq && (conn->broken || PQstatus(conn->pq) == CONNECTION_BAD))
        lost(conn);
    else if (conn->count)
        timer_set(&conn->silence, conn->silence_ms);
}

static void on_readable(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd;
    (void)what;
    read_answers(OBJ(ctx, struct pg_conn, CONN_TAG));
}

/* --- sending ------------------------------------------------------------------------------ */

static void flush(struct pg_conn *conn)
{
    int rest = PQflush(conn->pq);
    if (rest > 0)
        event_add(conn->writable, NULL);
    else if (rest == 0)
        event_del(conn->writable);
    /* On failure the reason is still to be read: the server may have said it. */
}

static void on_writable(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd;
    (void)what;
    flush(OBJ(ctx, struct pg_conn, CONN_TAG));
}

static struct expect *expect_more(struct pg_conn *conn)
{
    if (conn->expect_count == conn->expect_cap) {
        conn->expect_cap = conn->expect_cap ? conn->expect_cap * 2 : 64;
        conn->expect = x_realloc(conn->expect, conn->expect_cap * sizeof(*conn->expect));
    }
    struct expect *e = &conn->expect[conn->expect_count++];
    *e = (struct expect){0};
    return e;
}

static bool send_stmt(struct pg_conn *conn, struct op *op, const struct db_stmt *stmt)
{
    int count = (int)stmt->param_count;
    struct pg_params *p = &conn->params;
    pg_params_set(p, stmt->params, stmt->param_count);
    make_key(&conn->key, stmt);
    struct prepared *prepared = find_prepared(conn);
    if (!prepared && (prepared = new_prepared(conn))) {
        if (!PQsendPrepare(conn->pq, prepared->name, stmt->sql, count, p->types))
            return false;
        *expect_more(conn) = (struct expect){.kind = EXPECT_PREPARE, .prepared = prepared};
    }
    *expect_more(conn) = (struct expect){.kind = EXPECT_EXECUTE, .op = op};
    const char *const *values = p->values;
    return prepared
               ? PQsendQueryPrepared(conn->pq, prepared->name, count, values, NULL, NULL, 0)
               : PQsendQueryParams(conn->pq, stmt->sql, count, p->types, values, NULL, NULL, 0);
}

static bool send_all(struct pg_conn *conn)
{
    for (size_t i = 0; i < conn->count; i++) {
        struct op *op = conn->ops[i];
        for (size_t s = 0; s < op->count; s++) {
            if (!send_stmt(conn, op, &op->stmts[s]))
                return false;
        }
    }
    expect_more(conn)->kind = EXPECT_SYNC;
    return PQpipelineSync(conn->pq) == 1;
}

void pg_conn_send(struct pg_conn *conn, struct op *const *ops, size_t count)
{
    BUG_ON(!conn->pq || conn->count || !count);
    if (count > conn->ops_cap) {
        conn->ops = x_realloc(conn->ops, count * sizeof(struct op *));
        conn->ops_cap = count;
    }
    memcpy(conn->ops, ops, count * sizeof(struct op *));
    conn->count = count;
    timer_set(&conn->silence, conn->silence_ms);
    if (!send_all(conn)) { /* told later: the owner is in the middle of handing out work */
        conn->broken = true;
        event_active(conn->readable, EV_READ, 0);
        return;
    }
    want_single_rows(conn);
    flush(conn);
}

/* --- life --------------------------------------------------------------------------------- */

struct pg_conn *pg_conn_new(struct loop *loop, int64_t silence_ms, pg_answer_fn *answer, void *ctx)
{
    struct pg_conn *conn = x_calloc(1, sizeof(*conn));
    *conn = (struct pg_conn){
        .tag = CONN_TAG, .loop = loop, .silence_ms = silence_ms, .answer = answer, .ctx = ctx};
    conn->outcome.outcome = PG_DONE;
    conn->readable = event_new(loop_base(loop), -1, 0, on_readable, conn);
    conn->writable = event_new(loop_base(loop), -1, 0, on_writable, conn);
    BUG_ON(!conn->readable || !conn->writable);
    timer_init(&conn->silence, loop, on_silence, conn);
    buf_init(&conn->key, KEY_MAX);
    return conn;
}

void pg_conn_start(struct pg_conn *conn, PGconn *pq)
{
    struct event_base *base = loop_base(conn->loop);
    int fd = PQsocket(pq);
    BUG_ON(conn->pq || fd < 0);
    conn->pq = pq;
    BUG_ON(PQsetnonblocking(pq, 1) != 0 || PQenterPipelineMode(pq) != 1);
    event_assign(conn->readable, base, fd, EV_READ | EV_PERSIST, on_readable, conn);
    event_assign(conn->writable, base, fd, EV_WRITE | EV_PERSIST, on_writable, conn);
    BUG_ON(event_add(conn->readable, NULL) != 0);
}

void pg_conn_free(struct pg_conn *conn)
{
    if (!conn)
        return;
    BUG_ON(conn->count);
    close_socket(conn);
    event_free(conn->readable);
    event_free(conn->writable);
    timer_release(&conn->silence);
    pg_params_release(&conn->params);
    buf_release(&conn->key);
    free(conn->expect);
    free(conn->ops);
    conn->tag = 0;
    free(conn);
}

int pg_conn_fd(const struct pg_conn *conn, short *ret_events)
{
    *ret_events = POLLIN;
    if (event_pending(conn->writable, EV_WRITE, NULL))
        *ret_events |= POLLOUT;
    return PQsocket(conn->pq);
}

void pg_conn_turn(struct pg_conn *conn)
{
    flush(conn);
    read_answers(conn);
}
