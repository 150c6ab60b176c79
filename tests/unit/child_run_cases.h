/* child_run_cases.h - part of test_child.c: the blocking helper. */
#ifndef CG_TESTS_CHILD_RUN_CASES_H
#define CG_TESTS_CHILD_RUN_CASES_H

#include "child/run.h"
#include "child_rig.h"

#include <fcntl.h>

static int run_sh(const char *script, int64_t timeout_ms, struct buf *out, struct err *err)
{
    const char *const argv[] = {"/bin/sh", "-c", script, NULL};
    *err = (struct err){.code = ERR_NONE};
    return child_run(argv, no_env, timeout_ms, out, err);
}

static void test_run_ok_and_failing(void **state)
{
    struct buf out;
    struct err err;
    (void)state;
    size_t fds = fd_count();
    buf_init(&out, 4096);
    assert_int_equal(run_sh("cat; echo a; echo b >&2; printf c", 10000, &out, &err), 0);
    assert_string_equal(buf_cstr(&out), "a\nc");
    assert_int_equal(err.code, ERR_NONE);
    assert_int_equal(run_sh("exit 3", 10000, &out, &err), -1);
    assert_string_equal(err.msg, "'/bin/sh' failed (exit status 3)");
    assert_int_equal(err.code, ERR_IO);
    assert_int_equal(run_sh("kill -9 $$", 10000, &out, &err), -1);
    assert_string_equal(err.msg, "'/bin/sh' failed (signal 9)");
    const char *const missing[] = {"/no/such", NULL};
    assert_int_equal(child_run(missing, no_env, 1000, &out, &err), -1);
    assert_non_null(strstr(err.msg, "/no/such"));
    buf_release(&out);
    assert_int_equal(fd_count(), fds);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
}

/* A child that hangs before its exec: here it writes its number into a pipe that is full. */
static void test_a_start_is_bounded_in_time(void **state)
{
    static const char *const argv[] = {"/bin/sh", "-c", "exit 0", NULL};
    static const char zeros[4096];
    int full[2];
    struct err err;
    struct buf out;
    (void)state;
    size_t fds = fd_count();
    buf_init(&out, 4096);
    assert_int_equal(pipe2(full, O_CLOEXEC | O_NONBLOCK), 0);
    while (write(full[1], zeros, sizeof(zeros)) > 0) {
    }
    fcntl(full[1], F_SETFL, 0);
    struct child_confine confine = {.cgroup_procs = full[1]};
    struct spawn_opts o = {.argv = argv, .envp = no_env, .confine = &confine};
    int64_t start = clock_mono_ms();
    assert_int_equal(run_process(&o, 10000, &out, NULL, &err), -1);
    assert_in_range(clock_mono_ms() - start, 1000, 9000);
    assert_non_null(strstr(err.msg, strerror(ETIMEDOUT)));
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* nothing is left of it */
    close(full[0]);
    close(full[1]);
    buf_release(&out);
    assert_int_equal(fd_count(), fds);
}

static void test_run_is_bounded_in_time(void **state)
{
    static const char *const scripts[] = {
        "echo a; exec sleep 30",
        "exec >&-; exec sleep 30",
        "trap '' TERM; while :; do sleep 0.1; done",
        "exec >&- 2>&-; trap '' TERM; while :; do sleep 0.1; done",
        "while :; do echo y; done",
    };
    struct err err;
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(scripts); i++) {
        struct buf out;
        buf_init(&out, 4096);
        int64_t start = clock_mono_ms();
        assert_int_equal(run_sh(scripts[i], 200, &out, &err), -1);
        assert_in_range(clock_mono_ms() - start, 190, 5000);
        assert_string_equal(err.msg, "'/bin/sh' did not finish within 200 ms");
        assert_true(out.len <= 4096);
        assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
        buf_release(&out);
    }
}

/* Much on stderr, which nobody asked for, does not hold it up. */
static void test_run_with_much_stderr(void **state)
{
    struct buf out;
    struct err err;
    (void)state;
    buf_init(&out, 4096);
    assert_int_equal(run_sh("head -c 1000000 /dev/zero >&2; echo ok", 10000, &out, &err), 0);
    assert_string_equal(buf_cstr(&out), "ok\n");
    buf_release(&out);
}

#endif
