/* sqlite_open.h - from a URL to an SQLite file with the program's schema. Blocking. */
#ifndef CG_DB_SQLITE_OPEN_H
#define CG_DB_SQLITE_OPEN_H

#include "db/sqlite_conn.h"

/* The path in sqlite:PATH; NULL + err when it is none. Points into url. */
const char *sqlite_path(const char *url, struct err *err);
/* Makes file and directories as needed, migrates. NULL + err on failure. */
struct sqlite_conn *sqlite_open_migrated(const char *path, struct err *err);
/* Applies the first `count` of the list, as far as they are missing, in one transaction. */
MUST_USE int sqlite_migrate(struct sqlite_conn *conn, const struct db_migration *list, size_t count,
                            struct err *err);
/* db_migrations() of the driver. */
MUST_USE int sqlite_migrations(const struct db_opts *opts, bool apply, db_migration_fn *fn,
                               void *ctx, struct err *err);

#endif
