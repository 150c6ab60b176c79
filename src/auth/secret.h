/* secret.h - the text form of a key; private to auth/. */
#ifndef CG_AUTH_SECRET_H
#define CG_AUTH_SECRET_H

#include "store/store.h"

/* "sk-cg-" + 12 + "-" + 43, all of [0-9A-Za-z], nothing before or after. */
struct key_text {
    char public_id[KEY_PUBLIC_ID_LEN + 1];
    const char *secret; /* borrowed: KEY_SECRET_LEN bytes, no NUL */
};
MUST_USE bool key_text_parse(struct str text, struct key_text *ret_key);

#endif
