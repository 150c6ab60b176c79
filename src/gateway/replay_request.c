/* replay_request.c - see the header. */
#include "gateway/replay_request.h"

#include <ctype.h>
#include <sodium.h>

#define HASH_BYTES   32
#define EVENT_DIGITS 10
#define HEADERS_MAX  ((size_t)8 << 10)

/* Two lines are a list, which has a space in it. */
static int read_key(const struct http_req *req, char ret[REPLAY_KEY_SIZE], struct err *err)
{
    AUTO(buf_release) struct buf value;
    buf_init(&value, HEADERS_MAX);
    ret[0] = '\0';
    if (!http_req_header_all(req, IDEMPOTENCY_KEY, &value) && buf_ok(&value))
        return 0;
    bool good = buf_ok(&value) && value.len > 0 && value.len < REPLAY_KEY_SIZE;
    for (size_t i = 0; i < value.len && good; i++)
        good = value.data[i] > 0x20 && value.data[i] < 0x7f;
    if (!good)
        return err_field(err, IDEMPOTENCY_KEY,
                         "must be 1 to %d visible ASCII characters, without spaces",
                         REPLAY_KEY_SIZE - 1);
    snprintf(ret, REPLAY_KEY_SIZE, "%s", value.data);
    return 0;
}

static int read_resumable(const struct http_req *req, bool *ret, struct err *err)
{
    struct str value = str_trim(str_c(http_req_header(req, RESUMABLE)));
    *ret = str_ieq_c(value, "true");
    if (value.p && !*ret && !str_ieq_c(value, "false"))
        return err_field(err, RESUMABLE, "must be true or false");
    return 0;
}

static bool is_request_id(struct str s)
{
    for (size_t i = strlen("req_"); i < s.len; i++) {
        if (!isalnum((unsigned char)s.p[i]))
            return false;
    }
    return s.len == ID_REQUEST_SIZE - 1 && str_starts(s, "req_");
}

static int read_event_id(const struct http_req *req, struct replay_wish *ret, struct err *err)
{
    struct str number = str_trim(str_c(http_req_header(req, LAST_EVENT_ID)));
    ret->resumes[0] = '\0';
    ret->after = 0;
    if (!number.p)
        return 0;
    struct str id = str_split(&number, ':');
    if (!is_request_id(id) || number.len > EVENT_DIGITS || !str_to_u64(number, &ret->after) ||
        ret->after == 0)
        return err_field(err, LAST_EVENT_ID,
                         "must be the id of an event of a stream of this "
                         "server, as in req_...:12");
    snprintf(ret->resumes, sizeof(ret->resumes), "%.*s", (int)id.len, id.p);
    return 0;
}

int replay_read(const struct http_req *req, struct replay_wish *ret, struct err *err)
{
    if (read_key(req, ret->key, err) != 0 || read_resumable(req, &ret->resumable, err) != 0)
        return -1;
    return read_event_id(req, ret, err);
}

static void hash_part(crypto_generichash_state *state, struct str part)
{
    uint64_t len = part.len; /* in front, so that no two lists of parts look alike */
    crypto_generichash_update(state, (const unsigned char *)&len, sizeof(len));
    if (part.len)
        crypto_generichash_update(state, (const unsigned char *)part.p, part.len);
}

static void hash_end(crypto_generichash_state *state, char out[2 * HASH_BYTES + 1])
{
    unsigned char hash[HASH_BYTES];
    crypto_generichash_final(state, hash, sizeof(hash));
    sodium_bin2hex(out, 2 * HASH_BYTES + 1, hash, sizeof(hash));
}

void replay_id(const char *api_key_id, struct str key, char out[REPLY_ID_SIZE])
{
    crypto_generichash_state state;
    crypto_generichash_init(&state, NULL, 0, HASH_BYTES);
    hash_part(&state, str_c(api_key_id));
    hash_part(&state, key);
    hash_end(&state, out);
}

void replay_fingerprint(struct http_req *req, struct str key, char out[REPLY_FINGERPRINT_SIZE])
{
    static const char *const versions[] = {"anthropic-version", "anthropic-beta"};
    crypto_generichash_state state;
    unsigned char secret[HASH_BYTES];
    crypto_generichash(secret, sizeof(secret), (const unsigned char *)key.p, key.len, NULL, 0);
    crypto_generichash_init(&state, secret, sizeof(secret), HASH_BYTES);
    hash_part(&state, str_c(http_req_method(req)));
    hash_part(&state, str_c(http_req_target(req)));
    for (size_t i = 0; i < ARRAY_SIZE(versions); i++) {
        AUTO(buf_release) struct buf value;
        buf_init(&value, HEADERS_MAX);
        http_req_header_all(req, versions[i], &value);
        hash_part(&state, buf_str(&value));
    }
    hash_part(&state, http_req_body(req));
    hash_end(&state, out);
}
