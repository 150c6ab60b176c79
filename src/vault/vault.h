/* vault.h - encryption of sensitive columns with the operator's master keys.
 *
 * XChaCha20-Poly1305 (libsodium, crypto_aead_xchacha20poly1305_ietf) with a random nonce per value.
 * A sealed value is text: "v1:<key id>:<base64url of nonce and ciphertext>"; the key id is the
 * first 8 hex digits of the BLAKE2b hash of the key. What a value belongs to (`context`, such as
 * "session <id>") is authenticated with it: a value moved to another row does not open.
 *
 * The first master key seals; all of them open. Rotation: put a new key first, reload or restart,
 * `claudegate vault rotate` seals everything anew, then remove the old key. Without any master key
 * nothing is sealed, and text that is not sealed is taken as it is. */
#ifndef CG_VAULT_VAULT_H
#define CG_VAULT_VAULT_H

#include "core/buf.h"
#include "core/err.h"

#define VAULT_KEY_BYTES 32

struct vault;

/* keys: lines or comma-separated, each 64 hex digits or base64 of 32 bytes, as from
 * `openssl rand -hex 32`; NULL or "" = none. Comments (#) and blank lines are skipped. */
struct vault *vault_new(const char *keys, struct err *err);
void vault_free(struct vault *v); /* wipes the keys */

/* All that follow take NULL as a vault without keys. */
bool vault_has_key(const struct vault *v);
#define VAULT_KEY_ID_SIZE 9
/* The id of the i-th key, 0 seals; NULL = there are not so many. */
const char *vault_key_id(const struct vault *v, size_t i);
/* Is it sealed, and with which key? */
MUST_USE bool vault_is_sealed(struct str text, char ret_key_id[VAULT_KEY_ID_SIZE]);
/* Appends the sealed text, or `plain` itself without a master key. */
void vault_seal(const struct vault *v, const char *context, struct str plain, struct buf *out);
/* Appends the plain text. ERR_INTERNAL: altered, of another context, or its key is not here (the
 * message names the key id, never the value). Text that is not sealed is appended as it is, unless
 * `must_be_sealed`. */
MUST_USE int vault_open(const struct vault *v, const char *context, struct str sealed,
                        bool must_be_sealed, struct buf *out, struct err *err);
/* Sealed with the first key, or there is no key to seal with: nothing to rotate. */
bool vault_is_current(const struct vault *v, struct str sealed);

#endif
