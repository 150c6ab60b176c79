/* guard.h - strict scanner of one HTTP/1.x request: request line, header lines, body framing.
 *
 * It sees every byte before evhttp does and lets through only requests that have exactly one
 * meaning (RFC 9112), so that no proxy in front and no lenient parser behind can disagree with us
 * about where a request ends. Pure: no I/O, no allocation; may be fed at any split. Internal to
 * src/http. */
#ifndef CG_HTTP_GUARD_H
#define CG_HTTP_GUARD_H

#include "core/util.h"

#include <stdbool.h>

#define GUARD_MAX_LINES        100  /* header lines */
#define GUARD_MAX_LINE         8192 /* bytes of one header line, without CRLF */
#define GUARD_MAX_TARGET       8192
#define GUARD_MAX_CHUNK_DIGITS 16
#define GUARD_PATH_SIZE        128 /* kept of the path: more than any route of ours is long */

enum guard_reason {
    GUARD_OK = 0,
    GUARD_REQUEST_LINE,
    GUARD_LINE_END,
    GUARD_METHOD,
    GUARD_VERSION,
    GUARD_TARGET,
    GUARD_TARGET_TOO_LONG,
    GUARD_PATH,
    GUARD_HEADER_NAME,
    GUARD_HEADER_VALUE,
    GUARD_FOLDING,
    GUARD_LINE_TOO_LONG,
    GUARD_TOO_MANY_LINES,
    GUARD_HEAD_TOO_LARGE,
    GUARD_HOST_MISSING,
    GUARD_HOST_DUPLICATE,
    GUARD_HOST_INVALID,
    GUARD_LENGTH_INVALID,
    GUARD_LENGTH_DUPLICATE,
    GUARD_LENGTH_AND_ENCODING,
    GUARD_TRANSFER_ENCODING,
    GUARD_CONTENT_ENCODING,
    GUARD_EXPECT,
    GUARD_UNEXPECTED_BODY,
    GUARD_BODY_TOO_LARGE,
    GUARD_CHUNK,
    GUARD_TRAILER,
    /* not of the scanner: refusals the server makes by the same road */
    GUARD_READ_TIMEOUT,
    GUARD_CONNECTIONS,
    GUARD_DISAGREEMENT,
    GUARD_REASON_COUNT
};

struct guard_reason_info {
    const char *name; /* metric label and log field */
    int status;
    const char *text; /* for the client */
};
const struct guard_reason_info *guard_reason_info(enum guard_reason reason);

enum guard_result { GUARD_MORE, GUARD_DONE, GUARD_REFUSED };

enum guard_field {
    GUARD_F_OTHER,
    GUARD_F_HOST,
    GUARD_F_LENGTH,
    GUARD_F_TRANSFER,
    GUARD_F_CONTENT,
    GUARD_F_EXPECT
};

struct guard {
    size_t max_head;
    uint64_t max_body;

    int state; /* private: enum in guard.c */
    enum guard_reason reason;
    size_t head_len, line_len, target_len;
    int lines;

    char method[16];
    size_t method_len;
    int minor; /* HTTP/1.minor */

    /* Whose words a refusal takes (router_dialect()), as far as the request was read: */
    char path[GUARD_PATH_SIZE]; /* decoded, without query, cut off when longer */
    size_t path_len;
    bool anthropic; /* it has anthropic-version or x-api-key, as Anthropic's clients send them */

    bool in_query, star;
    int pct;           /* hex digits seen after '%': 0 = not in an escape, 1 = none yet, 2 = one */
    unsigned pct_char; /* first hex digit's value */
    size_t seg_len, seg_dots;

    char word[20]; /* HTTP-version, then each header name in lower case, cut off when longer */
    size_t word_len;
    enum guard_field field;
    char value[272]; /* of the fields above, without outer spaces */
    size_t value_len;

    bool has_host, has_length, has_transfer, chunked;
    uint64_t length;   /* Content-Length */
    uint64_t left;     /* bytes to come of the body or the chunk */
    uint64_t body_len; /* bytes seen (chunked: of data, without framing) */
    int digits;
};

void guard_init(struct guard *g, size_t max_head, uint64_t max_body);
void guard_reset(struct guard *g); /* ready for the next request */
/* Scans up to n bytes. *ret_used = how many belong to this request: all of them with GUARD_MORE;
 * with GUARD_DONE the rest is the next request's; after GUARD_REFUSED it means nothing. Final
 * results repeat. */
enum guard_result guard_feed(struct guard *g, const char *bytes, size_t n, size_t *ret_used);
/* True when the next n bytes are of the body, and not its last: they are counted and need not be
 * shown, whatever they are. */
bool guard_skip_body(struct guard *g, size_t n);

/* guard_field.c: the name of a header line is complete, in g->word; judges one complete header line
 * of a field that matters, and the whole head. */
void guard_begin_field(struct guard *g);
enum guard_reason guard_check_field(struct guard *g);
enum guard_reason guard_check_head(struct guard *g);
/* guard_target.c: the next byte of the request target, and its end. */
enum guard_reason guard_target_byte(struct guard *g, unsigned char c);
enum guard_reason guard_target_end(struct guard *g);

static inline bool guard_is_tchar(unsigned char c)
{
    /* RFC 9110 5.6.2 */
    return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') ||
           (c > 0x20 && c < 0x7f && strchr("!#$%&'*+-.^_`|~", c) != NULL);
}

static inline int guard_hex(unsigned char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

#endif
