/* migrate.h - brings a database to the schema this program was built for. */
#ifndef CG_DB_MIGRATE_H
#define CG_DB_MIGRATE_H

#include "db/db.h"
#include "db/sqlite_conn.h"

/* Generated from migrations/sqlite/NNNN_name.sql; versions are 1, 2, 3 ... */
extern const struct db_migration db_migrations_sqlite[];
extern const size_t db_migrations_sqlite_count;

/* Applies what is missing, everything in one exclusive transaction. ERR_CONFIG when the database
 * is newer than the list, or when an applied migration is not the one of the list. */
MUST_USE int migrate_run(struct sqlite_conn *conn, const struct db_migration *list, size_t count,
                         struct err *err);

#endif
