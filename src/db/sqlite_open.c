/* sqlite_open.c - see the header. What is created is for the owner only. */
#include "db/sqlite_open.h"

#include "db/migrate.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

const char *sqlite_path(const char *url, struct err *err)
{
    BUG_ON(strncmp(url, "sqlite:", 7) != 0);
    const char *path = url + 7;
    /* ":memory:" and "file:..." mean something else to SQLite. */
    if (!*path || *path == ':' || strncmp(path, "file:", 5) == 0 || path[strlen(path) - 1] == '/') {
        err_set(err, ERR_CONFIG, "the database URL sqlite:PATH needs the path of a file");
        return NULL;
    }
    return path;
}

/* Makes the directories of a path, those that are missing. */
static int make_dirs(const char *path, struct err *err)
{
    AUTO(free_charp) char *copy = x_strdup(path);
    for (char *slash = strchr(copy + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(copy, 0700) != 0 && errno != EEXIST)
            return err_set(err, ERR_IO, "cannot make directory '%s': %s", copy, strerror(errno));
        *slash = '/';
    }
    return 0;
}

/* SQLite gives the files beside it the same mode. O_EXCL: an existing database must not be opened
 * here, because closing any descriptor of it would drop the locks this process holds on it. */
static int make_file(const char *path, struct err *err)
{
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 && errno != EEXIST)
        return err_set(err, ERR_IO, "cannot create '%s': %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    return 0;
}

/* --- migrations --------------------------------------------------------------------------- */

static int script(void *conn, const char *sql, struct err *err)
{
    return sqlite_conn_script(conn, sql, err);
}

static int exec(void *conn, const char *sql, const struct db_param *params, size_t count,
                struct db_result *ret, struct err *err)
{
    return sqlite_conn_exec(conn, sql, params, count, ret, err);
}

static struct migrate_target target_of(struct sqlite_conn *conn)
{
    return (struct migrate_target){
        .conn = conn,
        .exists = "SELECT count(*) FROM sqlite_schema WHERE name = 'schema_migrations'",
        .create = "CREATE TABLE IF NOT EXISTS schema_migrations ("
                  "version INTEGER PRIMARY KEY NOT NULL, name TEXT NOT NULL, "
                  "applied_at INTEGER NOT NULL, checksum TEXT NOT NULL) STRICT",
        .script = script,
        .exec = exec};
}

int sqlite_migrate(struct sqlite_conn *conn, const struct db_migration *list, size_t count,
                   struct err *err)
{
    const struct migrate_target target = target_of(conn);
    if (sqlite_conn_begin(conn, err) != 0) /* takes the write lock */
        return -1;
    if (migrate_apply(&target, list, count, err) == 0)
        return sqlite_conn_commit(conn, err);
    sqlite_conn_rollback(conn);
    return -1;
}

struct sqlite_conn *sqlite_open_migrated(const char *path, struct err *err)
{
    if (make_dirs(path, err) != 0 || make_file(path, err) != 0)
        return NULL;
    struct sqlite_conn *conn = sqlite_conn_open(path, err);
    if (conn && sqlite_migrate(conn, db_migrations_sqlite, db_migrations_sqlite_count, err) == 0)
        return conn;
    sqlite_conn_close(conn);
    err_prefix(err, "cannot open '%s'", path);
    return NULL;
}

static int list_of(struct sqlite_conn *conn, db_migration_fn *fn, void *ctx, struct err *err)
{
    const struct migrate_target target = target_of(conn);
    return migrate_list(&target, db_migrations_sqlite, db_migrations_sqlite_count, fn, ctx, err);
}

int sqlite_migrations(const struct db_opts *opts, bool apply, db_migration_fn *fn, void *ctx,
                      struct err *err)
{
    const char *path = sqlite_path(opts->url, err);
    if (!path)
        return -1;
    if (!apply && access(path, F_OK) != 0 && errno == ENOENT) { /* looking creates nothing */
        for (size_t i = 0; i < db_migrations_sqlite_count; i++)
            fn(ctx, db_migrations_sqlite[i].version, db_migrations_sqlite[i].name, 0);
        return 0;
    }
    struct sqlite_conn *conn =
        apply ? sqlite_open_migrated(path, err) : sqlite_conn_open(path, err);
    int failed = conn ? list_of(conn, fn, ctx, err) : -1;
    sqlite_conn_close(conn);
    return failed;
}
