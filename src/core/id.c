/* id.c - random identifiers. Bytes are drawn in blocks: one call per id would be a system call. */
#include "core/id.h"

#include "core/clock.h"

#include <sodium.h>

#define REQUEST_TIME_LEN 7 /* milliseconds in base 62, enough until the year 2081 */

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

/* Version 7 with the method of RFC 9562, section 6.2 (fixed-length dedicated counter): the 12 bits
 * after the time count within a millisecond, starting anywhere in the lower half. */
static uint64_t next_time_and_counter(unsigned *ret_counter)
{
    static uint64_t last_ms;
    static unsigned counter;
    uint64_t now = (uint64_t)clock_wall_ms();
    if (now > last_ms) {
        unsigned char start[2];
        random_bytes(start, sizeof(start));
        counter = (start[0] | (unsigned)start[1] << 8) & 0x7FF;
        last_ms = now;
    } else if (++counter > 0xFFF) { /* the clock went back, or 2,000 ids in a millisecond */
        last_ms++;
        counter = 0;
    }
    *ret_counter = counter;
    return last_ms;
}

const char *id_uuid(char out[ID_UUID_SIZE])
{
    static const char hex[] = "0123456789abcdef";
    unsigned char b[16];
    unsigned counter;
    uint64_t ms = next_time_and_counter(&counter);
    random_bytes(b + 8, 8);
    for (int i = 0; i < 6; i++)
        b[i] = (unsigned char)(ms >> (40 - 8 * i));
    b[6] = (unsigned char)(0x70 | counter >> 8);
    b[7] = (unsigned char)(counter & 0xFF);
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
    uint64_t ms = (uint64_t)clock_wall_ms();
    memcpy(out, "req_", 4);
    for (int i = REQUEST_TIME_LEN - 1; i >= 0; i--, ms /= 62)
        out[4 + i] = alphabet[ms % 62];
    id_alnum(out + 4 + REQUEST_TIME_LEN, ID_REQUEST_SIZE - 5 - REQUEST_TIME_LEN);
    return out;
}
