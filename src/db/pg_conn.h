/* pg_conn.h - one connection to PostgreSQL on the loop: groups of operations in pipeline mode.
 *
 * Life: pg_conn_new() -> pg_conn_start() with a fresh connection -> pg_conn_send() one group, then
 * one answer, then the next group ... -> lost -> pg_conn_start() anew ... -> pg_conn_free(). */
#ifndef CG_DB_PG_CONN_H
#define CG_DB_PG_CONN_H

#include "db/op.h"

#include <libpq-fe.h>

struct pg_conn;

/* What became of a group. The operations are the owner's again. */
enum pg_outcome {
    PG_DONE,   /* committed: each op has its result, or an error of its own that undid nothing */
    PG_UNDONE, /* nothing happened; why: the statement that failed */
    PG_LOST    /* nobody knows; the connection is gone */
};
struct pg_answer {
    enum pg_outcome outcome;
    struct err why;  /* PG_UNDONE, PG_LOST */
    bool may_repeat; /* PG_UNDONE: it may go well another time (a deadlock) */
    bool timed_out;  /* PG_LOST: because the server was silent for too long */
    struct op **ops; /* valid inside the callback; count 0: the connection was lost idle */
    size_t count;
};
typedef void pg_answer_fn(void *ctx, struct pg_conn *conn, const struct pg_answer *answer);

/* silence_ms: after which a server that owes an answer is given up. answer() runs on the loop,
 * or inside pg_conn_turn(). It may send the next group. */
struct pg_conn *pg_conn_new(struct loop *loop, int64_t silence_ms, pg_answer_fn *answer, void *ctx);
void pg_conn_free(struct pg_conn *conn); /* not from inside answer(); nothing may be in flight */

void pg_conn_start(struct pg_conn *conn, PGconn *pq); /* taken */
bool pg_conn_up(const struct pg_conn *conn);
bool pg_conn_busy(const struct pg_conn *conn);
/* Up and not busy. The ops are one transaction; each must have passed pg_refuses(). */
void pg_conn_send(struct pg_conn *conn, struct op *const *ops, size_t count);
/* Gives the connection up; answer() with PG_LOST follows at once if a group was in flight. */
void pg_conn_drop(struct pg_conn *conn, const struct err *why);

/* For a loop that does not run: what to wait for (poll(2) events), and having waited. */
int pg_conn_fd(const struct pg_conn *conn, short *ret_events);
void pg_conn_turn(struct pg_conn *conn);

#endif
