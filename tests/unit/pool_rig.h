/* pool_rig.h - a pool on the fake claude program, and the turns asked of it.
 *
 * Each turn's callbacks are checked against pool.h as they come: none inside pool_run() or
 * turn_cancel(), started() before events, done() exactly once and nothing after it. What the fake
 * would have sent upstream is read back from its log file. The fake is FAKE_CLAUDE_BIN, or stands
 * in the build directory beside this program's. */
#ifndef CG_TESTS_POOL_RIG_H
#define CG_TESTS_POOL_RIG_H

#include "core/clock.h"
#include "core/id.h"
#include "core/json.h"
#include "core/log.h"
#include "metrics/metrics.h"
#include "pool/pool.h"

#include <dirent.h>
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MODEL     "claude-sonnet-4-5"
#define PROBE_TAG TAG4('p', 'r', 'o', 'b')
#define TEXT_MAX  ((size_t)64 << 20)

struct rig {
    struct loop *loop;
    struct event *tick; /* keeps run_until() awake */
    struct upstream *up;
    struct pool *pool;
    struct pool_opts opts;
    struct sandbox *box;
    char dir[64], run_dir[80], log[80], bin[512];
    bool inside; /* a pool call is on the stack */
    bool stopped;
    size_t fds;
};

struct probe {
    uint32_t tag;
    struct rig *rig;
    struct turn *turn;
    int started, events, done;
    int64_t done_ms;
    struct turn_result result;
    char text[4096]; /* its beginning */
    size_t text_len;
    void (*on_event)(struct probe *p);
    void (*on_done)(struct probe *p);
};

static struct rig rig;

static void probe_started(void *ctx)
{
    struct probe *p = OBJ(ctx, struct probe, PROBE_TAG);
    assert_false(rig.inside);
    assert_int_equal(p->done, 0);
    p->started++;
}

static void probe_event(void *ctx, const json_t *event)
{
    struct probe *p = OBJ(ctx, struct probe, PROBE_TAG);
    assert_false(rig.inside);
    assert_int_equal(p->done, 0);
    assert_true(p->started > 0);
    assert_true(json_is_object(event));
    p->events++;
    if (p->on_event)
        p->on_event(p);
}

static void probe_done(void *ctx, const struct turn_result *r)
{
    struct probe *p = OBJ(ctx, struct probe, PROBE_TAG);
    struct buf text;
    assert_false(rig.inside);
    assert_int_equal(p->done, 0);
    assert_true(r->ok == (r->err.code == ERR_NONE));
    p->done++;
    p->turn = NULL;
    p->done_ms = clock_mono_ms();
    p->result = *r;
    buf_init(&text, TEXT_MAX);
    cli_message_text(r->message, &text);
    p->text_len = text.len;
    snprintf(p->text, sizeof(p->text), "%s", buf_cstr(&text));
    buf_release(&text);
    p->result.message = NULL;
    if (p->on_done)
        p->on_done(p);
}

static const struct turn_ops probe_ops = {
    .started = probe_started, .event = probe_event, .done = probe_done};

/* --- asking ------------------------------------------------------------------------------- */

static json_t *text_content(const char *text)
{
    return json_pack("[{s:s, s:s}]", "type", "text", "text", text);
}

static void history_add(json_t *history, const char *role, const char *text)
{
    json_array_append_new(history,
                          json_pack("{s:s, s:o}", "role", role, "content", text_content(text)));
}

static void ask_request(struct probe *p, const struct turn_request *req, struct err *err)
{
    *p = (struct probe){
        .tag = PROBE_TAG, .rig = &rig, .on_event = p->on_event, .on_done = p->on_done};
    rig.inside = true;
    p->turn = pool_run(rig.pool, req, &probe_ops, p, err);
    rig.inside = false;
}

/* A turn of this class; p's hooks are kept, everything else begins anew. */
static void ask_as(struct probe *p, const char *class_id, const char *text)
{
    struct err err;
    struct turn_request req = {.key_id = class_id, .model = MODEL, .request_id = "req_test"};
    req.content = text_content(text);
    ask_request(p, &req, &err);
    json_decref(req.content);
    if (!p->turn)
        fail_msg("%s", err.msg);
}

static void cancel(struct probe *p, const char *why)
{
    struct err err;
    err_set(&err, ERR_CLIENT_GONE, "%s", why);
    rig.inside = true;
    turn_cancel(p->turn, &err);
    turn_cancel(p->turn, &err);
    rig.inside = false;
}

typedef bool until_fn(const void *arg);

static bool run_until(until_fn *fn, const void *arg, int64_t ms)
{
    int64_t end = clock_mono_ms() + ms;
    while (clock_mono_ms() < end) {
        if (fn && fn(arg))
            return true;
        event_base_loop(loop_base(rig.loop), EVLOOP_ONCE);
    }
    return fn && fn(arg);
}

static void run_for(int64_t ms)
{
    run_until(NULL, NULL, ms);
}

static bool is_done(const void *arg)
{
    return ((const struct probe *)arg)->done;
}

static void wait_done(struct probe *p)
{
    if (!run_until(is_done, p, 30000))
        fail_msg("the turn did not end");
}

static void ask_and_wait(struct probe *p, const char *class_id, const char *text)
{
    ask_as(p, class_id, text);
    wait_done(p);
}

static void assert_ok(const struct probe *p, const char *text)
{
    if (!p->result.ok)
        fail_msg("%s", p->result.err.msg);
    assert_string_equal(p->text, text);
}

static void assert_failed(const struct probe *p, enum err_code code)
{
    if (p->result.ok || p->result.err.code != code)
        fail_msg("ok %d, code %d: %s", p->result.ok, (int)p->result.err.code, p->result.err.msg);
}

static struct pool_status status(void)
{
    struct pool_status s;
    pool_status(rig.pool, &s);
    return s;
}

static size_t worker_total(void)
{
    struct pool_status s = status();
    return s.starting + s.spare + s.idle + s.busy + s.ending;
}

static bool has_spare(const void *arg)
{
    return status().spare >= *(const size_t *)arg;
}

static void wait_spare(size_t n)
{
    if (!run_until(has_spare, &n, 30000))
        fail_msg("no spare: %s", status().last_start_error);
}

static bool all_settled(const void *arg)
{
    struct pool_status s = status();
    (void)arg;
    return s.busy + s.starting + s.ending + s.queued == 0;
}

static void wait_settled(void)
{
    assert_true(run_until(all_settled, NULL, 30000));
}

/* --- what the fake saw -------------------------------------------------------------------- */

/* Every upstream request so far: array of the fake's records. */
static json_t *requests(void)
{
    json_t *all = json_array();
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    FILE *f = fopen(rig.log, "re");
    while (f && (n = getline(&line, &cap, f)) > 0) {
        struct err err;
        json_t *j = json_parse(str_n(line, (size_t)n), &err);
        if (!j)
            fail_msg("%s", err.msg);
        if (str_eq_c(json_get_str(j, "event"), "request"))
            json_array_append(all, j);
        json_decref(j);
    }
    if (f)
        fclose(f);
    free(line);
    return all;
}

static size_t request_count(void)
{
    json_t *all = requests();
    size_t n = json_array_size(all);
    json_decref(all);
    return n;
}

/* Of the last request: "role:text|role:text|...", without what the program itself puts in. */
static void last_conversation(char *out, size_t size)
{
    json_t *all = requests(), *m, *block;
    const json_t *last = json_array_get(all, json_array_size(all) - 1);
    size_t at = 0, i, k;
    out[0] = '\0';
    json_array_foreach(json_object_get(last, "messages"), i, m)
    {
        struct str role = json_get_str(m, "role");
        at += (size_t)snprintf(out + at, size - at, "%.*s:", (int)role.len, role.p);
        json_array_foreach(json_object_get(m, "content"), k, block)
        {
            struct str t = json_get_str(block, "text");
            if (!str_starts(t, "<system-reminder>"))
                at += (size_t)snprintf(out + at, size - at, "%.*s", (int)t.len, t.p);
        }
        at += (size_t)snprintf(out + at, size - at, "|");
        assert_true(at < size);
    }
    json_decref(all);
}

static pid_t last_pid(void)
{
    json_t *all = requests();
    const json_t *last = json_array_get(all, json_array_size(all) - 1);
    pid_t pid = (pid_t)json_get_int(last, "pid", 0);
    json_decref(all);
    assert_true(pid > 1);
    return pid;
}

/* --- life --------------------------------------------------------------------------------- */

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

static void find_fake(void)
{
    const char *given = getenv("FAKE_CLAUDE_BIN");
    char exe[256] = "";
    if (given) {
        snprintf(rig.bin, sizeof(rig.bin), "%s", given);
    } else if (readlink("/proc/self/exe", exe, sizeof(exe) - 1) > 0) {
        *strrchr(exe, '/') = '\0';
        snprintf(rig.bin, sizeof(rig.bin), "%s/../fakes/fake-claude", exe);
    }
    if (access(rig.bin, X_OK) != 0)
        fail_msg("there is no '%s'; build it or set FAKE_CLAUDE_BIN", rig.bin);
}

static void on_rig_tick(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd;
    (void)what;
    (void)ctx;
}

static int rig_set_up(void **state)
{
    struct timeval tv = {.tv_usec = 2000};
    (void)state;
    memset(&rig, 0, sizeof(rig));
    find_fake();
    snprintf(rig.dir, sizeof(rig.dir), "/tmp/test_pool.XXXXXX");
    assert_non_null(mkdtemp(rig.dir));
    snprintf(rig.run_dir, sizeof(rig.run_dir), "%s/run", rig.dir);
    snprintf(rig.log, sizeof(rig.log), "%s/log", rig.dir);
    setenv("FAKE_LOG", rig.log, 1);
    rig.fds = fd_count();
    rig.loop = loop_new();
    rig.tick = event_new(loop_base(rig.loop), -1, EV_PERSIST, on_rig_tick, NULL);
    event_add(rig.tick, &tv);
    rig.opts = (struct pool_opts){.claude_bin = rig.bin,
                                  .model = MODEL,
                                  .pass_env = "FAKE_LOG,FAKE_SCRIPT,FAKE_SLOW_START_MS,"
                                              "FAKE_EXIT_AT_START,FAKE_STDERR,FAKE_UPSTREAM,"
                                              "FAKE_NO_INJECTION,FAKE_NO_BOUNDARY,FAKE_LATER",
                                  .run_dir = rig.run_dir,
                                  .max_workers = 4,
                                  .min_spare = 1,
                                  .start_concurrency = 2,
                                  .max_requests = 1000,
                                  .max_rss_mb = 100000,
                                  .max_age_s = 3600,
                                  .idle_timeout_s = 3600,
                                  .start_timeout_ms = 20000,
                                  .prepare_timeout_ms = 10000,
                                  .silence_timeout_ms = 10000,
                                  .turn_timeout_ms = 30000,
                                  .interrupt_timeout_ms = 2000,
                                  .history = HISTORY_INJECT,
                                  .queue_max = 100,
                                  .queue_timeout_ms = 30000};
    return 0;
}

static void open_pool(void)
{
    struct err err;
    struct upstream_opts uo = {
        .targets = {{.base_url = "http://127.0.0.1:9", .api_key = "not-used", .weight = 1}},
        .target_count = 1,
        .connect_timeout_ms = 1000,
        .first_byte_timeout_ms = 1000,
        .idle_timeout_ms = 1000};
    rig.up = upstream_new(rig.loop, &uo, &err);
    assert_non_null(rig.up);
    rig.opts.upstream = rig.up;
    struct sandbox_opts so = {.mode = SANDBOX_OFF, .uids = "", .program = rig.bin};
    if (!rig.box)
        rig.box = sandbox_new(&so, &err);
    if (!rig.box)
        fail_msg("%s", err.msg);
    rig.opts.sandbox = rig.box;
    rig.pool = pool_new(rig.loop, &rig.opts, &err);
    if (!rig.pool)
        fail_msg("%s", err.msg);
}

static void stop_loop(void *obj)
{
    (void)obj;
    loop_stop(rig.loop);
}

/* As the server does: one more turn of the loop, then nothing runs on it any more. */
static void on_stopped(void *ctx)
{
    (void)ctx;
    assert_false(rig.stopped);
    rig.stopped = true;
    loop_defer(rig.loop, stop_loop, NULL);
}

/* In the server's order: the loop has ended, then pool, upstream and loop go. */
static void close_pool(void)
{
    struct timer limit;
    if (!rig.pool)
        return;
    pool_stop(rig.pool, on_stopped, NULL);
    timer_init(&limit, rig.loop, (loop_defer_fn *)abort, NULL);
    timer_set(&limit, 30000);
    loop_run(rig.loop);
    timer_release(&limit);
    pool_free(rig.pool);
    rig.pool = NULL;
    upstream_free(rig.up);
}

static bool directory_is_empty(const char *path)
{
    size_t n = 0;
    DIR *d = opendir(path);
    while (d && readdir(d))
        n++;
    if (d)
        closedir(d);
    return n <= 2;
}

static int rig_tear_down(void **state)
{
    static const char *const variables[] = {"FAKE_UPSTREAM",      "FAKE_NO_INJECTION",
                                            "FAKE_NO_BOUNDARY",   "FAKE_SLOW_START_MS",
                                            "FAKE_EXIT_AT_START", "FAKE_LATER"};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(variables); i++)
        unsetenv(variables[i]);
    close_pool();
    sandbox_free(TAKE_PTR(rig.box));
    event_free(rig.tick);
    loop_free(rig.loop);
    metrics_reset();
    assert_int_equal(fd_count(), rig.fds);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* nobody left, not even as a zombie */
    assert_int_equal(errno, ECHILD);
    assert_true(directory_is_empty(rig.run_dir));
    rmdir(rig.run_dir);
    unlink(rig.log);
    assert_int_equal(rmdir(rig.dir), 0);
    return 0;
}

#endif
