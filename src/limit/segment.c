/* segment.c - files of the journal: named usage-<number>.journal, only ever appended to.
 *
 * A line is in the file as a whole or not at all: what a full disk has cut off is taken back with
 * ftruncate(). A kill can still leave half a line at the end, so nothing is ever appended to a
 * file of an earlier process. */
#include "limit/segment.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define PREFIX       "usage-"
#define SUFFIX       ".journal"
#define NAME_SIZE    48
#define MAX_SEGMENTS ((size_t)10000000) /* found at start; 5 billion rows */

static int io_err(struct err *err, const char *what, const char *path)
{
    return err_set(err, ERR_IO, "cannot %s '%s': %s", what, path, strerror(errno));
}

static int write_all(int fd, struct str s)
{
    while (s.len) {
        ssize_t n = write(fd, s.p, s.len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -1;
        s.p += n;
        s.len -= (size_t)n;
    }
    return 0;
}

/* --- the directory ----------------------------------------------------------------------- */

static int make_dirs(const char *path, struct err *err)
{
    AUTO(free_charp) char *copy = x_strdup(path);
    for (char *p = copy + 1; *p; p++) {
        if (*p != '/')
            continue;
        *p = '\0';
        if (mkdir(copy, 0755) != 0 && errno != EEXIST)
            return io_err(err, "create directory", copy);
        *p = '/';
    }
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return io_err(err, "create directory", path);
    return 0;
}

int segment_dir_open(struct segment_dir *dir, const char *path, struct err *err)
{
    *dir = (struct segment_dir){.fd = -1, .lock_fd = -1};
    if (make_dirs(path, err) != 0)
        return -1;
    dir->path = x_strdup(path);
    dir->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir->fd < 0)
        return io_err(err, "open directory", path);
    dir->lock_fd = openat(dir->fd, "usage.lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (dir->lock_fd < 0)
        return io_err(err, "create usage.lock in", path);
    if (flock(dir->lock_fd, LOCK_EX | LOCK_NB) != 0)
        return err_set(err, ERR_IO, "the usage journal in '%s' is in use by another process", path);
    return 0;
}

void segment_dir_close(struct segment_dir *dir)
{
    if (!dir->path)
        return;
    if (dir->fd >= 0)
        close(dir->fd);
    if (dir->lock_fd >= 0)
        close(dir->lock_fd);
    free(dir->path);
    *dir = (struct segment_dir){.fd = -1, .lock_fd = -1};
}

static void file_name(uint64_t number, char out[NAME_SIZE])
{
    snprintf(out, NAME_SIZE, PREFIX "%" PRIu64 SUFFIX, number);
}

static bool parse_name(const char *name, uint64_t *ret_number)
{
    char again[NAME_SIZE];
    size_t len = strlen(name), around = sizeof(PREFIX) - 1 + sizeof(SUFFIX) - 1;
    if (len <= around || !str_starts(str_c(name), PREFIX) ||
        !str_to_u64(str_n(name + sizeof(PREFIX) - 1, len - around), ret_number))
        return false;
    file_name(*ret_number, again);
    return strcmp(name, again) == 0; /* no leading zeros, the right suffix */
}

static int by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

int segment_dir_list(struct segment_dir *dir, uint64_t **ret_numbers, size_t *ret_count,
                     struct err *err)
{
    uint64_t *numbers = NULL, number;
    size_t count = 0, room = 0;
    DIR *d = opendir(dir->path);
    if (!d)
        return io_err(err, "list directory", dir->path);
    for (struct dirent *e; count < MAX_SEGMENTS && (e = readdir(d));) {
        if (!parse_name(e->d_name, &number))
            continue;
        if (count == room) {
            room = room ? room * 2 : 64;
            numbers = x_realloc(numbers, room * sizeof(*numbers));
        }
        numbers[count++] = number;
    }
    closedir(d);
    if (count)
        qsort(numbers, count, sizeof(*numbers), by_number);
    *ret_numbers = numbers;
    *ret_count = count;
    return 0;
}

int segment_dir_reject(struct segment_dir *dir, struct str lines, struct err *err)
{
    int fd = openat(dir->fd, "usage.rejected", O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    int rc = fd < 0 ? -1 : write_all(fd, lines);
    if (rc != 0)
        io_err(err, "write usage.rejected in", dir->path);
    if (fd >= 0)
        close(fd);
    return rc;
}

/* --- one segment ------------------------------------------------------------------------- */

char *segment_path(const struct segment *seg)
{
    char name[NAME_SIZE];
    file_name(seg->number, name);
    return x_printf("%s/%s", seg->dir->path, name);
}

struct segment *segment_new(struct segment_dir *dir, uint64_t number, bool keep)
{
    struct segment *seg = x_calloc(1, sizeof(*seg));
    seg->dir = dir;
    seg->number = number;
    seg->fd = -1;
    seg->keep = keep;
    return seg;
}

void segment_free(struct segment *seg)
{
    if (!seg)
        return;
    if (seg->fd >= 0)
        close(seg->fd);
    free(seg->rows);
    free(seg);
}

static int open_file(struct segment *seg, struct err *err)
{
    char name[NAME_SIZE];
    file_name(seg->number, name);
    seg->fd = openat(seg->dir->fd, name, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (seg->fd < 0)
        return io_err(err, "create", name);
    seg->dir->dirty = true;
    return 0;
}

int segment_write(struct segment *seg, struct str lines, struct err *err)
{
    if (seg->fd < 0 && open_file(seg, err) != 0)
        return -1;
    ssize_t n;
    do
        n = write(seg->fd, lines.p, lines.len);
    while (n < 0 && errno == EINTR);
    if (n == (ssize_t)lines.len) {
        seg->bytes += n;
        return 0;
    }
    if (n >= 0)
        errno = ENOSPC; /* a short write says no more than that */
    AUTO(free_charp) char *path = segment_path(seg);
    io_err(err, "append to", path);
    if (n > 0 && ftruncate(seg->fd, seg->bytes) != 0)
        seg->torn = true;
    return -1;
}

void segment_keep_row(struct segment *seg, const struct usage_row *row)
{
    if (seg->count == seg->room) {
        BUG_ON(seg->room >= SEGMENT_ROWS);
        seg->room = seg->room ? SEGMENT_ROWS : 16; /* few on a quiet server, else all */
        seg->rows = x_realloc(seg->rows, seg->room * sizeof(*seg->rows));
    }
    seg->rows[seg->count] = *row;
}

void segment_unlink(struct segment *seg)
{
    char name[NAME_SIZE];
    file_name(seg->number, name);
    unlinkat(seg->dir->fd, name, 0); /* there may be none; what stays is replayed, not doubled */
}

int segment_save(struct segment *seg, struct err *err)
{
    AUTO(buf_release) struct buf b;
    buf_init(&b, seg->count * JOURNAL_LINE_MAX + 2);
    if (seg->torn) /* ends the half line; it will be set aside as no row */
        buf_addc(&b, '\n');
    for (size_t i = 0; i < seg->count; i++)
        journal_row_write(&b, &seg->rows[i]);
    if (segment_write(seg, buf_str(&b), err) != 0)
        return -1;
    seg->unsaved = false;
    return 0;
}
