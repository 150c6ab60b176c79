/* fake_claude.c - a stand-in for the claude program: its stream-json protocol without a model,
 * deterministic, fast, and able to fail in every way on demand (fake_script.c lists them).
 *
 *   fake-claude -p --input-format stream-json --output-format stream-json --verbose ...
 *   fake-claude --version
 *   fake-claude --read-count FILE      the counters of FAKE_COUNT as JSON
 *
 * Environment, read at start:
 *   FAKE_SCRIPT          file with an array of steps
 *   FAKE_LOG, FAKE_COUNT see fake_log.c; FAKE_TURNS see fake_ledger.c
 *   FAKE_UPSTREAM=1      turns go to ANTHROPIC_UNIX_SOCKET / ANTHROPIC_BASE_URL (fake_upstream.c)
 *   FAKE_SLOW_START_MS   stdin is not read before
 *   FAKE_EXIT_AT_START   exit code to leave with at once
 *   FAKE_LATER           a step's `later`, from the start on
 *   FAKE_STDERR          text written to stderr at start
 *   FAKE_MCP_TWICE=1     two MCP client instances per server, as sometimes seen
 *   FAKE_NO_INJECTION=1  history lines are acknowledged and forgotten
 *   FAKE_NO_BOUNDARY=1   boundary lines are ignored
 *
 * FAKE_UPSTREAM=1 is needed where somebody looks at the requests (relay_begin_trial()). --resume
 * reads HOME as the real program does (fake_resume.c).
 *
 * One loop round: wait, read stdin, act, write once. In the default mode a turn is made in the
 * round that read its line. */
#include "fake.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define READ_SIZE 262144

static struct fake fake; /* one per process; static so that leak checkers reach all of it */
static volatile sig_atomic_t got_term, got_hup, got_int;
static volatile sig_atomic_t idle; /* in a plain read(): a signal ends the process where it is */
static int wake_fd = -1;

noreturn void fake_exit(struct fake *f, int code)
{
    f->split_bytes = 0;
    out_flush(f, true);
    exit(code);
}

noreturn void fake_die(struct fake *f, const char *fmt, ...)
{
    va_list ap;
    out_flush(f, true);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    exit(1);
}

const char *fake_env(struct fake *f, const char *name)
{
    const json_t *live = json_object_get(f->env, name);
    const char *v = live ? json_string_value(live) : getenv(name);
    return v && v[0] ? v : NULL;
}

/* ---- arguments ---- */

static const char *option(int argc, char **argv, const char *name)
{
    size_t n = strlen(name);
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], name, n) != 0)
            continue;
        if (argv[i][n] == '=')
            return argv[i] + n + 1;
        if (argv[i][n] == '\0')
            return i + 1 < argc ? argv[i + 1] : "";
    }
    return NULL;
}

static bool is(const char *value, const char *wanted)
{
    return value && strcmp(value, wanted) == 0;
}

static void check_arguments(int argc, char **argv)
{
    bool print = option(argc, argv, "-p") || option(argc, argv, "--print");
    const char *wrong = NULL;
    if (!is(option(argc, argv, "--input-format"), "stream-json"))
        wrong = "fake-claude: only --input-format=stream-json is faked";
    else if (!is(option(argc, argv, "--output-format"), "stream-json"))
        wrong = "Error: --input-format=stream-json requires output-format=stream-json.";
    else if (!print)
        wrong = "fake-claude: needs -p";
    else if (!option(argc, argv, "--verbose"))
        wrong = "Error: When using --print, --output-format=stream-json requires --verbose";
    if (wrong) {
        fprintf(stderr, "%s\n", wrong);
        exit(1);
    }
}

static void read_arguments(struct fake *f, int argc, char **argv)
{
    const char *model = option(argc, argv, "--model"),
               *mode = option(argc, argv, "--permission-mode"),
               *system = option(argc, argv, "--system-prompt"),
               *append = option(argc, argv, "--append-system-prompt");
    snprintf(f->model, sizeof(f->model), "%s", model ? model : "claude-opus-4-8[1m]");
    snprintf(f->mode, sizeof(f->mode), "%s", mode ? mode : "default");
    f->may_bypass = option(argc, argv, "--dangerously-skip-permissions") ||
                    option(argc, argv, "--allow-dangerously-skip-permissions");
    f->system_prompt = system ? x_strdup(system) : NULL;
    f->append_prompt = append ? x_strdup(append) : NULL;
}

/* ---- start ---- */

static void on_signal(int sig)
{
    if (idle && !(sig == SIGTERM && fake.ignore_sigterm))
        _exit(sig == SIGINT ? 0 : 128 + sig);
    if (sig == SIGTERM)
        got_term = 1;
    else if (sig == SIGHUP)
        got_hup = 1;
    else
        got_int = 1;
    ssize_t n = write(wake_fd, &(uint64_t){1}, sizeof(uint64_t)); /* or ppoll() might sleep on */
    (void)n;
}

void fake_nap(struct fake *f, int64_t ms)
{
    idle = 1;
    for (int64_t until = clock_mono_ms() + ms; clock_mono_ms() < until;)
        usleep(1000);
    idle = 0;
    f->now = clock_mono_us();
}

static void catch_signals(void)
{
    static const int caught[] = {SIGTERM, SIGHUP, SIGINT};
    wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    for (size_t i = 0; i < ARRAY_SIZE(caught); i++) {
        struct sigaction sa = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
        sigaction(caught[i], &sa, NULL);
    }
    signal(SIGPIPE, SIG_IGN);
}

static uint64_t env_number(const char *name, uint64_t fallback)
{
    uint64_t n = fallback;
    const char *text = getenv(name);
    return text && str_to_u64(str_c(text), &n) ? n : fallback;
}

static void init_buffers(struct fake *f)
{
    struct turn *t = &f->turn;
    struct buf *all[] = {&f->out,  &f->tmp,       &f->init_head, &f->in,        &t->answer,
                         &t->made, &t->msg.usage, &t->msg.text,  &t->msg.input, &t->msg.signature};
    for (size_t i = 0; i < ARRAY_SIZE(all); i++)
        buf_init(all[i], FAKE_MAX_BYTES);
}

static void init_state(struct fake *f)
{
    const char *no_prefix = getenv("CLAUDE_AGENT_SDK_MCP_NO_PREFIX");
    init_buffers(f);
    list_init(&f->queue);
    list_init(&f->history);
    id_init();
    id_uuid(f->session_id);
    f->now = clock_mono_us();
    f->env = json_object();
    f->settings = json_object();
    f->seen_uuids = json_object();
    f->thinking = -1;
    f->init_stale = true;
    f->no_prefix = no_prefix && no_prefix[0];
    f->mcp_twice = env_number("FAKE_MCP_TWICE", 0) != 0;
    f->no_injection = env_number("FAKE_NO_INJECTION", 0) != 0;
    f->no_boundary = env_number("FAKE_NO_BOUNDARY", 0) != 0;
    f->use_upstream = env_number("FAKE_UPSTREAM", 0) != 0;
    f->read_after = f->now + (int64_t)env_number("FAKE_SLOW_START_MS", 0) * 1000;
    if (!getcwd(f->cwd, sizeof(f->cwd)))
        f->cwd[0] = '\0';
}

static void later_from_env(struct fake *f, const char *text)
{
    struct later later;
    struct err err = {0};
    json_t *src = json_parse(str_c(text), &err);
    if (!src || later_read(src, &later, &err) != 0) {
        fprintf(stderr, "fake-claude: FAKE_LATER: %s\n", err.msg);
        exit(2);
    }
    fault_arm(f, src);
    json_decref(src);
}

static void faults_at_start(struct fake *f)
{
    const char *text = getenv("FAKE_STDERR"), *path = getenv("FAKE_SCRIPT"),
               *later = getenv("FAKE_LATER");
    if (text && write(STDERR_FILENO, text, strlen(text)) < 0)
        exit(1);
    if (later && later[0])
        later_from_env(f, later);
    if (getenv("FAKE_EXIT_AT_START"))
        exit((int)env_number("FAKE_EXIT_AT_START", 1));
    if (!path || !path[0])
        return;
    script_open(f, path);
    const struct step *first = script_peek(f);
    if (first && first->exit_at == P_START) {
        f->turn.step = *first;
        turn_point(f, P_START);
    }
}

static void open_files(struct fake *f)
{
    const char *count = getenv("FAKE_COUNT");
    int rc = count && count[0] ? count_open(count) : 0;
    if (rc != 0)
        fake_die(f, "fake-claude: FAKE_COUNT '%s': %s", count, strerror(rc));
    record_open(f);
    int flags = fcntl(STDOUT_FILENO, F_GETFL);
    if (flags >= 0)
        fcntl(STDOUT_FILENO, F_SETFL, flags | O_NONBLOCK);
}

/* ---- the loop ---- */

static void handle_signals(struct fake *f)
{
    if (got_term && !f->ignore_sigterm)
        exit(143);
    if (got_hup)
        exit(129);
    if (got_int) {
        if (f->turn.stream_us)
            turn_interrupt(f, false, NULL);
        fake_exit(f, 0);
    }
}

static void end_of_input(struct fake *f)
{
    f->eof = true;
    input_last(f);
}

static void took_input(struct fake *f, size_t n);

static void read_stdin(struct fake *f)
{
    if (!buf_reserve(&f->in, READ_SIZE))
        fake_die(f, "fake-claude: a line is longer than %u bytes", FAKE_MAX_BYTES);
    ssize_t n = read(STDIN_FILENO, f->in.data + f->in.len, READ_SIZE);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (n <= 0)
        end_of_input(f);
    else
        took_input(f, (size_t)n);
}

/* Handles new bytes. A pipe gives at most what it holds: after a full one there may be more, and
 * all that can be read comes before the queue runs. */
static void took_input(struct fake *f, size_t n)
{
    struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
    buf_grow_len(&f->in, n);
    input_lines(f);
    if (n >= 4096 && !f->hung && f->input_rounds++ < 64 && poll(&p, 1, 0) == 1)
        read_stdin(f);
    f->input_rounds = 0;
}

static int64_t sooner(int64_t a, int64_t b)
{
    return a < 0 ? b : b < 0 ? a : a < b ? a : b;
}

/* The moment of the next thing to do by time, -1 = none. */
static int64_t next_wake(const struct fake *f)
{
    int64_t wake = turn_wake(f);
    if (f->read_after > f->now)
        wake = sooner(wake, f->read_after);
    if (out_pending(f) && f->split_bytes > 0)
        wake = sooner(wake, f->out_wake);
    if (f->hung_until)
        wake = sooner(wake, f->hung_until);
    return wake;
}

/* Nothing but a line on stdin can happen next: one system call less than with ppoll(). */
static bool only_stdin_matters(const struct fake *f)
{
    return !turn_busy(f) && !out_pending(f) && !f->upstream && !f->eof && !f->hung &&
           !f->stdin_nonblock && f->read_after <= f->now;
}

static void wait_for_line(struct fake *f)
{
    if (!buf_reserve(&f->in, READ_SIZE))
        fake_die(f, "fake-claude: a line is longer than %u bytes", FAKE_MAX_BYTES);
    idle = 1;
    handle_signals(f); /* what came before idle was set */
    ssize_t n = read(STDIN_FILENO, f->in.data + f->in.len, READ_SIZE);
    idle = 0;
    f->now = clock_mono_us();
    if (n < 0 && errno == EAGAIN)
        f->stdin_nonblock = true;
    else if (n <= 0)
        end_of_input(f);
    else
        took_input(f, (size_t)n);
}

/* ppoll() until `wake`, -1 = for ever. Returns how many of p are ready. */
static int wait_until(struct pollfd *p, int n, int64_t wake)
{
    int64_t us = wake - clock_mono_us();
    struct timespec ts = {.tv_sec = us > 0 ? us / FAKE_TICK_US : 0,
                          .tv_nsec = us > 0 ? us % FAKE_TICK_US * 1000 : 0};
    int rc = ppoll(p, (nfds_t)n, wake < 0 ? NULL : &ts, NULL);
    return rc < 0 ? 0 : rc;
}

static void wait_for_work(struct fake *f)
{
    struct pollfd p[5] = {{.fd = wake_fd, .events = POLLIN}};
    bool reading = !f->eof && !f->hung && f->read_after <= f->now;
    if (only_stdin_matters(f)) {
        wait_for_line(f);
        return;
    }
    p[1] = (struct pollfd){.fd = reading ? STDIN_FILENO : -1, .events = POLLIN};
    p[2] = (struct pollfd){.fd = out_pending(f) && f->split_bytes == 0 ? STDOUT_FILENO : -1,
                           .events = POLLOUT};
    int up = upstream_polls(f, p + 3);
    int ready = wait_until(p, 3 + up, next_wake(f));
    f->now = clock_mono_us();
    handle_signals(f);
    if (ready && p[1].revents)
        read_stdin(f);
    if (f->upstream)
        upstream_ready(f, p + 3, ready ? up : 0);
}

static void leave_when_done(struct fake *f)
{
    if (f->hung || f->turn.phase == PH_MUTE) {
        f->hung_until = f->hung_until ? f->hung_until : f->now + FAKE_STALL_US;
        if (f->now >= f->hung_until)
            exit(75); /* whoever tested a hang has long gone */
    }
    if (f->hung)
        return;
    if (f->eof && f->out_broken) /* nobody at either end: do not go on flooding */
        exit(0);
    if (f->eof && !turn_busy(f) && (!(f->queue.len || f->captured) || !mcp_ready(f)))
        fake_exit(f, f->last_is_error ? 1 : 0);
}

static noreturn void run(struct fake *f)
{
    for (;;) {
        do
            turn_run(f);
        while (queue_run(f));
        turn_run(f);
        out_flush(f, false);
        leave_when_done(f);
        wait_for_work(f);
    }
}

int main(int argc, char **argv)
{
    const char *count = option(argc, argv, "--read-count");
    if (argc > 1 && (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-v") == 0)) {
        printf(FAKE_VERSION " (Claude Code)\n");
        return 0;
    }
    if (count)
        return count_print(count);
    init_state(&fake);
    faults_at_start(&fake);
    check_arguments(argc, argv);
    read_arguments(&fake, argc, argv);
    catch_signals();
    open_files(&fake);
    if (option(argc, argv, "--resume"))
        resume_load(&fake, option(argc, argv, "--resume"));
    if (fake.use_upstream)
        upstream_preheat(&fake);
    run(&fake);
}
