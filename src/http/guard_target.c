/* guard_target.c - the request target, byte by byte.
 *
 * Only the origin form ("/path?query") and "*" are taken: there is no proxy here, and evhttp
 * would read an absolute form differently. A path is refused when decoding could change which
 * segments it has: encoded or doubled slashes, backslashes, dot segments in any spelling, control
 * bytes. So the router can decode first and split afterwards. */
#include "http/guard.h"

/* RFC 3986: unreserved, sub-delims, ":", "@", "/", "?"; '%' is handled by its own rule. */
static bool is_target_char(unsigned char c)
{
    return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') ||
           (c > 0x20 && c < 0x7f && strchr("-._~!$&'()*+,;=:@/?[]", c) != NULL);
}

/* Is the segment that just ended "", "." or ".."? The last one may be empty (trailing slash). */
static bool bad_segment(const struct guard *g, bool last)
{
    if (g->seg_len == 0)
        return !last;
    return g->seg_len == g->seg_dots && g->seg_len <= 2;
}

static enum guard_reason path_char(struct guard *g, unsigned char c, bool encoded)
{
    if (c < 0x20 || c == 0x7f || c == '\\' || (encoded && c == '/'))
        return GUARD_PATH;
    if (g->path_len < sizeof(g->path) - 1)
        g->path[g->path_len++] = (char)c;
    if (c == '/') {
        if (g->target_len > 0 && bad_segment(g, false))
            return GUARD_PATH;
        g->seg_len = g->seg_dots = 0;
        return GUARD_OK;
    }
    g->seg_len++;
    if (c == '.')
        g->seg_dots++;
    return GUARD_OK;
}

static enum guard_reason escape_digit(struct guard *g, unsigned char c)
{
    int v = guard_hex(c);
    if (v < 0)
        return GUARD_PATH;
    if (g->pct == 1) {
        g->pct = 2;
        g->pct_char = (unsigned)v;
        return GUARD_OK;
    }
    unsigned char decoded = (unsigned char)(g->pct_char << 4 | (unsigned)v);
    g->pct = 0;
    if (g->in_query)
        return decoded ? GUARD_OK : GUARD_PATH;
    return path_char(g, decoded, true);
}

static enum guard_reason plain_char(struct guard *g, unsigned char c)
{
    if (g->target_len == 0 && c == '*') {
        g->star = true;
        return GUARD_OK;
    }
    if ((g->target_len == 0 && c != '/') || g->star || !is_target_char(c))
        return GUARD_TARGET;
    if (g->in_query)
        return GUARD_OK;
    if (c == '?') {
        g->in_query = true;
        return bad_segment(g, true) ? GUARD_PATH : GUARD_OK;
    }
    return path_char(g, c, false);
}

enum guard_reason guard_target_byte(struct guard *g, unsigned char c)
{
    if (g->target_len >= GUARD_MAX_TARGET)
        return GUARD_TARGET_TOO_LONG;
    enum guard_reason r = GUARD_OK;
    if (g->pct)
        r = escape_digit(g, c);
    else if (c == '%' && g->target_len > 0 && !g->star)
        g->pct = 1;
    else
        r = plain_char(g, c);
    g->target_len++;
    return r;
}

enum guard_reason guard_target_end(struct guard *g)
{
    if (g->target_len == 0)
        return GUARD_REQUEST_LINE;
    if (g->pct)
        return GUARD_PATH;
    return !g->star && !g->in_query && bad_segment(g, true) ? GUARD_PATH : GUARD_OK;
}
