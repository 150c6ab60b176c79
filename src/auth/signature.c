/* signature.c - see the header.
 *
 * The order of the checks is that of their cost; what a refusal tells is only what the client has
 * shown by then. */
#include "auth/signature.h"

#include "core/clock.h"

#include <assert.h>
#include <sodium.h>

#define SECRET_MAX 1024
#define TIME_MAX   INT64_C(100000000000) /* seconds: the year 5138 */

static bool is_nonce(struct str s)
{
    if (s.len < SIGNATURE_NONCE_MIN || s.len > SIGNATURE_NONCE_MAX)
        return false;
    for (size_t i = 0; i < s.len; i++) {
        char c = s.p[i];
        if (!((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
              c == '-' || c == '_'))
            return false;
    }
    return true;
}

/* The value of "name=value"; p NULL when it is not that. */
static struct str value_of(struct str part, const char *name)
{
    struct str rest = part;
    if (!part.len || !memchr(part.p, '=', part.len) || !str_eq_c(str_split(&rest, '='), name))
        return str_n(NULL, 0);
    return rest;
}

int signature_parse(const char *text, struct signature *ret_signature, struct err *err)
{
    struct signature s = {0};
    struct str rest = str_trim(str_c(text));
    struct str t = value_of(str_split(&rest, ','), "t"), n = value_of(str_split(&rest, ','), "n");
    struct str v1 = value_of(rest, "v1");
    uint64_t seconds;
    size_t len = 0;
    if (!t.p || !str_to_u64(t, &seconds) || seconds > TIME_MAX || !n.p || !is_nonce(n) ||
        v1.len != 2 * (size_t)SIGNATURE_MAC_BYTES ||
        sodium_hex2bin(s.mac, sizeof(s.mac), v1.p, v1.len, NULL, &len, NULL) != 0 ||
        len != sizeof(s.mac))
        return err_set(err, ERR_UNAUTHENTICATED,
                       "Malformed signature: " SIGNATURE_HEADER " must have the form "
                       "t=<unix seconds>,n=<nonce of %d to %d letters, digits, '-' or '_'>,"
                       "v1=<64 hex digits>",
                       SIGNATURE_NONCE_MIN, SIGNATURE_NONCE_MAX);
    s.time_s = (int64_t)seconds;
    memcpy(s.nonce, n.p, n.len);
    *ret_signature = s;
    return 0;
}

void signature_make(const char *secret, int64_t time_s, const char *nonce,
                    const struct signed_request *request,
                    unsigned char ret_mac[SIGNATURE_MAC_BYTES])
{
    unsigned char hash[crypto_hash_sha256_BYTES];
    char hex[2 * sizeof(hash) + 1], head[SIGNATURE_NONCE_MAX + 64];
    crypto_auth_hmacsha256_state mac;
    static_assert(crypto_auth_hmacsha256_BYTES == SIGNATURE_MAC_BYTES, "HMAC-SHA256");
    crypto_hash_sha256(hash, (const unsigned char *)request->body.p, request->body.len);
    sodium_bin2hex(hex, sizeof(hex), hash, sizeof(hash));
    snprintf(head, sizeof(head), "v1\n%lld\n%s\n", (long long)time_s, nonce);
    const char *const parts[] = {head, request->method, "\n", request->target, "\n", hex};
    crypto_auth_hmacsha256_init(&mac, (const unsigned char *)secret, strlen(secret));
    for (size_t i = 0; i < ARRAY_SIZE(parts); i++)
        crypto_auth_hmacsha256_update(&mac, (const unsigned char *)parts[i], strlen(parts[i]));
    crypto_auth_hmacsha256_final(&mac, ret_mac);
    sodium_memzero(&mac, sizeof(mac));
}

const char *signing_context(const struct api_key *key, char out[SIGNING_CONTEXT_SIZE])
{
    snprintf(out, SIGNING_CONTEXT_SIZE, "signing %s", key->id);
    return out;
}

static int check_time(int64_t time_s, const struct signature_rules *rules, struct err *err)
{
    int64_t ms = time_s * 1000;
    if (ms + rules->window_ms < rules->now_ms || ms - rules->window_ms > rules->now_ms)
        return err_set(err, ERR_UNAUTHENTICATED,
                       "Expired signature: its time is more than %lld s away from the server's, "
                       "which is %lld",
                       (long long)(rules->window_ms / 1000), (long long)(rules->now_ms / 1000));
    if (ms < rules->not_before_ms)
        return err_set(err, ERR_UNAUTHENTICATED,
                       "Expired signature: it is older than this server's memory of those it has "
                       "seen; sign the request again");
    return 0;
}

/* ERR_INTERNAL when a secret cannot be opened. */
static int matches(const struct signature *s, const struct api_key *key, const char *sealed,
                   const struct signed_request *request, const struct vault *vault, bool *ret_match,
                   struct err *err)
{
    char context[SIGNING_CONTEXT_SIZE];
    unsigned char mac[SIGNATURE_MAC_BYTES];
    struct buf secret;
    if (!sealed)
        return 0;
    buf_init(&secret, SECRET_MAX);
    int rc = vault_open(vault, signing_context(key, context), str_c(sealed), true, &secret, err);
    if (rc == 0) {
        signature_make(buf_cstr(&secret), s->time_s, s->nonce, request, mac);
        *ret_match = sodium_memcmp(mac, s->mac, sizeof(mac)) == 0;
    }
    if (secret.data)
        sodium_memzero(secret.data, secret.cap);
    buf_release(&secret);
    sodium_memzero(mac, sizeof(mac));
    return rc;
}

int signature_check(const struct signature *signature, const struct api_key *key,
                    const struct signed_request *request, const struct signature_rules *rules,
                    struct err *err)
{
    bool match = false;
    if (check_time(signature->time_s, rules, err) != 0)
        return -1;
    if (!key->signing_secret)
        return err_set(err, ERR_UNAUTHENTICATED,
                       "Wrong signature: this key has no secret to sign with");
    if (matches(signature, key, key->signing_secret, request, rules->vault, &match, err) != 0)
        return err_prefix(err, "the signing secret of key %s", key->public_id);
    if (!match && key->old_secret_until > rules->now_ms &&
        matches(signature, key, key->old_signing_secret, request, rules->vault, &match, err) != 0)
        return err_prefix(err, "the old signing secret of key %s", key->public_id);
    if (!match)
        return err_set(err, ERR_UNAUTHENTICATED,
                       "Wrong signature: it is not that of this request with this key's signing "
                       "secret");
    return 0;
}
