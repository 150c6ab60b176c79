/* driver.h - what an engine gives to db.h. The contract of each function is that of its namesake
 * there. */
#ifndef CG_DB_DRIVER_H
#define CG_DB_DRIVER_H

#include "db/db.h"

struct db_driver {
    const char *schemes[3]; /* of the URLs it takes, with the colon; the last is NULL */
    struct db *(*open)(struct loop *loop, const struct db_opts *opts, struct err *err);
    void (*close)(struct db *db);
    void (*batch)(struct db *db, const struct db_stmt *stmts, size_t count, db_done_fn *done,
                  void *ctx);
    void (*poll_changed)(struct db *db, db_changed_fn *done, void *ctx);
    int (*migrations)(const struct db_opts *opts, bool apply, db_migration_fn *fn, void *ctx,
                      struct err *err);
};

/* A member of each driver's own struct. */
struct db {
    const struct db_driver *driver;
    struct loop *loop;
};

extern const struct db_driver db_driver_sqlite, db_driver_postgres;

#endif
