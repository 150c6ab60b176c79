/* vault.c - see the header for the format.
 *
 * The keys stand in memory of libsodium's own (guarded, not swapped where the system allows it,
 * wiped when freed) and nowhere else. XChaCha20's nonce of 192 bits may be random for every value
 * there will ever be. All functions take a NULL vault as one without keys. */
#include "vault/vault.h"

#include <sodium.h>

#define KEYS_MAX    16
#define KEY_ID_SIZE 9
#define PREFIX      "v1:"
#define HEAD_LEN    (sizeof(PREFIX) - 1 + KEY_ID_SIZE) /* with the colon behind the key's id */
#define NONCE_LEN   crypto_aead_xchacha20poly1305_ietf_NPUBBYTES
#define TAG_LEN     crypto_aead_xchacha20poly1305_ietf_ABYTES
#define BASE64      sodium_base64_VARIANT_URLSAFE_NO_PADDING

struct master_key {
    char id[KEY_ID_SIZE];
    unsigned char bytes[VAULT_KEY_BYTES];
};

struct vault {
    size_t count;
    struct master_key keys[KEYS_MAX];
};

_Static_assert(VAULT_KEY_BYTES == crypto_aead_xchacha20poly1305_ietf_KEYBYTES, "of this cipher");

/* --- the keys ---------------------------------------------------------------------------- */

static bool read_hex(struct str text, unsigned char out[VAULT_KEY_BYTES])
{
    size_t n = 0;
    return text.len == (size_t)VAULT_KEY_BYTES * 2 &&
           sodium_hex2bin(out, VAULT_KEY_BYTES, text.p, text.len, NULL, &n, NULL) == 0 &&
           n == VAULT_KEY_BYTES;
}

/* With or without padding, of either alphabet. */
static bool read_base64(struct str text, unsigned char out[VAULT_KEY_BYTES])
{
    static const int variants[] = {
        sodium_base64_VARIANT_ORIGINAL, sodium_base64_VARIANT_ORIGINAL_NO_PADDING,
        sodium_base64_VARIANT_URLSAFE, sodium_base64_VARIANT_URLSAFE_NO_PADDING};
    for (size_t i = 0; i < ARRAY_SIZE(variants); i++) {
        size_t n = 0;
        if (sodium_base642bin(out, VAULT_KEY_BYTES, text.p, text.len, NULL, &n, NULL,
                              variants[i]) == 0 &&
            n == VAULT_KEY_BYTES)
            return true;
    }
    return false;
}

static void name_key(struct master_key *k)
{
    unsigned char hash[crypto_generichash_BYTES];
    crypto_generichash(hash, sizeof(hash), k->bytes, sizeof(k->bytes), NULL, 0);
    sodium_bin2hex(k->id, sizeof(k->id), hash, (KEY_ID_SIZE - 1) / 2);
    sodium_memzero(hash, sizeof(hash));
}

static int add_key(struct vault *v, struct str text, struct err *err)
{
    struct master_key *k = &v->keys[v->count];
    if (v->count == KEYS_MAX)
        return err_set(err, ERR_CONFIG, "there are more than %d master keys", KEYS_MAX);
    if (!read_hex(text, k->bytes) && !read_base64(text, k->bytes))
        return err_set(err, ERR_CONFIG,
                       "master key %zu must be 64 hex digits or base64 of 32 bytes, as from "
                       "'openssl rand -hex 32'",
                       v->count + 1);
    name_key(k);
    for (size_t i = 0; i < v->count; i++) {
        if (strcmp(v->keys[i].id, k->id) == 0)
            return err_set(err, ERR_CONFIG, "master keys %zu and %zu are the same", i + 1,
                           v->count + 1);
    }
    v->count++;
    return 0;
}

static struct str trim(struct str s)
{
    while (s.len && (s.p[s.len - 1] == '\r' || s.p[s.len - 1] == '\0'))
        s.len--;
    return str_trim(s);
}

static int add_line(struct vault *v, struct str line, struct err *err)
{
    line = str_split(&line, '#');
    while (line.len) {
        struct str text = trim(str_split(&line, ','));
        if (text.len && add_key(v, text, err) != 0)
            return -1;
    }
    return 0;
}

struct vault *vault_new(const char *keys, struct err *err)
{
    struct str rest = str_c(keys ? keys : "");
    if (sodium_init() < 0) {
        err_set(err, ERR_INTERNAL, "libsodium cannot be used");
        return NULL;
    }
    struct vault *v = sodium_malloc(sizeof(*v));
    BUG_ON(!v);
    sodium_memzero(v, sizeof(*v));
    while (rest.len) {
        if (add_line(v, str_split(&rest, '\n'), err) != 0) {
            vault_free(v);
            return NULL;
        }
    }
    sodium_mprotect_readonly(v);
    return v;
}

void vault_free(struct vault *v)
{
    sodium_free(v); /* wipes; NULL is fine */
}

bool vault_has_key(const struct vault *v)
{
    return v && v->count > 0;
}

const char *vault_key_id(const struct vault *v, size_t i)
{
    return v && i < v->count ? v->keys[i].id : NULL;
}

/* --- sealing ----------------------------------------------------------------------------- */

static void add_base64(struct buf *out, const unsigned char *p, size_t n)
{
    size_t size = sodium_base64_encoded_len(n, BASE64); /* with the NUL */
    if (!buf_reserve(out, size))
        return; /* over its limit: the buffer says so */
    sodium_bin2base64(out->data + out->len, size, p, n, BASE64);
    buf_grow_len(out, size - 1);
}

void vault_seal(const struct vault *v, const char *context, struct str plain, struct buf *out)
{
    if (!vault_has_key(v)) {
        buf_addstr(out, plain);
        return;
    }
    const struct master_key *k = &v->keys[0];
    size_t n = NONCE_LEN + plain.len + TAG_LEN;
    unsigned char *raw = x_malloc(n);
    randombytes_buf(raw, NONCE_LEN);
    crypto_aead_xchacha20poly1305_ietf_encrypt(
        raw + NONCE_LEN, NULL, (const unsigned char *)(plain.len ? plain.p : ""), plain.len,
        (const unsigned char *)context, strlen(context), NULL, raw, k->bytes);
    buf_printf(out, PREFIX "%s:", k->id);
    add_base64(out, raw, n);
    free(raw);
}

/* --- opening ----------------------------------------------------------------------------- */

static bool is_hex(struct str s)
{
    for (size_t i = 0; i < s.len; i++) {
        if (!((s.p[i] >= '0' && s.p[i] <= '9') || (s.p[i] >= 'a' && s.p[i] <= 'f')))
            return false;
    }
    return true;
}

bool vault_is_sealed(struct str text, char ret_key_id[VAULT_KEY_ID_SIZE])
{
    const size_t at = sizeof(PREFIX) - 1;
    if (text.len <= HEAD_LEN || !str_starts(text, PREFIX) || text.p[HEAD_LEN - 1] != ':' ||
        !is_hex(str_n(text.p + at, KEY_ID_SIZE - 1)))
        return false;
    snprintf(ret_key_id, VAULT_KEY_ID_SIZE, "%.*s", KEY_ID_SIZE - 1, text.p + at);
    return true;
}

static const struct master_key *find_key(const struct vault *v, const char *id)
{
    for (size_t i = 0; v && i < v->count; i++) {
        if (strcmp(v->keys[i].id, id) == 0)
            return &v->keys[i];
    }
    return NULL;
}

/* The plain text's length, or -1. raw: nonce and ciphertext of n bytes, decrypted in place. */
static int64_t decrypt(const struct master_key *k, const char *context, unsigned char *raw,
                       size_t n)
{
    unsigned long long len = 0;
    if (n < NONCE_LEN + TAG_LEN ||
        crypto_aead_xchacha20poly1305_ietf_decrypt(raw + NONCE_LEN, &len, NULL, raw + NONCE_LEN,
                                                   n - NONCE_LEN, (const unsigned char *)context,
                                                   strlen(context), raw, k->bytes) != 0)
        return -1;
    return (int64_t)len;
}

static int unseal(const struct master_key *k, const char *context, struct str sealed,
                  struct buf *out, struct err *err)
{
    struct str text = str_n(sealed.p + HEAD_LEN, sealed.len - HEAD_LEN);
    size_t n = 0, size = text.len / 4 * 3 + 3;
    unsigned char *raw = x_malloc(size);
    int64_t len = -1;
    if (sodium_base642bin(raw, size, text.p, text.len, NULL, &n, NULL, BASE64) == 0)
        len = decrypt(k, context, raw, n);
    if (len > 0)
        buf_add(out, raw + NONCE_LEN, (size_t)len);
    sodium_memzero(raw, size);
    free(raw);
    if (len < 0)
        return err_set(err, ERR_INTERNAL,
                       "a value sealed with the master key %s does not open as that of %s: it was "
                       "altered or moved",
                       k->id, context);
    return 0;
}

int vault_open(const struct vault *v, const char *context, struct str sealed, bool must_be_sealed,
               struct buf *out, struct err *err)
{
    char id[VAULT_KEY_ID_SIZE];
    if (!vault_is_sealed(sealed, id)) {
        if (must_be_sealed)
            return err_set(err, ERR_INTERNAL, "the value of %s is not sealed", context);
        buf_addstr(out, sealed);
        return 0;
    }
    const struct master_key *k = find_key(v, id);
    if (!k)
        return err_set(err, ERR_INTERNAL,
                       "the value of %s is sealed with the master key %s, which is not configured",
                       context, id);
    return unseal(k, context, sealed, out, err);
}

bool vault_is_current(const struct vault *v, struct str sealed)
{
    char id[VAULT_KEY_ID_SIZE];
    if (!vault_has_key(v))
        return true;
    return vault_is_sealed(sealed, id) && strcmp(id, v->keys[0].id) == 0;
}
