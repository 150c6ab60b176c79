/* guard.c - the scanner's states. See guard.h for what it promises.
 *
 * Each state is one function that takes as many bytes as it can and returns how many; refuse()
 * ends everything. The head limit is enforced by clamping what a state may take, so that the
 * verdict does not depend on how the bytes were split.
 *
 * Deliberately stricter than RFC 9112: no bare LF, no line folding, no empty line before the
 * request line, no chunk extensions and no trailer fields (evhttp would merge those into the
 * headers). */
#include "http/guard.h"

#include <assert.h>

enum {
    S_METHOD,
    S_TARGET,
    S_VERSION,
    S_REQUEST_LF,
    S_LINE_START,
    S_NAME,
    S_VALUE,
    S_VALUE_LF,
    S_END_LF,
    S_BODY,
    S_CHUNK_SIZE,
    S_CHUNK_SIZE_LF,
    S_CHUNK_DATA,
    S_CHUNK_CR,
    S_CHUNK_LF,
    S_TRAILER,
    S_TRAILER_LF,
    S_DONE,
    S_REFUSED,
    S_COUNT
};

static const struct guard_reason_info reasons[] = {
    [GUARD_OK] = {"ok", 200, ""},
    [GUARD_REQUEST_LINE] = {"request_line", 400, "The request line is malformed."},
    [GUARD_LINE_END] = {"line_end", 400, "Every line of the head must end in CR LF."},
    [GUARD_METHOD] = {"method", 501, "The request method is not supported."},
    [GUARD_VERSION] = {"version", 505, "Only HTTP/1.0 and HTTP/1.1 are supported."},
    [GUARD_TARGET] = {"target", 400, "The request target is malformed; send an absolute path."},
    [GUARD_TARGET_TOO_LONG] = {"target_too_long", 414, "The request target is too long."},
    [GUARD_PATH] = {"path", 400,
                    "The request target has a bad percent escape, a dot segment, or an empty or "
                    "encoded path separator."},
    [GUARD_HEADER_NAME] = {"header_name", 400, "A header name is malformed."},
    [GUARD_HEADER_VALUE] = {"header_value", 400, "A header value has a control character."},
    [GUARD_FOLDING] = {"folding", 400, "Folded header lines are not supported."},
    [GUARD_LINE_TOO_LONG] = {"line_too_long", 431, "A header line is too long."},
    [GUARD_TOO_MANY_LINES] = {"too_many_lines", 431, "There are too many header lines."},
    [GUARD_HEAD_TOO_LARGE] = {"head_too_large", 431, "The request head is too large."},
    [GUARD_HOST_MISSING] = {"host_missing", 400, "The Host header is missing."},
    [GUARD_HOST_DUPLICATE] = {"host_duplicate", 400, "There is more than one Host header."},
    [GUARD_HOST_INVALID] = {"host_invalid", 400, "The Host header is malformed."},
    [GUARD_LENGTH_INVALID] = {"length_invalid", 400, "The Content-Length header is malformed."},
    [GUARD_LENGTH_DUPLICATE] = {"length_duplicate", 400,
                                "There is more than one Content-Length header."},
    [GUARD_LENGTH_AND_ENCODING] = {"length_and_encoding", 400,
                                   "Content-Length and Transfer-Encoding exclude each other."},
    [GUARD_TRANSFER_ENCODING] = {"transfer_encoding", 400,
                                 "The only supported Transfer-Encoding is 'chunked', once, with "
                                 "HTTP/1.1."},
    [GUARD_CONTENT_ENCODING] = {"content_encoding", 415,
                                "Encoded request bodies are not supported: send it as 'identity'."},
    [GUARD_EXPECT] = {"expect", 417, "The only supported expectation is '100-continue'."},
    [GUARD_UNEXPECTED_BODY] = {"unexpected_body", 400, "This method takes no request body."},
    [GUARD_BODY_TOO_LARGE] = {"body_too_large", 413, "The request body is too large."},
    [GUARD_CHUNK] = {"chunk", 400, "The chunked request body is malformed."},
    [GUARD_TRAILER] = {"trailer", 400, "Trailer fields are not supported."},
    [GUARD_READ_TIMEOUT] = {"read_timeout", 408, "The request did not arrive in time."},
    [GUARD_CONNECTIONS] = {"connections", 503, "Too many connections."},
    [GUARD_DISAGREEMENT] = {"disagreement", 400, "The request is malformed."},
};
static_assert(ARRAY_SIZE(reasons) == GUARD_REASON_COUNT, "every reason needs a row");

const struct guard_reason_info *guard_reason_info(enum guard_reason reason)
{
    BUG_ON((unsigned)reason >= GUARD_REASON_COUNT);
    return &reasons[reason];
}

static size_t refuse(struct guard *g, enum guard_reason reason)
{
    g->reason = reason;
    g->state = S_REFUSED;
    return 0;
}

/* One byte taken: on to the next state unless the check failed. */
static size_t take(struct guard *g, enum guard_reason verdict, int next)
{
    if (verdict != GUARD_OK)
        return refuse(g, verdict);
    g->state = next;
    return 1;
}

static size_t expect_byte(struct guard *g, unsigned char c, char want, enum guard_reason why,
                          int next)
{
    return take(g, c == (unsigned char)want ? GUARD_OK : why, next);
}

static bool is_line_byte(unsigned char c)
{
    return c == '\r' || c == '\n';
}

static size_t s_method(struct guard *g, const unsigned char *p, size_t n)
{
    (void)n;
    if (*p == ' ')
        return take(g, g->method_len ? GUARD_OK : GUARD_REQUEST_LINE, S_TARGET);
    if (!guard_is_tchar(*p))
        return refuse(g, is_line_byte(*p) && !g->method_len ? GUARD_LINE_END : GUARD_REQUEST_LINE);
    if (g->method_len >= sizeof(g->method) - 1)
        return refuse(g, GUARD_METHOD);
    g->method[g->method_len++] = (char)*p;
    return 1;
}

static size_t s_target(struct guard *g, const unsigned char *p, size_t n)
{
    (void)n;
    if (*p == ' ')
        return take(g, guard_target_end(g), S_VERSION);
    if (is_line_byte(*p)) /* HTTP/0.9 */
        return refuse(g, GUARD_REQUEST_LINE);
    return take(g, guard_target_byte(g, *p), S_TARGET);
}

/* "HTTP/1.0", "HTTP/1.1"; any other well-formed version is 505. */
static enum guard_reason check_version(struct guard *g)
{
    const char *w = g->word;
    if (g->word_len != 8 || memcmp(w, "HTTP/", 5) != 0 || w[6] != '.' || w[5] < '0' || w[5] > '9' ||
        w[7] < '0' || w[7] > '9')
        return GUARD_REQUEST_LINE;
    if (w[5] != '1' || w[7] > '1')
        return GUARD_VERSION;
    g->minor = w[7] - '0';
    return GUARD_OK;
}

static bool method_known(const char *method)
{
    static const char *const known[] = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"};
    for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
        if (strcmp(method, known[i]) == 0)
            return true;
    }
    return false;
}

static enum guard_reason check_request_line(struct guard *g)
{
    enum guard_reason r = check_version(g);
    if (r != GUARD_OK)
        return r;
    if (!method_known(g->method))
        return GUARD_METHOD;
    return g->star && strcmp(g->method, "OPTIONS") != 0 ? GUARD_TARGET : GUARD_OK;
}

static size_t s_version(struct guard *g, const unsigned char *p, size_t n)
{
    (void)n;
    if (*p == '\r')
        return take(g, check_request_line(g), S_REQUEST_LF);
    if (*p == '\n')
        return refuse(g, GUARD_LINE_END);
    if (g->word_len >= 8)
        return refuse(g, GUARD_REQUEST_LINE);
    g->word[g->word_len++] = (char)*p;
    return 1;
}

static size_t s_request_lf(struct guard *g, const unsigned char *p, size_t n)
{
    (void)n;
    return expect_byte(g, *p, '\n', GUARD_LINE_END, S_LINE_START);
}

static size_t s_line_start(struct guard *g, const unsigned char *p, size_t n)
{
    (void)n;
    if (*p == '\r')
        return take(g, GUARD_OK, S_END_LF);
    if (*p == '\n')
        return refuse(g, GUARD_LINE_END);
    if (*p == ' ' || *p == '\t')
        return refuse(g, GUARD_FOLDING);
    if (g->lines++ >= GUARD_MAX_LINES)
        return refuse(g, GUARD_TOO_MANY_LINES);
    g->line_len = g->word_len = g->value_len = 0;
    g->state = S_NAME; /* takes the byte */
    return 0;
}

static size_t s_name(struct guard *g, const unsigned char *p, size_t n)
{
    (void)n;
    if (g->line_len >= GUARD_MAX_LINE)
        return refuse(g, GUARD_LINE_TOO_LONG);
    if (*p == ':') {
        guard_begin_field(g);
        g->line_len++;
        return take(g, g->word_len ? GUARD_OK : GUARD_HEADER_NAME, S_VALUE);
    }
    if (!guard_is_tchar(*p))
        return refuse(g, GUARD_HEADER_NAME);
    if (g->word_len < sizeof(g->word)) {
        unsigned char c = *p;
        g->word[g->word_len++] = (char)(c >= 'A' && c <= 'Z' ? c | 0x20 : c);
    }
    g->line_len++;
    return 1;
}

/* Keeps the value of a field we judge. A tab is white space to RFC 9110 but not to evhttp. */
static enum guard_reason keep(struct guard *g, unsigned char c)
{
    static const enum guard_reason invalid[] = {
        [GUARD_F_OTHER] = GUARD_OK,
        [GUARD_F_HOST] = GUARD_HOST_INVALID,
        [GUARD_F_LENGTH] = GUARD_LENGTH_INVALID,
        [GUARD_F_TRANSFER] = GUARD_TRANSFER_ENCODING,
        [GUARD_F_CONTENT] = GUARD_CONTENT_ENCODING,
        [GUARD_F_EXPECT] = GUARD_EXPECT,
    };
    if (c == '\t' || g->value_len >= sizeof(g->value))
        return invalid[g->field];
    if (c != ' ' || g->value_len)
        g->value[g->value_len++] = (char)c;
    return GUARD_OK;
}

static size_t s_value(struct guard *g, const unsigned char *p, size_t n)
{
    size_t i = 0;
    for (; i < n; i++) {
        unsigned char c = p[i];
        if (c == '\r') {
            g->state = S_VALUE_LF;
            return i + 1;
        }
        if (g->line_len >= GUARD_MAX_LINE)
            return refuse(g, GUARD_LINE_TOO_LONG);
        if ((c < 0x20 && c != '\t') || c == 0x7f)
            return refuse(g, c == '\n' ? GUARD_LINE_END : GUARD_HEADER_VALUE);
        enum guard_reason r = g->field == GUARD_F_OTHER ? GUARD_OK : keep(g, c);
        if (r != GUARD_OK)
            return refuse(g, r);
        g->line_len++;
    }
    return i;
}

static size_t s_value_lf(struct guard *g, const unsigned char *p, size_t n)
{
    (void)n;
    return take(g, *p == '\n' ? guard_check_field(g) : GUARD_LINE_END, S_LINE_START);
}

static size_t s_end_lf(struct guard *g, const unsigned char *p, size_t n)
{
    (void)n;
    int next = S_DONE;
    if (g->chunked)
        next = S_CHUNK_SIZE;
    else if (g->length)
        next = S_BODY;
    g->left = g->chunked ? 0 : g->length;
    return take(g, *p == '\n' ? guard_check_head(g) : GUARD_LINE_END, next);
}

/* Takes up to g->left bytes of the body. */
static size_t take_body(struct guard *g, size_t n, int next)
{
    size_t used = g->left < n ? (size_t)g->left : n;
    g->left -= used;
    g->body_len += used;
    if (g->left == 0)
        g->state = next;
    return used;
}

static size_t s_body(struct guard *g, const unsigned char *p, size_t n)
{
    (void)p;
    return take_body(g, n, S_DONE);
}

static size_t s_chunk_size(struct guard *g, const unsigned char *p, size_t n)
{
    (void)n;
    if (*p == '\r')
        return take(g, g->digits ? GUARD_OK : GUARD_CHUNK, S_CHUNK_SIZE_LF);
    int v = guard_hex(*p);
    if (v < 0 || g->digits >= GUARD_MAX_CHUNK_DIGITS)
        return refuse(g, GUARD_CHUNK);
    g->digits++;
    g->left = g->left << 4 | (unsigned)v; /* 16 digits fit */
    if (g->left > g->max_body - g->body_len)
        return refuse(g, GUARD_BODY_TOO_LARGE);
    return 1;
}

static size_t s_chunk_size_lf(struct guard *g, const unsigned char *p, size_t n)
{
    (void)n;
    g->digits = 0;
    return expect_byte(g, *p, '\n', GUARD_CHUNK, g->left ? S_CHUNK_DATA : S_TRAILER);
}

static size_t s_chunk_data(struct guard *g, const unsigned char *p, size_t n)
{
    (void)p;
    return take_body(g, n, S_CHUNK_CR);
}

static size_t s_chunk_cr(struct guard *g, const unsigned char *p, size_t n)
{
    (void)n;
    return expect_byte(g, *p, '\r', GUARD_CHUNK, S_CHUNK_LF);
}

static size_t s_chunk_lf(struct guard *g, const unsigned char *p, size_t n)
{
    (void)n;
    return expect_byte(g, *p, '\n', GUARD_CHUNK, S_CHUNK_SIZE);
}

static size_t s_trailer(struct guard *g, const unsigned char *p, size_t n)
{
    (void)n;
    return expect_byte(g, *p, '\r', guard_is_tchar(*p) ? GUARD_TRAILER : GUARD_CHUNK, S_TRAILER_LF);
}

static size_t s_trailer_lf(struct guard *g, const unsigned char *p, size_t n)
{
    (void)n;
    return expect_byte(g, *p, '\n', GUARD_CHUNK, S_DONE);
}

typedef size_t state_fn(struct guard *g, const unsigned char *p, size_t n);

static state_fn *const states[] = {
    [S_METHOD] = s_method,         [S_TARGET] = s_target,
    [S_VERSION] = s_version,       [S_REQUEST_LF] = s_request_lf,
    [S_LINE_START] = s_line_start, [S_NAME] = s_name,
    [S_VALUE] = s_value,           [S_VALUE_LF] = s_value_lf,
    [S_END_LF] = s_end_lf,         [S_BODY] = s_body,
    [S_CHUNK_SIZE] = s_chunk_size, [S_CHUNK_SIZE_LF] = s_chunk_size_lf,
    [S_CHUNK_DATA] = s_chunk_data, [S_CHUNK_CR] = s_chunk_cr,
    [S_CHUNK_LF] = s_chunk_lf,     [S_TRAILER] = s_trailer,
    [S_TRAILER_LF] = s_trailer_lf,
};
static_assert(ARRAY_SIZE(states) == S_DONE, "every state that takes bytes needs a function");

void guard_init(struct guard *g, size_t max_head, uint64_t max_body)
{
    *g = (struct guard){.max_head = max_head, .max_body = max_body};
}

void guard_reset(struct guard *g)
{
    guard_init(g, g->max_head, g->max_body);
}

/* One step of the head: never past its limit. */
static size_t head_step(struct guard *g, const unsigned char *p, size_t n)
{
    size_t room = g->max_head - g->head_len;
    if (room == 0)
        return refuse(g, GUARD_HEAD_TOO_LARGE);
    size_t used = states[g->state](g, p, n < room ? n : room);
    g->head_len += used;
    return used;
}

enum guard_result guard_feed(struct guard *g, const char *bytes, size_t n, size_t *ret_used)
{
    const unsigned char *p = (const unsigned char *)bytes;
    size_t used = 0;
    while (used < n && g->state < S_DONE) {
        if (g->state <= S_END_LF)
            used += head_step(g, p + used, n - used);
        else
            used += states[g->state](g, p + used, n - used);
    }
    *ret_used = used;
    if (g->state == S_REFUSED)
        return GUARD_REFUSED;
    return g->state == S_DONE ? GUARD_DONE : GUARD_MORE;
}

bool guard_skip_body(struct guard *g, size_t n)
{
    if ((g->state != S_BODY && g->state != S_CHUNK_DATA) || g->left <= n)
        return false;
    take_body(g, n, g->state);
    return true;
}
