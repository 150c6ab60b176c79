/* db_open_cases.h - part of test_db.c: opening a file, and bringing it to the program's schema. */
#ifndef CG_TESTS_DB_OPEN_CASES_H
#define CG_TESTS_DB_OPEN_CASES_H

#include "db_fx.h"

#include "db/migrate.h"
#include "db/sqlite_open.h"

#include <fcntl.h>
#include <sys/stat.h>

#define COUNT_APPLIED "SELECT count(*) FROM schema_migrations"

#define USER_1 "11111111-1111-4111-8111-111111111111"
#define KEY_A  "22222222-2222-4222-8222-222222222222"
#define KEY_B  "33333333-3333-4333-8333-333333333333"
#define VERSION_1_ROWS                                                                            \
    "INSERT INTO users VALUES ('" USER_1 "', 'ada', 'owner', NULL, 1);"                           \
    "INSERT INTO api_keys VALUES ('" KEY_A "', 'aaaaaaaaaaaa', 'h', '" USER_1 "', 'A', 'active'," \
    " 1, NULL, NULL, '{}', '{}', NULL), ('" KEY_B "', 'bbbbbbbbbbbb', 'h', '" USER_1 "', 'B',"    \
    " 'revoked', 2, 3, 4, '{}', '{}', '[1]');"                                                    \
    "INSERT INTO usage_logs (id, request_id, api_key_id, timestamp, endpoint, method) VALUES"     \
    " ('1', 'req_1', '" KEY_B "', 5, '/x', 'POST')"

static mode_t mode_of(const char *path)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return st.st_mode & 0777;
}

static void test_files_are_private(void **state)
{
    struct fx *fx = *state;
    mode_t old = umask(0);
    open_db(fx);
    umask(old);
    run(fx, "CREATE TABLE t (v)");
    char name[256];
    snprintf(name, sizeof(name), "%s/sub", fx->dir);
    assert_int_equal(mode_of(name), 0700);
    assert_int_equal(mode_of(fx->path), 0600);
    snprintf(name, sizeof(name), "%s-wal", fx->path);
    assert_int_equal(mode_of(name), 0600);
}

static void refuse(struct fx *fx, const char *url, enum err_code code, const char *words)
{
    struct err err = {0};
    assert_null(db_open(fx->loop, url, &err));
    assert_int_equal(err.code, code);
    if (!strstr(err.msg, words))
        fail_msg("'%s' does not say '%s'", err.msg, words);
}

static void test_bad_places(void **state)
{
    struct fx *fx = *state;
    char url[256];
    refuse(fx, "mysql://localhost/x", ERR_CONFIG, "sqlite:PATH or postgres:");
    refuse(fx, "sqlite:", ERR_CONFIG, "path of a file");
    refuse(fx, "sqlite::memory:", ERR_CONFIG, "path of a file");
    refuse(fx, "sqlite:file:x?mode=memory", ERR_CONFIG, "path of a file");
    refuse(fx, "sqlite:/dev/null/x.db", ERR_IO, "/dev/null");
    snprintf(url, sizeof(url), "sqlite:%s", fx->dir);
    refuse(fx, url, ERR_UNAVAILABLE, fx->dir);
    open_db(fx);
    close_db(fx);
    int fd = open(fx->path, O_WRONLY | O_TRUNC | O_CLOEXEC);
    assert_int_equal(write(fd, "this is certainly not a database file, by any means", 51), 51);
    close(fd);
    refuse(fx, fx->url, ERR_UNAVAILABLE, "not a database");
}

static void test_newer_schema(void **state)
{
    struct fx *fx = *state;
    open_db(fx);
    close_db(fx);
    open_db(fx); /* twice is fine, and applies nothing twice */
    assert_int_equal(run(fx, COUNT_APPLIED), (int64_t)db_migrations_sqlite_count);
    assert_int_equal(run(fx, "SELECT name = 'init' AND applied_at > 1600000000000 "
                             "FROM schema_migrations WHERE version = 1"),
                     1);
    run(fx, "INSERT INTO schema_migrations VALUES (99, 'later', 1, 'x')");
    close_db(fx);
    refuse(fx, fx->url, ERR_CONFIG, "schema version 99");
    sqlite3 *raw = raw_open(fx); /* refused before anything was touched */
    assert_int_equal(raw_int(raw, COUNT_APPLIED), (int64_t)db_migrations_sqlite_count + 1);
    raw_run(raw, "DELETE FROM schema_migrations WHERE version = 99");
    sqlite3_close(raw);
    open_db(fx);
}

static void test_changed_migration(void **state)
{
    struct fx *fx = *state;
    open_db(fx);
    run(fx, "UPDATE schema_migrations SET checksum = 'other' WHERE version = 1");
    close_db(fx);
    refuse(fx, fx->url, ERR_CONFIG, "0001_init was changed");
}

static void test_failing_migration_undone(void **state)
{
    struct fx *fx = *state;
    open_db(fx);
    run(fx, "DELETE FROM schema_migrations"); /* its first statement will now fail */
    run(fx, "DROP TABLE sessions");
    close_db(fx);
    refuse(fx, fx->url, ERR_INTERNAL, "migration 0001_init");
    sqlite3 *raw = raw_open(fx);
    assert_int_equal(raw_int(raw, COUNT_APPLIED), 0);
    assert_int_equal(raw_int(raw, "SELECT count(*) FROM sqlite_schema WHERE name = 'sessions'"), 0);
    sqlite3_close(raw);
}

/* --- from version 1 ----------------------------------------------------------------------- */

/* A database as the first version left it. */
static sqlite3 *make_version_1(struct fx *fx)
{
    struct err err;
    open_db(fx);
    close_db(fx); /* has made the directory */
    assert_int_equal(truncate(fx->path, 0), 0);
    struct sqlite_conn *conn = sqlite_conn_open(fx->path, &err);
    assert_non_null(conn);
    assert_int_equal(sqlite_migrate(conn, db_migrations_sqlite, 1, &err), 0);
    sqlite_conn_close(conn);
    return raw_open(fx);
}

static void refused_priority(struct fx *fx, const char *value)
{
    char sql[128];
    struct probe p = {0};
    snprintf(sql, sizeof(sql), "UPDATE api_keys SET priority = %s", value);
    query(fx, sql, NULL, 0, &p);
    wait_for(fx, &p);
    if (!p.failed)
        fail_msg("priority %s was taken", value);
}

static void test_keys_of_version_1_get_a_priority(void **state)
{
    static const char *const wrong[] = {"0", "11", "-1", "NULL", "'high'", "1.5"};
    struct fx *fx = *state;
    sqlite3 *raw = make_version_1(fx);
    assert_int_equal(
        raw_int(raw, "SELECT count(*) FROM pragma_table_info('api_keys') WHERE name = 'priority'"),
        0);
    raw_run(raw, "PRAGMA foreign_keys = ON;" VERSION_1_ROWS);
    sqlite3_close(raw);
    open_db(fx);
    assert_int_equal(run(fx, COUNT_APPLIED), (int64_t)db_migrations_sqlite_count);
    assert_int_equal(run(fx, "SELECT count(*) FROM api_keys WHERE priority = 1"), 2);
    assert_int_equal(run(fx, "SELECT count(*) FROM api_keys JOIN usage_logs ON "
                             "api_keys.id = api_key_id WHERE name = 'B' AND metadata = '[1]'"),
                     1);
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
        refused_priority(fx, wrong[i]);
    run(fx, "UPDATE api_keys SET priority = 10 WHERE name = 'A'");
    assert_int_equal(run(fx, "SELECT sum(priority) FROM api_keys"), 11);
    assert_int_equal(run(fx, "SELECT count(*) FROM pragma_foreign_key_check"), 0);
    assert_int_equal(run(fx, "SELECT integrity_check = 'ok' FROM pragma_integrity_check"), 1);
    close_db(fx);
    open_db(fx);
    assert_int_equal(run(fx, "SELECT sum(priority) FROM api_keys"), 11);
}

#endif
