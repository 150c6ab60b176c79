/* db.h - the database contract: asynchronous statements, transactions, migrations.
 *
 * One SQL text per statement, $1..$n placeholders, written once in store/. The SQLite driver
 * runs on one thread of its own; statements run in submission order and those waiting together
 * share one transaction (group commit). done() runs on the loop, exactly once, never before
 * the submitting call returned. */
#ifndef CG_DB_DB_H
#define CG_DB_DB_H

#include "core/err.h"
#include "core/loop.h"
#include "core/str.h"

struct db;

struct db_param {
    enum { DB_NULL, DB_TEXT, DB_INT, DB_REAL } type;
    struct str s;
    int64_t i;
    double d;
};
static inline struct db_param db_param_c(const char *s)
{
    return (struct db_param){.type = s ? DB_TEXT : DB_NULL, .s = str_c(s)};
}
#define DBP_NULL   ((struct db_param){.type = DB_NULL})
#define DBP_S(v)   db_param_c(v) /* NULL = SQL NULL */
#define DBP_STR(v) ((struct db_param){.type = DB_TEXT, .s = (v)})
#define DBP_I(v)   ((struct db_param){.type = DB_INT, .i = (int64_t)(v)})
#define DBP_D(v)   ((struct db_param){.type = DB_REAL, .d = (v)})

struct db_stmt {
    const char *sql;               /* a constant: must outlive the call */
    const struct db_param *params; /* copied */
    size_t param_count;
};

/* Rows of one statement; valid inside done() only. A column of another type reads as "" or 0
 * (an integer may be read as a real); texts may hold NULs. */
struct db_result;
size_t db_rows(const struct db_result *r);
int64_t db_changes(const struct db_result *r); /* rows written */
bool db_is_null(const struct db_result *r, size_t row, size_t col);
struct str db_text(const struct db_result *r, size_t row, size_t col); /* NUL-terminated too */
int64_t db_int(const struct db_result *r, size_t row, size_t col);     /* 0 for NULL */
double db_real(const struct db_result *r, size_t row, size_t col);

/* err NULL on success (then r is not NULL). A unique violation is ERR_CONFLICT, a database that
 * cannot serve ERR_UNAVAILABLE, other violated constraints and bad SQL ERR_INTERNAL. */
typedef void db_done_fn(void *ctx, const struct db_result *r, const struct err *err);

/* Opens (creates, with its directories) and migrates. Blocking: at start only. url:
 * "sqlite:PATH". ERR_CONFIG when the schema is newer than the program. */
struct db *db_open(struct loop *loop, const char *url, struct err *err);
/* Finishes what was submitted, done() included; not from inside a done(). The loop need not run. */
void db_close(struct db *db);

void db_query(struct db *db, const char *sql, const struct db_param *params, size_t count,
              db_done_fn *done, void *ctx);
/* All statements in one transaction or none; r is the last statement's result. */
void db_batch(struct db *db, const struct db_stmt *stmts, size_t count, db_done_fn *done,
              void *ctx);
/* Runs the loop until this statement is done: for subcommands, which have no server; not from a
 * callback of the loop. done may be NULL here. Returns db's error. Rows are handed to done() as
 * always. */
MUST_USE int db_query_wait(struct db *db, const char *sql, const struct db_param *params,
                           size_t count, db_done_fn *done, void *ctx, struct err *err);

/* Another process has changed the database since the last call, or since db_open() (SQLite:
 * PRAGMA data_version). False when the database cannot tell. One caller per db. */
typedef void db_changed_fn(void *ctx, bool changed);
void db_poll_changed(struct db *db, db_changed_fn *done, void *ctx);

/* One schema migration: forward only, applied once, in order, in a transaction. */
struct db_migration {
    int version;
    const char *name;
    const char *sql;
};

#endif
