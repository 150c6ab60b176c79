/* pg_open.h - from a URL to a connection, and to a database with the program's schema. Blocking:
 * for the start, and for the thread that connects. */
#ifndef CG_DB_PG_OPEN_H
#define CG_DB_PG_OPEN_H

#include "db/db.h"

#include <libpq-fe.h>

/* Any thread. NULL + err (ERR_UNAVAILABLE, or ERR_CONFIG when waiting would not help). */
PGconn *pg_connect(const char *url, int64_t timeout_ms, struct err *err);
/* Applies what is missing. */
MUST_USE int pg_migrate(PGconn *pq, const struct db_migration *list, size_t count, struct err *err);
/* db_migrations() of the driver. */
MUST_USE int pg_migrations(const struct db_opts *opts, bool apply, db_migration_fn *fn, void *ctx,
                           struct err *err);
/* One statement, waited for. ret is init'ed by the caller and empty. */
MUST_USE int pg_exec(PGconn *pq, const char *sql, const struct db_param *params, size_t count,
                     struct db_result *ret, struct err *err);

#endif
