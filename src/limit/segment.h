/* segment.h - one file of the journal and the rows it stands for; private to limit/.
 *
 * A segment is also the batch: all its rows go to the database in one transaction, then the file
 * goes. rows NULL = not in memory, to be read from the file. `unsaved` = some rows are in memory
 * only because the disk refused them. */
#ifndef CG_LIMIT_SEGMENT_H
#define CG_LIMIT_SEGMENT_H

#include "core/list.h"
#include "limit/journal_row.h"

#define SEGMENT_ROWS 500

struct segment_dir {
    char *path;
    int fd;
    int lock_fd;
    bool dirty; /* a file was created since the last fsync of the directory */
};
/* Creates the directory and locks it against a second process. */
MUST_USE int segment_dir_open(struct segment_dir *dir, const char *path, struct err *err);
void segment_dir_close(struct segment_dir *dir); /* accepts a zeroed or half-open one */
/* Numbers of the segments found, ascending; owned by the caller. */
MUST_USE int segment_dir_list(struct segment_dir *dir, uint64_t **ret_numbers, size_t *ret_count,
                              struct err *err);
/* Appends to usage.rejected. */
MUST_USE int segment_dir_reject(struct segment_dir *dir, struct str lines, struct err *err);

struct segment {
    struct segment_dir *dir;
    uint64_t number;
    struct node node;       /* on the journal's list of closed segments */
    struct node dirty_node; /* on the journal's list of those to fdatasync */
    int fd;                 /* -1: not open for writing */
    off_t bytes;            /* of complete lines */
    size_t count;           /* rows that are not in the database yet */
    struct usage_row *rows;
    size_t room;
    bool keep; /* in memory from the first row on */
    bool unsaved;
    bool torn;    /* a half line could not be taken back: write no more */
    bool suspect; /* the database refused it as a whole: row by row next time */
    bool blamed;  /* ... and the database was seen to work after it had refused each of them */
};

struct segment *segment_new(struct segment_dir *dir, uint64_t number, bool keep);
void segment_free(struct segment *seg); /* leaves the file */
char *segment_path(const struct segment *seg);
/* One write(2) of one or more lines; all of it or nothing. Creates the file when needed. */
MUST_USE int segment_write(struct segment *seg, struct str lines, struct err *err);
void segment_keep_row(struct segment *seg, const struct usage_row *row);
void segment_unlink(struct segment *seg);
/* Writes rows the disk has refused before once more, all into the file. */
MUST_USE int segment_save(struct segment *seg, struct err *err);

#endif
