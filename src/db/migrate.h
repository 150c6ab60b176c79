/* migrate.h - brings a database to the schema this program was built for. */
#ifndef CG_DB_MIGRATE_H
#define CG_DB_MIGRATE_H

#include "db/db.h"

/* Generated from migrations/<engine>/NNNN_name.sql; versions are 1, 2, 3 ... The two lists have
 * the same versions and names. */
extern const struct db_migration db_migrations_sqlite[], db_migrations_postgres[];
extern const size_t db_migrations_sqlite_count, db_migrations_postgres_count;

/* A connection, blocking, inside a transaction that the driver has begun and will end. */
struct migrate_target {
    void *conn;
    const char *exists; /* a query: 1 when the table schema_migrations is there */
    const char *create; /* makes it */
    int (*script)(void *conn, const char *sql, struct err *err);
    int (*exec)(void *conn, const char *sql, const struct db_param *params, size_t count,
                struct db_result *ret, struct err *err);
};

/* Applies what is missing. ERR_CONFIG when the database is newer than the list, or when an applied
 * migration is not the one of the list. The transaction must exclude other programs. */
MUST_USE int migrate_apply(const struct migrate_target *t, const struct db_migration *list,
                           size_t count, struct err *err);
/* How many of the list are applied: the first ret_count. Errors as above; writes nothing. */
MUST_USE int migrate_applied(const struct migrate_target *t, const struct db_migration *list,
                             size_t count, size_t *ret_count, struct err *err);
/* Tells fn of every migration of the list. */
MUST_USE int migrate_list(const struct migrate_target *t, const struct db_migration *list,
                          size_t count, db_migration_fn *fn, void *ctx, struct err *err);

#endif
