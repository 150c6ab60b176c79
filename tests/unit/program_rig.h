/* program_rig.h - one claude process, the real one or the fake, on a relay that answers by itself:
 * what is asked of it, and what it would have sent to the API. */
#ifndef CG_TESTS_PROGRAM_RIG_H
#define CG_TESTS_PROGRAM_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "child/child.h"
#include "cli/launch.h"
#include "cli/protocol.h"
#include "core/clock.h"
#include "core/id.h"
#include "core/json.h"
#include "core/log.h"
#include "metrics/metrics.h"
#include "upstream/relay.h"

#include <event2/event.h>
#include <ftw.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#define MB       ((size_t)1 << 20)
#define WAIT_MS  60000
#define MODEL    "claude-sonnet-4-5"
#define FAKE_ENV "FAKE_UPSTREAM,FAKE_NO_INJECTION,FAKE_NO_BOUNDARY,ASAN_OPTIONS"

struct program {
    struct loop *loop;
    struct event *tick; /* keeps the loop turning */
    struct upstream *up;
    struct relay *relay;
    struct relay_trial trial;
    struct child *child;
    char dir[64], home[96], work[96], socket[96];
    bool ready, ended;
    int results, errors; /* lines seen; errors: of them, those of a turn that failed */
    char session_id[64];
};

static void program_line(void *ctx, struct str line)
{
    struct program *p = ctx;
    struct cli_msg msg;
    cli_decode(line, &msg);
    if (msg.kind == CLI_RESULT) {
        p->results++;
        p->errors += msg.is_error;
        snprintf(p->session_id, sizeof(p->session_id), "%.*s", (int)msg.session_id.len,
                 msg.session_id.p);
    } else if (msg.kind == CLI_CONTROL_RESPONSE) {
        p->ready = p->ready || str_eq_c(msg.request_id, "thinking");
    }
    cli_msg_release(&msg);
}

static void program_overflow(void *ctx)
{
    (void)ctx;
    fail_msg("a line is too long");
}

static void program_ended(void *ctx, const struct child_exit *how)
{
    struct program *p = ctx;
    p->ended = true;
    if (how->stderr_tail.len)
        print_message("stderr: %.*s\n", (int)how->stderr_tail.len, how->stderr_tail.p);
}

static void program_tick(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd;
    (void)what;
    (void)ctx;
}

/* Opens everything but the process. */
static void program_open(struct program *p)
{
    struct timeval tv = {.tv_usec = 20000};
    struct err err;
    *p = (struct program){.loop = loop_new(), .trial = {.answer = "ready"}};
    p->tick = event_new(loop_base(p->loop), -1, EV_PERSIST, program_tick, NULL);
    event_add(p->tick, &tv);
    snprintf(p->dir, sizeof(p->dir), "/tmp/cg-program-XXXXXX");
    assert_non_null(mkdtemp(p->dir));
    snprintf(p->home, sizeof(p->home), "%s/home", p->dir);
    snprintf(p->work, sizeof(p->work), "%s/a work_dir.d", p->dir);
    snprintf(p->socket, sizeof(p->socket), "%s/relay.sock", p->dir);
    assert_int_equal(mkdir(p->home, 0700) | mkdir(p->work, 0700), 0);
    struct upstream_opts opts = {/* never asked */
                                 .targets = {{.base_url = "http://127.0.0.1:9", .weight = 1}},
                                 .target_count = 1,
                                 .connect_timeout_ms = 1000,
                                 .first_byte_timeout_ms = 1000,
                                 .idle_timeout_ms = 1000};
    p->up = upstream_new(p->loop, &opts, &err);
    assert_non_null(p->up);
    p->relay = relay_new(p->up, p->socket, &err);
    assert_non_null(p->relay);
    relay_begin_trial(p->relay, &p->trial);
}

/* Turns the loop until *flag, or *count has reached `until`. */
static void program_wait(struct program *p, const bool *flag, const int *count, int until)
{
    int64_t end = clock_mono_ms() + WAIT_MS;
    while (!(flag ? *flag : *count >= until)) {
        if (p->ended || clock_mono_ms() > end)
            fail_msg("the program %s", p->ended ? "has ended" : "does not answer");
        event_base_loop(loop_base(p->loop), EVLOOP_ONCE);
    }
}

static void program_write(struct program *p, struct buf *lines)
{
    struct err err;
    assert_true(buf_ok(lines));
    assert_int_equal(child_write(p->child, buf_str(lines), &err), 0);
    buf_clear(lines);
}

static void program_start(struct program *p, const char *bin, const char *resume)
{
    static const struct child_ops ops = {
        .line = program_line, .overflow = program_overflow, .ended = program_ended};
    struct err err;
    struct cli_command cmd;
    AUTO(buf_release) struct buf out;
    cli_launch_command(&(struct cli_launch){.bin = bin,
                                            .model = MODEL,
                                            .home = p->home,
                                            .socket_path = p->socket,
                                            .resume = resume,
                                            .pass_env = FAKE_ENV},
                       &cmd);
    struct child_opts co = {.argv = cmd.argv,
                            .envp = cmd.envp,
                            .cwd = p->work,
                            .line_max = 16 * MB,
                            .stdin_max = 16 * MB,
                            .stderr_tail = 4096,
                            .eof_deadline_ms = 2000,
                            .ops = &ops,
                            .ctx = p};
    p->child = child_spawn(p->loop, &co, &err);
    assert_non_null(p->child);
    cli_command_release(&cmd);
    buf_init(&out, MB);
    cli_put_initialize(&out, "init", "");
    cli_put_thinking_budget(&out, "thinking", 0);
    program_write(p, &out);
    program_wait(p, &p->ready, NULL, 0);
}

/* Writes the lines and waits for their one result; the body of the request made, or NULL. */
static json_t *program_step(struct program *p, struct buf *lines)
{
    int before = p->results;
    program_write(p, lines);
    program_wait(p, NULL, &p->results, before + 1);
    return TAKE_PTR(p->trial.request);
}

static int program_remove(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static void program_close(struct program *p)
{
    if (p->child) {
        if (!p->ended)
            child_stop(p->child, 1000);
        for (int64_t end = clock_mono_ms() + WAIT_MS; !p->ended && clock_mono_ms() < end;)
            event_base_loop(loop_base(p->loop), EVLOOP_ONCE);
        assert_true(p->ended);
        child_free(p->child);
    }
    relay_end_trial(p->relay);
    json_decref(p->trial.request);
    relay_free(p->relay);
    upstream_free(p->up);
    event_free(p->tick);
    loop_free(p->loop);
    assert_int_equal(nftw(p->dir, program_remove, 16, FTW_DEPTH | FTW_PHYS), 0);
}

/* --- where the two programs are ----------------------------------------------------------- */

static char real_bin[PATH_MAX], fake_bin[PATH_MAX];

/* CLAUDE_BIN, or the one of the project this file belongs to. */
static void find_real(void)
{
    const char *given = getenv("CLAUDE_BIN"), *slash = strrchr(__FILE__, '/');
    char path[PATH_MAX];
    snprintf(path, sizeof(path), "%.*s/../../node_modules/.bin/claude",
             slash ? (int)(slash - __FILE__) : 1, slash ? __FILE__ : ".");
    if (!realpath(given && given[0] ? given : path, real_bin) || access(real_bin, X_OK) != 0)
        real_bin[0] = '\0';
}

static void find_fake(void)
{
    const char *given = getenv("FAKE_CLAUDE_BIN");
    char exe[PATH_MAX] = "", path[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
    char *slash = n > 0 ? strrchr(exe, '/') : NULL;
    if (slash)
        *slash = '\0';
    snprintf(path, sizeof(path), "%.*s/../fakes/fake-claude", PATH_MAX - 32, exe);
    if (!realpath(given && given[0] ? given : path, fake_bin) || access(fake_bin, X_OK) != 0)
        fake_bin[0] = '\0';
}

/* The program a test is about, from its state; skips when the real one is not installed. */
static const char *program_of(void **state)
{
    const char *bin = *state;
    if (bin == real_bin && !bin[0]) {
        print_message("no claude program here: run `npm ci`, or set CLAUDE_BIN\n");
        skip();
    }
    if (!bin[0])
        fail_msg("there is no fake-claude; build it or set FAKE_CLAUDE_BIN");
    return bin;
}

#endif
