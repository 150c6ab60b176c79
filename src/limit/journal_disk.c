/* journal_disk.c - raised at the first write that is refused, lifted by what can be written again.
 */
#include "limit/journal_disk.h"

#include "core/clock.h"
#include "core/log.h"
#include "metrics/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#define DISK_TAG     TAG4('J', 'D', 'S', 'K')
#define NAME         "usage.reserve"
#define RESERVE      ((off_t)4 << 20) /* some ten thousand rows */
#define LOOK_MS      1000
#define SAY_AGAIN_MS 60000

static struct metric m_full = {
    .name = "claudegate_usage_journal_disk_full",
    .help = "1 while the usage journal cannot be written; see usage.when_disk_is_full.",
    .type = METRIC_GAUGE};

/* errno, or 0. */
static int make_reserve(struct journal_disk *d)
{
    int fd = openat(d->dir->fd, NAME, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    int e = fd < 0 ? errno : posix_fallocate(fd, 0, RESERVE);
    if (fd >= 0)
        close(fd);
    if (e)
        unlinkat(d->dir->fd, NAME, 0); /* half a reserve is somebody else's room */
    return e;
}

static void raise_alarm(struct journal_disk *d, const char *why)
{
    if (d->full)
        return;
    d->full = true;
    d->since_ms = d->said_ms = clock_mono_ms();
    metric_set(&m_full, 1);
    log_error("the disk of the usage journal is full", LF_S("directory", d->dir->path),
              LF_S("error", why));
    timer_set(&d->look, LOOK_MS);
}

static void say_again(struct journal_disk *d)
{
    int64_t now = clock_mono_ms();
    if (now - d->said_ms < SAY_AGAIN_MS)
        return;
    d->said_ms = now;
    log_error("the disk of the usage journal is still full", LF_S("directory", d->dir->path),
              LF_I("seconds", (now - d->since_ms) / 1000));
}

static void on_look(void *obj)
{
    struct journal_disk *d = OBJ(obj, struct journal_disk, DISK_TAG);
    bool saved = d->save(d->ctx);
    if (!saved || make_reserve(d) != 0) {
        say_again(d);
        timer_set(&d->look, LOOK_MS);
        return;
    }
    d->full = false;
    metric_set(&m_full, 0);
    log_info("the usage journal can be written again",
             LF_I("seconds", (clock_mono_ms() - d->since_ms) / 1000));
}

void journal_disk_open(struct journal_disk *d, struct loop *loop, struct segment_dir *dir,
                       journal_save_fn *save, void *ctx)
{
    *d = (struct journal_disk){.tag = DISK_TAG, .dir = dir, .save = save, .ctx = ctx};
    timer_init(&d->look, loop, on_look, d);
    metric_register(&m_full);
    metric_set(&m_full, 0);
    int e = make_reserve(d);
    if (e)
        raise_alarm(d, strerror(e));
}

void journal_disk_close(struct journal_disk *d)
{
    if (d->tag)
        timer_release(&d->look);
    d->tag = 0;
}

bool journal_disk_refused(struct journal_disk *d, const struct err *why)
{
    bool freed = unlinkat(d->dir->fd, NAME, 0) == 0;
    raise_alarm(d, why->msg);
    return freed;
}
