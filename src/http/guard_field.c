/* guard_field.c - what the header fields that decide framing and routing may say.
 *
 * Each is taken in exactly one spelling. Where RFC 9110 allows a recipient to repair something
 * (a repeated equal Content-Length, say) we refuse: a repair is a guess about what the proxy in
 * front of us understood. */
#include "http/guard.h"

#include "core/str.h"

static const struct {
    const char *name; /* shorter than guard.word, which cuts off */
    enum guard_field field;
    bool anthropic;
} fields[] = {
    {"host", GUARD_F_HOST, false},
    {"content-length", GUARD_F_LENGTH, false},
    {"transfer-encoding", GUARD_F_TRANSFER, false},
    {"content-encoding", GUARD_F_CONTENT, false},
    {"expect", GUARD_F_EXPECT, false},
    {"anthropic-version", GUARD_F_OTHER, true},
    {"x-api-key", GUARD_F_OTHER, true},
};

void guard_begin_field(struct guard *g)
{
    g->field = GUARD_F_OTHER;
    for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
        if (!str_eq_c(str_n(g->word, g->word_len), fields[i].name))
            continue;
        g->field = fields[i].field;
        g->anthropic |= fields[i].anthropic;
    }
}

static bool is_port(struct str s)
{
    uint64_t port;
    return s.len <= 5 && str_to_u64(s, &port) && port <= 65535;
}

static bool is_host_char(char c, bool bracket)
{
    if (bracket)
        return guard_hex((unsigned char)c) >= 0 || c == ':' || c == '.';
    return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || c == '-' ||
           c == '.' || c == '_';
}

/* name[:port], a.b.c.d[:port] or [v6][:port] */
static bool is_host(struct str s)
{
    bool bracket = s.len > 0 && s.p[0] == '[';
    size_t i = bracket ? 1 : 0, start = i;
    while (i < s.len && is_host_char(s.p[i], bracket))
        i++;
    if (i == start)
        return false;
    if (bracket && (i == s.len || s.p[i++] != ']'))
        return false;
    if (i == s.len)
        return true;
    return s.p[i] == ':' && is_port(str_n(s.p + i + 1, s.len - i - 1));
}

static enum guard_reason check_host(struct guard *g, struct str v)
{
    if (g->has_host)
        return GUARD_HOST_DUPLICATE;
    g->has_host = true;
    return is_host(v) ? GUARD_OK : GUARD_HOST_INVALID;
}

static enum guard_reason check_length(struct guard *g, struct str v)
{
    if (g->has_length)
        return GUARD_LENGTH_DUPLICATE;
    g->has_length = true;
    return v.len <= 19 && str_to_u64(v, &g->length) ? GUARD_OK : GUARD_LENGTH_INVALID;
}

static enum guard_reason check_transfer(struct guard *g, struct str v)
{
    if (g->has_transfer || !str_ieq_c(v, "chunked"))
        return GUARD_TRANSFER_ENCODING;
    g->has_transfer = g->chunked = true;
    return GUARD_OK;
}

enum guard_reason guard_check_field(struct guard *g)
{
    struct str v = str_n(g->value, g->value_len);
    while (v.len && v.p[v.len - 1] == ' ')
        v.len--;
    switch (g->field) {
    case GUARD_F_HOST:
        return check_host(g, v);
    case GUARD_F_LENGTH:
        return check_length(g, v);
    case GUARD_F_TRANSFER:
        return check_transfer(g, v);
    case GUARD_F_CONTENT:
        return str_ieq_c(v, "identity") ? GUARD_OK : GUARD_CONTENT_ENCODING;
    case GUARD_F_EXPECT:
        return str_ieq_c(v, "100-continue") ? GUARD_OK : GUARD_EXPECT;
    case GUARD_F_OTHER:
        break;
    }
    return GUARD_OK;
}

/* evhttp reads no body after these; if one could follow, the two would disagree on the end. A body
 * with DELETE is read and ignored. */
static bool takes_no_body(const char *method)
{
    return strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0 ||
           strcmp(method, "OPTIONS") == 0;
}

enum guard_reason guard_check_head(struct guard *g)
{
    if (g->minor >= 1 && !g->has_host)
        return GUARD_HOST_MISSING;
    if (g->has_length && g->has_transfer)
        return GUARD_LENGTH_AND_ENCODING;
    if (g->has_transfer && g->minor == 0)
        return GUARD_TRANSFER_ENCODING;
    if ((g->chunked || g->length > 0) && takes_no_body(g->method))
        return GUARD_UNEXPECTED_BODY;
    if (g->length > g->max_body)
        return GUARD_BODY_TOO_LARGE;
    return GUARD_OK;
}
