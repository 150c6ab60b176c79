/* secret.c - keys as text, bcrypt, and the two headers a key may come in.
 *
 * No state. crypt_rn() needs 32 KB of scratch memory, which holds traces of the secret: it is
 * taken from the heap and wiped. */
#include "auth/secret.h"

#include "auth/auth.h"
#include "auth/signature.h"
#include "core/clock.h"

#include <crypt.h>
#include <sodium.h>

#define KEY_PREFIX    "sk-cg-"
#define BCRYPT_PREFIX "$2b$"
#define BCRYPT_SALT   16
#define SEALED_MAX    1024

static bool all_alnum(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) { /* not isalnum(): that follows the locale */
        char c = p[i];
        if (!((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z')))
            return false;
    }
    return true;
}

bool key_text_parse(struct str text, struct key_text *ret_key)
{
    if (text.len != KEY_TEXT_SIZE - 1 || !str_starts(text, KEY_PREFIX))
        return false;
    const char *public_id = text.p + sizeof(KEY_PREFIX) - 1;
    const char *secret = public_id + KEY_PUBLIC_ID_LEN + 1;
    if (secret[-1] != '-' || !all_alnum(public_id, KEY_PUBLIC_ID_LEN) ||
        !all_alnum(secret, KEY_SECRET_LEN))
        return false;
    memcpy(ret_key->public_id, public_id, KEY_PUBLIC_ID_LEN);
    ret_key->public_id[KEY_PUBLIC_ID_LEN] = '\0';
    ret_key->secret = secret;
    return true;
}

/* The key in "Bearer KEY"; p NULL when it is of another form. */
static struct str bearer_token(const char *authorization)
{
    struct str rest = str_trim(str_c(authorization));
    struct str scheme = str_split(&rest, ' ');
    if (!str_ieq_c(scheme, "bearer"))
        return (struct str){NULL, 0};
    return str_trim(rest);
}

static bool same_secret(struct str a, struct str b)
{
    return a.len == b.len && sodium_memcmp(a.p, b.p, a.len) == 0;
}

int auth_key_from_headers(const char *authorization, const char *x_api_key, struct str *ret_key,
                          struct err *err)
{
    struct str plain = str_trim(x_api_key ? str_c(x_api_key) : STR(""));
    struct str bearer = STR("");
    if (authorization && *authorization) {
        bearer = bearer_token(authorization);
        if (!bearer.p)
            return err_set(err, ERR_UNAUTHENTICATED,
                           "The Authorization header must have the form: Bearer <API key>");
    }
    if (!bearer.len && !plain.len)
        return err_set(err, ERR_UNAUTHENTICATED, "Missing API key");
    if (bearer.len && plain.len && !same_secret(bearer, plain))
        return err_set(err, ERR_UNAUTHENTICATED,
                       "The Authorization and x-api-key headers hold different API keys");
    *ret_key = bearer.len ? bearer : plain;
    return 0;
}

static char *run_crypt(const char *secret, const char *setting, char *out, size_t out_size)
{
    struct crypt_data *data = x_calloc(1, sizeof(*data));
    char *hash = crypt_rn(secret, setting, data, (int)sizeof(*data));
    if (hash) {
        snprintf(out, out_size, "%s", hash);
        hash = out;
    }
    sodium_memzero(data, sizeof(*data));
    free(data);
    return hash;
}

char *auth_bcrypt(const char *secret, int cost)
{
    char salt[BCRYPT_SALT], setting[CRYPT_GENSALT_OUTPUT_SIZE], hash[CRYPT_OUTPUT_SIZE];
    if (strlen(secret) > AUTH_BCRYPT_MAX || cost < 4 || cost > 31)
        return NULL;
    randombytes_buf(salt, sizeof(salt));
    BUG_ON(!crypt_gensalt_rn(BCRYPT_PREFIX, (unsigned long)cost, salt, (int)sizeof(salt), setting,
                             (int)sizeof(setting)));
    BUG_ON(!run_crypt(secret, setting, hash, sizeof(hash)));
    return x_strdup(hash);
}

bool auth_bcrypt_check(const char *secret, const char *hash)
{
    char again[CRYPT_OUTPUT_SIZE];
    if (!hash || !str_starts(str_c(hash), BCRYPT_PREFIX) || strlen(secret) > AUTH_BCRYPT_MAX ||
        !run_crypt(secret, hash, again, sizeof(again)))
        return false;
    return same_secret(str_c(again), str_c(hash));
}

static void new_secret(struct api_key *key, char ret_text[KEY_TEXT_SIZE])
{
    char secret[KEY_SECRET_LEN + 1];
    id_alnum(secret, KEY_SECRET_LEN);
    snprintf(ret_text, KEY_TEXT_SIZE, KEY_PREFIX "%s-%s", key->public_id, secret);
    key->secret_hash = auth_bcrypt(secret, AUTH_BCRYPT_COST);
    sodium_memzero(secret, sizeof(secret));
}

void auth_key_generate(struct api_key *key, char ret_text[KEY_TEXT_SIZE])
{
    id_uuid(key->id);
    id_alnum(key->public_id, KEY_PUBLIC_ID_LEN);
    new_secret(key, ret_text);
    key->created_at = clock_wall_ms();
}

void auth_key_rotate(struct api_key *key, int64_t overlap_ms, char ret_text[KEY_TEXT_SIZE])
{
    char *before = TAKE_PTR(key->secret_hash);
    free(TAKE_PTR(key->old_secret_hash));
    free(TAKE_PTR(key->old_signing_secret));
    key->old_secret_until = 0;
    new_secret(key, ret_text);
    if (overlap_ms > 0) {
        key->old_secret_hash = TAKE_PTR(before);
        key->old_secret_until = clock_wall_ms() + overlap_ms;
    }
    free(before);
}

int auth_signing_generate(struct api_key *key, const struct vault *vault,
                          char ret_text[SIGNING_TEXT_SIZE], struct err *err)
{
    char context[SIGNING_CONTEXT_SIZE], secret[KEY_SECRET_LEN + 1];
    struct buf sealed;
    if (!vault_has_key(vault))
        return err_set(err, ERR_CONFIG,
                       "signed requests need a master key, which encrypts their secrets in the "
                       "database: set vault.master_key or vault.master_key_file");
    id_alnum(secret, KEY_SECRET_LEN);
    snprintf(ret_text, SIGNING_TEXT_SIZE, "ss-cg-%s", secret);
    sodium_memzero(secret, sizeof(secret));
    buf_init(&sealed, SEALED_MAX);
    vault_seal(vault, signing_context(key, context), str_c(ret_text), &sealed);
    free(key->old_signing_secret);
    key->old_signing_secret = key->old_secret_until ? key->signing_secret : NULL;
    if (!key->old_secret_until)
        free(key->signing_secret);
    key->signing_secret = buf_take(&sealed);
    return 0;
}
