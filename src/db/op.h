/* op.h - one submitted operation: its statements with their own copy of the parameters, whom to
 * tell, and what came of it. */
#ifndef CG_DB_OP_H
#define CG_DB_OP_H

#include "core/list.h"
#include "db/result.h"

/* One db_query(), db_batch() or db_poll_changed(). */
struct op {
    struct node node;
    size_t size;            /* bytes of this object, parameters included */
    db_done_fn *done;       /* either this one */
    db_changed_fn *changed; /* or this one */
    void *ctx;
    struct err *err; /* NULL = success */
    struct db_result result;
    bool started, in_tx; /* SQLite: group.c */
    bool alone;          /* PostgreSQL: its group had to be undone, it runs by itself now */
    int repeats;         /* PostgreSQL: how often it was tried again */
    int64_t born, since; /* PostgreSQL: mono ms, when it was submitted and began to wait (again) */
    size_t count;
    struct db_stmt stmts[]; /* parameters and their texts follow in the same allocation */
};

/* Copies the parameters; each text has a NUL behind it. */
struct op *op_new(const struct db_stmt *stmts, size_t count);
void op_free(struct op *op);
void op_fail(struct op *op, const struct err *err); /* replaces an earlier outcome */

#endif
