/* signature.h - requests signed with HMAC-SHA256. docs/signing.md is the contract with clients.
 *
 * Pure functions: whether a nonce was seen before is asked by the caller, after everything here has
 * been found good, so that only who has the secret can fill the store of nonces. */
#ifndef CG_AUTH_SIGNATURE_H
#define CG_AUTH_SIGNATURE_H

#include "store/store.h"
#include "vault/vault.h"

#define SIGNATURE_HEADER    "x-claudegate-signature"
#define SIGNATURE_NONCE_MIN 16
#define SIGNATURE_NONCE_MAX 48
#define SIGNATURE_MAC_BYTES 32

struct signature {
    int64_t time_s;
    char nonce[SIGNATURE_NONCE_MAX + 1];
    unsigned char mac[SIGNATURE_MAC_BYTES];
};
/* "t=<unix seconds>,n=<nonce>,v1=<64 hex digits>", exactly so. */
MUST_USE int signature_parse(const char *text, struct signature *ret_signature, struct err *err);

/* What is signed, besides time and nonce. */
struct signed_request {
    const char *method;
    const char *target; /* path and query as they stand in the request line */
    struct str body;
};
void signature_make(const char *secret, int64_t time_s, const char *nonce,
                    const struct signed_request *request,
                    unsigned char ret_mac[SIGNATURE_MAC_BYTES]);

struct signature_rules {
    const struct vault *vault;
    int64_t now_ms, window_ms;
    int64_t not_before_ms; /* older ones may have been seen by a memory that is gone; 0 = none */
};
/* In time, and made with the key's signing secret (or, after a rotation, its old one). */
MUST_USE int signature_check(const struct signature *signature, const struct api_key *key,
                             const struct signed_request *request,
                             const struct signature_rules *rules, struct err *err);

/* What a sealed signing secret belongs to: "signing <key's id>". Returns out. */
#define SIGNING_CONTEXT_SIZE (8 + ID_UUID_SIZE)
const char *signing_context(const struct api_key *key, char out[SIGNING_CONTEXT_SIZE]);

#endif
