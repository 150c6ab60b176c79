/* db.h - the database contract: asynchronous statements, transactions, migrations.
 *
 * Two engines stand behind it: SQLite (one file, a thread of its own) and PostgreSQL (libpq,
 * several connections). One SQL text per statement, $1..$n placeholders, written once in store/,
 * and both engines must take it:
 *  - times are integers (ms), truth values 0 and 1; ids are UUIDs there: compare one with a text
 *    that may be something else as CAST(id AS TEXT) = $1;
 *  - no rowid, PRAGMA, INSERT OR, datetime(), ::casts; ON CONFLICT, RETURNING, CASE are fine.
 *
 * Order: statements submitted one after the other may run at the same time and in any order, on
 * connections of their own. Who needs one after the other waits for done(): what a done() without
 * an error told is committed, and every statement submitted from then on sees it. (SQLite does
 * keep the order. Nothing may rest on that.)
 *
 * Group commit: statements that wait together share one transaction. One that fails fails alone.
 *
 * done() runs on the loop, exactly once, never before the submitting call returned.
 *
 * When the connection is lost, what was not sent is sent over another one, and what was sent fails
 * with ERR_UNAVAILABLE: it may or may not have happened, so a write that will be repeated has to
 * bring a unique id. Plain SELECTs are repeated by the driver. Statements wait for a connection no
 * longer than connect_timeout_ms. Nothing waits for ever, and the pool repairs itself. */
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
 * (an integer may be read as a real); a truth value is the integer 0 or 1. Texts are UTF-8
 * without NULs: SQLite keeps others, PostgreSQL refuses them (ERR_INTERNAL). */
struct db_result;
size_t db_rows(const struct db_result *r);
int64_t db_changes(const struct db_result *r); /* rows written */
bool db_is_null(const struct db_result *r, size_t row, size_t col);
struct str db_text(const struct db_result *r, size_t row, size_t col); /* NUL-terminated too */
int64_t db_int(const struct db_result *r, size_t row, size_t col);     /* 0 for NULL */
double db_real(const struct db_result *r, size_t row, size_t col);

/* err NULL on success (then r is not NULL). A unique violation is ERR_CONFLICT, a database that
 * cannot serve (away, full, too slow) ERR_UNAVAILABLE, other violated constraints, refused values
 * and bad SQL ERR_INTERNAL, a result over 256 MiB ERR_TOO_LARGE. */
typedef void db_done_fn(void *ctx, const struct db_result *r, const struct err *err);

/* The numbers are of PostgreSQL only; 0 = the default. */
struct db_opts {
    const char *url;            /* sqlite:PATH, or postgres://... as libpq takes it */
    int pool_size;              /* connections at most, opened when needed; 4 */
    int64_t connect_timeout_ms; /* to connect, and what statements wait for a connection; 5000 */
    int64_t query_timeout_ms;   /* of one statement; 30000 */
};
/* Opens (SQLite: creates, with its directories) and migrates. Blocking: at start only. ERR_CONFIG
 * when the schema is newer than the program. No error tells the URL's password. */
struct db *db_open_with(struct loop *loop, const struct db_opts *opts, struct err *err);
struct db *db_open(struct loop *loop, const char *url, struct err *err); /* the defaults */
/* Finishes what was submitted, done() included; not from inside a done(). The loop need not run.
 * PostgreSQL: connects to nothing any more, so what has no connection fails. */
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

/* Another process has changed keys or users since the last call, or since db_open(). May be true
 * without need: SQLite counts changes to any table (PRAGMA data_version), PostgreSQL this
 * process's own changes too (the table key_changes, so that nothing is missed whatever happens to
 * connections). False when the database cannot tell. One caller per db. */
typedef void db_changed_fn(void *ctx, bool changed);
void db_poll_changed(struct db *db, db_changed_fn *done, void *ctx);

/* What migrations this program has, and when each was applied to that database (wall ms, 0 = not
 * yet). apply: applies what is missing first, under a lock, as db_open() does. Blocking. */
typedef void db_migration_fn(void *ctx, int version, const char *name, int64_t applied_at);
MUST_USE int db_migrations(const struct db_opts *opts, bool apply, db_migration_fn *fn, void *ctx,
                           struct err *err);

/* One schema migration: forward only, applied once, in order, in a transaction. */
struct db_migration {
    int version;
    const char *name;
    const char *sql;
};

#endif
