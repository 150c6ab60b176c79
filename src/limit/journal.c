/* journal.c - when rows are written, synced, sent to the database and dropped.
 *
 *   journal_append -> active segment -> closed (FIFO) -> sending (one) -> unlinked
 *
 * The active segment is closed when it is full, or when it is its turn to be sent. Segments found
 * at start, and those filled while MEMORY_ROWS were held already, are not in memory: their file is
 * read when their turn comes.
 *
 * When the database refuses a segment it stays at the head and is tried again with back-off. If
 * the reason was not ERR_UNAVAILABLE one bad row may be to blame: the next try sends row by row,
 * and when the database then shows that it works (it took other rows, or answers a query about
 * them) once more. Only rows refused even then are moved to usage.rejected, whose lines can be
 * replayed by hand as usage-<number>.journal. */
#include "limit/journal.h"

#include "core/log.h"
#include "limit/journal_disk.h"
#include "metrics/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#define JOURNAL_TAG TAG4('J', 'R', 'N', 'L')
#define SENDING_TAG TAG4('J', 'S', 'N', 'D')
#define LOAD_TAG    TAG4('J', 'L', 'D', 'R')
#define SYNC_TAG    TAG4('J', 'S', 'Y', 'N')

#define BATCH_MS            250
#define SYNC_MS             1000
#define RETRY_MIN_MS        1000
#define RETRY_MAX_MS        30000
#define MEMORY_ROWS         50000  /* more than this are kept in the files only */
#define MEMORY_ROWS_IN_NEED 100000 /* rows the disk has refused; past that they are lost */
#define SYNC_FDS            64

static struct metric m_pending = {.name = "claudegate_usage_journal_pending",
                                  .help = "Usage rows that are not in the database yet.",
                                  .type = METRIC_GAUGE};
static struct metric m_dropped = {
    .name = "claudegate_usage_dropped_total",
    .help = "Usage rows that will not reach the database; anything above 0 needs a look.",
    .type = METRIC_COUNTER};
static struct metric m_written = {.name = "claudegate_usage_written_total",
                                  .help = "Usage rows written to the database.",
                                  .type = METRIC_COUNTER};

/* A segment on its way to the database. Outlives journal_close() when the database is slow. */
struct sending {
    uint32_t tag;
    struct journal *j; /* NULL: closed meanwhile */
    struct segment *seg;
    char *path; /* of the segment, once j is NULL */
    bool row_by_row;
    size_t next;   /* row by row: the row in flight */
    bool *refused; /* row by row: per row */
    size_t refused_count;
    struct err first_err; /* row by row */
};

struct flush {
    struct node node;
    size_t left;   /* segments to be sent before it is done ... */
    uint64_t upto; /* ... all of those with this number or a lower one */
    store_done_fn *done;
    void *ctx;
};

struct journal {
    uint32_t tag;
    struct loop *loop;
    struct db *db;
    struct work *work;
    struct segment_dir dir;
    uint64_t next_number;
    struct segment *active;
    struct list closed;
    struct segment *loading;
    struct sending *sending;
    struct list dirty; /* segments to fdatasync */
    bool syncing, any_unsaved;
    struct journal_disk disk;
    size_t pending, in_memory; /* rows */
    int64_t retry_ms;          /* 0: the last try went well */
    struct list flushes;
    struct timer next_try, sync, notify;
    struct buf line;
    bool closing;
};

static void send_next(struct journal *j);
static void mark_dirty(struct journal *j, struct segment *seg);

/* --- segments ---------------------------------------------------------------------------- */

static size_t rows_held(const struct segment *seg)
{
    return seg->rows ? seg->count : 0;
}

static void close_file(struct segment *seg)
{
    if (seg->fd >= 0)
        close(seg->fd);
    seg->fd = -1;
}

/* All its rows are in the database, or lost; the file goes. */
static void retire(struct journal *j, struct segment *seg)
{
    segment_unlink(seg);
    list_remove(&j->dirty, &seg->dirty_node);
    j->in_memory -= rows_held(seg);
    j->pending -= seg->count;
    segment_free(seg);
}

static struct segment *get_active(struct journal *j)
{
    if (!j->active)
        j->active = segment_new(&j->dir, j->next_number++, j->in_memory < MEMORY_ROWS);
    return j->active;
}

static void close_active(struct journal *j)
{
    struct segment *seg = TAKE_PTR(j->active);
    if (!seg)
        return;
    if (!seg->count) {
        retire(j, seg);
        return;
    }
    if (!node_linked(&seg->dirty_node) && !seg->unsaved)
        close_file(seg);
    list_push_back(&j->closed, &seg->node);
}

static void set_aside(struct journal *j, struct str lines, size_t count, const char *why)
{
    struct err err = {0};
    metric_add(&m_dropped, (double)count);
    if (segment_dir_reject(&j->dir, lines, &err) != 0)
        log_error("usage rows lost", LF_I("rows", count), LF_S("reason", why),
                  LF_S("error", err.msg));
    else
        log_error("usage rows moved to usage.rejected", LF_I("rows", count), LF_S("reason", why));
}

static bool idle(const struct journal *j)
{
    return !j->sending && !j->loading && !j->closing;
}

/* --- flush ------------------------------------------------------------------------------- */

static void end_flush(struct journal *j, struct flush *f, const struct err *err)
{
    list_remove(&j->flushes, &f->node);
    f->done(f->ctx, err);
    free(f);
}

static void on_notify(void *obj)
{
    struct journal *j = OBJ(obj, struct journal, JOURNAL_TAG);
    for (size_t n = j->flushes.len; n > 0 && j->flushes.len; n--) {
        struct flush *f = container_of(list_first(&j->flushes), struct flush, node);
        if (f->left)
            break; /* a later one does not wait for less */
        end_flush(j, f, NULL);
    }
}

/* One segment less to wait for. */
static void count_down_flushes(struct journal *j, uint64_t number)
{
    LIST_EACH(&j->flushes, n)
    {
        struct flush *f = container_of(n, struct flush, node);
        if (f->left && number <= f->upto && --f->left == 0)
            timer_set(&j->notify, 0);
    }
}

void journal_flush(struct journal *j, store_done_fn *done, void *ctx)
{
    close_active(j);
    struct flush *f = x_calloc(1, sizeof(*f));
    f->done = done;
    f->ctx = ctx;
    f->upto = j->next_number - 1;
    f->left = j->closed.len + (j->sending != NULL) + (j->loading != NULL);
    list_push_back(&j->flushes, &f->node);
    if (!f->left)
        timer_set(&j->notify, 0);
    else if (j->closed.len && idle(j)) {
        timer_stop(&j->next_try);
        send_next(j);
    }
}

/* --- to the database --------------------------------------------------------------------- */

/* Something may have become ready to be sent. */
static void schedule(struct journal *j)
{
    if (!idle(j) || (timer_pending(&j->next_try) && (j->retry_ms || !j->closed.len)))
        return;
    if (j->closed.len)
        send_next(j);
    else if (j->active)
        timer_set(&j->next_try, BATCH_MS);
}

static void sending_free(struct sending *s)
{
    free(s->refused);
    free(s->path);
    s->tag = 0;
    free(s);
}

/* The segment has no rows left to send. */
static void finish(struct journal *j, struct segment *seg)
{
    uint64_t number = seg->number;
    retire(j, seg);
    count_down_flushes(j, number);
    timer_stop(&j->next_try);
    schedule(j);
}

static void database_works(struct journal *j)
{
    if (j->retry_ms)
        log_info("usage rows reach the database again", LF_I("pending", j->pending));
    j->retry_ms = 0;
}

static void went_well(struct journal *j, struct segment *seg)
{
    metric_add(&m_written, (double)seg->count);
    database_works(j);
    finish(j, seg);
}

static void try_later(struct journal *j, const struct err *err)
{
    if (!j->retry_ms)
        log_error("usage rows cannot be written to the database, kept in the journal",
                  LF_S("error", err->msg), LF_I("pending", j->pending));
    j->retry_ms = j->retry_ms ? j->retry_ms * 2 : RETRY_MIN_MS;
    if (j->retry_ms > RETRY_MAX_MS)
        j->retry_ms = RETRY_MAX_MS;
    timer_set(&j->next_try, j->retry_ms);
}

/* Rows the disk has refused exist in memory only; it may take them now. */
static bool save_segment(struct journal *j, struct segment *seg)
{
    struct err err = {0};
    if (!seg->unsaved)
        return true;
    if (segment_save(seg, &err) != 0) {
        log_warn("usage rows are in memory only, still trying", LF_I("rows", seg->count),
                 LF_S("error", err.msg));
        return false;
    }
    mark_dirty(j, seg);
    return true;
}

/* True: nothing is left that stands in memory only. */
static bool save_unsaved(void *ctx)
{
    struct journal *j = OBJ(ctx, struct journal, JOURNAL_TAG);
    if (!j->any_unsaved)
        return true;
    bool saved = !j->active || save_segment(j, j->active);
    LIST_EACH(&j->closed, n)
    {
        if (!saved)
            return false; /* the disk is still full */
        saved = save_segment(j, container_of(n, struct segment, node));
    }
    if (j->sending && j->sending->seg->unsaved)
        return false; /* on its way to the database */
    j->any_unsaved = !saved;
    return saved;
}

static void failed(struct journal *j, struct segment *seg, const struct err *err)
{
    seg->suspect = seg->suspect || err->code != ERR_UNAVAILABLE;
    seg->blamed = false;
    list_push_front(&j->closed, &seg->node);
    save_unsaved(j);
    try_later(j, err);
}

static void reject_rows(struct journal *j, struct segment *seg, const struct err *why)
{
    AUTO(buf_release) struct buf b;
    buf_init(&b, seg->count * JOURNAL_LINE_MAX);
    for (size_t i = 0; i < seg->count; i++)
        journal_row_write(&b, &seg->rows[i]);
    set_aside(j, buf_str(&b), seg->count, why->msg);
    finish(j, seg);
}

/* Leaves the segment with the rows that were refused. */
static void drop_taken(struct journal *j, const struct sending *s)
{
    struct segment *seg = s->seg;
    size_t kept = 0, taken = seg->count - s->refused_count;
    for (size_t i = 0; i < seg->count; i++)
        if (s->refused[i])
            seg->rows[kept++] = seg->rows[i];
    seg->count = kept;
    j->pending -= taken;
    j->in_memory -= taken;
    metric_add(&m_written, (double)taken);
}

/* The journal was closed while the database worked. */
static void orphan_done(struct sending *s, const struct err *err)
{
    if (!err && !s->row_by_row)
        unlink(s->path); /* if it stays it is replayed, and doubles nothing */
    segment_free(s->seg);
    sending_free(s);
}

/* It works: are the rows that were refused taken now? */
static void send_again(struct journal *j, struct segment *seg)
{
    seg->blamed = true;
    list_push_front(&j->closed, &seg->node);
    send_next(j);
}

static void probe_done(void *ctx, const struct usage_sum *sums, size_t count, const struct err *err)
{
    struct sending *s = OBJ(ctx, struct sending, SENDING_TAG);
    struct journal *j = s->j;
    (void)sums;
    (void)count;
    if (!j) {
        orphan_done(s, err);
        return;
    }
    j->sending = NULL;
    if (err)
        failed(j, s->seg, &s->first_err);
    else
        send_again(j, s->seg);
    sending_free(s);
}

/* Each row was answered; s may go on to be a probe. */
static void rows_done(struct journal *j, struct sending *s)
{
    struct segment *seg = s->seg;
    if (s->refused_count == seg->count && !seg->blamed) {
        usage_sums_since(j->db, INT64_MAX, INT64_MAX, probe_done, s);
        return;
    }
    j->sending = NULL;
    if (!s->refused_count) {
        went_well(j, seg);
    } else if (s->refused_count < seg->count) {
        drop_taken(j, s);
        database_works(j);
        send_again(j, seg);
    } else {
        database_works(j);
        reject_rows(j, seg, &s->first_err);
    }
    sending_free(s);
}

static void row_done(void *ctx, const struct err *err);

static void send_row(struct sending *s)
{
    usage_insert(s->j->db, &s->seg->rows[s->next], 1, row_done, s);
}

static void row_done(void *ctx, const struct err *err)
{
    struct sending *s = OBJ(ctx, struct sending, SENDING_TAG);
    struct journal *j = s->j;
    if (!j) {
        orphan_done(s, err);
        return;
    }
    if (err && err->code != ERR_UNAVAILABLE) {
        if (!s->refused_count)
            s->first_err = *err;
        s->refused[s->next] = true;
        s->refused_count++;
    }
    bool away = err && err->code == ERR_UNAVAILABLE;
    if (!away && ++s->next < s->seg->count) {
        send_row(s);
        return;
    }
    if (!away) {
        rows_done(j, s);
        return;
    }
    j->sending = NULL;
    failed(j, s->seg, err);
    sending_free(s);
}

static void batch_done(void *ctx, const struct err *err)
{
    struct sending *s = OBJ(ctx, struct sending, SENDING_TAG);
    struct journal *j = s->j;
    if (!j) {
        orphan_done(s, err);
        return;
    }
    struct segment *seg = s->seg;
    j->sending = NULL;
    sending_free(s);
    if (err) {
        failed(j, seg, err);
        return;
    }
    went_well(j, seg);
}

static void send_segment(struct journal *j, struct segment *seg)
{
    if (!seg->count) { /* nothing but lines that are no rows */
        finish(j, seg);
        return;
    }
    struct sending *s = x_calloc(1, sizeof(*s));
    *s = (struct sending){.tag = SENDING_TAG, .j = j, .seg = seg, .row_by_row = seg->suspect};
    j->sending = s;
    if (s->row_by_row) {
        s->refused = x_calloc(seg->count, sizeof(*s->refused));
        send_row(s);
    } else {
        usage_insert(j->db, seg->rows, seg->count, batch_done, s);
    }
}

/* --- rows that are not in memory --------------------------------------------------------- */

struct load {
    uint32_t tag;
    struct journal *j;
    struct segment *seg;
    char *path;
    struct journal_file file;
    struct err err;
    int rc;
};

static void load_run(void *arg)
{
    struct load *ld = OBJ(arg, struct load, LOAD_TAG);
    ld->rc = journal_file_read(ld->path, &ld->file, &ld->err);
}

static void load_take(struct journal *j, struct load *ld)
{
    struct segment *seg = ld->seg;
    j->pending = j->pending - seg->count + ld->file.count;
    seg->count = seg->room = ld->file.count;
    seg->rows = TAKE_PTR(ld->file.rows);
    j->in_memory += seg->count;
    if (ld->file.torn)
        log_warn("usage journal ends in half a line, which nobody was told is written, ignoring",
                 LF_S("file", ld->path));
    if (ld->file.rejected_count)
        set_aside(j, buf_str(&ld->file.rejected), ld->file.rejected_count,
                  "not a usage row in JSON");
}

/* It was deleted, or is so large that this program did not write it. */
static void load_lost(struct journal *j, const struct load *ld)
{
    AUTO(free_charp) char *aside = x_printf("%s.rejected", ld->path);
    if (ld->err.code == ERR_TOO_LARGE && rename(ld->path, aside) != 0)
        log_error("cannot rename", LF_S("file", ld->path), LF_S("error", strerror(errno)));
    metric_add(&m_dropped, (double)ld->seg->count);
    log_error("usage rows lost", LF_I("rows", ld->seg->count), LF_S("error", ld->err.msg));
    finish(j, ld->seg);
}

static void load_done(void *arg)
{
    struct load *ld = OBJ(arg, struct load, LOAD_TAG);
    struct journal *j = ld->j;
    struct segment *seg = ld->seg;
    j->loading = NULL;
    if (j->closing) {
        list_push_front(&j->closed, &seg->node);
    } else if (ld->rc != 0 && ld->err.code != ERR_IO) {
        load_lost(j, ld);
    } else if (ld->rc != 0) {
        list_push_back(&j->closed, &seg->node);
        try_later(j, &ld->err);
    } else {
        load_take(j, ld);
        send_segment(j, seg);
    }
    journal_file_release(&ld->file);
    free(ld->path);
    free(ld);
}

static void load(struct journal *j, struct segment *seg)
{
    struct load *ld = x_calloc(1, sizeof(*ld));
    ld->tag = LOAD_TAG;
    ld->j = j;
    ld->seg = seg;
    ld->path = segment_path(seg);
    j->loading = seg;
    work_submit(j->work, load_run, load_done, ld);
}

static void send_next(struct journal *j)
{
    if (!idle(j))
        return;
    if (!j->closed.len)
        close_active(j);
    struct node *n = list_pop_front(&j->closed);
    if (!n)
        return;
    struct segment *seg = container_of(n, struct segment, node);
    if (seg->rows)
        send_segment(j, seg);
    else
        load(j, seg);
}

static void on_next_try(void *obj)
{
    send_next(OBJ(obj, struct journal, JOURNAL_TAG));
}

/* --- fdatasync --------------------------------------------------------------------------- */

struct sync_job {
    uint32_t tag;
    struct journal *j;
    int fds[SYNC_FDS]; /* its own */
    size_t count;
    int dir_fd; /* -1: no need */
    int error;
};

static void sync_run(void *arg)
{
    struct sync_job *job = OBJ(arg, struct sync_job, SYNC_TAG);
    for (size_t i = 0; i < job->count; i++) {
        if (fdatasync(job->fds[i]) != 0)
            job->error = errno;
        close(job->fds[i]);
    }
    if (job->dir_fd >= 0 && fsync(job->dir_fd) != 0)
        job->error = errno;
}

static void sync_done(void *arg)
{
    struct sync_job *job = OBJ(arg, struct sync_job, SYNC_TAG);
    struct journal *j = job->j;
    j->syncing = false;
    if (job->error)
        log_error("usage journal cannot be synced to disk", LF_S("error", strerror(job->error)));
    if (j->dirty.len && !j->closing)
        timer_set(&j->sync, SYNC_MS);
    free(job);
}

/* The active file's descriptor is duplicated: it may be closed while the thread works on it. */
static void collect_dirty(struct journal *j, struct sync_job *job)
{
    struct node *n;
    while (job->count < SYNC_FDS && (n = list_pop_front(&j->dirty))) {
        struct segment *seg = container_of(n, struct segment, dirty_node);
        int fd = fcntl(seg->fd, F_DUPFD_CLOEXEC, 0);
        if (fd >= 0)
            job->fds[job->count++] = fd;
        else
            job->error = errno;
        if (seg != j->active && !seg->unsaved)
            close_file(seg);
    }
}

static void on_sync(void *obj)
{
    struct journal *j = OBJ(obj, struct journal, JOURNAL_TAG);
    if (j->syncing)
        return;
    struct sync_job *job = x_calloc(1, sizeof(*job));
    *job = (struct sync_job){.tag = SYNC_TAG, .j = j, .dir_fd = j->dir.dirty ? j->dir.fd : -1};
    j->dir.dirty = false;
    collect_dirty(j, job);
    j->syncing = true;
    work_submit(j->work, sync_run, sync_done, job);
}

static void mark_dirty(struct journal *j, struct segment *seg)
{
    if (!node_linked(&seg->dirty_node))
        list_push_back(&j->dirty, &seg->dirty_node);
    if (!j->syncing && !timer_pending(&j->sync))
        timer_set(&j->sync, SYNC_MS);
}

/* --- append ------------------------------------------------------------------------------ */

static int write_row(struct journal *j, struct segment *seg, const struct usage_row *row,
                     struct err *err)
{
    buf_clear(&j->line);
    journal_row_write(&j->line, row);
    BUG_ON(!buf_ok(&j->line));
    if (segment_write(seg, buf_str(&j->line), err) != 0 &&
        (!journal_disk_refused(&j->disk, err) || seg->torn ||
         segment_write(seg, buf_str(&j->line), err) != 0))
        return -1;
    mark_dirty(j, seg);
    return 0;
}

/* The disk has refused a row: which segment keeps it in memory? NULL: there is no room. */
static struct segment *segment_in_need(struct journal *j)
{
    if (j->in_memory >= MEMORY_ROWS_IN_NEED) {
        metric_add(&m_dropped, 1.0);
        return NULL;
    }
    if (!j->active->keep) {
        close_active(j);
        get_active(j)->keep = true; /* whatever else is in memory */
    }
    j->active->unsaved = j->any_unsaved = true;
    return j->active;
}

int journal_append(struct journal *j, const struct usage_row *row, struct err *err)
{
    struct segment *seg = get_active(j);
    int rc = write_row(j, seg, row, err);
    if (rc != 0)
        seg = segment_in_need(j);
    if (!seg)
        return err_prefix(err, "usage row lost");
    if (seg->keep) {
        segment_keep_row(seg, row);
        j->in_memory++;
    }
    seg->count++;
    j->pending++;
    if (seg->count >= SEGMENT_ROWS || seg->torn)
        close_active(j);
    schedule(j);
    return rc;
}

bool journal_disk_is_full(const struct journal *j)
{
    return j->disk.full;
}

size_t journal_pending(const struct journal *j)
{
    return j->pending;
}

/* --- life -------------------------------------------------------------------------------- */

static int find_segments(struct journal *j, struct err *err)
{
    uint64_t *numbers = NULL;
    size_t count = 0;
    if (segment_dir_list(&j->dir, &numbers, &count, err) != 0)
        return -1;
    for (size_t i = 0; i < count; i++) {
        struct segment *seg = segment_new(&j->dir, numbers[i], false);
        AUTO(free_charp) char *path = segment_path(seg);
        struct err why = {0};
        if (journal_file_count(path, &seg->count, &why) != 0)
            log_error("usage journal cannot be read, trying again later", LF_S("error", why.msg));
        j->pending += seg->count;
        j->next_number = numbers[i] + 1;
        list_push_back(&j->closed, &seg->node);
    }
    free(numbers);
    if (count)
        log_info("usage rows of an earlier run found", LF_I("rows", j->pending));
    return 0;
}

static void set_pending_gauge(void *ctx)
{
    metric_set(&m_pending, (double)journal_pending(OBJ(ctx, struct journal, JOURNAL_TAG)));
}

struct journal *journal_open(struct loop *loop, struct db *db, const char *dir, struct err *err)
{
    struct journal *j = x_calloc(1, sizeof(*j));
    j->tag = JOURNAL_TAG;
    j->loop = loop;
    j->db = db;
    list_init(&j->closed);
    list_init(&j->dirty);
    list_init(&j->flushes);
    buf_init(&j->line, JOURNAL_LINE_MAX);
    timer_init(&j->next_try, loop, on_next_try, j);
    timer_init(&j->sync, loop, on_sync, j);
    timer_init(&j->notify, loop, on_notify, j);
    if (segment_dir_open(&j->dir, dir, err) != 0 || find_segments(j, err) != 0) {
        journal_close(j);
        return NULL;
    }
    signal(SIGXFSZ, SIG_IGN); /* a limit of file sizes is an error like a full disk */
    journal_disk_open(&j->disk, loop, &j->dir, save_unsaved, j);
    j->work = work_new(loop, "journal", 1);
    metric_register(&m_pending);
    metric_register(&m_dropped);
    metric_register(&m_written);
    metrics_add_collector(set_pending_gauge, j);
    schedule(j);
    return j;
}

/* What is in flight is left to the database's callback. */
static void orphan_sending(struct journal *j)
{
    struct sending *s = TAKE_PTR(j->sending);
    if (!s)
        return;
    save_segment(j, s->seg);
    if (s->seg->fd >= 0 && fdatasync(s->seg->fd) != 0)
        log_error("usage journal cannot be synced to disk", LF_S("error", strerror(errno)));
    list_remove(&j->dirty, &s->seg->dirty_node);
    close_file(s->seg);
    s->path = segment_path(s->seg);
    s->j = NULL;
}

static void drop_segments(struct journal *j)
{
    LIST_EACH(&j->dirty, d)
    list_remove(&j->dirty, d);
    struct node *n;
    while ((n = list_pop_front(&j->closed))) {
        struct segment *seg = container_of(n, struct segment, node);
        struct err err = {0};
        if (seg->unsaved && segment_save(seg, &err) != 0) {
            metric_add(&m_dropped, (double)seg->count);
            log_error("usage rows lost", LF_I("rows", seg->count), LF_S("error", err.msg));
        }
        if (seg->fd >= 0 && fdatasync(seg->fd) != 0)
            log_error("usage journal cannot be synced to disk", LF_S("error", strerror(errno)));
        segment_free(seg);
    }
}

void journal_close(struct journal *j)
{
    if (!j)
        return;
    const struct err gone = {.code = ERR_SHUTTING_DOWN, .msg = "the usage journal was closed"};
    j->closing = true;
    metrics_remove_collector(set_pending_gauge, j);
    work_free(j->work);
    orphan_sending(j);
    close_active(j);
    drop_segments(j);
    LIST_EACH(&j->flushes, n)
    {
        struct flush *f = container_of(n, struct flush, node);
        end_flush(j, f, f->left ? &gone : NULL);
    }
    timer_release(&j->next_try);
    timer_release(&j->sync);
    timer_release(&j->notify);
    journal_disk_close(&j->disk);
    segment_dir_close(&j->dir);
    buf_release(&j->line);
    j->tag = 0;
    free(j);
}
