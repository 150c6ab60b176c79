/* journal.h - usage rows on their way to the database: appended to a local file first.
 *
 * journal_append() writes one line with one write(2) before it returns, so kill -9 loses nothing;
 * fsync follows on an interval. A background batch moves rows to the database and then drops them
 * from the file; a database outage only lengthens the file; a replay never doubles a row
 * (request_id is unique). */
#ifndef CG_LIMIT_JOURNAL_H
#define CG_LIMIT_JOURNAL_H

#include "core/err.h"
#include "core/loop.h"
#include "store/store.h"

struct journal;

/* dir is created, and locked against a second process. Rows left from an earlier run are moved to
 * the database first. */
struct journal *journal_open(struct loop *loop, struct db *db, const char *dir, struct err *err);
/* -1 when the disk refused it: the caller must say so loudly, the request was already answered.
 * The row still goes to the database from memory, unless the message says that it is lost. */
MUST_USE int journal_append(struct journal *j, const struct usage_row *row, struct err *err);
/* A write was refused, and none has succeeded since with room to spare: better accept no work that
 * would have to be written down. Looked at every second; logged, and a metric. */
bool journal_disk_is_full(const struct journal *j);
size_t journal_pending(const struct journal *j); /* rows not yet in the database */
/* done, on a later turn, when everything appended so far is in the database; tries at once even
 * when backing off from a failure. journal_close() ends it with ERR_SHUTTING_DOWN. */
void journal_flush(struct journal *j, store_done_fn *done, void *ctx);
void journal_close(struct journal *j); /* flush first; what is left stays in the file */

#endif
