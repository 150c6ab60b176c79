/* inflight.c - a mapped file of fixed slots.
 *
 * Layout: one header, then `slots` records. A record is valid while its `used` is 1; it is set
 * after the row was copied and cleared before the slot is given out again, so a process killed in
 * between leaves no half a record. The space is allocated at open: a full disk is an error there
 * and not a SIGBUS later. */
#include "limit/inflight.h"

#include "core/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC     0x31464c4754444347ull /* "GCDTGLF1" */
#define SLOTS_MAX 100000

struct header {
    uint64_t magic, row_size, slots;
};

struct record {
    _Atomic uint64_t used;
    struct usage_row row;
};

struct inflight {
    struct header *head; /* start of the mapping */
    struct record *records;
    size_t slots, map_size;
    size_t *free_slots, free_count;
};

static size_t size_for(size_t slots)
{
    return sizeof(struct header) + slots * sizeof(struct record);
}

static bool same_layout(const struct header *h, off_t file_size)
{
    return h->magic == MAGIC && h->row_size == sizeof(struct usage_row) && h->slots <= SLOTS_MAX &&
           (size_t)file_size >= size_for(h->slots);
}

/* 0 and the number of slots the file has (0: it is new, or of another layout and set aside). */
static int look_at_file(const char *path, size_t *ret_slots, struct err *err)
{
    struct header h = {0};
    struct stat st;
    *ret_slots = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT
                   ? 0
                   : err_set(err, ERR_IO, "cannot open '%s': %s", path, strerror(errno));
    bool ok = fstat(fd, &st) == 0 && read(fd, &h, sizeof(h)) == (ssize_t)sizeof(h) &&
              same_layout(&h, st.st_size);
    close(fd);
    if (ok) {
        *ret_slots = h.slots;
        return 0;
    }
    char *old = x_printf("%s.old", path);
    log_warn("file of running turns has another layout, put aside", LF_S("path", old));
    int rc = rename(path, old);
    free(old);
    return rc == 0 ? 0 : err_set(err, ERR_IO, "cannot rename '%s': %s", path, strerror(errno));
}

static int map_file(struct inflight *f, const char *path, struct err *err)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_set(err, ERR_IO, "cannot open '%s': %s", path, strerror(errno));
    int e = posix_fallocate(fd, 0, (off_t)f->map_size);
    void *p = e ? MAP_FAILED : mmap(NULL, f->map_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (!e && p == MAP_FAILED)
        e = errno;
    close(fd);
    if (e)
        return err_set(err, ERR_IO, "cannot map '%s': %s", path, strerror(e));
    f->head = p;
    f->records = (struct record *)(void *)((char *)p + sizeof(struct header));
    return 0;
}

static void hand_over(struct inflight *f, inflight_found_fn *found, void *ctx)
{
    for (size_t i = 0; i < f->slots; i++) {
        struct record *r = &f->records[i];
        if (r->used == 1 && found(ctx, &r->row) == 0)
            r->used = 0;
        if (r->used != 1)
            f->free_slots[f->free_count++] = i;
    }
}

struct inflight *inflight_open(const char *path, size_t slots, inflight_found_fn *found, void *ctx,
                               struct err *err)
{
    size_t have;
    if (look_at_file(path, &have, err) != 0)
        return NULL;
    struct inflight *f = x_calloc(1, sizeof(*f));
    f->slots = slots > have ? slots : have;
    f->map_size = size_for(f->slots);
    f->free_slots = x_calloc(f->slots, sizeof(*f->free_slots));
    if (map_file(f, path, err) != 0) {
        inflight_close(f);
        return NULL;
    }
    *f->head = (struct header){MAGIC, sizeof(struct usage_row), f->slots};
    hand_over(f, found, ctx);
    return f;
}

void inflight_close(struct inflight *f)
{
    if (!f)
        return;
    if (f->head)
        munmap(f->head, f->map_size);
    free(f->free_slots);
    free(f);
}

size_t inflight_begin(struct inflight *f, const struct usage_row *row)
{
    if (!f->free_count)
        return INFLIGHT_NONE;
    size_t slot = f->free_slots[--f->free_count];
    f->records[slot].row = *row;
    f->records[slot].used = 1;
    return slot;
}

void inflight_update(struct inflight *f, size_t slot, int64_t input_tokens, int64_t output_tokens,
                     int64_t cache_creation_tokens, int64_t cache_read_tokens)
{
    if (slot == INFLIGHT_NONE)
        return;
    struct usage_row *row = &f->records[slot].row;
    row->input_tokens = input_tokens;
    row->output_tokens = output_tokens;
    row->cache_creation_tokens = cache_creation_tokens;
    row->cache_read_tokens = cache_read_tokens;
}

void inflight_end(struct inflight *f, size_t slot)
{
    if (slot == INFLIGHT_NONE)
        return;
    BUG_ON(f->records[slot].used != 1);
    f->records[slot].used = 0;
    f->free_slots[f->free_count++] = slot;
}
