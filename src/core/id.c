/* id.c - random identifiers. Bytes are drawn in blocks: one call per id would be a system call. */
#include "core/id.h"

#include <sodium.h>

static const char alphabet[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

static unsigned char pool[1024];
static size_t pool_left;

void id_init(void)
{
    BUG_ON(sodium_init() < 0);
    pool_left = 0;
}

static void random_bytes(unsigned char *out, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (pool_left == 0) {
            randombytes_buf(pool, sizeof(pool));
            pool_left = sizeof(pool);
        }
        out[i] = pool[--pool_left];
        pool[pool_left] = 0; /* never handed out twice, never readable later */
    }
}

const char *id_uuid(char out[ID_UUID_SIZE])
{
    static const char hex[] = "0123456789abcdef";
    unsigned char b[16];
    random_bytes(b, sizeof(b));
    b[6] = (unsigned char)((b[6] & 0x0F) | 0x40);
    b[8] = (unsigned char)((b[8] & 0x3F) | 0x80);
    char *p = out;
    for (size_t i = 0; i < sizeof(b); i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            *p++ = '-';
        *p++ = hex[b[i] >> 4];
        *p++ = hex[b[i] & 15];
    }
    *p = '\0';
    return out;
}

void id_alnum(char *out, size_t n)
{
    for (size_t i = 0; i < n;) {
        unsigned char c;
        random_bytes(&c, 1);
        if (c < 248) /* 4 * 62: no modulo bias */
            out[i++] = alphabet[c % 62];
    }
    out[n] = '\0';
}

const char *id_request(char out[ID_REQUEST_SIZE])
{
    memcpy(out, "req_", 4);
    id_alnum(out + 4, ID_REQUEST_SIZE - 5);
    return out;
}
