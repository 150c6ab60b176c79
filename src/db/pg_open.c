/* pg_open.c - see the header.
 *
 * Connecting blocks (names are looked up, TLS and passwords negotiated), so the driver does it on
 * a thread of its own; libpq allows that as long as one thread at a time uses a connection.
 *
 * Migrations run in one transaction behind an advisory lock, so that any number of replicas may be
 * started at once. A database that is up to date is only read: the server's role then needs no
 * right to change the schema. */
#include "db/pg_open.h"

#include "db/migrate.h"
#include "db/pg_types.h"

#define VERSION_MIN  120000
#define MIGRATE_LOCK 0x636C617564656761 /* "claudega": any number that nobody else uses */

static void free_info(PQconninfoOption **info)
{
    PQconninfoFree(*info);
}

/* A special character that was not written as %XX puts a part of the password here, and libpq's
 * errors name ports and hosts. */
static bool looks_misread(const PQconninfoOption *info)
{
    for (; info->keyword; info++) {
        const char *v = info->val ? info->val : "";
        if (strcmp(info->keyword, "port") == 0 && v[strspn(v, "0123456789,")])
            return true;
        bool is_host = strcmp(info->keyword, "host") == 0 || strcmp(info->keyword, "hostaddr") == 0;
        if (is_host && v[0] != '/' && strpbrk(v, "@?# "))
            return true;
    }
    return false;
}

/* What libpq says of a URL that it cannot read may hold the password. */
static int check_url(const char *url, struct err *err)
{
    char *why = NULL;
    AUTO(free_info) PQconninfoOption *info = PQconninfoParse(url, &why);
    PQfreemem(why);
    return info && !looks_misread(info)
               ? 0
               : err_set(err, ERR_CONFIG,
                         "the database URL must have the form "
                         "postgres://user:password@host:port/database?option=value, with special "
                         "characters written as %%XX");
}

/* Warnings ("there is already a transaction") would go to standard error. */
static void no_notice(void *ctx, const char *message)
{
    (void)ctx;
    (void)message;
}

static int check_server(const PGconn *pq, struct err *err)
{
    const char *encoding = PQparameterStatus(pq, "server_encoding");
    if (PQserverVersion(pq) < VERSION_MIN)
        return err_set(err, ERR_CONFIG, "PostgreSQL 12 or newer is needed, this is %d",
                       PQserverVersion(pq) / 10000);
    if (!encoding || strcmp(encoding, "UTF8") != 0)
        return err_set(err, ERR_CONFIG, "the database's encoding must be UTF8, it is %s",
                       encoding ? encoding : "unknown");
    return 0;
}

/* What stands before dbname can be set otherwise in the URL. A server that vanishes without a word
 * is noticed after some ten seconds; one that takes no writes (a standby) is not ours. */
static PGconn *start(const char *url, int64_t timeout_ms)
{
    char seconds[PG_NUMBER];
    snprintf(seconds, sizeof(seconds), "%lld", (long long)(timeout_ms + 999) / 1000);
    const char *const names[] = {"fallback_application_name", "connect_timeout",
                                 "keepalives_idle",           "keepalives_interval",
                                 "keepalives_count",          "tcp_user_timeout",
                                 "target_session_attrs",      "dbname",
                                 "client_encoding",           NULL};
    const char *const values[] = {"claudegate", seconds,      "5", "2",    "3",
                                  "10000",      "read-write", url, "UTF8", NULL};
    _Static_assert(ARRAY_SIZE(names) == ARRAY_SIZE(values), "one value for each name");
    return PQconnectdbParams(names, values, 1);
}

PGconn *pg_connect(const char *url, int64_t timeout_ms, struct err *err)
{
    if (check_url(url, err) != 0)
        return NULL;
    PGconn *pq = start(url, timeout_ms);
    BUG_ON(!pq); /* out of memory */
    PQsetNoticeProcessor(pq, no_notice, NULL);
    if (PQstatus(pq) != CONNECTION_OK)
        pg_conn_error(pq, err);
    else if (check_server(pq, err) == 0)
        return pq;
    PQfinish(pq);
    return NULL;
}

/* --- one statement ------------------------------------------------------------------------ */

static int take(PGresult *res, struct db_result *ret, struct err *err)
{
    ExecStatusType status = PQresultStatus(res);
    int failed = status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK
                     ? pg_result_take(ret, res, err)
                     : pg_error(res, err);
    PQclear(res);
    return failed;
}

int pg_exec(PGconn *pq, const char *sql, const struct db_param *params, size_t count,
            struct db_result *ret, struct err *err)
{
    struct pg_params p = {0};
    pg_params_set(&p, params, count);
    PGresult *res = PQexecParams(pq, sql, (int)count, p.types, p.values, NULL, NULL, 0);
    pg_params_release(&p);
    return take(res, ret, err);
}

/* Several statements. */
static int run(PGconn *pq, const char *sql, struct err *err)
{
    struct db_result none;
    result_init(&none);
    int failed = take(PQexec(pq, sql), &none, err);
    result_release(&none);
    return failed;
}

/* --- migrations --------------------------------------------------------------------------- */

static int script(void *conn, const char *sql, struct err *err)
{
    return run(conn, sql, err);
}

static int exec(void *conn, const char *sql, const struct db_param *params, size_t count,
                struct db_result *ret, struct err *err)
{
    return pg_exec(conn, sql, params, count, ret, err);
}

static struct migrate_target target_of(PGconn *pq)
{
    return (struct migrate_target){.conn = pq,
                                   .exists = "SELECT to_regclass('schema_migrations') IS NOT NULL",
                                   .create = "CREATE TABLE IF NOT EXISTS schema_migrations ("
                                             "version INTEGER PRIMARY KEY, name TEXT NOT NULL, "
                                             "applied_at BIGINT NOT NULL, checksum TEXT NOT NULL)",
                                   .script = script,
                                   .exec = exec};
}

static int migrate_locked(PGconn *pq, const struct db_migration *list, size_t count,
                          struct err *err)
{
    const struct migrate_target target = target_of(pq);
    char lock[128];
    snprintf(lock, sizeof(lock),
             "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0; "
             "SELECT pg_advisory_xact_lock(%lld)",
             (long long)MIGRATE_LOCK);
    if (run(pq, lock, err) != 0 ||
        run(pq, "SET LOCAL lock_timeout = '10s'", err) != 0) /* running servers wait behind us */
        return -1;
    return migrate_apply(&target, list, count, err);
}

int pg_migrate(PGconn *pq, const struct db_migration *list, size_t count, struct err *err)
{
    const struct migrate_target target = target_of(pq);
    size_t applied;
    if (migrate_applied(&target, list, count, &applied, err) != 0)
        return -1;
    if (applied == count)
        return 0;
    if (run(pq, "BEGIN", err) != 0)
        return -1;
    if (migrate_locked(pq, list, count, err) == 0)
        return run(pq, "COMMIT", err);
    PQclear(PQexec(pq, "ROLLBACK")); /* if it fails, the connection's end does the same */
    return -1;
}

int pg_migrations(const struct db_opts *opts, bool apply, db_migration_fn *fn, void *ctx,
                  struct err *err)
{
    const struct db_migration *list = db_migrations_postgres;
    size_t count = db_migrations_postgres_count;
    PGconn *pq = pg_connect(opts->url, opts->connect_timeout_ms, err);
    if (!pq)
        return -1;
    const struct migrate_target target = target_of(pq);
    int failed = apply ? pg_migrate(pq, list, count, err) : 0;
    if (!failed)
        failed = migrate_list(&target, list, count, fn, ctx, err);
    PQfinish(pq);
    return failed;
}
