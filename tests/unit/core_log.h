/* core_log.h - part of test_core.c: log lines, read back from the files as JSON. */
#ifndef CG_TESTS_CORE_LOG_H
#define CG_TESTS_CORE_LOG_H

#include "core/clock.h"
#include "core/json.h"
#include "core/log.h"

#include <event2/event.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char log_dir[64];

static void log_path(char out[128], const char *name)
{
    snprintf(out, 128, "%s/%s", log_dir, name);
}

static void open_log(enum log_level level)
{
    struct err err;
    struct log_opts o = {.level = level, .dir = log_dir, .console = false};
    if (log_open(&o, &err) != 0)
        fail_msg("%s", err.msg);
}

static int log_set_up(void **state)
{
    (void)state;
    snprintf(log_dir, sizeof(log_dir), "/tmp/test_core_log.XXXXXX");
    assert_non_null(mkdtemp(log_dir));
    open_log(LOG_INFO);
    return 0;
}

static int log_tear_down(void **state)
{
    static const char *const names[] = {"combined.log", "error.log", "combined.log.1",
                                        "error.log.1"};
    char path[128];
    (void)state;
    log_set_loop(NULL);
    log_close();
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        log_path(path, names[i]);
        unlink(path);
    }
    assert_int_equal(rmdir(log_dir), 0);
    return 0;
}

/* The whole file; owned. */
static char *read_log(const char *name, size_t *ret_len)
{
    char path[128];
    struct stat st;
    log_path(path, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0 && fstat(fd, &st) == 0);
    char *text = x_calloc(1, (size_t)st.st_size + 1);
    assert_int_equal(read(fd, text, (size_t)st.st_size), st.st_size);
    close(fd);
    *ret_len = (size_t)st.st_size;
    return text;
}

/* Every line of the file as JSON: an array; a line that is not JSON fails the test. */
static json_t *read_log_lines(const char *name)
{
    size_t len;
    char *text = read_log(name, &len);
    struct str rest = str_n(text, len);
    json_t *lines = json_array();
    assert_true(len == 0 || text[len - 1] == '\n');
    while (rest.len) {
        struct err err;
        struct str line = str_split(&rest, '\n');
        json_t *j = json_parse(line, &err);
        if (!j)
            fail_msg("%s: %.*s", err.msg, (int)line.len, line.p);
        json_array_append_new(lines, j);
    }
    free(text);
    return lines;
}

static size_t count_log_lines(const char *name)
{
    json_t *lines = read_log_lines(name);
    size_t n = json_array_size(lines);
    json_decref(lines);
    return n;
}

static void test_log_line_is_json_for_nasty_values(void **state)
{
    (void)state;
    log_info("quote\" and \\ and \n newline", LF_STR("nul", STR("a\0b\x01\x7F")),
             LF_STR("bad", STR("\xFF\xC3")), LF_S("null", NULL), LF_STR("sep", STR("\xE2\x80\xA8")),
             LF_S("a \"key\"\n", "v"), LF_I("min", INT64_MIN), LF_I("max", INT64_MAX),
             LF_D("real", 0.1), LF_D("inf", (double)INFINITY), LF_D("ninf", -(double)INFINITY),
             LF_D("nan", (double)NAN), LF_D("huge", 1e300), LF_B("yes", true), LF_B("no", 0));
    json_t *lines = read_log_lines("combined.log"), *l = json_array_get(lines, 0);
    assert_int_equal(json_array_size(lines), 1);
    assert_true(str_eq_c(json_get_str(l, "message"), "quote\" and \\ and \n newline"));
    assert_true(str_eq_c(json_get_str(l, "level"), "info"));
    assert_true(str_eq(json_get_str(l, "nul"), STR("a\0b\x01\x7F")));
    assert_true(str_eq_c(json_get_str(l, "bad"), "\xEF\xBF\xBD\xEF\xBF\xBD"));
    assert_true(str_eq_c(json_get_str(l, "null"), ""));
    assert_true(str_eq_c(json_get_str(l, "a \"key\"\n"), "v"));
    assert_true(json_get_int(l, "min", 0) == INT64_MIN);
    assert_true(json_get_int(l, "max", 0) == INT64_MAX);
    assert_true(json_get_bool(l, "yes", false));
    assert_false(json_get_bool(l, "no", true));
    assert_true(json_real_value(json_object_get(l, "real")) > 0.09);
    assert_true(json_is_null(json_object_get(l, "nan")));
    assert_true(json_is_null(json_object_get(l, "inf")));
    assert_true(json_is_null(json_object_get(l, "ninf")));
    int64_t when;
    assert_true(clock_parse_rfc3339(json_string_value(json_object_get(l, "timestamp")), &when));
    assert_true(llabs(clock_wall_ms() - when) < 60000);
    json_decref(lines);
}

static void test_log_levels_and_files(void **state)
{
    (void)state;
    assert_false(log_enabled(LOG_DEBUG));
    log_debug("not written");
    log_info("one");
    log_warn("two");
    log_error("three", LF_I("n", 3));
    assert_int_equal(count_log_lines("combined.log"), 3);
    json_t *errors = read_log_lines("error.log");
    assert_int_equal(json_array_size(errors), 1);
    assert_true(str_eq_c(json_get_str(json_array_get(errors, 0), "message"), "three"));
    json_decref(errors);
    log_close();
    open_log(LOG_DEBUG);
    log_debug("written");
    assert_int_equal(count_log_lines("combined.log"), 4);
    log_close();
    open_log(LOG_ERROR);
    log_warn("not written");
    assert_int_equal(count_log_lines("combined.log"), 4);
}

static void test_log_level_names(void **state)
{
    static const char *const names[] = {"debug", "info", "warn", "error"};
    enum log_level level = LOG_ERROR;
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        assert_true(log_level_parse(names[i], &level));
        assert_int_equal(level, i);
    }
    assert_false(log_level_parse("INFO", &level));
    assert_false(log_level_parse("", &level));
    assert_int_equal(level, LOG_ERROR);
}

static void test_log_reopen_after_rotation(void **state)
{
    char from[128], to[128];
    struct err err;
    struct stat st;
    (void)state;
    log_error("before");
    log_path(from, "combined.log");
    log_path(to, "combined.log.1");
    assert_int_equal(rename(from, to), 0);
    log_path(from, "error.log");
    log_path(to, "error.log.1");
    assert_int_equal(rename(from, to), 0);
    log_info("still to the old file");
    assert_int_equal(log_reopen(&err), 0);
    log_error("after");
    assert_int_equal(count_log_lines("combined.log.1"), 2);
    assert_int_equal(count_log_lines("combined.log"), 1);
    assert_int_equal(count_log_lines("error.log.1"), 1);
    assert_int_equal(count_log_lines("error.log"), 1);
    assert_int_equal(stat(from, &st), 0);
    assert_int_equal(st.st_mode & 0007, 0); /* not for everybody */
}

static size_t open_fd_count(void)
{
    size_t n = 0;
    for (int fd = 0; fd < 256; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static void test_log_reopen_leaks_nothing_and_survives_failure(void **state)
{
    struct err err;
    char moved[80];
    (void)state;
    size_t before = open_fd_count();
    for (int i = 0; i < 20; i++)
        assert_int_equal(log_reopen(&err), 0);
    assert_int_equal(open_fd_count(), before);
    snprintf(moved, sizeof(moved), "%s.moved", log_dir);
    assert_int_equal(rename(log_dir, moved), 0);
    assert_int_equal(log_reopen(&err), -1);
    assert_int_equal(err.code, ERR_IO);
    log_info("goes on into the file it has");
    assert_int_equal(rename(moved, log_dir), 0);
    assert_int_equal(count_log_lines("combined.log"), 1);
    assert_int_equal(open_fd_count(), before);
}

static void test_log_is_buffered_on_the_loop(void **state)
{
    (void)state;
    struct loop *loop = loop_new();
    log_set_loop(loop);
    for (int i = 0; i < 100; i++)
        log_info("line", LF_I("i", i));
    assert_int_equal(count_log_lines("combined.log"), 0);
    event_base_loop(loop_base(loop), EVLOOP_ONCE);
    assert_int_equal(count_log_lines("combined.log"), 100);
    log_info("waits");
    log_warn("does not wait, nor what came before it");
    assert_int_equal(count_log_lines("combined.log"), 102);
    log_info("last words");
    log_set_loop(NULL);
    assert_int_equal(count_log_lines("combined.log"), 103);
    loop_free(loop);
}

/* More than the buffer holds within one turn of the loop: whole lines are missing, none is cut. */
static void test_log_never_half_a_line_at_the_limit(void **state)
{
    char *big = x_malloc(100001);
    (void)state;
    memset(big, '"', 100000); /* two bytes each, once escaped */
    big[100000] = '\0';
    struct loop *loop = loop_new();
    log_set_loop(loop);
    for (int i = 0; i < 40; i++)
        log_info("big", LF_S("text", big), LF_I("i", i));
    log_info("a small one fits again");
    log_set_loop(NULL);
    loop_free(loop);
    json_t *lines = read_log_lines("combined.log");
    size_t n = json_array_size(lines);
    assert_in_range(n, 15, 40);
    for (size_t i = 0; i + 1 < n; i++)
        assert_int_equal(json_get_str(json_array_get(lines, i), "text").len, 100000);
    assert_true(
        str_eq_c(json_get_str(json_array_get(lines, n - 1), "message"), "a small one fits again"));
    json_decref(lines);
    free(big);
}

/* Only the end of one line may be missing after a full disk, not the one after it. */
static void fill_disk_then_go_on(void)
{
    struct rlimit small = {1000, RLIM_INFINITY}, large = {RLIM_INFINITY, RLIM_INFINITY};
    signal(SIGXFSZ, SIG_IGN);
    if (setrlimit(RLIMIT_FSIZE, &small) != 0)
        _exit(3);
    for (int i = 0; i < 30; i++)
        log_info("a line of some length, until the file is full", LF_I("i", i));
    if (setrlimit(RLIMIT_FSIZE, &large) != 0)
        _exit(3);
    log_info("first line after");
    log_info("second line after");
    _exit(0);
}

static void test_log_full_disk(void **state)
{
    int status = 0;
    size_t len, whole = 0;
    (void)state;
    pid_t pid = fork();
    if (pid == 0)
        fill_disk_then_go_on();
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    char *text = read_log("combined.log", &len);
    struct str rest = str_n(text, len);
    assert_non_null(strstr(text, "second line after"));
    bool first_after = false;
    size_t broken = 0;
    while (rest.len) {
        json_t *j = json_parse(str_split(&rest, '\n'), NULL);
        first_after |= str_eq_c(json_get_str(j, "message"), "first line after");
        broken += j == NULL;
        whole += j != NULL;
        json_decref(j);
    }
    assert_true(first_after);
    assert_true(broken <= 1);
    assert_true(whole >= 5);
    free(text);
}

static void test_log_open_refuses(void **state)
{
    struct err err;
    char path[128];
    (void)state;
    snprintf(path, sizeof(path), "%s/no/such/dir", log_dir);
    struct log_opts o = {.level = LOG_INFO, .dir = path};
    log_close();
    assert_int_equal(log_open(&o, &err), -1);
    assert_int_equal(err.code, ERR_IO);
    assert_non_null(strstr(err.msg, path));
    log_close();
    open_log(LOG_INFO);
}

/* Console: one line each, to stderr. */
static void test_log_console(void **state)
{
    int p[2], saved = dup(STDERR_FILENO);
    char text[4096];
    struct err err;
    (void)state;
    assert_int_equal(pipe(p), 0);
    log_close();
    dup2(p[1], STDERR_FILENO);
    struct log_opts o = {.level = LOG_INFO, .dir = NULL, .console = true};
    int rc = log_open(&o, &err);
    log_warn("worker ended", LF_S("why", "a\nb"), LF_I("n", -1));
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(p[1]);
    ssize_t n = read(p[0], text, sizeof(text) - 1);
    close(p[0]);
    assert_int_equal(rc, 0);
    assert_true(n > 0);
    text[n] = '\0';
    assert_non_null(strstr(text, "warn"));
    assert_non_null(strstr(text, "worker ended why=\"a\\nb\" n=-1\n"));
    assert_ptr_equal(strchr(text, '\n'), text + n - 1);
    log_close();
    open_log(LOG_INFO);
}

#endif
