/* child.c - one line-speaking process on the loop.
 *
 * Two events end a child, EOF on stdout and the exit seen through its pidfd, in either order:
 *
 *                  EOF          EXIT
 *   RUNNING     -> AWAIT_EXIT   AWAIT_EOF (deadline)
 *   AWAIT_EOF   -> DONE         -
 *   AWAIT_EXIT  -> -            DONE
 *
 * At the exit the whole group gets SIGKILL before the leader is reaped: until then its pid pins
 * the group's number, and whatever it left behind would hold the pipe and our memory. */
#include "child/child.h"

#include "child/spawn.h"
#include "core/clock.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHILD_TAG   TAG4('C', 'H', 'L', 'D')
#define READ_CHUNK  65536
#define READ_TURNS  8 /* chunks per wake-up: one loud child must not starve the loop */
#define PIPE_SIZE   (1 << 20)
#define LINE_KEEP   ((size_t)16 << 10)
#define DRAIN_TURNS 64 /* chunks once it has ended: more than a pipe of the usual size holds */

enum child_state { CHILD_RUNNING, CHILD_AWAIT_EOF, CHILD_AWAIT_EXIT, CHILD_DONE };

struct child {
    uint32_t tag;
    struct loop *loop;
    const struct child_ops *ops;
    void *ctx;
    enum child_state state;
    pid_t pid;
    int pidfd, in, out, errfd;
    struct event *ev_out, *ev_in, *ev_err, *ev_exit;
    struct timer eof_timer, kill_timer;
    int64_t eof_deadline_ms;
    struct buf line;  /* the beginning of a line */
    struct buf queue; /* towards stdin */
    struct buf tail;  /* end of stderr */
    size_t tail_max;
    struct child_exit how;
    bool reaped, overflowed;
};

static void free_event(struct event **ev)
{
    if (*ev)
        event_free(*ev);
    *ev = NULL;
}

static void close_stdin(struct child *c)
{
    free_event(&c->ev_in);
    close_fd(&c->in);
    buf_release(&c->queue);
}

static void close_output(struct child *c)
{
    free_event(&c->ev_out);
    close_fd(&c->out);
}

static void drain_stderr(struct child *c, int turns)
{
    char chunk[4096];
    for (int i = 0; i < turns; i++) {
        ssize_t n = read(c->errfd, chunk, sizeof(chunk));
        if (n <= 0) {
            if (n == 0)
                free_event(&c->ev_err);
            return;
        }
        size_t len = (size_t)n, skip = len > c->tail_max ? len - c->tail_max : 0;
        if (c->tail.len + len - skip > c->tail_max)
            buf_consume(&c->tail, c->tail.len + len - skip - c->tail_max);
        buf_add(&c->tail, chunk + skip, len - skip);
    }
}

static void finish(struct child *c)
{
    c->state = CHILD_DONE;
    timer_stop(&c->eof_timer);
    timer_stop(&c->kill_timer);
    if (c->ev_err)
        drain_stderr(c, DRAIN_TURNS);
    free_event(&c->ev_err);
    close_output(c);
    close_stdin(c);
    close_fd(&c->errfd);
    c->how.stderr_tail = buf_str(&c->tail);
    c->ops->ended(c->ctx, &c->how);
}

static void on_eof(struct child *c)
{
    close_output(c);
    if (c->state == CHILD_RUNNING) {
        c->state = CHILD_AWAIT_EXIT;
        if (!timer_pending(&c->kill_timer)) /* deaf and mute: no use waiting for ever */
            timer_set(&c->kill_timer, c->eof_deadline_ms);
    } else if (c->state == CHILD_AWAIT_EOF) {
        finish(c);
    }
}

static void on_eof_deadline(void *obj)
{
    struct child *c = OBJ(obj, struct child, CHILD_TAG);
    c->how.output_cut = true;
    on_eof(c);
}

static void overflow(struct child *c)
{
    c->overflowed = true;
    free_event(&c->ev_out);
    c->ops->overflow(c->ctx);
}

/* Hands out whole lines, straight from where they were read unless one came in parts. The callback
 * may stop the child or write to it, not free it. */
static void deliver_lines(struct child *c, struct str bytes)
{
    while (bytes.len && c->state != CHILD_DONE && !c->overflowed) {
        const char *nl = memchr(bytes.p, '\n', bytes.len);
        struct str part = str_n(bytes.p, nl ? (size_t)(nl - bytes.p) : bytes.len);
        bool joined = !nl || c->line.len;
        if (part.len > c->line.max - c->line.len) {
            overflow(c);
            return;
        }
        if (joined)
            buf_addstr(&c->line, part);
        if (!nl)
            return;
        c->ops->line(c->ctx, joined ? buf_str(&c->line) : part);
        if (joined && c->line.cap > LINE_KEEP) /* after a giant line */
            buf_release(&c->line);
        buf_clear(&c->line);
        bytes = str_n(nl + 1, bytes.len - part.len - 1);
    }
}

/* One read; false when there is nothing more for now. All children share the place it goes to: of
 * thousands most have nothing unread, and reads never nest. */
static bool read_some(struct child *c)
{
    static char chunk[READ_CHUNK];
    ssize_t n = read(c->out, chunk, sizeof(chunk));
    if (n > 0) {
        deliver_lines(c, str_n(chunk, (size_t)n));
        return (size_t)n == sizeof(chunk) && !c->overflowed;
    }
    if (n == 0 || (errno != EAGAIN && errno != EINTR))
        on_eof(c);
    return false;
}

static void on_readable(evutil_socket_t fd, short what, void *ctx)
{
    struct child *c = OBJ(ctx, struct child, CHILD_TAG);
    (void)fd;
    (void)what;
    for (int i = 0; i < READ_TURNS && c->out >= 0; i++) {
        if (!read_some(c))
            return;
    }
}

static void on_stderr(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd;
    (void)what;
    drain_stderr(OBJ(ctx, struct child, CHILD_TAG), READ_TURNS);
}

static void reap(struct child *c)
{
    siginfo_t si = {0};
    kill(-c->pid, SIGKILL);
    if (waitid(P_PIDFD, (id_t)c->pidfd, &si, WEXITED) == 0) {
        c->how.signaled = si.si_code != CLD_EXITED;
        c->how.code = si.si_status;
    }
    c->reaped = true;
    free_event(&c->ev_exit);
    close_fd(&c->pidfd);
}

static void on_exit_seen(evutil_socket_t fd, short what, void *ctx)
{
    struct child *c = OBJ(ctx, struct child, CHILD_TAG);
    (void)fd;
    (void)what;
    reap(c);
    if (c->state == CHILD_AWAIT_EXIT || c->overflowed) {
        finish(c);
        return;
    }
    c->state = CHILD_AWAIT_EOF;
    timer_set(&c->eof_timer, c->eof_deadline_ms);
}

static void flush_stdin(struct child *c)
{
    size_t done = 0;
    while (done < c->queue.len) {
        ssize_t n = write(c->in, c->queue.data + done, c->queue.len - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN) { /* EPIPE: its exit will tell */
            close_stdin(c);
            return;
        }
        if (n < 0)
            break;
        done += (size_t)n;
    }
    buf_consume(&c->queue, done);
    if (c->queue.len)
        event_add(c->ev_in, NULL);
}

static void on_writable(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd;
    (void)what;
    flush_stdin(OBJ(ctx, struct child, CHILD_TAG));
}

int child_write(struct child *c, struct str data, struct err *err)
{
    if (c->in < 0)
        return 0;
    if (data.len > c->queue.max - c->queue.len)
        return err_set(err, ERR_TOO_LARGE, "too much is queued for the process's input");
    bool idle = c->queue.len == 0;
    buf_add(&c->queue, data.p, data.len);
    if (idle)
        flush_stdin(c);
    return 0;
}

size_t child_write_pending(const struct child *c)
{
    return c->queue.len;
}

void child_signal(struct child *c, int sig)
{
    if (!c->reaped)
        kill(-c->pid, sig);
}

static void on_kill_timer(void *obj)
{
    child_signal(OBJ(obj, struct child, CHILD_TAG), SIGKILL);
}

void child_stop(struct child *c, int64_t grace_ms)
{
    if (c->reaped || timer_pending(&c->kill_timer))
        return;
    child_signal(c, SIGTERM);
    child_signal(c, SIGCONT); /* a stopped process cannot act on SIGTERM */
    timer_set(&c->kill_timer, grace_ms);
}

pid_t child_pid(const struct child *c)
{
    return c->pid;
}

/* Only looks: the exit is reaped where its event is handled. */
bool child_alive(const struct child *c)
{
    struct pollfd p = {.fd = c->pidfd, .events = POLLIN};
    return !c->reaped && poll(&p, 1, 0) == 0;
}

struct str child_stderr_tail(const struct child *c)
{
    return buf_str(&c->tail);
}

static struct event *watch(struct child *c, int fd, short what, event_callback_fn fn)
{
    struct event *ev = event_new(loop_base(c->loop), fd, what, fn, c);
    BUG_ON(!ev);
    return ev;
}

struct child *child_spawn(struct loop *loop, const struct child_opts *opts, struct err *err)
{
    struct spawn_opts so = {opts->argv, opts->envp, opts->cwd, opts->confine};
    struct spawned sp;
    if (spawn_process(&so, &sp, err) != 0)
        return NULL;
    struct child *c = x_calloc(1, sizeof(*c));
    *c = (struct child){.tag = CHILD_TAG,
                        .loop = loop,
                        .ops = opts->ops,
                        .ctx = opts->ctx,
                        .pid = sp.pid,
                        .pidfd = sp.pidfd,
                        .in = sp.in,
                        .out = sp.out,
                        .errfd = sp.errfd,
                        .eof_deadline_ms = opts->eof_deadline_ms,
                        .tail_max = opts->stderr_tail};
    fcntl(c->in, F_SETPIPE_SZ, PIPE_SIZE); /* best effort: fewer wake-ups for large lines */
    fcntl(c->out, F_SETPIPE_SZ, PIPE_SIZE);
    buf_init(&c->line, opts->line_max);
    buf_init(&c->queue, opts->stdin_max);
    buf_init(&c->tail, opts->stderr_tail);
    timer_init(&c->eof_timer, loop, on_eof_deadline, c);
    timer_init(&c->kill_timer, loop, on_kill_timer, c);
    c->ev_out = watch(c, c->out, EV_READ | EV_PERSIST, on_readable);
    c->ev_err = watch(c, c->errfd, EV_READ | EV_PERSIST, on_stderr);
    c->ev_in = watch(c, c->in, EV_WRITE, on_writable);
    c->ev_exit = watch(c, c->pidfd, EV_READ, on_exit_seen);
    event_add(c->ev_out, NULL);
    event_add(c->ev_err, NULL);
    event_add(c->ev_exit, NULL);
    return c;
}

static void destroy(void *obj)
{
    struct child *c = obj;
    timer_release(&c->eof_timer);
    timer_release(&c->kill_timer);
    buf_release(&c->line);
    buf_release(&c->queue);
    buf_release(&c->tail);
    c->tag = 0;
    free(c);
}

void child_free(struct child *c)
{
    if (!c)
        return;
    BUG_ON(c->state != CHILD_DONE);
    loop_defer(c->loop, destroy, c);
}
