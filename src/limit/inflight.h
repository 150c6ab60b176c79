/* inflight.h - what running turns have used so far, in a file that outlives the process.
 *
 * A row reaches the journal when its turn is settled. What a turn has cost when the server is
 * killed in the middle of it stands here: a small file, mapped into memory, one slot a turn, so
 * that keeping it up to date costs no system call and the kernel still has it after kill -9. The
 * next start moves what it finds to the journal. A slot is emptied only after its row is in the
 * journal, and request_id is unique, so nothing is counted twice. Loop thread only. */
#ifndef CG_LIMIT_INFLIGHT_H
#define CG_LIMIT_INFLIGHT_H

#include "core/err.h"
#include "store/store.h"

struct inflight;

/* Opens or creates the file with room for `slots` turns. found(ctx, row) runs, before this
 * returns, for each turn an earlier process left; when it returns 0 the slot is emptied, otherwise
 * it stays for the next start. A file of another layout is put aside as <path>.old. */
typedef int inflight_found_fn(void *ctx, struct usage_row *row);
struct inflight *inflight_open(const char *path, size_t slots, inflight_found_fn *found, void *ctx,
                               struct err *err);
void inflight_close(struct inflight *f); /* NULL is fine; what is in it stays in the file */

#define INFLIGHT_NONE ((size_t)-1)
/* A slot holding a copy of row; INFLIGHT_NONE when all are taken. */
size_t inflight_begin(struct inflight *f, const struct usage_row *row);
/* slot may be INFLIGHT_NONE in both. */
void inflight_update(struct inflight *f, size_t slot, int64_t input_tokens, int64_t output_tokens,
                     int64_t cache_creation_tokens, int64_t cache_read_tokens);
void inflight_end(struct inflight *f, size_t slot);

#endif
