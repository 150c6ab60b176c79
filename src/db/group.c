/* group.c - group commit: all operations that waited together share one transaction, so the cost
 * of a commit is paid once per group and not once per statement.
 *
 * Reads before the group's first write run outside the transaction. From the first write on
 * everything runs inside it, each operation in a savepoint, so that one that fails (a unique
 * violation) is undone alone. Nothing is reported before COMMIT: when that fails, all that ran
 * inside fails. Reads inside are no exception, they may have seen rows that now do not exist.
 *
 * SQLite may throw the whole transaction away in the middle (disk full, I/O error). Then every
 * operation from the first write on is run again in a transaction of its own, so that the one at
 * fault does not take its neighbours with it. */
#include "db/group.h"

static int run_stmts(struct sqlite_conn *conn, struct op *op, struct err *err)
{
    for (size_t i = 0; i < op->count; i++) {
        const struct db_stmt *s = &op->stmts[i];
        result_release(&op->result);
        result_init(&op->result);
        if (sqlite_conn_exec(conn, s->sql, s->params, s->param_count, &op->result, err) != 0)
            return -1;
    }
    return 0;
}

static int run_undoable(struct sqlite_conn *conn, struct op *op, struct err *err)
{
    if (sqlite_conn_savepoint(conn, err) != 0)
        return -1;
    if (run_stmts(conn, op, err) == 0 && sqlite_conn_release(conn, err) == 0)
        return 0;
    sqlite_conn_undo(conn);
    return -1;
}

static void run_op(struct sqlite_conn *conn, struct op *op, bool in_tx)
{
    struct err err;
    op->started = true;
    op->in_tx = in_tx;
    if ((in_tx ? run_undoable(conn, op, &err) : run_stmts(conn, op, &err)) != 0)
        op_fail(op, &err);
}

static bool only_reads(struct sqlite_conn *conn, const struct op *op)
{
    /* Several reads of one batch must see one state: they need a transaction too. */
    return op->count == 0 || (op->count == 1 && sqlite_conn_is_read(conn, op->stmts[0].sql));
}

static void commit(struct sqlite_conn *conn, struct op **ops, size_t count)
{
    struct err err, why;
    if (sqlite_conn_commit(conn, &why) == 0)
        return;
    err_set(&err, ERR_UNAVAILABLE, "cannot commit: %s", why.msg);
    for (size_t i = 0; i < count; i++) {
        if (ops[i]->in_tx)
            op_fail(ops[i], &err);
    }
}

/* False when the transaction was lost on the way. */
static bool run_shared(struct sqlite_conn *conn, struct op **ops, size_t count)
{
    enum { NOT_YET, OPEN, REFUSED } tx = NOT_YET;
    struct err tx_err;
    for (size_t i = 0; i < count; i++) {
        struct op *op = ops[i];
        bool read = only_reads(conn, op);
        if (op->err)
            continue;
        if (!read && tx == NOT_YET)
            tx = sqlite_conn_begin(conn, &tx_err) == 0 ? OPEN : REFUSED;
        if (!read && tx == REFUSED) {
            op_fail(op, &tx_err);
            continue;
        }
        run_op(conn, op, tx == OPEN);
        if (tx == OPEN && !sqlite_conn_in_tx(conn))
            return false;
    }
    if (tx == OPEN)
        commit(conn, ops, count);
    return true;
}

static void run_alone(struct sqlite_conn *conn, struct op *op)
{
    struct err err;
    if (op->started) { /* inside the lost transaction: its outcome is void */
        free(op->err);
        op->err = NULL;
    }
    op->started = op->in_tx = false;
    if (!run_shared(conn, &op, 1) && !op->err) {
        err_set(&err, ERR_UNAVAILABLE, "database: the transaction was lost");
        op_fail(op, &err);
    }
}

void group_run(struct sqlite_conn *conn, struct op **ops, size_t count)
{
    if (run_shared(conn, ops, count))
        return;
    for (size_t i = 0; i < count; i++) {
        if (ops[i]->in_tx || !ops[i]->started)
            run_alone(conn, ops[i]);
    }
}
