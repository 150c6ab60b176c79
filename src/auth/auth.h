/* auth.h - who is calling: making keys, checking them off the loop, remembering good ones.
 *
 * A presented key is looked up by its public id, its secret verified with bcrypt on a worker
 * thread, and then remembered for auth's cache time as a keyed BLAKE2b hash compared in constant
 * time; a cached check is synchronous and does no I/O. Unknown and wrong keys are remembered too,
 * for a shorter time, so that they cost one database query at most. A change made by another
 * process (`claudegate key revoke`) is seen within a second (db_poll_changed), and at once where
 * servers share Redis (auth_share). While the
 * database is away cached keys go on working; unknown keys get ERR_UNAVAILABLE, never 401. */
#ifndef CG_AUTH_AUTH_H
#define CG_AUTH_AUTH_H

#include "core/err.h"
#include "core/loop.h"
#include "shared/shared.h"
#include "store/store.h"
#include "vault/vault.h"

struct auth;

/* db_poll_changed() answers "since the last call": auth must be its only caller on this db. */
struct auth *auth_new(struct loop *loop, struct db *db);
/* No done() after this; checks still pending are gone with it. Not from inside a done(). */
void auth_free(struct auth *auth);

/* How long things are believed, in ms. The defaults stand in auth.c. */
struct auth_times {
    int64_t fresh;   /* a good key before it is read again from the database: 60 s */
    int64_t stale;   /* ... and for as long when the database does not answer: 10 min */
    int64_t refused; /* a key that was not good: 10 s */
    int64_t poll;    /* between looks at other processes' changes: 1 s */
    int64_t touch;   /* between writes of last_used_at: 5 s */
};
void auth_set_times(struct auth *auth, const struct auth_times *times);
/* This process has changed a key: nothing cached is used before it was read again. */
void auth_keys_changed(struct auth *auth);

/* Hears from now on of changes that others announce; auth_free() ends it. */
#define AUTH_CHANNEL "keys-changed"
void auth_share(struct auth *auth, struct shared *shared);
/* Whoever has changed a key tells the servers. One that does not hear it polls. */
void auth_announce(struct shared *shared, shared_done_fn *done, void *ctx);

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
/* Known to be a right secret, whether or not its key may be used now: no guess. */
bool auth_remembers(struct auth *auth, struct str presented);

/* "Authorization: Bearer K" or "x-api-key: K"; both present and different, or neither: error.
 * NULL and "" = absent. ret_key is borrowed from the headers. */
MUST_USE int auth_key_from_headers(const char *authorization, const char *x_api_key,
                                   struct str *ret_key, struct err *err);
/* Remember that the key was used now; written to the database lazily, in batches. */
void auth_touch(struct auth *auth, struct auth_key *k);

/* --- making keys and passwords (blocking: subcommands and worker threads) ---------------- */
#define AUTH_BCRYPT_COST 10 /* for keys: 256 random bits need no more */
#define AUTH_BCRYPT_MAX  72 /* bytes; bcrypt would ignore the rest in silence */
/* Fills id, public_id, secret_hash, created_at; ret_text is the secret, shown once. */
void auth_key_generate(struct api_key *key, char ret_text[KEY_TEXT_SIZE]);
/* A new secret of the same key; the one it had is good for overlap_ms more, one of an earlier
 * rotation is not. */
void auth_key_rotate(struct api_key *key, int64_t overlap_ms, char ret_text[KEY_TEXT_SIZE]);
/* A new secret to sign requests with, shown once and kept sealed. The one it had becomes the old
 * one for as long as the key's old secret is good. Needs key->id and a master key (ERR_CONFIG). */
#define SIGNING_TEXT_SIZE (6 + KEY_SECRET_LEN + 1) /* ss-cg-<secret> */
MUST_USE int auth_signing_generate(struct api_key *key, const struct vault *vault,
                                   char ret_text[SIGNING_TEXT_SIZE], struct err *err);
/* "$2b$..."; owned by the caller. NULL when secret is longer than AUTH_BCRYPT_MAX bytes or cost
 * is not 4..31. */
char *auth_bcrypt(const char *secret, int cost);
bool auth_bcrypt_check(const char *secret, const char *hash);

#endif
