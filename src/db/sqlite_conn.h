/* sqlite_conn.h - one SQLite connection: pragmas, prepared statements, errors. Blocking; used by
 * one thread at a time. */
#ifndef CG_DB_SQLITE_CONN_H
#define CG_DB_SQLITE_CONN_H

#include "db/db.h"
#include "db/result.h"

struct sqlite_conn;

#define SQLITE_BUSY_MS 5000 /* how long another process may hold the write lock */

/* Opens an existing file and sets it up (WAL, foreign keys, ...). NULL + err on failure. */
struct sqlite_conn *sqlite_conn_open(const char *path, struct err *err);
void sqlite_conn_close(struct sqlite_conn *conn);

/* Runs one statement. ret is init'ed by the caller and empty; its contents are undefined on
 * failure. Statements that begin or end transactions are refused. */
MUST_USE int sqlite_conn_exec(struct sqlite_conn *conn, const char *sql,
                              const struct db_param *params, size_t count, struct db_result *ret,
                              struct err *err);
/* Several statements without parameters and rows: migrations. */
MUST_USE int sqlite_conn_script(struct sqlite_conn *conn, const char *sql, struct err *err);
/* A statement that cannot be prepared does not count as reading. */
bool sqlite_conn_is_read(struct sqlite_conn *conn, const char *sql);

/* SQLite may throw a transaction away on its own (disk full, I/O error). */
bool sqlite_conn_in_tx(struct sqlite_conn *conn);
MUST_USE int sqlite_conn_begin(struct sqlite_conn *conn,
                               struct err *err); /* takes the write lock */
MUST_USE int sqlite_conn_commit(struct sqlite_conn *conn, struct err *err); /* -1: rolled back */
void sqlite_conn_rollback(struct sqlite_conn *conn);
/* Inside a transaction: what follows can be undone alone. */
MUST_USE int sqlite_conn_savepoint(struct sqlite_conn *conn, struct err *err);
MUST_USE int sqlite_conn_release(struct sqlite_conn *conn, struct err *err);
void sqlite_conn_undo(struct sqlite_conn *conn); /* to the savepoint, which is gone afterwards */

/* Length of the WAL, in pages, after this connection's last commit; 0 once it moved all of it. */
int sqlite_conn_wal_pages(const struct sqlite_conn *conn);
/* Moves what can be moved from the WAL to the database file; this is where fsync happens. */
MUST_USE int sqlite_conn_checkpoint(struct sqlite_conn *conn, struct err *err);

#endif
