/* str.c - comparisons, splitting and checks on borrowed text. */
#include "core/str.h"

#include <strings.h>

bool str_eq(struct str a, struct str b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.p, b.p, a.len) == 0);
}

bool str_eq_c(struct str a, const char *b)
{
    return str_eq(a, str_c(b));
}

bool str_ieq_c(struct str a, const char *b)
{
    size_t n = strlen(b);
    return a.len == n && strncasecmp(a.p ? a.p : "", b, n) == 0;
}

bool str_starts(struct str s, const char *prefix)
{
    size_t n = strlen(prefix);
    return s.len >= n && (n == 0 || memcmp(s.p, prefix, n) == 0);
}

bool str_ends(struct str s, const char *suffix)
{
    size_t n = strlen(suffix);
    return s.len >= n && memcmp(s.p + s.len - n, suffix, n) == 0;
}

struct str str_trim(struct str s)
{
    while (s.len && (s.p[0] == ' ' || s.p[0] == '\t')) {
        s.p++;
        s.len--;
    }
    while (s.len && (s.p[s.len - 1] == ' ' || s.p[s.len - 1] == '\t'))
        s.len--;
    return s;
}

struct str str_split(struct str *s, char sep)
{
    const char *hit = s->len ? memchr(s->p, sep, s->len) : NULL;
    struct str head = *s;
    if (hit) {
        head.len = (size_t)(hit - s->p);
        s->p = hit + 1;
        s->len -= head.len + 1;
    } else if (s->len) {
        s->p += s->len;
        s->len = 0;
    }
    return head;
}

bool str_contains(struct str haystack, const char *needle)
{
    return haystack.len && memmem(haystack.p, haystack.len, needle, strlen(needle)) != NULL;
}

bool str_to_u64(struct str s, uint64_t *ret_value)
{
    uint64_t v = 0;
    if (s.len == 0)
        return false;
    for (size_t i = 0; i < s.len; i++) {
        if (s.p[i] < '0' || s.p[i] > '9')
            return false;
        if (__builtin_mul_overflow(v, 10u, &v) ||
            __builtin_add_overflow(v, (uint64_t)(s.p[i] - '0'), &v))
            return false;
    }
    *ret_value = v;
    return true;
}

bool str_glob(const char *pattern, struct str s)
{
    const char *star = NULL;
    size_t i = 0, star_at = 0;
    while (i < s.len) {
        if (*pattern == '*') {
            star = pattern++;
            star_at = i;
        } else if (*pattern && *pattern == s.p[i]) {
            pattern++;
            i++;
        } else if (star) {
            pattern = star + 1;
            i = ++star_at;
        } else {
            return false;
        }
    }
    while (*pattern == '*')
        pattern++;
    return *pattern == '\0';
}

/* What the second byte may be after this first byte: no overlong forms, no surrogates, nothing
 * past U+10FFFF. RFC 3629, section 4. */
static bool second_ok(unsigned char first, unsigned char second)
{
    unsigned char low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
    unsigned char high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
    return second >= low && second <= high;
}

/* Length of the UTF-8 sequence at p (n bytes left), 0 if it is not one. */
static size_t utf8_seq(const unsigned char *p, size_t n)
{
    if (p[0] < 0x80)
        return 1;
    size_t len = p[0] >= 0xF0 ? 4 : p[0] >= 0xE0 ? 3 : 2;
    if (p[0] < 0xC2 || p[0] > 0xF4 || n < len || !second_ok(p[0], p[1]))
        return 0;
    for (size_t i = 2; i < len; i++) {
        if ((p[i] & 0xC0) != 0x80)
            return 0;
    }
    return len;
}

bool str_is_utf8(struct str s)
{
    const unsigned char *p = (const unsigned char *)s.p;
    for (size_t i = 0; i < s.len;) {
        size_t n = utf8_seq(p + i, s.len - i);
        if (!n)
            return false;
        i += n;
    }
    return true;
}

void str_end_utf8(char *s)
{
    size_t len = strlen(s), i = 0, n;
    while (i < len && (n = utf8_seq((const unsigned char *)s + i, len - i)) > 0)
        i += n;
    s[i] = '\0';
}

char *str_dup(struct str s)
{
    return x_strndup(s.p, s.len);
}
