/* child_rig.h - one child under test: records what it says and checks the contract of child.h on
 * every callback (none inside a child_*() call, one ended(), nothing after it). */
#ifndef CG_TESTS_CHILD_RIG_H
#define CG_TESTS_CHILD_RIG_H

#include "child/child.h"
#include "core/clock.h"

#include <dirent.h>
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define RIG_TAG TAG4('c', 'r', 'i', 'g')
#define MB      ((size_t)1 << 20)

struct rig;
typedef void rig_line_fn(struct rig *r, struct str line);

struct rig {
    uint32_t tag;
    struct loop *loop;
    struct event *tick; /* keeps run_until() awake */
    struct child *child;
    struct child_opts opts;
    bool inside;      /* a child_*() call is on the stack */
    struct buf lines; /* every line, each followed by '|' */
    size_t line_count, line_bytes;
    bool count_only; /* line_bytes only */
    int overflows, ended;
    bool keep; /* the child is not freed inside ended() */
    struct child_exit how;
    char tail[8192];
    int64_t ended_ms;
    rig_line_fn *on_line;
};

static void rig_line(void *ctx, struct str line)
{
    struct rig *r = OBJ(ctx, struct rig, RIG_TAG);
    assert_false(r->inside);
    assert_int_equal(r->ended, 0);
    assert_int_equal(r->overflows, 0);
    assert_null(memchr(line.p, '\n', line.len));
    r->line_count++;
    r->line_bytes += line.len;
    if (!r->count_only) {
        buf_addstr(&r->lines, line);
        buf_addc(&r->lines, '|');
    }
    if (r->on_line)
        r->on_line(r, line);
}

static void rig_overflow(void *ctx)
{
    struct rig *r = OBJ(ctx, struct rig, RIG_TAG);
    assert_false(r->inside);
    assert_int_equal(r->ended, 0);
    r->overflows++;
}

static void rig_ended(void *ctx, const struct child_exit *how)
{
    struct rig *r = OBJ(ctx, struct rig, RIG_TAG);
    assert_false(r->inside);
    assert_int_equal(r->ended, 0);
    r->ended++;
    r->ended_ms = clock_mono_ms();
    r->how = *how;
    snprintf(r->tail, sizeof(r->tail), "%.*s", (int)how->stderr_tail.len, how->stderr_tail.p);
    if (!r->keep)
        child_free(TAKE_PTR(r->child));
}

static const struct child_ops rig_ops = {
    .line = rig_line, .overflow = rig_overflow, .ended = rig_ended};

static void rig_tick(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd;
    (void)what;
    (void)ctx;
}

static const char *const no_env[] = {"PATH=/usr/bin:/bin", NULL};

static int rig_set_up(void **state)
{
    struct timeval tv = {.tv_usec = 2000};
    struct rig *r = x_calloc(1, sizeof(*r));
    r->tag = RIG_TAG;
    r->loop = loop_new();
    r->tick = event_new(loop_base(r->loop), -1, EV_PERSIST, rig_tick, NULL);
    event_add(r->tick, &tv);
    buf_init(&r->lines, 64 * MB);
    r->opts = (struct child_opts){.envp = no_env,
                                  .line_max = MB,
                                  .stdin_max = 16 * MB,
                                  .stderr_tail = 4096,
                                  .eof_deadline_ms = 5000,
                                  .ops = &rig_ops,
                                  .ctx = r};
    *state = r;
    return 0;
}

typedef bool rig_until_fn(const struct rig *r);

static bool rig_run_until(struct rig *r, rig_until_fn *fn, int64_t ms)
{
    int64_t end = clock_mono_ms() + ms;
    while (clock_mono_ms() < end) {
        if (fn && fn(r))
            return true;
        event_base_loop(loop_base(r->loop), EVLOOP_ONCE);
    }
    return false;
}

static bool has_ended(const struct rig *r)
{
    return r->ended;
}

static bool has_line(const struct rig *r)
{
    return r->line_count > 0;
}

static void rig_run_for(struct rig *r, int64_t ms)
{
    rig_run_until(r, NULL, ms);
}

static void rig_wait_end(struct rig *r)
{
    if (!rig_run_until(r, has_ended, 20000))
        fail_msg("the child did not end");
}

/* A failed test may leave its child running: it is killed here. */
static int rig_tear_down(void **state)
{
    struct rig *r = *state;
    if (r->child) {
        child_signal(r->child, SIGKILL);
        r->on_line = NULL;
        if (!r->ended)
            rig_run_until(r, has_ended, 20000);
        if (r->child && r->ended)
            child_free(r->child);
    }
    event_free(r->tick);
    loop_free(r->loop);
    buf_release(&r->lines);
    free(r);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* no zombie, no child left */
    assert_int_equal(errno, ECHILD);
    return 0;
}

static void rig_spawn_argv(struct rig *r, const char *const *argv)
{
    struct err err;
    r->opts.argv = argv;
    r->inside = true;
    r->child = child_spawn(r->loop, &r->opts, &err);
    r->inside = false;
    if (!r->child)
        fail_msg("%s", err.msg);
}

static void rig_spawn_sh(struct rig *r, const char *script)
{
    const char *const argv[] = {"/bin/sh", "-c", script, NULL};
    rig_spawn_argv(r, argv);
}

static int rig_write(struct rig *r, struct str data, struct err *err)
{
    r->inside = true;
    int rc = child_write(r->child, data, err);
    r->inside = false;
    return rc;
}

static void rig_stop(struct rig *r, int64_t grace_ms)
{
    r->inside = true;
    child_stop(r->child, grace_ms);
    r->inside = false;
}

static void assert_lines(const struct rig *r, const char *expected)
{
    assert_string_equal(buf_cstr(&r->lines), expected);
}

static size_t fd_count(void)
{
    size_t n = 0;
    DIR *d = opendir("/proc/self/fd");
    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

/* True once the process is gone, or only its exit status is left. */
static bool process_gone(pid_t pid)
{
    char path[64], text[512];
    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    FILE *f = fopen(path, "re");
    if (!f)
        return true;
    size_t n = fread(text, 1, sizeof(text) - 1, f);
    fclose(f);
    text[n] = '\0';
    const char *close_paren = strrchr(text, ')');
    return !close_paren || close_paren[2] == 'Z' || close_paren[2] == 'X';
}

static bool wait_process_gone(pid_t pid, int64_t ms)
{
    int64_t end = clock_mono_ms() + ms;
    while (!process_gone(pid)) {
        if (clock_mono_ms() > end)
            return false;
        usleep(2000);
    }
    return true;
}

#endif
