/* auth.h - who is calling: making keys, checking them off the loop, remembering good ones.
 *
 * A presented key is looked up by its public id, its secret verified with bcrypt on a worker
 * thread, and then remembered for auth's cache time as a keyed BLAKE2b hash compared in constant
 * time; a cached check is synchronous and does no I/O. Unknown and wrong keys are remembered too,
 * for a shorter time, so that they cost one database query at most. A change made by another
 * process (`claudegate key revoke`) is seen within a second (db_poll_changed). While the
 * database is away cached keys go on working; unknown keys get ERR_UNAVAILABLE, never 401. */
#ifndef CG_AUTH_AUTH_H
#define CG_AUTH_AUTH_H

#include "core/err.h"
#include "core/loop.h"
#include "store/store.h"

struct auth;

struct auth *auth_new(struct loop *loop, struct db *db);
void auth_free(struct auth *auth); /* no done() after this */

/* A verified caller, reference-counted: it outlives its cache entry while a request holds it. */
struct auth_key {
    struct api_key key;
    unsigned refs;
};
void auth_key_ref(struct auth_key *k);
void auth_key_unref(struct auth_key *k);

/* done: k (borrowed; take a ref to keep) or err (ERR_UNAUTHENTICATED, ERR_UNAVAILABLE).
 * May be called before auth_verify() returns when the answer is cached. */
typedef void auth_done_fn(void *ctx, struct auth_key *k, const struct err *err);
struct auth_check; /* a pending check, for auth_cancel(); NULL when done already ran */
struct auth_check *auth_verify(struct auth *auth, struct str presented, auth_done_fn *done,
                               void *ctx);
void auth_cancel(struct auth_check *check); /* done will not run */

/* "Authorization: Bearer K" or "x-api-key: K"; both present and different, or neither: error. */
MUST_USE int auth_key_from_headers(const char *authorization, const char *x_api_key,
                                   struct str *ret_key, struct err *err);
/* Remember that the key was used now; written to the database lazily, in batches. */
void auth_touch(struct auth *auth, struct auth_key *k);

/* --- making keys and passwords (blocking: subcommands and worker threads) ---------------- */
/* Fills id, public_id, secret_hash, created_at; ret_text is the secret, shown once. */
void auth_key_generate(struct api_key *key, char ret_text[KEY_TEXT_SIZE]);
char *auth_bcrypt(const char *secret, int cost); /* "$2b$..."; owned by the caller */
bool auth_bcrypt_check(const char *secret, const char *hash);

#endif
