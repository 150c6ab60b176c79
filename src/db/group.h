/* group.h - submitted operations, and running a group of them on the database thread. */
#ifndef CG_DB_GROUP_H
#define CG_DB_GROUP_H

#include "core/list.h"
#include "db/result.h"
#include "db/sqlite_conn.h"

/* One db_query(), db_batch() or db_poll_changed(). Belongs to the loop until its group starts and
 * again when its group is done. */
struct op {
    struct node node;
    size_t size;            /* bytes of this object, parameters included */
    db_done_fn *done;       /* either this one */
    db_changed_fn *changed; /* or this one */
    void *ctx;
    bool started, in_tx; /* group.c */
    struct err *err;     /* NULL = success */
    struct db_result result;
    size_t count;
    struct db_stmt stmts[]; /* parameters and their texts follow in the same allocation */
};

/* Copies the parameters. */
struct op *op_new(const struct db_stmt *stmts, size_t count);
void op_free(struct op *op);
void op_fail(struct op *op, const struct err *err); /* replaces an earlier outcome */

/* Runs ops in order; each has its result or its error afterwards, and what it wrote is
 * committed. An op that already has an error is left alone. */
void group_run(struct sqlite_conn *conn, struct op **ops, size_t count);

#endif
