/* test_limit.c - the usage journal under kill -9, outages of the database, a full disk and damaged
 * files. The limits themselves: test_limits.c. */
#include "core/clock.h"
#include "core/log.h"
#include "limit/journal.h"
#include "limit/journal_row.h"
#include "metrics/metrics.h"

#include <event2/event.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define T0     INT64_C(1795428000000) /* 2026-11-23T10:00:00Z */
#define KEY_ID "11111111-1111-4111-8111-111111111111"

/* --- journal: a directory, a database, a loop -------------------------------------------- */

struct world {
    char dir[64], journal_dir[80], db_path[80], db_url[96];
    struct loop *loop;
    struct db *db;
    struct journal *j;
};

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static void wait_exec(struct world *w, const char *sql)
{
    struct err err = {0};
    if (db_query_wait(w->db, sql, NULL, 0, NULL, NULL, &err) != 0)
        fail_msg("%s: %s", sql, err.msg);
}

static void take_int(void *ctx, const struct db_result *r, const struct err *err)
{
    if (!err)
        *(int64_t *)ctx = db_int(r, 0, 0);
}

static int64_t query_int(struct world *w, const char *sql)
{
    int64_t v = -1;
    struct err err = {0};
    if (db_query_wait(w->db, sql, NULL, 0, take_int, &v, &err) != 0)
        fail_msg("%s: %s", sql, err.msg);
    return v;
}

static int64_t rows_in_db(struct world *w)
{
    return query_int(w, "SELECT count(*) FROM usage_logs");
}

static void world_open(struct world *w)
{
    struct err err = {0};
    w->loop = loop_new();
    w->db = db_open(w->loop, w->db_url, &err);
    if (!w->db)
        fail_msg("db_open: %s", err.msg);
}

static void world_open_journal(struct world *w)
{
    struct err err = {0};
    w->j = journal_open(w->loop, w->db, w->journal_dir, &err);
    if (!w->j)
        fail_msg("journal_open: %s", err.msg);
}

static void world_close(struct world *w)
{
    journal_close(w->j);
    db_close(w->db);
    loop_free(w->loop);
    w->j = NULL;
    w->db = NULL;
    w->loop = NULL;
}

static int set_up(void **state)
{
    struct world *w = x_calloc(1, sizeof(*w));
    snprintf(w->dir, sizeof(w->dir), "/tmp/claudegate-test-XXXXXX");
    assert_non_null(mkdtemp(w->dir));
    snprintf(w->journal_dir, sizeof(w->journal_dir), "%s/journal", w->dir);
    snprintf(w->db_path, sizeof(w->db_path), "%s/t.db", w->dir);
    snprintf(w->db_url, sizeof(w->db_url), "sqlite:%s", w->db_path);
    world_open(w);
    wait_exec(w, "INSERT INTO users (id, name, role, created_at) VALUES "
                 "('22222222-2222-4222-8222-222222222222', 'u', 'owner', 1)");
    wait_exec(w, "INSERT INTO api_keys (id, public_id, secret_hash, user_id, name, status, "
                 "created_at, limits, permissions) VALUES ('" KEY_ID "', 'aaaaaaaaaaaa', 'h', "
                 "'22222222-2222-4222-8222-222222222222', 'k', 'active', 1, '{}', '{}')");
    *state = w;
    return 0;
}

static int tear_down(void **state)
{
    struct world *w = *state;
    if (w->loop)
        world_close(w);
    nftw(w->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(w);
    metrics_reset();
    return 0;
}

static struct usage_row make_row(int group, int n)
{
    struct usage_row row = {.timestamp = T0,
                            .endpoint = "/api/chat",
                            .method = "POST",
                            .model = "claude-sonnet-4-5",
                            .input_tokens = 120,
                            .output_tokens = n,
                            .upstream_calls = 1,
                            .response_time_ms = 812,
                            .ttft_ms = 14,
                            .status_code = 200};
    snprintf(row.request_id, sizeof(row.request_id), "req_%04d_%08d", group, n);
    snprintf(row.api_key_id, sizeof(row.api_key_id), "%s", KEY_ID);
    return row;
}

static void append_rows(struct world *w, int group, int from, int count)
{
    for (int n = from; n < from + count; n++) {
        struct usage_row row = make_row(group, n);
        struct err err = {0};
        if (journal_append(w->j, &row, &err) != 0)
            fail_msg("append: %s", err.msg);
    }
}

struct wait {
    struct loop *loop;
    struct journal *j; /* NULL: wait for `flushed` */
    struct timer poll;
    int64_t deadline;
    int flushed;
    enum err_code flush_code;
};

static void wait_poll(void *obj)
{
    struct wait *wait = obj;
    bool over = wait->j ? journal_pending(wait->j) == 0 : wait->flushed > 0;
    if (over || clock_mono_ms() > wait->deadline)
        loop_stop(wait->loop);
    else
        timer_set(&wait->poll, 5);
}

static void wait_run(struct wait *wait, int64_t ms)
{
    wait->deadline = clock_mono_ms() + ms;
    timer_init(&wait->poll, wait->loop, wait_poll, wait);
    timer_set(&wait->poll, 1);
    loop_run(wait->loop);
    timer_release(&wait->poll);
}

static void run_until_empty(struct world *w, int64_t ms)
{
    struct wait wait = {.loop = w->loop, .j = w->j};
    wait_run(&wait, ms);
    assert_int_equal(journal_pending(w->j), 0);
}

static void run_for(struct world *w, int64_t ms)
{
    struct wait wait = {.loop = w->loop};
    wait_run(&wait, ms);
}

static void on_flushed(void *ctx, const struct err *err)
{
    struct wait *wait = ctx;
    wait->flushed++;
    wait->flush_code = err ? err->code : ERR_NONE;
}

static void flush(struct world *w)
{
    struct wait wait = {.loop = w->loop};
    journal_flush(w->j, on_flushed, &wait);
    assert_int_equal(wait.flushed, 0); /* never before it returned */
    wait_run(&wait, 30000);
    assert_int_equal(wait.flushed, 1);
    assert_int_equal(wait.flush_code, ERR_NONE);
    assert_int_equal(journal_pending(w->j), 0);
}

static int count_files(const struct world *w, const char *pattern)
{
    char command[200];
    int count = -1;
    snprintf(command, sizeof(command), "ls '%s' | grep -c '%s'", w->journal_dir, pattern);
    FILE *f = popen(command, "re");
    if (f) {
        if (fscanf(f, "%d", &count) != 1)
            count = -1;
        pclose(f);
    }
    return count;
}

static char *read_journal_file(const struct world *w, const char *name)
{
    AUTO(free_charp) char *path = x_printf("%s/%s", w->journal_dir, name);
    FILE *f = fopen(path, "re");
    assert_non_null(f);
    char *text = x_calloc(1, 100000);
    size_t n = fread(text, 1, 99999, f);
    text[n] = '\0';
    fclose(f);
    return text;
}

static void add_journal_file(const struct world *w, const char *name, const char *text)
{
    AUTO(free_charp) char *path = x_printf("%s/%s", w->journal_dir, name);
    mkdir(w->journal_dir, 0700);
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

static char *row_line(int group, int n)
{
    struct usage_row row = make_row(group, n);
    struct buf b;
    buf_init(&b, JOURNAL_LINE_MAX);
    journal_row_write(&b, &row);
    assert_true(buf_ok(&b));
    return buf_take(&b);
}

static double metric_value(const char *name)
{
    struct buf b;
    buf_init(&b, (size_t)4 << 20);
    metrics_write(&b);
    AUTO(free_charp) char *start = x_printf("\n%s ", name);
    const char *hit = strstr(buf_cstr(&b), start);
    double v = hit ? strtod(hit + strlen(start), NULL) : -1.0;
    buf_release(&b);
    return v;
}

/* --- journal: the ordinary way ----------------------------------------------------------- */

static void test_row_round_trip(void **state)
{
    (void)state;
    struct usage_row row = make_row(1, 2), again;
    row.estimated = row.cached = true;
    row.ttft_ms = -1;
    row.output_tokens = INT64_MAX;
    row.input_tokens = INT64_MIN;
    row.status_code = -7;
    snprintf(row.error, sizeof(row.error), "q\"b\\n\nc\001 \xc3\xa4 \xf0\x9f\x98\x80");
    memset(row.model, '\x01', sizeof(row.model) - 1); /* the longest there is: six bytes each */
    struct buf b;
    buf_init(&b, JOURNAL_LINE_MAX);
    journal_row_write(&b, &row);
    assert_true(buf_ok(&b));
    assert_int_equal(b.data[b.len - 1], '\n');
    assert_null(memchr(b.data, '\n', b.len - 1));
    assert_int_equal(journal_row_parse(str_n(b.data, b.len - 1), &again, NULL), 0);
    struct buf b2;
    buf_init(&b2, JOURNAL_LINE_MAX);
    journal_row_write(&b2, &again);
    assert_string_equal(buf_cstr(&b), buf_cstr(&b2));
    buf_release(&b2);
    assert_string_equal(again.error, row.error);
    assert_string_equal(again.model, row.model);
    assert_true(again.output_tokens == INT64_MAX && again.input_tokens == INT64_MIN);
    assert_true(again.estimated && again.cached && again.ttft_ms == -1 && again.status_code == -7);
    /* Each cut of the line is refused. */
    for (size_t n = 0; n < b.len - 1; n++)
        assert_int_equal(journal_row_parse(str_n(b.data, n), &again, NULL), -1);
    buf_release(&b);
    /* Bytes that are not UTF-8 grow when written; what is read back fits and is UTF-8. */
    memset(row.error, 0xE4, sizeof(row.error) - 1);
    journal_row_write(&b, &row);
    assert_true(buf_ok(&b));
    assert_int_equal(journal_row_parse(str_n(b.data, b.len - 1), &again, NULL), 0);
    assert_true(str_is_utf8(str_c(again.error)));
    assert_in_range(strlen(again.error), 190, sizeof(again.error) - 1);
    buf_release(&b);
    assert_int_equal(journal_row_parse(STR("{\"request_id\":5}"), &again, NULL), -1);
    /* A line of a version without costs. */
    assert_int_equal(
        journal_row_parse(STR("{\"request_id\":\"r\",\"api_key_id\":\"k\"}"), &again, NULL), 0);
    assert_true(again.cost_nano == -1);
    assert_int_equal(journal_row_parse(STR("[]"), &again, NULL), -1);
}

static void test_rows_reach_the_database(void **state)
{
    struct world *w = *state;
    world_open_journal(w);
    assert_int_equal(journal_pending(w->j), 0);
    append_rows(w, 1, 0, 3);
    assert_int_equal(journal_pending(w->j), 3);
    assert_int_equal(count_files(w, "^usage-.*journal$"), 1);
    assert_true(metric_value("claudegate_usage_journal_pending") == 3.0);
    run_until_empty(w, 5000); /* by the timer alone */
    append_rows(w, 1, 3, 1200);
    flush(w);
    assert_int_equal(rows_in_db(w), 1203);
    assert_int_equal(query_int(w, "SELECT sum(output_tokens) FROM usage_logs"), 1202 * 1203 / 2);
    assert_int_equal(count_files(w, "^usage-.*journal$"), 0);
    flush(w); /* of nothing */
    assert_true(metric_value("claudegate_usage_journal_pending") == 0.0);
    assert_true(metric_value("claudegate_usage_written_total") == 1203.0);
    assert_true(metric_value("claudegate_usage_dropped_total") == 0.0);
}

static void test_close_keeps_rows_for_the_next_start(void **state)
{
    struct world *w = *state;
    world_open_journal(w);
    append_rows(w, 1, 0, 1300); /* the loop does not run: two batches wait, one row set is open */
    world_close(w);
    world_open(w);
    int64_t before = rows_in_db(w);
    assert_in_range(before, 0, 500); /* what was in flight when the journal closed */
    world_open_journal(w);
    assert_in_range(journal_pending(w->j), 800, 1300);
    run_until_empty(w, 10000);
    assert_int_equal(rows_in_db(w), 1300);
    assert_int_equal(count_files(w, "^usage-.*journal$"), 0);
}

static void test_replay_never_doubles(void **state)
{
    struct world *w = *state;
    AUTO(buf_release) struct buf lines;
    buf_init(&lines, (size_t)1 << 20);
    for (int n = 0; n < 300; n++) {
        AUTO(free_charp) char *line = row_line(1, n);
        buf_adds(&lines, line);
    }
    for (int round = 0; round < 3; round++) { /* as if unlink() had never reached the disk */
        add_journal_file(w, "usage-7.journal", buf_cstr(&lines));
        add_journal_file(w, "usage-9.journal", buf_cstr(&lines));
        world_open_journal(w);
        assert_int_equal(journal_pending(w->j), 600);
        append_rows(w, 2 + round, 0, 10);
        flush(w);
        assert_int_equal(rows_in_db(w), 300 + 10 * (round + 1));
        journal_close(w->j);
        w->j = NULL;
    }
}

static void test_flush_ends_with_close(void **state)
{
    struct world *w = *state;
    struct wait wait = {.loop = w->loop};
    world_open_journal(w);
    append_rows(w, 1, 0, 2);
    journal_flush(w->j, on_flushed, &wait);
    journal_close(w->j);
    w->j = NULL;
    assert_int_equal(wait.flushed, 1);
    assert_int_equal(wait.flush_code, ERR_SHUTTING_DOWN);
}

static void test_directory_is_locked(void **state)
{
    struct world *w = *state;
    struct err err = {0};
    world_open_journal(w);
    assert_null(journal_open(w->loop, w->db, w->journal_dir, &err));
    assert_int_equal(err.code, ERR_IO);
    assert_non_null(strstr(err.msg, "in use"));
    assert_null(journal_open(w->loop, w->db, "/proc/no/such", &err));
    assert_int_equal(err.code, ERR_IO);
}

/* --- journal: damage --------------------------------------------------------------------- */

static void test_torn_and_garbage_lines(void **state)
{
    struct world *w = *state;
    AUTO(free_charp) char *a = row_line(1, 1);
    AUTO(free_charp) char *b = row_line(1, 2);
    AUTO(free_charp) char *c = row_line(1, 3);
    AUTO(free_charp) char *torn = x_strndup(c, strlen(c) / 2);
    AUTO(free_charp)
    char *text =
        x_printf("%s%s%s%s%s", a, "{\"not\":\"a row\"}\n\xff\xfe rubbish\n\n", b, "[1,2\n", torn);
    add_journal_file(w, "usage-1.journal", text);
    add_journal_file(w, "usage-2.journal", torn); /* nothing but half a line */
    add_journal_file(w, "usage-3.journal", "");
    add_journal_file(w, "usage-4.journal", "only rubbish\n");
    add_journal_file(w, "usage-5.journal", c);
    add_journal_file(w, "usage-05.journal", "not ours: must stay\n");
    world_open_journal(w);
    flush(w);
    assert_int_equal(rows_in_db(w), 3);
    AUTO(free_charp) char *rejected = read_journal_file(w, "usage.rejected");
    assert_string_equal(rejected, "{\"not\":\"a row\"}\n\xff\xfe rubbish\n\n[1,2\nonly rubbish\n");
    assert_int_equal(count_files(w, "^usage-.*journal$"), 1);
    assert_true(metric_value("claudegate_usage_dropped_total") == 5.0);
}

static void test_file_that_vanishes(void **state)
{
    struct world *w = *state;
    AUTO(free_charp) char *a = row_line(1, 1);
    AUTO(free_charp) char *b = row_line(1, 2);
    AUTO(free_charp) char *path = x_printf("%s/usage-1.journal", w->journal_dir);
    add_journal_file(w, "usage-1.journal", a);
    add_journal_file(w, "usage-2.journal", b);
    world_open_journal(w);
    unlink(path);
    flush(w);
    assert_in_range(rows_in_db(w), 1, 2); /* 2 when the thread was faster */
}

/* A row the database will never take must not hold up the others. */
static void test_poison_row(void **state)
{
    struct world *w = *state;
    world_open_journal(w);
    append_rows(w, 1, 0, 20);
    struct usage_row bad = make_row(9, 1);
    snprintf(bad.api_key_id, sizeof(bad.api_key_id), "99999999-9999-4999-8999-999999999999");
    assert_int_equal(journal_append(w->j, &bad, NULL), 0);
    append_rows(w, 1, 20, 600);
    run_until_empty(w, 20000);
    assert_int_equal(rows_in_db(w), 620);
    /* Alone: no other row can show that the database is well. */
    snprintf(bad.request_id, sizeof(bad.request_id), "req_alone");
    assert_int_equal(journal_append(w->j, &bad, NULL), 0);
    flush(w);
    assert_int_equal(rows_in_db(w), 620);
    assert_true(metric_value("claudegate_usage_dropped_total") == 2.0);
    AUTO(free_charp) char *rejected = read_journal_file(w, "usage.rejected");
    assert_non_null(strstr(rejected, "req_0009_00000001"));
    assert_non_null(strstr(rejected, "req_alone"));
    assert_null(strstr(rejected, "req_0001"));
}

static void set_file_limit(rlim_t bytes)
{
    struct rlimit rl;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &rl), 0);
    rl.rlim_cur = bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &rl), 0);
}

static int append_to_full_disk(struct world *w, int group, int count)
{
    int refused = 0;
    signal(SIGXFSZ, SIG_IGN);
    set_file_limit(20000); /* some 40 rows; the last one is cut by the kernel */
    for (int n = 0; n < count; n++) {
        struct usage_row row = make_row(group, n);
        struct err err = {0};
        int rc = journal_append(w->j, &row, &err);
        refused += rc != 0;
        if (rc != 0 && err.code != ERR_IO)
            refused += 1000000;
    }
    set_file_limit(RLIM_INFINITY);
    return refused;
}

static bool file_exists(const struct world *w, const char *name)
{
    AUTO(free_charp) char *path = x_printf("%s/%s", w->journal_dir, name);
    return access(path, F_OK) == 0;
}

static void remove_journal_file(const struct world *w, const char *name)
{
    AUTO(free_charp) char *path = x_printf("%s/%s", w->journal_dir, name);
    assert_int_equal(unlink(path), 0);
}

static void test_full_disk(void **state)
{
    struct world *w = *state;
    world_open_journal(w);
    assert_in_range(append_to_full_disk(w, 1, 100), 20, 99);
    assert_int_equal(journal_pending(w->j), 100);
    append_rows(w, 1, 100, 10); /* there is room again */
    flush(w);
    assert_int_equal(rows_in_db(w), 110);
    /* The same, and the process ends before the database has the rows. */
    assert_in_range(append_to_full_disk(w, 2, 100), 20, 99);
    world_close(w);
    world_open(w);
    world_open_journal(w);
    flush(w);
    assert_int_equal(rows_in_db(w), 210);
    assert_true(metric_value("claudegate_usage_dropped_total") == 0.0);
}

static void wait_until_writable(struct world *w)
{
    int64_t deadline = clock_mono_ms() + 20000;
    while (journal_disk_is_full(w->j)) {
        assert_true(clock_mono_ms() < deadline);
        event_base_loop(loop_base(w->loop), EVLOOP_ONCE);
    }
}

/* Raised by the first row that is refused, lifted by the look at the disk, not by a small write
 * that happens to fit. */
static void test_full_disk_alarm(void **state)
{
    struct world *w = *state;
    world_open_journal(w);
    assert_false(journal_disk_is_full(w->j));
    assert_true(metric_value("claudegate_usage_journal_disk_full") == 0.0);
    assert_true(file_exists(w, "usage.reserve"));
    append_to_full_disk(w, 1, 100);
    assert_true(journal_disk_is_full(w->j));
    assert_true(metric_value("claudegate_usage_journal_disk_full") == 1.0);
    assert_false(file_exists(w, "usage.reserve")); /* given up for what still runs */
    append_rows(w, 1, 100, 10);
    assert_true(journal_disk_is_full(w->j));
    wait_until_writable(w);
    assert_true(file_exists(w, "usage.reserve"));
    assert_true(metric_value("claudegate_usage_journal_disk_full") == 0.0);
    flush(w);
    assert_int_equal(rows_in_db(w), 110);
    assert_true(metric_value("claudegate_usage_dropped_total") == 0.0);
    /* It begins on a full disk. */
    journal_close(w->j);
    w->j = NULL;
    remove_journal_file(w, "usage.reserve");
    set_file_limit(20000);
    world_open_journal(w);
    assert_true(journal_disk_is_full(w->j));
    set_file_limit(RLIM_INFINITY);
    wait_until_writable(w);
}

/* --- journal: the database is away ------------------------------------------------------- */

static sqlite3 *lock_db(const struct world *w)
{
    sqlite3 *other = NULL;
    assert_int_equal(sqlite3_open(w->db_path, &other), SQLITE_OK);
    sqlite3_busy_timeout(other, 5000);
    assert_int_equal(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    return other;
}

static void unlock_db(sqlite3 *other)
{
    assert_int_equal(sqlite3_exec(other, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_close(other), SQLITE_OK);
}

static void test_outage_by_lock(void **state)
{
    struct world *w = *state;
    world_open_journal(w);
    sqlite3 *other = lock_db(w);
    append_rows(w, 1, 0, 1500);
    run_for(w, 6500); /* longer than SQLite waits for the lock: a batch has failed */
    append_rows(w, 1, 1500, 100);
    assert_int_equal(journal_pending(w->j), 1600);
    unlock_db(other);
    run_until_empty(w, 20000); /* by its own retries */
    assert_int_equal(rows_in_db(w), 1600);
    assert_int_equal(count_files(w, "^usage-.*journal$"), 0);
}

static void test_outage_by_missing_table(void **state)
{
    struct world *w = *state;
    world_open_journal(w);
    wait_exec(w, "ALTER TABLE usage_logs RENAME TO away");
    append_rows(w, 1, 0, 700);
    run_for(w, 4500); /* a batch, then rows one by one */
    assert_int_equal(journal_pending(w->j), 700);
    append_rows(w, 1, 700, 10);
    wait_exec(w, "ALTER TABLE away RENAME TO usage_logs");
    run_until_empty(w, 40000);
    assert_int_equal(rows_in_db(w), 710);
    assert_true(metric_value("claudegate_usage_dropped_total") == 0.0);
}

/* More than may stay in memory: the rest is read back from the files. */
static void test_long_outage(void **state)
{
    struct world *w = *state;
    world_open_journal(w);
    sqlite3 *other = lock_db(w);
    append_rows(w, 1, 0, 52000);
    assert_int_equal(journal_pending(w->j), 52000);
    unlock_db(other);
    run_until_empty(w, 60000);
    assert_int_equal(rows_in_db(w), 52000);
    assert_int_equal(query_int(w, "SELECT sum(output_tokens) FROM usage_logs"),
                     INT64_C(51999) * 52000 / 2);
}

/* --- journal: kill -9 -------------------------------------------------------------------- */

struct child {
    struct world *w;
    struct timer burst;
    int round, next, ack;
};

static void child_burst(void *obj)
{
    struct child *c = obj;
    for (int i = 0; i < 40; i++) {
        struct usage_row row = make_row(c->round, c->next);
        if (journal_append(c->w->j, &row, NULL) != 0)
            _exit(3);
        c->next++;
        if (write(c->ack, &c->next, sizeof(c->next)) != sizeof(c->next))
            _exit(4);
    }
    timer_set(&c->burst, 1);
}

static noreturn void child_main(struct world *w, int round, int ack)
{
    struct child c = {.w = w, .round = round, .ack = ack};
    struct err err = {0};
    id_init(); /* not the random numbers of the children before */
    w->loop = loop_new();
    w->db = db_open(w->loop, w->db_url, &err);
    w->j = w->db ? journal_open(w->loop, w->db, w->journal_dir, &err) : NULL;
    if (!w->j)
        _exit(2);
    timer_init(&c.burst, w->loop, child_burst, &c);
    timer_set(&c.burst, 0);
    loop_run(w->loop);
    _exit(5);
}

/* Reads what the child says it has appended until `ms` have passed; then kills it. */
static int kill_after(pid_t pid, int fd, int64_t ms)
{
    int acked = 0, batch[256];
    int64_t end = clock_mono_ms() + ms;
    bool killed = false;
    for (int64_t give_up = end + 20000; clock_mono_ms() < give_up;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        poll(&p, 1, 5);
        ssize_t n = p.revents ? read(fd, batch, sizeof(batch)) : -1;
        if (n >= (ssize_t)sizeof(int))
            acked = batch[(size_t)n / sizeof(int) - 1];
        if (n == 0)
            break;
        if (!killed && acked && clock_mono_ms() >= end)
            killed = kill(pid, SIGKILL) == 0;
    }
    int status = 0;
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status)); /* it had not ended by itself */
    return acked;
}

#define KILL_ROUNDS 8
static void test_kill_9(void **state)
{
    struct world *w = *state;
    int acked[KILL_ROUNDS], total = 0;
    srandom((unsigned)clock_mono_us());
    world_close(w); /* no threads in this process while it forks */
    for (int round = 0; round < KILL_ROUNDS; round++) {
        int fds[2];
        assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0)
            child_main(w, round, fds[1]);
        close(fds[1]);
        acked[round] = kill_after(pid, fds[0], 5 + random() % 700);
        close(fds[0]);
        total += acked[round];
    }
    world_open(w);
    world_open_journal(w);
    size_t left = journal_pending(w->j);
    flush(w);
    int64_t in_db = rows_in_db(w);
    print_message("# kill -9: %d rounds, %d rows acknowledged, %zu replayed at the end, %d in the "
                  "database\n",
                  KILL_ROUNDS, total, left, (int)in_db);
    for (int round = 0; round < KILL_ROUNDS; round++) {
        AUTO(free_charp)
        char *sql =
            x_printf("SELECT count(*) FROM usage_logs WHERE request_id LIKE 'req\\_%04d\\_%%' "
                     "ESCAPE '\\' AND output_tokens < %d",
                     round, acked[round]);
        assert_int_equal(query_int(w, sql), acked[round]);
    }
    /* At most one per round was written whose append had not returned to tell. */
    assert_in_range(in_db, total, total + KILL_ROUNDS);
    assert_int_equal(query_int(w, "SELECT count(DISTINCT request_id) FROM usage_logs"), in_db);
    assert_true(metric_value("claudegate_usage_dropped_total") == 0.0);
}

static int64_t thread_cpu_us(void)
{
    struct timespec ts;
    assert_int_equal(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts), 0);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

static void bench_append(void **state)
{
    struct world *w = *state;
    const int rounds = 10000;
    struct usage_row row = make_row(0, 0);
    world_open_journal(w);
    int64_t start = clock_mono_us(), cpu = thread_cpu_us();
    for (int i = 0; i < rounds; i++) {
        snprintf(row.request_id, sizeof(row.request_id), "req_%d", i);
        assert_int_equal(journal_append(w->j, &row, NULL), 0);
    }
    int64_t appended = clock_mono_us();
    cpu = thread_cpu_us() - cpu;
    flush(w);
    print_message("# journal_append: %.0f ns (%.0f ns of processor time); %d rows in the database "
                  "after %.0f ms\n",
                  (double)(appended - start) * 1000.0 / rounds, (double)cpu * 1000.0 / rounds,
                  rounds, (double)(clock_mono_us() - start) / 1000.0);
}

#define WORLD_TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    id_init();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_row_round_trip),
        WORLD_TEST(test_rows_reach_the_database),
        WORLD_TEST(test_close_keeps_rows_for_the_next_start),
        WORLD_TEST(test_replay_never_doubles),
        WORLD_TEST(test_flush_ends_with_close),
        WORLD_TEST(test_directory_is_locked),
        WORLD_TEST(test_torn_and_garbage_lines),
        WORLD_TEST(test_file_that_vanishes),
        WORLD_TEST(test_poison_row),
        WORLD_TEST(test_full_disk),
        WORLD_TEST(test_full_disk_alarm),
        WORLD_TEST(test_outage_by_lock),
        WORLD_TEST(test_outage_by_missing_table),
        WORLD_TEST(test_long_outage),
        WORLD_TEST(test_kill_9),
        WORLD_TEST(bench_append),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
