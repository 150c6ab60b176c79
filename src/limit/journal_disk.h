/* journal_disk.h - the alarm when the disk refuses the journal; private to limit/.
 *
 * A file of RESERVE bytes stands beside the journal for no other purpose than to be removed when
 * the disk is full: the turns that run at that moment end in the room it leaves. The alarm is over
 * when that file could be made again and the journal has written what the disk had refused; looked
 * at every second. */
#ifndef CG_LIMIT_JOURNAL_DISK_H
#define CG_LIMIT_JOURNAL_DISK_H

#include "core/loop.h"
#include "limit/segment.h"

/* Writes what the disk had refused; true when nothing is left of it. */
typedef bool journal_save_fn(void *ctx);

struct journal_disk {
    uint32_t tag;
    struct segment_dir *dir;
    journal_save_fn *save;
    void *ctx;
    struct timer look;
    bool full;
    int64_t since_ms, said_ms; /* monotonic */
};

/* The directory is open. */
void journal_disk_open(struct journal_disk *d, struct loop *loop, struct segment_dir *dir,
                       journal_save_fn *save, void *ctx);
void journal_disk_close(struct journal_disk *d); /* accepts a zeroed one */
/* A write was refused: raises the alarm. True: there is room now that was not there before. */
bool journal_disk_refused(struct journal_disk *d, const struct err *why);

#endif
