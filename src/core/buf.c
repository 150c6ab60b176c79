/* buf.c - growable bytes with a limit; see the header for the contract. */
#include "core/buf.h"

#define FIRST_CAP 256 /* most replies and log lines fit without growing twice */

void buf_init(struct buf *b, size_t max)
{
    *b = (struct buf){.max = max};
}

void buf_release(struct buf *b)
{
    free(b->data);
    *b = (struct buf){.max = b->max};
}

void buf_clear(struct buf *b)
{
    b->len = 0;
    b->overflow = false;
    if (b->data)
        b->data[0] = '\0';
}

bool buf_reserve(struct buf *b, size_t n)
{
    size_t need;
    BUG_ON(b->max == 0);
    if (b->overflow || __builtin_add_overflow(b->len, n, &need) || need > b->max) {
        b->overflow = true;
        return false;
    }
    if (need + 1 > b->cap) {
        size_t cap = b->cap ? b->cap : FIRST_CAP;
        while (cap < need + 1)
            cap *= 2;
        b->data = x_realloc(b->data, cap);
        b->cap = cap;
    }
    return true;
}

void buf_grow_len(struct buf *b, size_t n)
{
    BUG_ON(b->len + n >= b->cap);
    b->len += n;
    b->data[b->len] = '\0';
}

void buf_add(struct buf *b, const void *p, size_t n)
{
    if (n == 0 || !buf_reserve(b, n))
        return;
    memcpy(b->data + b->len, p, n);
    buf_grow_len(b, n);
}

void buf_adds(struct buf *b, const char *s)
{
    buf_add(b, s, strlen(s));
}

void buf_addstr(struct buf *b, struct str s)
{
    buf_add(b, s.p, s.len);
}

void buf_addc(struct buf *b, char c)
{
    buf_add(b, &c, 1);
}

void buf_vprintf(struct buf *b, const char *fmt, va_list ap)
{
    char small[256];
    va_list again;
    va_copy(again, ap);
    int n = vsnprintf(small, sizeof(small), fmt, ap);
    BUG_ON(n < 0);
    if ((size_t)n < sizeof(small)) {
        buf_add(b, small, (size_t)n);
    } else if (buf_reserve(b, (size_t)n)) {
        vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
        buf_grow_len(b, (size_t)n);
    }
    va_end(again);
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    buf_vprintf(b, fmt, ap);
    va_end(ap);
}

void buf_int(struct buf *b, int64_t v)
{
    char digits[24], *p = digits + sizeof(digits);
    uint64_t u = v < 0 ? -(uint64_t)v : (uint64_t)v;
    do {
        *--p = (char)('0' + u % 10);
        u /= 10;
    } while (u);
    if (v < 0)
        *--p = '-';
    buf_add(b, p, (size_t)(digits + sizeof(digits) - p));
}

static void json_escape(struct buf *b, unsigned char c)
{
    switch (c) {
    case '"':
        buf_adds(b, "\\\"");
        break;
    case '\\':
        buf_adds(b, "\\\\");
        break;
    case '\n':
        buf_adds(b, "\\n");
        break;
    case '\r':
        buf_adds(b, "\\r");
        break;
    case '\t':
        buf_adds(b, "\\t");
        break;
    default:
        buf_printf(b, "\\u%04x", c);
    }
}

/* Nothing to escape and nothing to check: most names, ids and English text. */
static bool is_plain_ascii(struct str s)
{
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c < 0x20 || c >= 0x80 || c == '"' || c == '\\')
            return false;
    }
    return true;
}

void buf_json_str(struct buf *b, struct str s)
{
    if (is_plain_ascii(s)) {
        if (!buf_reserve(b, s.len + 2))
            return;
        buf_addc(b, '"');
        buf_addstr(b, s);
        buf_addc(b, '"');
        return;
    }
    bool utf8 = str_is_utf8(s);
    size_t start = 0;
    buf_addc(b, '"');
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.p[i];
        bool plain = c >= 0x20 && c != '"' && c != '\\' && (utf8 || c < 0x80);
        if (plain)
            continue;
        buf_add(b, s.p + start, i - start);
        start = i + 1;
        if (c >= 0x80)
            buf_adds(b, "\xEF\xBF\xBD");
        else
            json_escape(b, c);
    }
    buf_add(b, s.p ? s.p + start : "", s.len - start);
    buf_addc(b, '"');
}

void buf_consume(struct buf *b, size_t n)
{
    BUG_ON(n > b->len);
    if (n == 0)
        return;
    memmove(b->data, b->data + n, b->len - n);
    b->len -= n;
    b->data[b->len] = '\0';
}

const char *buf_cstr(const struct buf *b)
{
    return b->data ? b->data : "";
}

char *buf_take(struct buf *b)
{
    char *p = b->data ? b->data : x_strdup("");
    *b = (struct buf){.max = b->max};
    return p;
}
