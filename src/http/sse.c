/* sse.c - server-sent events on top of a stream. One event is one chunk. A line break inside data
 * begins a new "data:" line, which the client joins again. */
#include "http/recorder.h"

#define EVENT_MAX ((size_t)64 << 20) /* far above any event; the limit every buffer must have */

void http_sse_begin(struct http_req *req)
{
    http_set_header(req, "Cache-Control", "no-cache");
    http_set_header(req, "X-Accel-Buffering", "no");
    http_stream_begin(req, 200, "text/event-stream; charset=utf-8");
}

/* Length of the line at p; *ret_next = where the next begins. CRLF, LF and CR all end a line. */
static size_t line_len(const char *p, size_t n, size_t *ret_next)
{
    size_t i = 0;
    while (i < n && p[i] != '\n' && p[i] != '\r')
        i++;
    *ret_next = i < n ? i + 1 : i;
    if (i + 1 < n && p[i] == '\r' && p[i + 1] == '\n')
        (*ret_next)++;
    return i;
}

static void add_lines(struct buf *b, const char *lead, struct str text)
{
    size_t at = 0, next;
    bool more;
    do {
        size_t len = line_len(text.p + at, text.len - at, &next);
        buf_adds(b, lead);
        buf_add(b, text.p + at, len);
        buf_addc(b, '\n');
        more = next > len; /* a line break at the very end leaves an empty last line */
        at += next;
    } while (more);
}

void http_sse_event(struct http_req *req, const char *event, struct str data)
{
    struct buf b AUTO(buf_release);
    buf_init(&b, EVENT_MAX);
    if (req->record)
        buf_printf(&b, "id: %s:%llu\n", req->id,
                   (unsigned long long)record_next_event(req->record));
    if (event)
        buf_printf(&b, "event: %s\n", event);
    add_lines(&b, "data: ", data);
    buf_addc(&b, '\n');
    BUG_ON(!buf_ok(&b));
    http_stream_write(req, buf_str(&b));
}

void http_sse_comment(struct http_req *req, const char *text)
{
    struct buf b AUTO(buf_release);
    buf_init(&b, EVENT_MAX);
    add_lines(&b, ": ", str_c(text));
    buf_addc(&b, '\n');
    if (req->record)
        record_comment(req->record, buf_str(&b));
    stream_send(req, buf_str(&b));
}
