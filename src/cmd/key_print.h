/* key_print.h - a key as JSON and for people. No hash and no sealed secret is ever printed. Private
 * to cmd/. */
#ifndef CG_CMD_KEY_PRINT_H
#define CG_CMD_KEY_PRINT_H

#include "core/buf.h"
#include "store/store.h"

/* What exists only now; "" or NULL = no new one. */
struct new_secrets {
    const char *key, *signing;
};

void key_put_json(struct buf *b, const struct api_key *k, const struct new_secrets *secrets);
void key_put_line(struct buf *b, const struct api_key *k); /* of a list */
void key_put_text(struct buf *b, const struct api_key *k); /* all of it, a line each */

#endif
