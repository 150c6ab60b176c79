/* journal_row.h - a usage row as one line of JSON, and files of such lines; private to limit/. */
#ifndef CG_LIMIT_JOURNAL_ROW_H
#define CG_LIMIT_JOURNAL_ROW_H

#include "core/buf.h"
#include "core/err.h"
#include "store/store.h"

#define JOURNAL_LINE_MAX ((size_t)4096) /* every text escaped as \u00XX still fits */

/* Appends the line with its newline. */
void journal_row_write(struct buf *b, const struct usage_row *row);
/* line without newline. Texts that are too long are cut; unknown names are ignored, names that
 * are absent leave zero, and the cost unknown (an older or newer version wrote the line). */
MUST_USE int journal_row_parse(struct str line, struct usage_row *ret_row, struct err *err);

struct journal_file {
    struct usage_row *rows;
    size_t count;
    struct buf rejected; /* lines that are not rows */
    size_t rejected_count;
    bool torn; /* bytes after the last newline: a write that was cut off */
};
void journal_file_release(struct journal_file *f);
/* Blocking. f needs no init; release it in any case. ERR_NOT_FOUND, ERR_TOO_LARGE: it will never
 * be readable; ERR_IO: it may be later. */
MUST_USE int journal_file_read(const char *path, struct journal_file *f, struct err *err);
/* Complete lines in the file. Blocking. */
MUST_USE int journal_file_count(const char *path, size_t *ret_lines, struct err *err);

#endif
