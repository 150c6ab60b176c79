/* replay_seal.c - see the header. */
#include "gateway/replay_seal.h"

#include <sodium.h>

#define CONTEXT_SIZE  (REPLY_ID_SIZE + 8)
#define SEAL_OVERHEAD 1024 /* nonce, tag and name of the key, in base64 */

static const char *context_of(const char *id, char out[CONTEXT_SIZE])
{
    snprintf(out, CONTEXT_SIZE, "reply %s", id);
    return out;
}

void replay_seal(const struct vault *v, const char *id, struct str plain, struct buf *out)
{
    char context[CONTEXT_SIZE];
    buf_init(out, plain.len / 3 * 4 + SEAL_OVERHEAD);
    vault_seal(v, context_of(id, context), plain, out);
    BUG_ON(!buf_ok(out));
}

int replay_unseal(const struct vault *v, const struct reply_row *row, struct buf *out,
                  struct err *err)
{
    char context[CONTEXT_SIZE];
    buf_init(out, row->content.len + 1);
    return vault_open(v, context_of(row->id, context), row->content, row->sealed_with.len > 0, out,
                      err);
}

int replay_reseal(const struct vault *v, const struct reply_row *row, struct buf *out,
                  struct err *err)
{
    struct buf plain;
    int rc = replay_unseal(v, row, &plain, err);
    if (rc == 0)
        replay_seal(v, row->id, buf_str(&plain), out);
    if (plain.data)
        sodium_memzero(plain.data, plain.len);
    buf_release(&plain);
    return rc;
}
