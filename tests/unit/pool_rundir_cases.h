/* pool_rundir_cases.h - part of test_pool.c: the directories of workers, whatever was left in them.
 * Run by root, the cases take the rights of an ordinary user, whom permissions stop. */
#ifndef CG_TESTS_POOL_RUNDIR_CASES_H
#define CG_TESTS_POOL_RUNDIR_CASES_H

#include "pool/rundir.h"

#include <limits.h>

#define RD_NOBODY      65534
#define RUNDIR_TEST(f) cmocka_unit_test_setup_teardown(f, rd_set_up, rd_tear_down)

static struct {
    struct loop *loop;
    char dir[64], base[80], logs[80];
    struct rundirs *all;
} rd;

static char *rd_path(const char *name)
{
    return x_printf("%s/%s", rd.base, name);
}

static void rd_mkdir(const char *name)
{
    AUTO(free_charp) char *path = rd_path(name);
    assert_int_equal(mkdir(path, 0700), 0);
}

static void rd_chmod(const char *name, mode_t mode)
{
    AUTO(free_charp) char *path = rd_path(name);
    assert_int_equal(chmod(path, mode), 0);
}

static void rd_write(const char *name)
{
    AUTO(free_charp) char *path = rd_path(name);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    close(fd);
}

static bool rd_exists(const char *name)
{
    AUTO(free_charp) char *path = rd_path(name);
    struct stat st;
    return lstat(path, &st) == 0;
}

static size_t rd_count(void)
{
    size_t n = 0;
    DIR *d = opendir(rd.base);
    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n - 2;
}

static void rd_become(uid_t id)
{
    if (getuid() == 0)
        assert_int_equal(seteuid(id), 0);
}

static void rd_open(void)
{
    struct err err;
    rd.all = rundirs_new(rd.loop, rd.base, false, &err);
    if (!rd.all)
        fail_msg("%s", err.msg);
}

static void rd_make(struct rundir *d, const char *name)
{
    struct err err;
    *d = (struct rundir){.all = rd.all};
    if (rundir_make(d, name, &err) != 0)
        fail_msg("%s", err.msg);
}

static int rd_set_up(void **state)
{
    (void)state;
    rd_become(RD_NOBODY);
    snprintf(rd.dir, sizeof(rd.dir), "/tmp/test_pool_rundir.XXXXXX");
    assert_non_null(mkdtemp(rd.dir));
    snprintf(rd.base, sizeof(rd.base), "%s/run", rd.dir);
    snprintf(rd.logs, sizeof(rd.logs), "%s/logs", rd.dir);
    assert_int_equal(mkdir(rd.base, 0700), 0);
    rd.loop = loop_new();
    return 0;
}

static int rd_tear_down(void **state)
{
    (void)state;
    loop_free(TAKE_PTR(rd.loop));
    rd_become(0);
    assert_int_equal(rmdir(rd.base), 0);
    assert_int_equal(rmdir(rd.dir), 0);
    return 0;
}

/* Everything an earlier run left goes, however it was made. */
static void test_rundir_start_clears(void **state)
{
    (void)state;
    rd_write("relay.sock");
    rd_mkdir("w1");
    rd_mkdir("w1/home");
    rd_mkdir("w1/home/a");
    rd_mkdir("w1/home/a/b");
    rd_write("w1/home/a/b/file");
    rd_chmod("w1/home/a", 0);
    rd_chmod("w1", 0);
    rd_mkdir(".gone-0"); /* set aside by an earlier run, and the name is taken */
    rd_write(".gone-0/file");
    rd_open();
    assert_false(rd_exists("w1")); /* at once */
    assert_false(rd_exists("relay.sock"));
    rundirs_free(rd.all);
    assert_int_equal(rd_count(), 0);
}

/* A directory that is another user's stands for all that we may not remove. */
static void leave_what_we_may_not_remove(void)
{
    rd_mkdir("w1");
    rd_mkdir("w2");
    rd_become(0);
    rd_mkdir("w1/home");
    rd_write("w1/home/file");
    rd_mkdir("w2/home");
    rd_write("w2/home/file");
    rd_become(RD_NOBODY);
}

static size_t rd_warnings(void)
{
    AUTO(free_charp) char *path = x_printf("%s/combined.log", rd.logs);
    char line[2048];
    size_t n = 0;
    FILE *f = fopen(path, "re");
    assert_non_null(f);
    while (fgets(line, sizeof(line), f))
        n += strstr(line, "could not be removed") != NULL;
    fclose(f);
    return n;
}

static void rd_log(bool on)
{
    struct err err;
    struct log_opts o = {.level = on ? LOG_WARN : LOG_ERROR, .dir = on ? rd.logs : NULL};
    log_close();
    assert_int_equal(log_open(&o, &err), 0);
    if (on)
        return;
    static const char *const names[] = {"combined.log", "error.log"};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        AUTO(free_charp) char *path = x_printf("%s/%s", rd.logs, names[i]);
        unlink(path);
    }
    assert_int_equal(rmdir(rd.logs), 0);
}

static void test_rundir_start_survives(void **state)
{
    struct rundir d;
    (void)state;
    if (getuid() != 0)
        skip();
    leave_what_we_may_not_remove();
    rd_log(true);
    for (size_t starts = 1; starts <= 2; starts++) {
        rd_open();
        rd_make(&d, "w1");
        assert_true(rd_exists("w1/work"));
        rundir_remove(&d);
        rundirs_free(rd.all);
        assert_int_equal(rd_count(), 2);
        assert_int_equal(rd_warnings(), starts);
    }
    rd_log(false);
    rd_become(0);
    rd_open();
    rundirs_free(rd.all);
    assert_int_equal(rd_count(), 0);
}

/* What cannot even be renamed is nobody's new home. */
static void test_rundir_name_taken(void **state)
{
    struct rundir d;
    (void)state;
    if (getuid() != 0)
        skip();
    rd_become(0);
    assert_int_equal(chown(rd.base, 0, 0), 0);
    rd_chmod("", 01777);
    rd_mkdir("w1");
    rd_become(RD_NOBODY);
    rd_log(true);
    rd_open();
    rd_make(&d, "w1");
    AUTO(free_charp) char *expected = rd_path("w1-1/home");
    assert_string_equal(d.home, expected);
    rundir_remove(&d);
    rundirs_free(rd.all);
    assert_int_equal(rd_warnings(), 1);
    rd_log(false);
    assert_int_equal(rd_count(), 1);
    rd_become(0);
    AUTO(free_charp) char *path = rd_path("w1");
    assert_int_equal(rmdir(path), 0);
}

static void test_rundir_remove_frees_the_name(void **state)
{
    struct rundir d;
    (void)state;
    rd_open();
    for (int i = 0; i < 50; i++) {
        rd_make(&d, "w1");
        assert_true(rd_exists("w1/home"));
        assert_true(rd_exists("w1/work"));
        rd_mkdir("w1/home/a");
        rd_write("w1/home/a/file");
        rd_chmod("w1/home/a", 0);
        rundir_remove(&d);
        assert_null(d.path);
        assert_false(rd_exists("w1"));
        rundir_remove(&d); /* nothing */
    }
    rundirs_free(rd.all);
    assert_int_equal(rd_count(), 0);
}

/* A base so long that its directories can be made, but not what belongs into them. */
static void test_rundir_make_leaves_nothing(void **state)
{
    struct rundir d;
    struct err err;
    char *base = x_malloc(PATH_MAX);
    (void)state;
    memset(base, '/', PATH_MAX);
    memcpy(base, rd.base, strlen(rd.base));
    base[PATH_MAX - 1 - strlen("/.gone-0")] = '\0';
    rd.all = rundirs_new(rd.loop, base, false, &err);
    assert_non_null(rd.all);
    d = (struct rundir){.all = rd.all};
    assert_int_equal(rundir_make(&d, "worker", &err), -1);
    assert_int_equal(err.code, ERR_IO);
    assert_null(d.path);
    assert_int_equal(rd_count(), 0);
    rundirs_free(rd.all);
    free(base);
}

#endif
