/* replay_seal.h - the seal of an answer that is kept for an Idempotency-Key.
 *
 * With a master key its text is sealed for "reply <id>". Rows that are plain because they were
 * written without a key stay readable with one. */
#ifndef CG_GATEWAY_REPLAY_SEAL_H
#define CG_GATEWAY_REPLAY_SEAL_H

#include "store/store.h"
#include "vault/vault.h"

/* out: initialised here, released by the caller, whatever comes back. */
void replay_seal(const struct vault *v, const char *id, struct str plain, struct buf *out);
/* ERR_INTERNAL when it does not open. */
MUST_USE int replay_unseal(const struct vault *v, const struct reply_row *row, struct buf *out,
                           struct err *err);
/* The same row's content, sealed with the first key; on failure out is untouched. */
MUST_USE int replay_reseal(const struct vault *v, const struct reply_row *row, struct buf *out,
                           struct err *err);

#endif
