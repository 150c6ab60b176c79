/* target.c - path and query of a request target. The guard has already refused everything whose
 * decoding would be ambiguous, so nothing can fail here. */
#include "http/internal.h"

static char *decode(char *out, const char *p, size_t len, bool plus)
{
    for (size_t i = 0; i < len; i++) {
        int hi = 0, lo = 0;
        if (p[i] == '%' && i + 2 < len && (hi = guard_hex((unsigned char)p[i + 1])) >= 0 &&
            (lo = guard_hex((unsigned char)p[i + 2])) >= 0) {
            *out++ = (char)(hi << 4 | lo);
            i += 2;
        } else {
            *out++ = p[i] == '+' && plus ? ' ' : p[i];
        }
    }
    *out++ = '\0';
    return out;
}

char *target_path(const char *target)
{
    size_t len = strcspn(target, "?");
    char *path = x_malloc(len + 1);
    decode(path, target, len, false);
    return path;
}

char *target_query(const char *target)
{
    const char *mark = strchr(target, '?');
    if (!mark)
        return NULL;
    struct str rest = str_c(mark + 1);
    /* "k&k&k" needs one byte more per pair than it has */
    char *query = x_malloc(rest.len * 2 + 3), *out = query;
    while (rest.len) {
        struct str value = str_split(&rest, '&');
        struct str key = str_split(&value, '=');
        if (key.len == 0)
            continue;
        out = decode(out, key.p, key.len, true);
        out = decode(out, value.p, value.len, true);
    }
    *out = '\0';
    return query;
}

const char *query_find(const char *query, const char *name)
{
    if (!query)
        return NULL;
    for (const char *key = query; *key;) {
        const char *value = key + strlen(key) + 1;
        if (strcmp(key, name) == 0)
            return value;
        key = value + strlen(value) + 1;
    }
    return NULL;
}
