/* buf.h - growable bytes with a limit. There is no uncapped constructor.
 *
 * Appending past the limit sets `overflow` and appends nothing more; the owner checks buf_ok()
 * once, after building, instead of after each step. data is always NUL-terminated once something
 * was appended, so short texts can go to OS calls. */
#ifndef CG_CORE_BUF_H
#define CG_CORE_BUF_H

#include "core/str.h"

#include <stdarg.h>

struct buf {
    char *data;
    size_t len;
    size_t cap;
    size_t max;
    bool overflow;
};

void buf_init(struct buf *b, size_t max);
void buf_release(struct buf *b); /* frees contents; b may be init'ed again; for AUTO(buf_release) */
void buf_clear(struct buf *b);   /* empties, keeps the memory */

void buf_add(struct buf *b, const void *p, size_t n);
void buf_adds(struct buf *b, const char *s);
void buf_addstr(struct buf *b, struct str s);
void buf_addc(struct buf *b, char c);
void buf_printf(struct buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
void buf_vprintf(struct buf *b, const char *fmt, va_list ap) PRINTF_LIKE(2, 0);
void buf_int(struct buf *b, int64_t v); /* decimal; printf costs ten times as much */
/* JSON string with quotes. Invalid UTF-8 becomes U+FFFD. */
void buf_json_str(struct buf *b, struct str s);
/* Drop n bytes from the front. */
void buf_consume(struct buf *b, size_t n);
/* Room for n more bytes at data+len, for read(2); then buf_grow_len(). False when over the limit.
 */
MUST_USE bool buf_reserve(struct buf *b, size_t n);
void buf_grow_len(struct buf *b, size_t n);

static inline bool buf_ok(const struct buf *b)
{
    return !b->overflow;
}
static inline struct str buf_str(const struct buf *b)
{
    return (struct str){b->data ? b->data : "", b->len};
}
const char *buf_cstr(const struct buf *b); /* never NULL */
/* Hands the bytes over (owned by the caller, NUL-terminated); b is empty afterwards. */
char *buf_take(struct buf *b);

#endif
