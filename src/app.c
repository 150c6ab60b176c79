/* app.c - start-up, signals and shutdown of the server.
 *
 * Start: data directory and lock, logs, the claude program, database, usage journal (rows of an
 * earlier run go to the database first), the day's counters from the database, upstream or demo,
 * pool, and only then the listener. Stop: no new work, running turns up to the deadline, journal
 * to the database, workers reaped, then everything is freed in the reverse order. */
#include "app.h"

#include "api/control/control.h"
#include "api/routes.h"
#include "cli/launch.h"
#include "cli/protocol.h"
#include "core/clock.h"
#include "core/log.h"
#include "gateway/gateway.h"
#include "gateway/replay.h"
#include "metrics/metrics.h"
#include "setup/first_start.h"
#include "setup/setup.h"
#include "upstream/standin.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define APP_TAG            TAG4('A', 'P', 'P', '_')
#define ANTHROPIC_URL      "https://api.anthropic.com"
#define ABORT_GRACE_MS     5000 /* after the drain deadline: interrupts to take effect */
#define FLUSH_TIMEOUT_MS   5000
#define CLOSE_TIMEOUT_MS   2000
#define CLOSE_POLL_MS      20
#define SPARE_SLOTS        64 /* turns that have left their worker but are not settled */
#define DEMO_WORD_DELAY_MS 15

enum phase { PHASE_SERVING, PHASE_DRAINING, PHASE_FLUSHING, PHASE_CLOSING, PHASE_STOPPING };

struct app {
    uint32_t tag;
    const struct app_opts *opts;
    const struct conf *conf;
    struct loop *loop;
    struct gateway gw;
    struct http_server *control;
    struct standin *standin;
    struct upstream *upstream;
    struct cli_profile agent;
    struct zone *zone;
    char *claude_bin, *claude_version, *run_dir;
    int lock_fd;
    struct event *sig_term, *sig_int, *sig_hup;
    struct timer deadline;
    enum phase phase;
    bool aborted; /* running turns were told to stop */
    int64_t closing_until_ms;
    struct first_start first;
};

/* --- directories, lock, logs ------------------------------------------------------------- */

static int make_data_dir(struct app *a, struct err *err)
{
    const char *dir = a->conf->data_dir;
    if (mkdir(dir, 0700) != 0 && errno != EEXIST)
        return err_set(err, ERR_IO, "cannot create data_dir '%s': %s", dir, strerror(errno));
    char *path = x_printf("%s/lock", dir);
    a->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    int rc = 0;
    if (a->lock_fd < 0)
        rc = err_set(err, ERR_IO, "cannot open '%s': %s", path, strerror(errno));
    else if (flock(a->lock_fd, LOCK_EX | LOCK_NB) != 0)
        rc =
            err_set(err, ERR_CONFLICT, "another claudegate already serves from data_dir '%s'", dir);
    free(path);
    return rc;
}

static int open_logs(const struct conf *conf, struct err *err)
{
    struct log_opts o = {.console = conf->log.console};
    AUTO(free_charp) char *own_dir = x_printf("%s/logs", conf->data_dir);
    if (!log_level_parse(conf->log.level, &o.level))
        return err_set(err, ERR_CONFIG, "log.level: unknown level '%s'", conf->log.level);
    if (strcmp(conf->log.dir, "none") != 0)
        o.dir = conf->log.dir[0] ? conf->log.dir : own_dir;
    return log_open(&o, err);
}

/* Sockets must have short paths (108 bytes): the data directory if it is short enough. Workers with
 * users of their own could not pass through it: nobody else may. */
static char *choose_run_dir(const struct conf *conf)
{
    char *full = realpath(conf->data_dir, NULL);
    char *dir = x_printf("%s/run", full ? full : conf->data_dir);
    free(full);
    if (strlen(dir) <= 70 && !conf->sandbox.uids[0])
        return dir;
    free(dir);
    const char *tmp = getenv("TMPDIR");
    char *template = x_printf("%s/claudegate-XXXXXX", tmp && tmp[0] ? tmp : "/tmp");
    if (!mkdtemp(template))
        log_error("cannot make a run directory", LF_S("path", template));
    char *real = realpath(template, NULL); /* transcripts are found by the path without links */
    if (!real)
        return template;
    free(template);
    return real;
}

/* --- the claude program and where it talks to -------------------------------------------- */

static int find_claude(struct app *a, struct err *err)
{
    a->claude_bin = cli_find_program(a->conf->claude.bin, err);
    if (!a->claude_bin)
        return -1;
    a->claude_version = cli_program_version(a->claude_bin, err);
    if (!a->claude_version)
        return err_prefix(err, "the claude program does not run");
    if (strcmp(a->claude_version, CLI_VERSION_PINNED) != 0)
        log_warn("this version of claude was not tested with this server",
                 LF_S("found", a->claude_version), LF_S("tested", CLI_VERSION_PINNED));
    return 0;
}

static int start_demo(struct app *a, struct err *err)
{
    struct standin_opts so = {.listen = "127.0.0.1:0", .word_delay_ms = DEMO_WORD_DELAY_MS};
    a->standin = standin_new(a->loop, &so, err);
    if (!a->standin)
        return -1;
    a->gw.upstream_kind = "demo";
    log_warn("DEMO: no Anthropic credential is configured; answers come from the built-in demo "
             "upstream, not from Claude. Set ANTHROPIC_API_KEY to serve for real.");
    return 0;
}

/* Looks at every target; with the API itself, one without a credential is useless. */
static int choose_upstream(struct app *a, struct err *err)
{
    const struct conf *c = a->conf;
    a->gw.upstream_kind = "anthropic";
    for (size_t i = 0; i < conf_target_count(c); i++) {
        struct conf_target t = conf_target_at(c, i);
        bool custom = strcmp(t.base_url, ANTHROPIC_URL) != 0;
        if (custom)
            a->gw.upstream_kind = "custom";
        if (t.credential[0])
            continue;
        if (custom)
            log_warn("no credential is configured for the upstream; requests carry none",
                     LF_S("target", t.name), LF_S("base_url", t.base_url));
        else if (c->upstream.targets)
            return err_set(err, ERR_CONFIG, "the upstream target '%s' has no credential", t.name);
        else if (a->opts->demo || c->upstream.demo == DEMO_AUTO)
            return start_demo(a, err);
        else
            return err_set(err, ERR_CONFIG,
                           "no Anthropic credential is configured: set ANTHROPIC_API_KEY (or "
                           "upstream.api_key), or start with --demo to try the server without one");
    }
    return 0;
}

/* Strings are borrowed from the settings. */
static void fill_targets(const struct conf *c, struct upstream_opts *o)
{
    _Static_assert(CONF_MAX_TARGETS <= UPSTREAM_MAX_TARGETS, "every configured target has a place");
    o->target_count = conf_target_count(c);
    for (size_t i = 0; i < o->target_count; i++) {
        struct conf_target t = conf_target_at(c, i);
        o->targets[i] = (struct upstream_target){.name = t.name,
                                                 .base_url = t.base_url,
                                                 .api_key = t.bearer ? NULL : t.credential,
                                                 .auth_token = t.bearer ? t.credential : NULL,
                                                 .weight = (int)t.weight};
    }
}

static int open_upstream(struct app *a, struct err *err)
{
    const struct conf *c = a->conf;
    if (choose_upstream(a, err) != 0)
        return -1;
    struct upstream_opts o = {.proxy = a->standin ? NULL : c->upstream.proxy,
                              .http2 = strcmp(c->upstream.http_version, "2") == 0,
                              .ca_file = c->upstream.ca_file,
                              .connect_timeout_ms = c->upstream.connect_timeout_ms,
                              .first_byte_timeout_ms = c->upstream.first_byte_timeout_ms,
                              .idle_timeout_ms = c->upstream.idle_timeout_ms,
                              .max_retries = (int)c->upstream.max_retries};
    if (a->standin) {
        o.targets[0] = (struct upstream_target){
            .name = "demo", .base_url = standin_url(a->standin), .api_key = "demo", .weight = 1};
        o.target_count = 1;
    } else {
        fill_targets(c, &o);
    }
    a->upstream = a->gw.upstream = upstream_new(a->loop, &o, err);
    return a->upstream ? 0 : -1;
}

/* --- modules ----------------------------------------------------------------------------- */

static void on_restored(void *ctx, const struct err *err)
{
    setup_answered(ctx, err);
}

/* A turn that was running when an earlier server was killed. */
static int on_left_turn(void *ctx, struct usage_row *row)
{
    struct app *a = OBJ(ctx, struct app, APP_TAG);
    struct err err;
    row->status_code = 500;
    row->estimated = true;
    gateway_price(&a->gw, row, "");
    snprintf(row->error, sizeof(row->error), "server_died: the server was killed in this turn");
    log_warn("a turn was cut off by the end of an earlier server",
             LF_S("request_id", row->request_id), LF_I("input_tokens", row->input_tokens),
             LF_I("output_tokens", row->output_tokens));
    if (journal_append(a->gw.journal, row, &err) == 0)
        return 0;
    log_error("its usage could not be written", LF_S("error", err.msg));
    return -1;
}

static int open_inflight(struct app *a, struct err *err)
{
    AUTO(free_charp) char *path = x_printf("%s/journal/running", a->conf->data_dir);
    size_t slots = (size_t)a->conf->pool.max_workers * 2 + SPARE_SLOTS;
    a->gw.inflight = inflight_open(path, slots, on_left_turn, a, err);
    return a->gw.inflight ? 0 : -1;
}

/* Blocking: what an earlier run left in the journal, then what the day has seen. */
static int restore_limits(struct app *a)
{
    struct setup_wait wait = {.loop = a->loop};
    gateway_restore_limits(&a->gw, on_restored, &wait);
    return setup_wait(&wait);
}

static int open_sandbox(struct app *a, struct err *err)
{
    static const enum sandbox_mode modes[] = {[CONF_SANDBOX_AUTO] = SANDBOX_AUTO,
                                              [CONF_SANDBOX_ON] = SANDBOX_ON,
                                              [CONF_SANDBOX_OFF] = SANDBOX_OFF};
    const struct conf *c = a->conf;
    struct sandbox_opts o = {.mode = modes[c->sandbox.mode],
                             .memory_mb = c->sandbox.memory_mb,
                             .cpu_percent = c->sandbox.cpu_percent,
                             .max_processes = c->sandbox.max_processes,
                             .max_open_files = c->sandbox.max_open_files,
                             .max_file_mb = c->sandbox.max_file_mb,
                             .uids = c->sandbox.uids,
                             .program = a->claude_bin};
    a->gw.sandbox = sandbox_new(&o, err);
    if (!a->gw.sandbox)
        return -1;
    const struct sandbox_status *s = sandbox_status(a->gw.sandbox);
    log_write(s->filesystem ? LOG_INFO : LOG_WARN, "sandbox of the claude processes",
              LF_S("in_force", s->summary), LF_S("not_in_force", s->reason), LF_END);
    if (c->pool.isolation == CONF_ISOLATE_SHARED)
        log_warn("pool.isolation is 'shared': one process serves different API keys, one after "
                 "the other; between them only a reset stands");
    return 0;
}

/* A workspace goes when its session has gone. */
static void on_workspace_gone(void *ctx, const char *id)
{
    struct app *a = OBJ(ctx, struct app, APP_TAG);
    pool_drain_workspace(a->gw.pool, id);
}

static int check_agent_sandbox(const struct app *a, struct err *err)
{
    const struct sandbox_status *s = sandbox_status(a->gw.sandbox);
    if (s->filesystem)
        return 0;
    if (a->conf->agent.require_sandbox)
        return err_set(err, ERR_CONFIG,
                       "agent.enabled is true and so is agent.require_sandbox, but bubblewrap is "
                       "not in force: %s",
                       a->conf->sandbox.mode == CONF_SANDBOX_OFF ? "sandbox.mode is off"
                                                                 : s->reason);
    log_warn("agent.enabled without a sandbox: whoever has a key with this permission may do "
             "whatever this server's user may, and read the server's own credential");
    return 0;
}

/* Workspaces of earlier runs are swept even where agents are not enabled any more. */
static int open_agent(struct app *a, struct err *err)
{
    const struct conf *c = a->conf;
    AUTO(free_charp) char *full = realpath(c->data_dir, NULL);
    AUTO(free_charp) char *dir = x_printf("%s/workspaces", full ? full : c->data_dir);
    a->gw.workspaces = workspaces_new(a->loop, a->gw.db, a->gw.sessions, dir, on_workspace_gone, a);
    if (!c->agent.enabled)
        return 0;
    if (check_agent_sandbox(a, err) != 0)
        return -1;
    int64_t silence_ms = c->pool.silence_timeout_ms; /* a command is silent */
    a->agent = (struct cli_profile){.name = "agent",
                                    .tools = c->agent.tools,
                                    .max_turns = c->agent.max_turns,
                                    .max_command_ms = silence_ms - silence_ms / 10};
    a->gw.agent = &a->agent;
    log_info("agent turns are enabled", LF_S("tools", c->agent.tools),
             LF_I("max_turns", c->agent.max_turns));
    return 0;
}

static struct pool *open_pool(struct app *a, struct err *err)
{
    static const enum pool_isolation isolations[] = {[CONF_ISOLATE_KEY] = ISOLATE_KEY,
                                                     [CONF_ISOLATE_REQUEST] = ISOLATE_REQUEST,
                                                     [CONF_ISOLATE_SHARED] = ISOLATE_SHARED};
    static const enum pool_history histories[] = {[CONF_HISTORY_AUTO] = HISTORY_AUTO,
                                                  [CONF_HISTORY_INJECT] = HISTORY_INJECT,
                                                  [CONF_HISTORY_RESUME] = HISTORY_RESUME};
    const struct conf *c = a->conf;
    int64_t cores = sysconf(_SC_NPROCESSORS_ONLN);
    struct pool_opts o = {.upstream = a->upstream,
                          .sandbox = a->gw.sandbox,
                          .isolation = isolations[c->pool.isolation],
                          .history = histories[c->claude.history],
                          .claude_bin = a->claude_bin,
                          .model = c->claude.model,
                          .pass_env = c->claude.pass_env,
                          .run_dir = a->run_dir,
                          .max_workers = c->pool.max_workers,
                          .min_spare = c->pool.min_spare,
                          .start_concurrency =
                              c->pool.start_concurrency ? c->pool.start_concurrency : cores,
                          .max_requests = c->pool.max_requests,
                          .max_rss_mb = c->pool.max_rss_mb,
                          .max_age_s = c->pool.max_age,
                          .idle_timeout_s = c->pool.idle_timeout,
                          .start_timeout_ms = c->pool.start_timeout_ms,
                          .prepare_timeout_ms = c->pool.prepare_timeout_ms,
                          .silence_timeout_ms = c->pool.silence_timeout_ms,
                          .turn_timeout_ms = c->pool.turn_timeout_ms,
                          .interrupt_timeout_ms = c->pool.interrupt_timeout_ms,
                          .queue_max = c->pool.queue_max,
                          .queue_max_per_key = c->pool.queue_max_per_key,
                          .queue_timeout_ms = c->pool.queue_timeout_ms};
    return pool_new(a->loop, &o, err);
}

static struct http_server *open_server(struct app *a, struct err *err)
{
    const struct conf *c = a->conf;
    struct http_opts o = {.listen = c->server.listen,
                          .max_body_bytes = (size_t)c->server.max_body_bytes,
                          .max_header_bytes = (size_t)c->server.max_header_bytes,
                          .idle_timeout_s = (int)c->server.idle_timeout,
                          .read_timeout_s = (int)c->server.read_timeout,
                          .max_connections = (int)c->server.max_connections,
                          .hsts = c->server.hsts,
                          .routes = api_routes,
                          .route_count = api_route_count,
                          .client_paths = "/v1/",
                          .authorise = gateway_authorise,
                          .ctx = &a->gw};
    return http_server_new(a->loop, &o, err);
}

static int open_limits(struct app *a, struct err *err)
{
    static const enum limit_away policies[] = {[CONF_AWAY_CLOSED] = LIMIT_AWAY_CLOSED,
                                               [CONF_AWAY_OPEN] = LIMIT_AWAY_OPEN,
                                               [CONF_AWAY_SHARE] = LIMIT_AWAY_SHARE};
    struct gateway *g = &a->gw;
    g->shared = setup_open_shared(a->conf, a->loop, err);
    if (!g->shared)
        return -1;
    struct limits_opts o = {.loop = a->loop,
                            .shared = g->shared,
                            .zone = a->zone,
                            .away = policies[a->conf->limits.when_redis_is_away]};
    g->limits = limits_new(&o);
    return 0;
}

static int open_store(struct app *a, struct err *err)
{
    struct gateway *g = &a->gw;
    AUTO(free_charp) char *journal_dir = x_printf("%s/journal", a->conf->data_dir);
    g->prices = prices_load(a->conf->pricing.file, err);
    if (!g->prices)
        return -1;
    g->db = setup_await_database(a->conf, a->loop, err);
    if (!g->db)
        return -1;
    g->journal = journal_open(a->loop, g->db, journal_dir, err);
    if (!g->journal)
        return -1;
    if (open_inflight(a, err) != 0)
        return -1;
    if (open_limits(a, err) != 0)
        return -1;
    if (restore_limits(a) != 0)
        return err_set(err, ERR_UNAVAILABLE, "the database could not be read");
    return 0;
}

static struct sessions *open_sessions(const struct app *a)
{
    const struct conf *c = a->conf;
    struct sessions_opts o = {.loop = a->loop,
                              .db = a->gw.db,
                              .vault = a->gw.vault,
                              .shared = a->gw.shared,
                              .ttl_s = c->session.ttl,
                              .max_bytes = c->session.max_bytes,
                              .max_messages = c->session.max_messages};
    if (!vault_has_key(a->gw.vault))
        log_info("no master key is configured: conversations are stored unencrypted");
    return sessions_new(&o);
}

static struct replays *open_replays(const struct app *a)
{
    const struct conf *c = a->conf;
    struct replays_opts o = {.loop = a->loop,
                             .db = a->gw.db,
                             .vault = a->gw.vault,
                             .ttl_s = c->idempotency.ttl,
                             .grace_s = c->resume.grace,
                             .key_bytes = (size_t)c->idempotency.max_bytes,
                             .stream_bytes = (size_t)c->resume.max_bytes,
                             .total_bytes = (size_t)c->resume.max_total_bytes};
    return replays_new(&o);
}

static int open_all(struct app *a, struct err *err)
{
    struct gateway *g = &a->gw;
    const struct conf *c = a->conf;
    a->zone = zone_new(c->limits.timezone, err); /* before there are threads */
    if (!a->zone)
        return -1;
    if (make_data_dir(a, err) != 0 || open_logs(c, err) != 0 || find_claude(a, err) != 0)
        return -1;
    a->run_dir = choose_run_dir(c);
    metrics_register_system(c->data_dir);
    g->vault = setup_open_vault(c, err);
    if (!g->vault || open_store(a, err) != 0 || open_upstream(a, err) != 0)
        return -1;
    g->auth = auth_new(a->loop, g->db);
    auth_share(g->auth, g->shared);
    g->throttle = throttle_new(g->shared, c->auth.max_failures);
    g->proxies = networks_new(c->server.trusted_proxies);
    g->sessions = open_sessions(a);
    g->replays = open_replays(a);
    g->cli_version = a->claude_version;
    if (open_sandbox(a, err) != 0 || open_agent(a, err) != 0)
        return -1;
    g->pool = open_pool(a, err);
    if (!g->pool)
        return -1;
    gateway_start(g);
    g->server = open_server(a, err);
    if (!g->server)
        return -1;
    a->control = control_open(g, c->data_dir, err);
    if (!a->control)
        return -1;
    /* Last, so that a start that is refused does not use up the key that is shown only once. */
    if (a->opts->bootstrap && setup_first_start(a->conf, a->loop, a->gw.db, &a->first) != 0)
        return err_set(err, ERR_UNAVAILABLE, "the database could not be written");
    return 0;
}

/* --- stopping ---------------------------------------------------------------------------- */

static void stop_loop(void *obj)
{
    struct app *a = OBJ(obj, struct app, APP_TAG);
    loop_stop(a->loop);
}

/* Later: it may run before the loop does, which would forget to have been stopped. */
static void on_pool_stopped(void *ctx)
{
    struct app *a = OBJ(ctx, struct app, APP_TAG);
    loop_defer(a->loop, stop_loop, a);
}

/* Answers are on their way to the sockets: wait for them, but not for ever. */
static void close_when_sent(struct app *a)
{
    bool sent = http_server_active(a->gw.server) == 0 && http_server_connections(a->gw.server) == 0;
    if (!sent && clock_mono_ms() < a->closing_until_ms) {
        timer_set(&a->deadline, CLOSE_POLL_MS);
        return;
    }
    a->phase = PHASE_STOPPING;
    pool_stop(a->gw.pool, on_pool_stopped, a);
}

static void begin_closing(struct app *a)
{
    a->phase = PHASE_CLOSING;
    a->closing_until_ms = clock_mono_ms() + CLOSE_TIMEOUT_MS;
    close_when_sent(a);
}

static void on_flushed(void *ctx, const struct err *err)
{
    struct app *a = OBJ(ctx, struct app, APP_TAG);
    if (err)
        log_warn("usage rows stay in the journal for the next start", LF_S("error", err->msg));
    if (a->phase == PHASE_FLUSHING)
        begin_closing(a);
}

static void on_jobs_done(void *ctx)
{
    struct app *a = OBJ(ctx, struct app, APP_TAG);
    if (a->phase != PHASE_DRAINING)
        return;
    a->phase = PHASE_FLUSHING;
    timer_set(&a->deadline, FLUSH_TIMEOUT_MS);
    journal_flush(a->gw.journal, on_flushed, a);
}

static void abort_jobs(struct app *a)
{
    a->aborted = true;
    timer_set(&a->deadline, ABORT_GRACE_MS);
    gateway_abort(&a->gw);
}

/* Something does not answer, the database most likely. What the turns have used stands in
 * journal/running, and the workers die with this process. */
static noreturn void give_up(const struct app *a)
{
    log_error("could not stop in order; the next start finds the open turns in the journal",
              LF_I("jobs", a->gw.jobs.len));
    log_flush();
    _exit(1);
}

static void on_deadline(void *obj)
{
    struct app *a = OBJ(obj, struct app, APP_TAG);
    switch (a->phase) {
    case PHASE_DRAINING:
        if (a->aborted)
            give_up(a);
        log_warn("drain deadline reached, interrupting what still runs",
                 LF_I("jobs", a->gw.jobs.len));
        abort_jobs(a);
        break;
    case PHASE_FLUSHING:
        begin_closing(a);
        break;
    case PHASE_CLOSING:
        close_when_sent(a);
        break;
    case PHASE_SERVING:
    case PHASE_STOPPING:
        break;
    }
}

static void on_stop_signal(evutil_socket_t sig, short what, void *ctx)
{
    struct app *a = OBJ(ctx, struct app, APP_TAG);
    (void)what;
    if (a->phase == PHASE_SERVING) {
        a->phase = PHASE_DRAINING;
        log_info("stopping: no new work, running turns may finish", LF_I("signal", sig),
                 LF_I("jobs", a->gw.jobs.len));
        http_server_drain(a->gw.server);
        timer_set(&a->deadline, a->conf->server.drain_timeout * 1000);
        gateway_drain(&a->gw, on_jobs_done, a);
    } else if (a->phase == PHASE_DRAINING && !a->aborted) { /* asked twice: do not wait */
        abort_jobs(a);
    }
}

static void on_hup(evutil_socket_t sig, short what, void *ctx)
{
    struct err err;
    (void)sig;
    (void)what;
    (void)ctx;
    if (log_reopen(&err) != 0)
        log_error("log files could not be reopened", LF_S("error", err.msg));
    else
        log_info("log files reopened");
}

static struct event *on_signal(struct app *a, int sig, event_callback_fn fn)
{
    struct event *ev = evsignal_new(loop_base(a->loop), sig, fn, a);
    BUG_ON(!ev || event_add(ev, NULL) != 0);
    return ev;
}

static void watch_signals(struct app *a)
{
    a->sig_term = on_signal(a, SIGTERM, on_stop_signal);
    a->sig_int = on_signal(a, SIGINT, on_stop_signal);
    a->sig_hup = on_signal(a, SIGHUP, on_hup);
    timer_init(&a->deadline, a->loop, on_deadline, a);
}

/* --- the words at the start -------------------------------------------------------------- */

static void print_banner(const struct app *a)
{
    const char *address = http_server_address(a->gw.server);
    bool first = a->first.key[0] != '\0', local = str_starts(str_c(address), "unix:");
    const struct sandbox_status *box = sandbox_status(a->gw.sandbox);
    printf("\nclaudegate %s on %s%s (claude %s, upstream: %s)\n", CG_VERSION,
           local ? "" : "http://", address, a->claude_version, a->gw.upstream_kind);
    printf("Sandbox of the claude processes: %s%s%s\n", box->summary, box->reason[0] ? "; " : "",
           box->reason);
    if (a->standin)
        printf("\nDEMO MODE: no Anthropic credential is configured. Answers come from a built-in "
               "demo\nupstream, not from Claude. Set ANTHROPIC_API_KEY and start again to serve "
               "for real.\n");
    if (first)
        printf(
            "\nFirst start. Shown only now:\n"
            "  administrator  admin / %s\n"
            "  API key        %s\n"
            "                 (yours: for answers of any length; others begin with fewer rights)\n",
            a->first.admin_password, a->first.key);
    else if (a->opts->bootstrap)
        printf("\nThe first API key was shown at the first start. Make another with:\n"
               "  claudegate key create --name NAME\n");
    printf("\nTry it:\n"
           "  curl %s%s%s/api/chat -H 'Authorization: Bearer %s' \\\n"
           "    -H 'Content-Type: application/json' -d '{\"message\":\"Hello\"}'\n\n",
           local ? "--unix-socket " : "http://", local ? address + strlen("unix:") : address,
           local ? " http://localhost" : "", first ? a->first.key : "YOUR_KEY");
    if (!local)
        printf("The whole API: http://%s/docs\n\n", address);
    fflush(stdout);
}

static void free_event(struct event **ev)
{
    if (*ev)
        event_free(*ev);
    *ev = NULL;
}

static void close_all(struct app *a)
{
    struct gateway *g = &a->gw;
    http_server_free(a->control);
    http_server_free(g->server);
    gateway_stop(g);
    workspaces_stop(g->workspaces);
    pool_free(g->pool);
    sandbox_free(g->sandbox);
    throttle_free(g->throttle);
    auth_free(g->auth);
    inflight_close(g->inflight);
    if (g->journal)
        journal_close(g->journal);
    if (g->db)
        db_close(g->db);
    workspaces_free(g->workspaces);
    replays_free(g->replays);
    sessions_free(g->sessions);
    limits_free(g->limits);
    prices_free(g->prices);
    shared_close(g->shared);
    vault_free(g->vault);
    networks_free(g->proxies);
    zone_free(a->zone);
    upstream_free(a->upstream);
    standin_free(a->standin);
    free_event(&a->sig_term);
    free_event(&a->sig_int);
    free_event(&a->sig_hup);
    timer_release(&a->deadline);
    log_set_loop(NULL);
    loop_free(a->loop);
    metrics_reset();
    cli_decode_forget();
    free(a->claude_bin);
    free(a->claude_version);
    if (a->run_dir)
        rmdir(a->run_dir); /* empty by now; it may stand in a temporary directory */
    free(a->run_dir);
    if (a->lock_fd >= 0)
        close(a->lock_fd);
    explicit_bzero(a->first.key, sizeof(a->first.key));
    explicit_bzero(a->first.admin_password, sizeof(a->first.admin_password));
}

static void serve(struct app *a)
{
    watch_signals(a);
    log_info("ready", LF_S("address", http_server_address(a->gw.server)),
             LF_S("version", CG_VERSION), LF_S("claude", a->claude_version),
             LF_S("upstream", a->gw.upstream_kind), LF_I("max_workers", a->conf->pool.max_workers));
    log_set_loop(a->loop);
    print_banner(a);
    loop_run(a->loop);
    log_info("stopped");
}

int app_run(const struct app_opts *opts)
{
    struct err err;
    struct app a = {.tag = APP_TAG, .opts = opts, .conf = opts->conf, .lock_fd = -1};
    a.loop = loop_new();
    a.gw.tag = GATEWAY_TAG;
    a.gw.loop = a.loop;
    a.gw.conf = opts->conf;
    a.gw.started_wall_ms = clock_wall_ms();
    list_init(&a.gw.jobs);
    int status = 0;
    if (open_all(&a, &err) == 0) {
        serve(&a);
    } else {
        log_error("cannot start", LF_S("error", err.msg));
        fprintf(stderr, "claudegate: %s\n", err.msg);
        status = 1;
    }
    if (status != 0 && a.gw.pool) { /* the listener failed: the first spare is already starting */
        pool_stop(a.gw.pool, on_pool_stopped, &a);
        loop_run(a.loop);
    }
    close_all(&a);
    log_close();
    return status;
}
