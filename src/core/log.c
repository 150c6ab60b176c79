/* log.c - formats each line once per shape and appends it to the sinks' buffers. */
#include "core/log.h"

#include "core/buf.h"
#include "core/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#define SINK_MAX ((size_t)4 << 20) /* buffered bytes per file: past that lines are dropped */

enum { SINK_COMBINED, SINK_ERROR, SINK_CONSOLE, SINK_COUNT };

static const char *const level_names[] = {"debug", "info", "warn", "error"};
static const char *const file_names[] = {"combined.log", "error.log"};

static struct {
    enum log_level level;
    char *dir;
    struct loop *loop;
    bool flush_queued;
    struct {
        int fd;    /* -1: closed */
        bool torn; /* the last write ended inside a line */
        struct buf buf;
    } sink[SINK_COUNT];
} lg = {.level = LOG_INFO,
        .sink = {{.fd = -1, .buf = {.max = SINK_MAX}},
                 {.fd = -1, .buf = {.max = SINK_MAX}},
                 {.fd = STDERR_FILENO, .buf = {.max = SINK_MAX}}}};

bool log_level_parse(const char *name, enum log_level *ret_level)
{
    for (size_t i = 0; i < ARRAY_SIZE(level_names); i++) {
        if (strcmp(name, level_names[i]) == 0) {
            *ret_level = (enum log_level)i;
            return true;
        }
    }
    return false;
}

bool log_enabled(enum log_level level)
{
    return level >= lg.level;
}

static int open_file(int sink, struct err *err)
{
    char *path = x_printf("%s/%s", lg.dir, file_names[sink]);
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
    int rc = 0;
    if (fd < 0) {
        rc = err_set(err, ERR_IO, "cannot open log file '%s': %s", path, strerror(errno));
    } else {
        if (lg.sink[sink].fd >= 0)
            close(lg.sink[sink].fd);
        lg.sink[sink].fd = fd;
        lg.sink[sink].torn = false;
    }
    free(path);
    return rc;
}

int log_reopen(struct err *err)
{
    log_flush();
    if (!lg.dir)
        return 0;
    for (int i = SINK_COMBINED; i <= SINK_ERROR; i++) {
        if (open_file(i, err) != 0)
            return -1;
    }
    return 0;
}

int log_open(const struct log_opts *opts, struct err *err)
{
    lg.level = opts->level;
    x_replace(&lg.dir, opts->dir);
    lg.sink[SINK_CONSOLE].fd = opts->console ? STDERR_FILENO : -1;
    if (opts->dir && mkdir(opts->dir, 0750) != 0 && errno != EEXIST)
        return err_set(err, ERR_IO, "cannot create log directory '%s': %s", opts->dir,
                       strerror(errno));
    return log_reopen(err);
}

static void write_sink(int i)
{
    struct buf *b = &lg.sink[i].buf;
    size_t done = 0;
    if (lg.sink[i].torn && lg.sink[i].fd >= 0 && write(lg.sink[i].fd, "\n", 1) == 1)
        lg.sink[i].torn = false; /* what follows is a line of its own again */
    while (done < b->len && lg.sink[i].fd >= 0) {
        ssize_t n = write(lg.sink[i].fd, b->data + done, b->len - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break; /* a full disk must not stop the service */
        done += (size_t)n;
    }
    if (done && b->data[done - 1] != '\n')
        lg.sink[i].torn = true;
    buf_clear(b);
}

void log_flush(void)
{
    for (int i = 0; i < SINK_COUNT; i++) {
        if (lg.sink[i].buf.len)
            write_sink(i);
    }
}

static void flush_later(void *obj)
{
    (void)obj;
    lg.flush_queued = false;
    log_flush();
}

void log_set_loop(struct loop *loop)
{
    log_flush();
    lg.loop = loop;
    lg.flush_queued = false;
}

void log_close(void)
{
    log_flush();
    for (int i = 0; i < SINK_COUNT; i++) {
        if (lg.sink[i].fd > STDERR_FILENO)
            close(lg.sink[i].fd);
        if (i != SINK_CONSOLE)
            lg.sink[i].fd = -1;
        buf_release(&lg.sink[i].buf);
    }
    x_replace(&lg.dir, NULL);
    lg.loop = NULL;
}

static void add_json_value(struct buf *b, const struct log_field *f)
{
    switch (f->type) {
    case LOG_F_STR:
        buf_json_str(b, f->s);
        break;
    case LOG_F_INT:
        buf_int(b, f->i);
        break;
    case LOG_F_REAL:
        if (isfinite(f->d))
            buf_printf(b, "%.6g", f->d);
        else
            buf_adds(b, "null"); /* JSON knows no infinity */
        break;
    case LOG_F_BOOL:
        buf_adds(b, f->i ? "true" : "false");
        break;
    }
}

static void add_json(struct buf *b, const char *when, enum log_level level, const char *msg,
                     va_list ap)
{
    buf_adds(b, "{\"timestamp\":\"");
    buf_adds(b, when);
    buf_adds(b, "\",\"level\":\"");
    buf_adds(b, level_names[level]);
    buf_adds(b, "\",\"message\":");
    buf_json_str(b, str_c(msg));
    for (;;) {
        struct log_field f = va_arg(ap, struct log_field);
        if (!f.key)
            break;
        buf_addc(b, ',');
        buf_json_str(b, str_c(f.key));
        buf_addc(b, ':');
        add_json_value(b, &f);
    }
    buf_adds(b, "}\n");
}

static void add_simple(struct buf *b, const char *when, enum log_level level, const char *msg,
                       va_list ap)
{
    buf_printf(b, "%s %-5s %s", when, level_names[level], msg);
    for (;;) {
        struct log_field f = va_arg(ap, struct log_field);
        if (!f.key)
            break;
        buf_addc(b, ' ');
        buf_adds(b, f.key);
        buf_addc(b, '=');
        add_json_value(b, &f);
    }
    buf_addc(b, '\n');
}

static void append(int sink, const char *when, enum log_level level, const char *msg, va_list ap)
{
    struct buf *b = &lg.sink[sink].buf;
    va_list copy;
    if (lg.sink[sink].fd < 0)
        return;
    size_t before = b->len;
    va_copy(copy, ap);
    if (sink == SINK_CONSOLE)
        add_simple(b, when, level, msg, copy);
    else
        add_json(b, when, level, msg, copy);
    va_end(copy);
    if (!buf_ok(b)) { /* never half a line */
        b->len = before;
        b->overflow = false;
    }
}

void log_write(enum log_level level, const char *msg, ...)
{
    if (!log_enabled(level))
        return;
    char when[CLOCK_RFC3339_SIZE];
    clock_rfc3339(clock_wall_ms(), when);
    va_list ap;
    va_start(ap, msg);
    append(SINK_COMBINED, when, level, msg, ap);
    if (level >= LOG_ERROR)
        append(SINK_ERROR, when, level, msg, ap);
    append(SINK_CONSOLE, when, level, msg, ap);
    va_end(ap);
    if (!lg.loop || level >= LOG_WARN) {
        log_flush();
    } else if (!lg.flush_queued) {
        lg.flush_queued = true;
        loop_defer(lg.loop, flush_later, NULL);
    }
}
