/* migrate.c - applied migrations are rows of schema_migrations, which must be a prefix of the
 * program's list: same versions, same texts. Everything happens in one transaction that excludes
 * others (SQLite's write lock, an advisory lock on PostgreSQL), so two programs started together
 * do not both apply a step, and a step that fails leaves the database as it was. */
#include "db/migrate.h"

#include "core/clock.h"
#include "db/result.h"

#include <sodium.h>

#define HASH_BYTES    16
#define CHECKSUM_SIZE (2 * HASH_BYTES + 1)

static void checksum(const char *sql, char out[CHECKSUM_SIZE])
{
    unsigned char hash[HASH_BYTES];
    BUG_ON(sodium_init() < 0);
    crypto_generichash(hash, sizeof(hash), (const unsigned char *)sql, strlen(sql), NULL, 0);
    sodium_bin2hex(out, CHECKSUM_SIZE, hash, sizeof(hash));
}

static int check_row(const struct db_result *r, size_t row, const struct db_migration *m,
                     struct err *err)
{
    char sum[CHECKSUM_SIZE];
    checksum(m->sql, sum);
    if (db_int(r, row, 0) != m->version)
        return err_set(err, ERR_CONFIG, "migration %d is missing, but %lld was applied", m->version,
                       (long long)db_int(r, row, 0));
    if (!str_eq_c(db_text(r, row, 1), sum))
        return err_set(err, ERR_CONFIG,
                       "migration %04d_%s was changed after it was applied to this database",
                       m->version, m->name);
    return 0;
}

static int check_applied(const struct db_result *r, const struct db_migration *list, size_t count,
                         struct err *err)
{
    size_t rows = db_rows(r);
    int64_t newest = rows ? db_int(r, rows - 1, 0) : 0;
    if (newest > list[count - 1].version)
        return err_set(err, ERR_CONFIG,
                       "the database has schema version %lld, this program knows %d: "
                       "it was used by a newer claudegate",
                       (long long)newest, list[count - 1].version);
    for (size_t i = 0; i < rows; i++) {
        if (check_row(r, i, &list[i], err) != 0)
            return -1;
    }
    return 0;
}

/* The rows of schema_migrations, checked; none when there is no such table. */
static int read_applied(const struct migrate_target *t, const struct db_migration *list,
                        size_t count, struct db_result *ret, struct err *err)
{
    BUG_ON(count == 0);
    if (t->exec(t->conn, t->exists, NULL, 0, ret, err) != 0)
        return -1;
    bool exists = db_rows(ret) == 1 && db_int(ret, 0, 0) == 1;
    result_release(ret);
    result_init(ret);
    if (!exists)
        return 0;
    if (t->exec(t->conn,
                "SELECT version, checksum, applied_at FROM schema_migrations ORDER BY version",
                NULL, 0, ret, err) != 0)
        return -1;
    return check_applied(ret, list, count, err);
}

static int apply(const struct migrate_target *t, const struct db_migration *m, struct err *err)
{
    char sum[CHECKSUM_SIZE];
    checksum(m->sql, sum);
    const struct db_param params[] = {DBP_I(m->version), DBP_S(m->name), DBP_I(clock_wall_ms()),
                                      DBP_S(sum)};
    struct db_result r;
    result_init(&r);
    int failed = t->script(t->conn, m->sql, err);
    if (!failed)
        failed = t->exec(t->conn,
                         "INSERT INTO schema_migrations (version, name, applied_at, checksum) "
                         "VALUES ($1, $2, $3, $4)",
                         params, ARRAY_SIZE(params), &r, err);
    result_release(&r);
    return failed ? err_prefix(err, "migration %04d_%s", m->version, m->name) : 0;
}

int migrate_apply(const struct migrate_target *t, const struct db_migration *list, size_t count,
                  struct err *err)
{
    struct db_result r;
    result_init(&r);
    int failed = t->script(t->conn, t->create, err);
    if (!failed)
        failed = read_applied(t, list, count, &r, err);
    for (size_t i = db_rows(&r); !failed && i < count; i++)
        failed = apply(t, &list[i], err);
    result_release(&r);
    return failed;
}

int migrate_applied(const struct migrate_target *t, const struct db_migration *list, size_t count,
                    size_t *ret_count, struct err *err)
{
    struct db_result r;
    result_init(&r);
    int failed = read_applied(t, list, count, &r, err);
    if (!failed)
        *ret_count = db_rows(&r);
    result_release(&r);
    return failed;
}

int migrate_list(const struct migrate_target *t, const struct db_migration *list, size_t count,
                 db_migration_fn *fn, void *ctx, struct err *err)
{
    struct db_result r;
    result_init(&r);
    int failed = read_applied(t, list, count, &r, err);
    for (size_t i = 0; !failed && i < count; i++)
        fn(ctx, list[i].version, list[i].name, i < db_rows(&r) ? db_int(&r, i, 2) : 0);
    result_release(&r);
    return failed;
}
