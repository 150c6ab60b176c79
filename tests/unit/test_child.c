/* test_child.c - one process that talks in lines: what it says, what it is told, how it ends. The
 * children are shell scripts; child_rig.h records them and checks the contract of the callbacks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "child_rig.h"
#include "child_run_cases.h"

/* --- lines -------------------------------------------------------------------------------- */

static void test_lines_split_at_every_byte(void **state)
{
    static const char text[] = "ab\n\ncde\n\nf\n";
    const char *const cat[] = {"/bin/cat", NULL};
    struct rig *r = *state;
    struct err err;
    for (size_t cut = 0; cut < sizeof(text); cut++) {
        buf_clear(&r->lines);
        r->line_count = 0;
        r->ended = 0;
        rig_spawn_argv(r, cat);
        assert_int_equal(rig_write(r, str_n(text, cut), &err), 0);
        rig_run_for(r, 6);
        assert_int_equal(rig_write(r, str_n(text + cut, sizeof(text) - 1 - cut), &err), 0);
        for (int i = 0; i < 2000 && r->line_count < 5; i++)
            rig_run_for(r, 2);
        assert_lines(r, "ab||cde||f|");
        rig_stop(r, 5000);
        rig_wait_end(r);
    }
}

static void test_lines_byte_by_byte(void **state)
{
    static const char text[] = "x\xC3\xA9\ny\r\n\0z\n\n";
    const char *const cat[] = {"/bin/cat", NULL};
    struct rig *r = *state;
    struct err err;
    rig_spawn_argv(r, cat);
    for (size_t i = 0; i < sizeof(text) - 1; i++) {
        assert_int_equal(rig_write(r, str_n(text + i, 1), &err), 0);
        rig_run_for(r, 3);
    }
    for (int i = 0; i < 2000 && r->line_count < 4; i++)
        rig_run_for(r, 2);
    assert_int_equal(r->line_count, 4);
    assert_memory_equal(r->lines.data, "x\xC3\xA9|y\r|\0z||", 11);
    rig_stop(r, 5000);
    rig_wait_end(r);
}

static void test_line_without_newline_at_the_end_is_no_line(void **state)
{
    struct rig *r = *state;
    rig_spawn_sh(r, "printf 'whole\\nhalf'");
    rig_wait_end(r);
    assert_lines(r, "whole|");
    assert_false(r->how.signaled);
    assert_int_equal(r->how.code, 0);
}

static void test_line_of_exactly_the_limit_passes(void **state)
{
    struct rig *r = *state;
    r->opts.line_max = 1000;
    rig_spawn_sh(r, "head -c 1000 /dev/zero | tr '\\0' x; echo; "
                    "head -c 999 /dev/zero | tr '\\0' y; echo; echo z");
    rig_wait_end(r);
    assert_int_equal(r->overflows, 0);
    assert_int_equal(r->line_count, 3);
    assert_int_equal(r->line_bytes, 2000);
}

static void test_line_over_the_limit(void **state)
{
    struct rig *r = *state;
    r->opts.line_max = 1000;
    r->opts.eof_deadline_ms = 100;
    rig_spawn_sh(r, "echo first; head -c 1001 /dev/zero | tr '\\0' x; echo; echo later");
    rig_wait_end(r);
    assert_int_equal(r->overflows, 1);
    assert_lines(r, "first|");
}

static bool has_overflowed(const struct rig *r)
{
    return r->overflows > 0;
}

/* The owner is told once; the child, blocked on its full pipe, ends when it is stopped. */
static void test_endless_line_is_stopped(void **state)
{
    struct rig *r = *state;
    r->opts.line_max = 100000;
    rig_spawn_sh(r, "exec tr '\\0' x < /dev/zero");
    assert_true(rig_run_until(r, has_overflowed, 20000));
    rig_run_for(r, 50);
    assert_int_equal(r->overflows, 1);
    assert_int_equal(r->ended, 0);
    rig_stop(r, 5000);
    rig_wait_end(r);
    assert_true(r->how.signaled);
    assert_int_equal(r->how.code, SIGTERM);
    assert_int_equal(r->line_count, 0);
}

static void test_flood_does_not_starve_the_loop(void **state)
{
    struct rig *r = *state;
    r->count_only = true;
    rig_spawn_sh(r, "exec yes 0123456789012345678901234567890123456789");
    int64_t start = clock_mono_ms();
    rig_run_for(r, 100);
    assert_true(clock_mono_ms() - start < 2000);
    assert_true(r->line_count > 1000);
    rig_stop(r, 5000);
    rig_wait_end(r);
    assert_int_equal(r->line_bytes, r->line_count * 40);
}

static void answer_and_stop(struct rig *r, struct str line)
{
    struct err err;
    if (str_eq_c(line, "stop"))
        child_stop(r->child, 5000);
    else if (str_eq_c(line, "ping"))
        assert_int_equal(child_write(r->child, STR("pong\nstop\n"), &err), 0);
}

static void test_line_callback_may_write_and_stop(void **state)
{
    struct rig *r = *state;
    r->on_line = answer_and_stop;
    rig_spawn_sh(r, "echo ping; exec cat");
    rig_wait_end(r);
    assert_lines(r, "ping|pong|stop|");
    assert_int_equal(r->how.code, SIGTERM);
}

/* --- the end ------------------------------------------------------------------------------ */

static void test_exit_status_and_signal(void **state)
{
    struct rig *r = *state;
    rig_spawn_sh(r, "exit 7");
    rig_wait_end(r);
    assert_false(r->how.signaled);
    assert_int_equal(r->how.code, 7);
    assert_false(r->how.output_cut);
    r->ended = 0;
    rig_spawn_sh(r, "kill -SEGV $$");
    rig_wait_end(r);
    assert_true(r->how.signaled);
    assert_int_equal(r->how.code, SIGSEGV);
}

static void test_output_before_exit_is_all_delivered(void **state)
{
    struct rig *r = *state;
    r->count_only = true;
    rig_spawn_sh(r, "yes 0123456789 | head -n 200000");
    rig_wait_end(r);
    assert_int_equal(r->line_count, 200000);
    assert_int_equal(r->line_bytes, 2000000);
    assert_false(r->how.output_cut);
}

static void test_eof_before_exit(void **state)
{
    struct rig *r = *state;
    rig_spawn_sh(r, "echo one; exec >&-; sleep 0.15; exit 3");
    rig_wait_end(r);
    assert_lines(r, "one|");
    assert_false(r->how.signaled);
    assert_int_equal(r->how.code, 3);
}

static void test_eof_and_no_exit_is_killed(void **state)
{
    struct rig *r = *state;
    r->opts.eof_deadline_ms = 120;
    int64_t start = clock_mono_ms();
    rig_spawn_sh(r, "trap '' TERM; exec >&-; while :; do sleep 0.05; done");
    rig_wait_end(r);
    assert_in_range(r->ended_ms - start, 110, 5000);
    assert_true(r->how.signaled);
    assert_int_equal(r->how.code, SIGKILL);
}

/* What stays in its group is killed with it; the pipe is free at once. */
static void test_exit_before_eof_same_group(void **state)
{
    struct rig *r = *state;
    r->opts.eof_deadline_ms = 10000;
    int64_t start = clock_mono_ms();
    rig_spawn_sh(r, "(trap '' TERM HUP; exec sleep 8) & echo $!; exit 4");
    rig_wait_end(r);
    assert_true(r->ended_ms - start < 5000);
    assert_int_equal(r->how.code, 4);
    assert_false(r->how.output_cut);
    pid_t grandchild = (pid_t)strtol(buf_cstr(&r->lines), NULL, 10);
    assert_true(grandchild > 1);
    assert_true(wait_process_gone(grandchild, 3000));
}

/* A grandchild in a session of its own escapes the kill and holds the pipe: the deadline ends it.
 */
static void test_exit_before_eof_escaped(void **state)
{
    struct rig *r = *state;
    r->opts.eof_deadline_ms = 150;
    rig_spawn_sh(r, "setsid sh -c 'echo $$; exec sleep 6' & sleep 0.1; exit 5");
    int64_t start = clock_mono_ms();
    rig_wait_end(r);
    pid_t grandchild = (pid_t)strtol(buf_cstr(&r->lines), NULL, 10);
    assert_true(grandchild > 1);
    kill(grandchild, SIGKILL);
    assert_true(r->how.output_cut);
    assert_false(r->how.signaled);
    assert_int_equal(r->how.code, 5);
    assert_in_range(r->ended_ms - start, 140, 4000);
}

static void test_free_after_ended(void **state)
{
    struct rig *r = *state;
    r->keep = true;
    rig_spawn_sh(r, "echo bye >&2; exit 1");
    rig_wait_end(r);
    rig_run_for(r, 10);
    assert_string_equal(r->how.stderr_tail.p, "bye\n"); /* still there */
    struct err err;
    assert_int_equal(rig_write(r, STR("swallowed\n"), &err), 0);
    child_signal(r->child, SIGKILL); /* not to whoever has the pid now */
    rig_stop(r, 10);
    assert_int_equal(child_write_pending(r->child), 0);
    rig_run_for(r, 30);
    child_free(TAKE_PTR(r->child));
    child_free(NULL);
    rig_run_for(r, 5);
    assert_int_equal(r->ended, 1);
}

/* --- stopping ----------------------------------------------------------------------------- */

static void test_stop_obeyed(void **state)
{
    struct rig *r = *state;
    rig_spawn_sh(r, "trap 'echo term; exit 9' TERM; echo ready; while :; do sleep 0.02; done");
    assert_true(rig_run_until(r, has_line, 10000));
    rig_stop(r, 10000);
    rig_wait_end(r);
    assert_lines(r, "ready|term|");
    assert_int_equal(r->how.code, 9);
}

static void test_stop_ignored_then_killed(void **state)
{
    struct rig *r = *state;
    rig_spawn_sh(r, "trap '' TERM; echo ready; while :; do sleep 0.02; done");
    assert_true(rig_run_until(r, has_line, 10000));
    int64_t start = clock_mono_ms();
    rig_stop(r, 200);
    rig_run_for(r, 50);
    rig_stop(r, 100000); /* does not put it off */
    rig_wait_end(r);
    assert_true(r->how.signaled);
    assert_int_equal(r->how.code, SIGKILL);
    assert_in_range(r->ended_ms - start, 195, 5000);
}

static void test_stop_wakes_a_stopped_child(void **state)
{
    struct rig *r = *state;
    rig_spawn_sh(r, "echo ready; exec sleep 100");
    assert_true(rig_run_until(r, has_line, 10000));
    child_signal(r->child, SIGSTOP);
    rig_run_for(r, 30);
    assert_int_equal(r->ended, 0);
    int64_t start = clock_mono_ms();
    rig_stop(r, 10000);
    rig_wait_end(r);
    assert_int_equal(r->how.code, SIGTERM);
    assert_true(r->ended_ms - start < 5000);
}

static void test_kill_reaches_the_whole_group(void **state)
{
    struct rig *r = *state;
    rig_spawn_sh(r, "sleep 100 & echo $!; wait");
    assert_true(rig_run_until(r, has_line, 10000));
    pid_t grandchild = (pid_t)strtol(buf_cstr(&r->lines), NULL, 10);
    child_signal(r->child, SIGKILL);
    rig_wait_end(r);
    assert_true(wait_process_gone(grandchild, 3000));
}

/* --- stdin -------------------------------------------------------------------------------- */

static void test_stdin_larger_than_the_pipe_slow_reader(void **state)
{
    enum { SIZE = 8 << 20 };
    struct rig *r = *state;
    struct err err;
    char *data = x_malloc(SIZE);
    for (size_t i = 0; i < SIZE; i++)
        data[i] = (char)('a' + i * 31 % 23);
    rig_spawn_sh(r, "sleep 0.2; head -c 8388608 | wc -c; head -c 4");
    assert_int_equal(rig_write(r, str_n(data, SIZE), &err), 0);
    assert_in_range(child_write_pending(r->child), SIZE - (2 << 20), SIZE);
    assert_int_equal(rig_write(r, STR("end\n"), &err), 0);
    rig_wait_end(r);
    assert_non_null(strstr(buf_cstr(&r->lines), "8388608|end|"));
    free(data);
}

static struct {
    const char *data;
    size_t at, size;
} echoed;

static void compare_echo(struct rig *r, struct str line)
{
    (void)r;
    assert_true(echoed.at + line.len + 1 <= echoed.size);
    assert_memory_equal(echoed.data + echoed.at, line.p, line.len);
    assert_int_equal(echoed.data[echoed.at + line.len], '\n');
    echoed.at += line.len + 1;
}

static bool echo_complete(const struct rig *r)
{
    (void)r;
    return echoed.at == echoed.size;
}

/* Both directions full at once: neither side may wait for the other. */
static void test_stdin_comes_back_byte_for_byte(void **state)
{
    enum { SIZE = 6 << 20 };
    struct rig *r = *state;
    const char *const cat[] = {"/bin/cat", NULL};
    struct err err;
    char *data = x_malloc(SIZE);
    uint32_t x = 12345;
    for (size_t i = 0; i < SIZE; i++) {
        x = x * 1664525 + 1013904223;
        data[i] = x >> 24 == 7 ? '\n' : (char)(x >> 16);
    }
    data[SIZE - 1] = '\n';
    echoed.data = data;
    echoed.at = 0;
    echoed.size = SIZE;
    r->count_only = true;
    r->on_line = compare_echo;
    rig_spawn_argv(r, cat);
    for (size_t at = 0; at < SIZE; at += SIZE / 3)
        assert_int_equal(rig_write(r, str_n(data + at, SIZE / 3), &err), 0);
    assert_true(rig_run_until(r, echo_complete, 30000));
    assert_int_equal(child_write_pending(r->child), 0);
    rig_stop(r, 5000);
    rig_wait_end(r);
    free(data);
}

static void test_stdin_limit(void **state)
{
    struct rig *r = *state;
    struct err err;
    char *data = x_malloc(4 * MB);
    memset(data, 'x', 4 * MB);
    r->opts.stdin_max = 1000;
    rig_spawn_sh(r, "sleep 0.3; wc -c & sleep 0.5; kill $!; head -c 1");
    assert_int_equal(rig_write(r, str_n(data, 1001), &err), -1); /* even into an empty pipe */
    assert_int_equal(err.code, ERR_TOO_LARGE);
    size_t taken = 0;
    while (taken < 4 * MB && rig_write(r, str_n(data, 1000), &err) == 0)
        taken += 1000;
    assert_in_range(taken, 60000, 2 * MB); /* the pipe and what the queue holds */
    size_t pending = child_write_pending(r->child);
    assert_in_range(pending, 1, 1000);
    assert_int_equal(rig_write(r, str_n(data, 1001 - pending), &err), -1);
    assert_int_equal(child_write_pending(r->child), pending); /* all or nothing */
    assert_int_equal(rig_write(r, str_n(data, 1000 - pending), &err), 0);
    rig_stop(r, 5000);
    rig_wait_end(r);
    free(data);
}

static void test_stdin_closed_by_the_child(void **state)
{
    struct rig *r = *state;
    struct err err;
    rig_spawn_sh(r, "exec <&-; echo ready; sleep 0.2; echo done");
    assert_true(rig_run_until(r, has_line, 10000));
    assert_int_equal(rig_write(r, STR("nobody reads this\n"), &err), 0);
    assert_int_equal(child_write_pending(r->child), 0);
    assert_int_equal(rig_write(r, STR("nor this\n"), &err), 0);
    rig_wait_end(r);
    assert_lines(r, "ready|done|");
    assert_int_equal(r->how.code, 0);
}

/* It leaves while much is still queued. */
static void test_stdin_broken_while_queued(void **state)
{
    struct rig *r = *state;
    struct err err;
    char *data = x_malloc(8 * MB);
    memset(data, 'x', 8 * MB);
    rig_spawn_sh(r, "head -c 2000000 >/dev/null; exit 2");
    assert_int_equal(rig_write(r, str_n(data, 8 * MB), &err), 0);
    rig_wait_end(r);
    assert_int_equal(r->how.code, 2);
    free(data);
}

/* --- stderr ------------------------------------------------------------------------------- */

static void test_stderr_tail_is_the_end(void **state)
{
    static const struct {
        size_t max;
        const char *script, *expected;
    } rows[] = {
        {4096, "echo oops >&2", "oops\n"},
        {4, "echo oops >&2", "ops\n"},
        {1, "echo oops >&2", "\n"},
        {0, "echo oops >&2", ""},
        {6, "echo one >&2; sleep 0.03; echo two >&2; sleep 0.03; echo three >&2", "three\n"},
        {10, "echo one >&2; sleep 0.03; echo two >&2; sleep 0.03; echo three >&2", "two\nthree\n"},
        {5, "head -c 300000 /dev/zero >&2; echo done >&2", "done\n"},
        {5, "head -c 60000 /dev/zero >&2; echo done >&2", "done\n"},
    };
    struct rig *r = *state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        r->ended = 0;
        r->opts.stderr_tail = rows[i].max;
        rig_spawn_sh(r, rows[i].script);
        rig_wait_end(r);
        assert_string_equal(r->tail, rows[i].expected);
        assert_int_equal(r->how.stderr_tail.len, strlen(rows[i].expected));
    }
}

/* All of it is in the pipe before the loop looks: exit, EOF and stderr come in one turn. */
static void test_stderr_full_pipe_at_exit(void **state)
{
    struct rig *r = *state;
    r->opts.stderr_tail = 5;
    rig_spawn_sh(r, "head -c 60000 /dev/zero >&2; echo done >&2");
    usleep(300000);
    rig_wait_end(r);
    assert_string_equal(r->tail, "done\n");
}

static void test_stderr_while_running(void **state)
{
    struct rig *r = *state;
    rig_spawn_sh(r, "echo trouble >&2; sleep 0.05; echo line; exec sleep 100");
    assert_true(rig_run_until(r, has_line, 10000));
    assert_true(str_eq_c(child_stderr_tail(r->child), "trouble\n"));
    rig_stop(r, 5000);
    rig_wait_end(r);
}

/* --- what the child gets ------------------------------------------------------------------ */

static void test_environment_is_exactly_what_was_given(void **state)
{
    const char *const env[] = {"/usr/bin/env", NULL};
    const char *const some[] = {"A=1", "EMPTY=", "HOME=/nonexistent", "A=2", NULL};
    const char *const none[] = {NULL};
    struct rig *r = *state;
    setenv("ANTHROPIC_API_KEY", "secret-of-the-server", 1);
    r->opts.envp = some;
    rig_spawn_argv(r, env);
    rig_wait_end(r);
    assert_lines(r, "A=1|EMPTY=|HOME=/nonexistent|A=2|");
    buf_clear(&r->lines);
    r->ended = 0;
    r->opts.envp = none;
    rig_spawn_argv(r, env);
    rig_wait_end(r);
    assert_lines(r, "");
    unsetenv("ANTHROPIC_API_KEY");
}

static void test_arguments_and_directory(void **state)
{
    const char *const argv[] = {"/bin/sh", "-c", "pwd; for a; do echo \"<$a>\"; done",
                                "sh",      "",   "two words",
                                "$HOME",   NULL};
    struct rig *r = *state;
    r->opts.cwd = "/usr";
    rig_spawn_argv(r, argv);
    rig_wait_end(r);
    assert_lines(r, "/usr|<>|<two words>|<$HOME>|");
}

/* Descriptors of ours that are not close-on-exec stay here all the same. */
static void test_only_three_descriptors(void **state)
{
    const char *const argv[] = {"/bin/ls", "/proc/self/fd", NULL};
    struct rig *r = *state;
    int low = open("/dev/null", O_RDONLY);
    assert_true(dup2(low, 50) == 50 && dup2(low, 200) == 200);
    rig_spawn_argv(r, argv);
    rig_wait_end(r);
    close(low);
    close(50);
    close(200);
    assert_lines(r, "0|1|2|3|"); /* 3 is the directory that ls itself reads */
}

/* A server started with its own 0-2 closed. */
static noreturn void spawn_without_stdio(void)
{
    const char *const argv[] = {"/bin/sh", "-c",
                                "read x; echo got $x; echo e >&2; ls /proc/self/fd", NULL};
    struct buf out;
    struct err err;
    for (int fd = 0; fd < 3; fd++)
        close(fd);
    buf_init(&out, 4096);
    int rc = child_run(argv, no_env, 10000, &out, &err);
    _exit(rc == 0 && strcmp(buf_cstr(&out), "got\n0\n1\n2\n3\n") == 0 ? 0 : 1);
}

static void test_parent_without_stdio(void **state)
{
    int status = 0;
    (void)state;
    pid_t pid = fork();
    if (pid == 0)
        spawn_without_stdio();
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void test_session_and_group_of_its_own(void **state)
{
    const char *const argv[] = {"/bin/cat", "/proc/self/stat", NULL};
    struct rig *r = *state;
    rig_spawn_argv(r, argv);
    pid_t pid = child_pid(r->child);
    rig_wait_end(r);
    char *rest = strrchr(buf_cstr(&r->lines), ')') + 4; /* ") R " */
    assert_int_equal(strtol(rest, &rest, 10), getpid());
    assert_int_equal(strtol(rest, &rest, 10), pid); /* process group */
    assert_int_equal(strtol(rest, &rest, 10), pid); /* session */
}

static const char *status_field(const struct rig *r, const char *name)
{
    const char *at = strstr(buf_cstr(&r->lines), name);
    assert_non_null(at);
    return at + strlen(name);
}

static void test_signals_are_reset(void **state)
{
    const char *const argv[] = {"/bin/cat", "/proc/self/status", NULL};
    struct rig *r = *state;
    sigset_t block, old;
    sigemptyset(&block);
    sigaddset(&block, SIGTERM);
    sigaddset(&block, SIGUSR1);
    sigprocmask(SIG_BLOCK, &block, &old);
    signal(SIGHUP, SIG_IGN);
    signal(SIGUSR2, SIG_IGN);
    rig_spawn_argv(r, argv);
    sigprocmask(SIG_SETMASK, &old, NULL);
    signal(SIGHUP, SIG_DFL);
    signal(SIGUSR2, SIG_DFL);
    rig_wait_end(r);
    assert_memory_equal(status_field(r, "SigBlk:\t"), "0000000000000000|", 17);
    assert_memory_equal(status_field(r, "SigIgn:\t"), "0000000000000000|", 17);
}

static void test_no_core_files(void **state)
{
    struct rig *r = *state;
    rig_spawn_sh(r, "ulimit -c");
    rig_wait_end(r);
    assert_lines(r, "0|");
}

/* --- starting fails ----------------------------------------------------------------------- */

static void test_exec_failures_are_named(void **state)
{
    static const struct {
        const char *bin, *cwd;
        int error;
    } rows[] = {
        {"/no/such/program", NULL, ENOENT},
        {"/etc/passwd", NULL, EACCES},
        {"/etc", NULL, EACCES},
        {"", NULL, ENOENT},
        {"/bin/true", "/no/such/dir", ENOENT},
        {"/bin/true", "/etc/passwd", ENOTDIR},
    };
    struct rig *r = *state;
    size_t fds = fd_count();
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        const char *const argv[] = {rows[i].bin, NULL};
        struct err err = {.code = ERR_NONE};
        r->opts.argv = argv;
        r->opts.cwd = rows[i].cwd;
        r->inside = true;
        assert_null(child_spawn(r->loop, &r->opts, &err));
        r->inside = false;
        assert_int_equal(err.code, ERR_IO);
        assert_non_null(strstr(err.msg, strerror(rows[i].error)));
        assert_non_null(strstr(err.msg, rows[i].cwd ? rows[i].cwd : rows[i].bin));
        assert_int_equal(fd_count(), fds);
        assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    }
    rig_run_for(r, 10);
    assert_int_equal(r->ended, 0);
}

/* --- many, and the death of the parent ---------------------------------------------------- */

static void test_two_hundred_children_leave_nothing(void **state)
{
    struct rig *r = *state;
    r->opts.eof_deadline_ms = 1000;
    rig_spawn_sh(r, "exit 0"); /* what the first use opens for good */
    rig_wait_end(r);
    rig_run_for(r, 5);
    size_t fds = fd_count();
    for (int i = 0; i < 200; i++) {
        static const char *const scripts[] = {"exit 0", "echo line", "exec >&-; exit 1",
                                              "kill -9 $$", "echo x >&2; exec sleep 100"};
        r->ended = 0;
        rig_spawn_sh(r, scripts[i % 5]);
        if (i % 5 == 4)
            rig_stop(r, 1000);
        rig_wait_end(r);
        rig_run_for(r, 1);
    }
    assert_int_equal(fd_count(), fds);
}

static noreturn void be_a_server_that_dies(int report)
{
    static const char *const argv[] = {"/bin/sh", "-c", "trap '' TERM HUP; exec sleep 100", NULL};
    struct loop *loop = loop_new();
    struct err err;
    struct child_opts o = {.argv = argv,
                           .envp = no_env,
                           .line_max = 1000,
                           .stdin_max = 1000,
                           .stderr_tail = 100,
                           .eof_deadline_ms = 100,
                           .ops = &rig_ops};
    struct child *c = child_spawn(loop, &o, &err);
    pid_t pid = c ? child_pid(c) : -1;
    if (write(report, &pid, sizeof(pid)) < 0)
        _exit(1);
    for (int i = 0; i < 3000; i++)
        usleep(10000);
    _exit(2);
}

static void test_dies_with_its_parent(void **state)
{
    int p[2], status;
    pid_t grandchild = 0;
    (void)state;
    assert_int_equal(pipe2(p, O_CLOEXEC), 0);
    assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1), 0); /* so that it can be reaped here */
    pid_t pid = fork();
    if (pid == 0)
        be_a_server_that_dies(p[1]);
    assert_int_equal(read(p[0], &grandchild, sizeof(grandchild)), sizeof(grandchild));
    assert_true(grandchild > 1);
    usleep(20000);
    assert_false(process_gone(grandchild));
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(wait_process_gone(grandchild, 3000));
    assert_int_equal(waitpid(grandchild, &status, 0), grandchild);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGKILL);
    prctl(PR_SET_CHILD_SUBREAPER, 0);
    close(p[0]);
    close(p[1]);
}

#define RIG_TEST(f) cmocka_unit_test_setup_teardown(f, rig_set_up, rig_tear_down)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        RIG_TEST(test_lines_split_at_every_byte),
        RIG_TEST(test_lines_byte_by_byte),
        RIG_TEST(test_line_without_newline_at_the_end_is_no_line),
        RIG_TEST(test_line_of_exactly_the_limit_passes),
        RIG_TEST(test_line_over_the_limit),
        RIG_TEST(test_endless_line_is_stopped),
        RIG_TEST(test_flood_does_not_starve_the_loop),
        RIG_TEST(test_line_callback_may_write_and_stop),
        RIG_TEST(test_exit_status_and_signal),
        RIG_TEST(test_output_before_exit_is_all_delivered),
        RIG_TEST(test_eof_before_exit),
        RIG_TEST(test_eof_and_no_exit_is_killed),
        RIG_TEST(test_exit_before_eof_same_group),
        RIG_TEST(test_exit_before_eof_escaped),
        RIG_TEST(test_free_after_ended),
        RIG_TEST(test_stop_obeyed),
        RIG_TEST(test_stop_ignored_then_killed),
        RIG_TEST(test_stop_wakes_a_stopped_child),
        RIG_TEST(test_kill_reaches_the_whole_group),
        RIG_TEST(test_stdin_larger_than_the_pipe_slow_reader),
        RIG_TEST(test_stdin_comes_back_byte_for_byte),
        RIG_TEST(test_stdin_limit),
        RIG_TEST(test_stdin_closed_by_the_child),
        RIG_TEST(test_stdin_broken_while_queued),
        RIG_TEST(test_stderr_tail_is_the_end),
        RIG_TEST(test_stderr_full_pipe_at_exit),
        RIG_TEST(test_stderr_while_running),
        RIG_TEST(test_environment_is_exactly_what_was_given),
        RIG_TEST(test_arguments_and_directory),
        RIG_TEST(test_only_three_descriptors),
        RIG_TEST(test_session_and_group_of_its_own),
        RIG_TEST(test_signals_are_reset),
        RIG_TEST(test_no_core_files),
        RIG_TEST(test_exec_failures_are_named),
        RIG_TEST(test_two_hundred_children_leave_nothing),
        cmocka_unit_test(test_parent_without_stdio),
        cmocka_unit_test(test_dies_with_its_parent),
        cmocka_unit_test(test_run_ok_and_failing),
        cmocka_unit_test(test_a_start_is_bounded_in_time),
        cmocka_unit_test(test_run_is_bounded_in_time),
        cmocka_unit_test(test_run_with_much_stderr),
    };
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
