/* sqlite_conn.c - the only file that talks to the SQLite library.
 *
 * WAL with synchronous=NORMAL: a commit appends to the WAL without fsync, so it survives kill -9
 * but the last moments may be lost with the machine's power (the usage journal covers those).
 * Only checkpoints wait for the disk; automatic ones are off, because they would run inside some
 * unlucky COMMIT: sqlite.c runs them on a thread of their own.
 *
 * Prepared statements are kept by their SQL text. The program has a few dozen; when the table
 * fills up (texts built on the fly: a mistake, but a harmless one) it is emptied. */
#include "db/sqlite_conn.h"

#include <sqlite3.h>
#include <unistd.h>

#define CACHE_SLOTS 256 /* a power of two */
#define CACHE_MAX   128

struct cached {
    char *sql;
    uint64_t hash;
    sqlite3_stmt *stmt;
};

struct sqlite_conn {
    sqlite3 *db;
    struct cached cache[CACHE_SLOTS]; /* open addressing; a free slot has sql == NULL */
    size_t cached_count;
    int wal_pages;
};

static enum err_code code_of(int rc)
{
    if (rc == SQLITE_CONSTRAINT_UNIQUE || rc == SQLITE_CONSTRAINT_PRIMARYKEY ||
        rc == SQLITE_CONSTRAINT_ROWID)
        return ERR_CONFLICT;
    switch (rc & 0xFF) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_FULL:
    case SQLITE_IOERR:
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_READONLY:
    case SQLITE_CANTOPEN:
    case SQLITE_PERM:
    case SQLITE_PROTOCOL:
    case SQLITE_NOMEM:
        return ERR_UNAVAILABLE;
    default:
        return ERR_INTERNAL;
    }
}

static int fail(struct sqlite_conn *conn, struct err *err)
{
    int rc = sqlite3_extended_errcode(conn->db);
    return err_set(err, code_of(rc), "database: %s (SQLite error %d)", sqlite3_errmsg(conn->db),
                   rc);
}

/* --- prepared statements ------------------------------------------------------------------ */

static void cache_clear(struct sqlite_conn *conn)
{
    for (size_t i = 0; i < CACHE_SLOTS; i++) {
        sqlite3_finalize(conn->cache[i].stmt);
        free(conn->cache[i].sql);
        conn->cache[i] = (struct cached){0};
    }
    conn->cached_count = 0;
}

/* FNV-1a: http://www.isthe.com/chongo/tech/comp/fnv/ */
static uint64_t hash_of(const char *sql)
{
    uint64_t h = 0xCBF29CE484222325u;
    for (; *sql; sql++)
        h = (h ^ (unsigned char)*sql) * 0x100000001B3u;
    return h;
}

static struct cached *cache_slot(struct sqlite_conn *conn, const char *sql, uint64_t hash)
{
    for (size_t i = hash;; i++) {
        struct cached *slot = &conn->cache[i & (CACHE_SLOTS - 1)];
        if (!slot->sql || (slot->hash == hash && strcmp(slot->sql, sql) == 0))
            return slot;
    }
}

static sqlite3_stmt *prepare(struct sqlite_conn *conn, const char *sql, struct err *err)
{
    uint64_t hash = hash_of(sql);
    struct cached *slot = cache_slot(conn, sql, hash);
    const char *rest;
    if (slot->sql)
        return slot->stmt;
    if (conn->cached_count == CACHE_MAX) {
        cache_clear(conn);
        slot = cache_slot(conn, sql, hash);
    }
    sqlite3_stmt *stmt = NULL;
    if (sqlite3_prepare_v3(conn->db, sql, -1, SQLITE_PREPARE_PERSISTENT, &stmt, &rest) !=
        SQLITE_OK) {
        fail(conn, err);
        return NULL;
    }
    if (!stmt || rest[strspn(rest, " \t\r\n;")]) {
        sqlite3_finalize(stmt);
        err_set(err, ERR_INTERNAL, "database: not exactly one statement: %.100s", sql);
        return NULL;
    }
    *slot = (struct cached){.sql = x_strdup(sql), .hash = hash, .stmt = stmt};
    conn->cached_count++;
    return stmt;
}

/* Statements of our own that give no rows. */
static int run(struct sqlite_conn *conn, const char *sql, struct err *err)
{
    sqlite3_stmt *stmt = prepare(conn, sql, err);
    if (!stmt)
        return -1;
    int rc = sqlite3_step(stmt), failed = 0;
    if (rc != SQLITE_DONE && rc != SQLITE_ROW)
        failed = fail(conn, err);
    sqlite3_reset(stmt);
    return failed;
}

/* BEGIN, COMMIT, SAVEPOINT ...: they write nothing and have no columns. */
static bool is_transaction_control(sqlite3_stmt *stmt)
{
    return sqlite3_column_count(stmt) == 0 && sqlite3_stmt_readonly(stmt);
}

bool sqlite_conn_is_read(struct sqlite_conn *conn, const char *sql)
{
    sqlite3_stmt *stmt = prepare(conn, sql, NULL);
    return stmt && sqlite3_stmt_readonly(stmt);
}

static int bind_one(sqlite3_stmt *stmt, int at, const struct db_param *p)
{
    switch (p->type) {
    case DB_NULL:
        return sqlite3_bind_null(stmt, at);
    case DB_TEXT: /* NULL would bind an SQL NULL */
        return sqlite3_bind_text64(stmt, at, p->s.p ? p->s.p : "", p->s.len, SQLITE_STATIC,
                                   SQLITE_UTF8);
    case DB_INT:
        return sqlite3_bind_int64(stmt, at, p->i);
    case DB_REAL:
        return sqlite3_bind_double(stmt, at, p->d);
    }
    return SQLITE_MISUSE;
}

static int bind_all(struct sqlite_conn *conn, sqlite3_stmt *stmt, const struct db_param *params,
                    size_t count, struct err *err)
{
    if ((size_t)sqlite3_bind_parameter_count(stmt) != count)
        return err_set(err, ERR_INTERNAL, "database: %d placeholders, %zu parameters: %.100s",
                       sqlite3_bind_parameter_count(stmt), count, sqlite3_sql(stmt));
    for (size_t i = 0; i < count; i++) {
        char name[16];
        snprintf(name, sizeof(name), "$%zu", i + 1);
        int at = sqlite3_bind_parameter_index(stmt, name);
        if (at == 0)
            return err_set(err, ERR_INTERNAL, "database: no %s in: %.100s", name,
                           sqlite3_sql(stmt));
        if (bind_one(stmt, at, &params[i]) != SQLITE_OK)
            return fail(conn, err);
    }
    return 0;
}

static void take_row(sqlite3_stmt *stmt, struct db_result *ret)
{
    int cols = sqlite3_column_count(stmt);
    result_start(ret, (size_t)cols);
    for (int c = 0; c < cols; c++) {
        switch (sqlite3_column_type(stmt, c)) {
        case SQLITE_NULL:
            result_add_null(ret);
            break;
        case SQLITE_INTEGER:
            result_add_int(ret, sqlite3_column_int64(stmt, c));
            break;
        case SQLITE_FLOAT:
            result_add_real(ret, sqlite3_column_double(stmt, c));
            break;
        default: { /* the pointer must be asked for before the length */
            const void *p = sqlite3_column_blob(stmt, c);
            result_add_text(ret, str_n(p, (size_t)sqlite3_column_bytes(stmt, c)));
        }
        }
    }
    result_end_row(ret);
}

static int step_all(struct sqlite_conn *conn, sqlite3_stmt *stmt, struct db_result *ret,
                    struct err *err)
{
    int rc;
    while ((rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        take_row(stmt, ret);
        if (!result_ok(ret))
            return err_set(err, ERR_TOO_LARGE, "database: a result is larger than %u MiB",
                           RESULT_MAX_BYTES >> 20);
    }
    return rc == SQLITE_DONE ? 0 : fail(conn, err);
}

int sqlite_conn_exec(struct sqlite_conn *conn, const char *sql, const struct db_param *params,
                     size_t count, struct db_result *ret, struct err *err)
{
    sqlite3_stmt *stmt = prepare(conn, sql, err);
    if (!stmt)
        return -1;
    if (is_transaction_control(stmt))
        return err_set(err, ERR_INTERNAL, "database: transactions are the driver's: %.100s", sql);
    sqlite3_int64 before = sqlite3_total_changes64(conn->db);
    int failed = bind_all(conn, stmt, params, count, err);
    if (!failed)
        failed = step_all(conn, stmt, ret, err);
    /* changes64() keeps the count of an earlier statement when this one wrote no row. */
    if (sqlite3_total_changes64(conn->db) != before)
        ret->changes = sqlite3_changes64(conn->db);
    sqlite3_reset(stmt);
    sqlite3_clear_bindings(stmt); /* the texts belong to the caller */
    return failed;
}

int sqlite_conn_script(struct sqlite_conn *conn, const char *sql, struct err *err)
{
    return sqlite3_exec(conn->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : fail(conn, err);
}

/* --- transactions ------------------------------------------------------------------------- */

bool sqlite_conn_in_tx(struct sqlite_conn *conn)
{
    return !sqlite3_get_autocommit(conn->db);
}

int sqlite_conn_begin(struct sqlite_conn *conn, struct err *err)
{
    return run(conn, "BEGIN IMMEDIATE", err);
}

int sqlite_conn_commit(struct sqlite_conn *conn, struct err *err)
{
    if (run(conn, "COMMIT", err) == 0)
        return 0;
    sqlite_conn_rollback(conn);
    return -1;
}

void sqlite_conn_rollback(struct sqlite_conn *conn)
{
    if (sqlite_conn_in_tx(conn))
        BUG_ON(run(conn, "ROLLBACK", NULL) != 0 && sqlite_conn_in_tx(conn));
}

int sqlite_conn_savepoint(struct sqlite_conn *conn, struct err *err)
{
    return run(conn, "SAVEPOINT one", err);
}

int sqlite_conn_release(struct sqlite_conn *conn, struct err *err)
{
    return run(conn, "RELEASE one", err);
}

void sqlite_conn_undo(struct sqlite_conn *conn)
{
    if (!sqlite_conn_in_tx(conn))
        return; /* SQLite undid everything already */
    if (run(conn, "ROLLBACK TO one", NULL) != 0 || run(conn, "RELEASE one", NULL) != 0)
        sqlite_conn_rollback(conn); /* seen by the caller through sqlite_conn_in_tx() */
}

/* --- the WAL ------------------------------------------------------------------------------ */

static int on_commit(void *ctx, sqlite3 *db, const char *name, int pages)
{
    struct sqlite_conn *conn = ctx;
    (void)db;
    (void)name;
    conn->wal_pages = pages;
    return SQLITE_OK;
}

int sqlite_conn_wal_pages(const struct sqlite_conn *conn)
{
    return conn->wal_pages;
}

int sqlite_conn_checkpoint(struct sqlite_conn *conn, struct err *err)
{
    int pages, moved;
    int rc = sqlite3_wal_checkpoint_v2(conn->db, NULL, SQLITE_CHECKPOINT_PASSIVE, &pages, &moved);
    if (rc == SQLITE_OK && pages == moved)
        conn->wal_pages = 0; /* all of it: the next commit starts it anew */
    /* Busy: somebody else is at it. What is left is for the next time. */
    return rc == SQLITE_OK || rc == SQLITE_BUSY ? 0 : fail(conn, err);
}

/* --- opening ------------------------------------------------------------------------------ */

/* Two processes that both turn a new file to WAL: one gets BUSY at once, without the time-out. */
static int set_wal(struct sqlite_conn *conn, struct err *err)
{
    for (int left_ms = SQLITE_BUSY_MS;; left_ms -= 10) {
        struct db_result r;
        result_init(&r);
        int failed = sqlite_conn_exec(conn, "PRAGMA journal_mode=WAL", NULL, 0, &r, err);
        bool wal = !failed && db_rows(&r) == 1 && str_eq_c(db_text(&r, 0, 0), "wal");
        result_release(&r);
        if (wal)
            return 0;
        if (!failed)
            return err_set(err, ERR_UNAVAILABLE, "database: its file system cannot do WAL");
        if (left_ms <= 0 || (sqlite3_errcode(conn->db) & 0xFF) != SQLITE_BUSY)
            return -1;
        usleep(10 * 1000);
    }
}

static int set_up(struct sqlite_conn *conn, struct err *err)
{
    static const char *const pragmas[] = {
        "PRAGMA synchronous=NORMAL",          "PRAGMA foreign_keys=ON",
        "PRAGMA temp_store=MEMORY",           "PRAGMA cache_size=-16384", /* KiB */
        "PRAGMA journal_size_limit=67108864", /* a WAL that grew is cut back to this */
        "PRAGMA secure_delete=ON",            /* what was deleted or sealed does not stay behind */
    };
    sqlite3_extended_result_codes(conn->db, 1);
    sqlite3_busy_timeout(conn->db, SQLITE_BUSY_MS);
    sqlite3_db_config(conn->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    if (set_wal(conn, err) != 0)
        return -1;
    for (size_t i = 0; i < ARRAY_SIZE(pragmas); i++) {
        if (sqlite_conn_script(conn, pragmas[i], err) != 0)
            return -1;
    }
    sqlite3_wal_hook(conn->db, on_commit, conn); /* replaces the automatic checkpoint */
    return 0;
}

struct sqlite_conn *sqlite_conn_open(const char *path, struct err *err)
{
    struct sqlite_conn *conn = x_calloc(1, sizeof(*conn));
    /* NOMUTEX: a connection is used by one thread at a time. */
    int rc = sqlite3_open_v2(path, &conn->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    if (rc != SQLITE_OK)
        err_set(err, ERR_UNAVAILABLE, "database: %s", sqlite3_errstr(rc));
    if (rc == SQLITE_OK && set_up(conn, err) == 0)
        return conn;
    sqlite_conn_close(conn);
    return NULL;
}

void sqlite_conn_close(struct sqlite_conn *conn)
{
    if (!conn)
        return;
    cache_clear(conn);
    BUG_ON(sqlite3_close(conn->db) != SQLITE_OK); /* a statement was left open */
    free(conn);
}
