/* make_key.h - making an API key and, if need be, the user it belongs to: shared by `key create`
 * and the first start of `serve`. */
#ifndef CG_SETUP_MAKE_KEY_H
#define CG_SETUP_MAKE_KEY_H

#include "conf/conf.h"
#include "store/store.h"
#include "vault/vault.h"

struct new_key {
    const char *name;
    const char *user; /* login name of the owner; made without a password when missing */
    /* Where its signing secret goes, sealed with the vault; NULL: it has none. */
    char *signing_text; /* SIGNING_TEXT_SIZE bytes */
    const struct vault *vault;
};

/* Limits and permissions from the settings keys.*, priority 1; the rest of *key is zeroed. */
void new_key_defaults(const struct conf *conf, struct api_key *key);
/* The very first key is the operator's own: it may ask for answers of any length, because that is
 * what SDKs and the claude program as a client do by themselves. */
void new_key_first(const struct conf *conf, struct api_key *key);
void new_key_set_models(struct api_key *key, char *const *models); /* copied, NULL-terminated */
/* Blocking. Fills in what is missing and inserts. -1 after having printed why not. */
MUST_USE int new_key_insert(struct loop *loop, struct db *db, const struct new_key *what,
                            struct api_key *key, char ret_text[KEY_TEXT_SIZE]);

#endif
