/* sse_scan.c - see the header.
 *
 * `held` begins where the last emitted byte ended. One pass looks at each new byte once: `pos` is
 * where it goes on, `line` where the current line began. At an empty line the event [start, pos)
 * is complete. Events that stay as they are only extend the run to be emitted; a changed one
 * flushes the run and is written line by line, with its own line ends.
 *
 * A lone CR ends a line too. The LF of a CRLF may come in the next piece: it is emitted as soon as
 * it is there, because some readers wait for it before they take the event. */
#include "upstream/sse_scan.h"

#define SLICE ((size_t)64 << 10)

struct fields {
    struct str name;
    struct str data;
    bool has_data;
    bool many; /* data stands in s->joined */
};

void sse_scan_init(struct sse_scan *s, const struct sse_ops *ops, void *ctx)
{
    *s = (struct sse_scan){.ops = ops, .ctx = ctx};
    buf_init(&s->held, SSE_MAX_EVENT);
    buf_init(&s->joined, SSE_MAX_EVENT);
    buf_init(&s->changed, SSE_MAX_EVENT * 2);
}

void sse_scan_release(struct sse_scan *s)
{
    buf_release(&s->held);
    buf_release(&s->joined);
    buf_release(&s->changed);
}

static void emit(struct sse_scan *s, const char *p, size_t n)
{
    if (n)
        s->ops->emit(s->ctx, str_n(p, n));
}

static bool is_eol(char c)
{
    return c == '\n' || c == '\r';
}

/* Takes one line off *rest; *ret_eol is its line end ("" at the end of a cut-off event). */
static struct str next_line(struct str *rest, struct str *ret_eol)
{
    size_t n = 0, e;
    while (n < rest->len && !is_eol(rest->p[n]))
        n++;
    e = n;
    if (e < rest->len)
        e += rest->p[e] == '\r' && e + 1 < rest->len && rest->p[e + 1] == '\n' ? 2 : 1;
    struct str line = str_n(rest->p, n);
    *ret_eol = str_n(rest->p + n, e - n);
    rest->p += e;
    rest->len -= e;
    return line;
}

/* "field: value" -> field, *ret_value. A comment has an empty field. */
static struct str split_field(struct str line, struct str *ret_value)
{
    struct str value = line;
    struct str field = str_split(&value, ':');
    if (value.len && value.p[0] == ' ')
        value = str_n(value.p + 1, value.len - 1);
    *ret_value = value;
    return field;
}

static void add_data(struct sse_scan *s, struct fields *f, struct str value)
{
    if (f->has_data) {
        if (!f->many) {
            buf_clear(&s->joined);
            buf_addstr(&s->joined, f->data);
        }
        buf_addc(&s->joined, '\n');
        buf_addstr(&s->joined, value);
        f->many = true;
    } else {
        f->data = value;
    }
    f->has_data = true;
}

static struct str without_bom(struct sse_scan *s, struct str event)
{
    if (!s->begun && str_starts(event, "\xEF\xBB\xBF"))
        event = str_n(event.p + 3, event.len - 3);
    s->begun = true;
    return event;
}

static struct fields read_fields(struct sse_scan *s, struct str event)
{
    struct fields f = {.name = STR("")};
    struct str rest = without_bom(s, event), eol, value;
    while (rest.len) {
        struct str field = split_field(next_line(&rest, &eol), &value);
        if (str_eq_c(field, "data"))
            add_data(s, &f, value);
        else if (str_eq_c(field, "event"))
            f.name = value;
    }
    if (f.many)
        f.data = buf_str(&s->joined);
    return f;
}

/* The event with its data lines replaced by one; all other lines stay. */
static void emit_changed(struct sse_scan *s, struct str event)
{
    struct str rest = event, eol, value;
    bool written = false;
    while (rest.len) {
        const char *start = rest.p;
        struct str line = next_line(&rest, &eol);
        if (!str_eq_c(split_field(line, &value), "data")) {
            emit(s, start, (size_t)(rest.p - start));
        } else if (!written) {
            emit(s, "data: ", 6);
            emit(s, buf_cstr(&s->changed), s->changed.len);
            emit(s, eol.p, eol.len);
            written = true;
        }
    }
}

/* True when the event was emitted here, changed; false: its bytes may go out as they are. */
static bool look_at(struct sse_scan *s, size_t run, size_t start, size_t end)
{
    struct str event = str_n(s->held.data + start, end - start);
    struct fields f = read_fields(s, event);
    if (!f.has_data || (f.many && !buf_ok(&s->joined)))
        return false;
    buf_clear(&s->changed);
    if (!s->ops->event(s->ctx, f.name, f.data, &s->changed))
        return false;
    BUG_ON(!buf_ok(&s->changed) || memchr(buf_cstr(&s->changed), '\n', s->changed.len));
    emit(s, s->held.data + run, start - run);
    emit_changed(s, event);
    return true;
}

static void consume(struct sse_scan *s, size_t n)
{
    buf_consume(&s->held, n);
    s->pos -= n;
    s->line -= n;
}

/* Looks at what is new in `held` and emits all complete events. */
static void scan(struct sse_scan *s)
{
    size_t run = 0, start = 0; /* first byte not emitted; first byte of the event under way */
    const char *p = s->held.data;
    for (; s->pos < s->held.len; s->pos++) {
        char c = p[s->pos];
        bool rest_of_crlf = c == '\n' && s->skip_lf;
        s->skip_lf = c == '\r';
        if (!is_eol(c))
            continue;
        bool empty = s->pos == s->line;
        s->line = s->pos + 1;
        if (rest_of_crlf) {
            if (s->pos == start) /* the event it ends went out already */
                start++;
            continue;
        }
        if (!empty)
            continue;
        if (s->pos > start && look_at(s, run, start, s->pos + 1))
            run = s->pos + 1;
        start = s->pos + 1;
    }
    emit(s, p + run, start - run);
    consume(s, start);
}

static void go_raw(struct sse_scan *s)
{
    s->raw = true;
    emit(s, buf_cstr(&s->held), s->held.len);
    buf_release(&s->held);
}

static void feed_slice(struct sse_scan *s, struct str bytes)
{
    if (!s->raw) {
        buf_add(&s->held, bytes.p, bytes.len);
        if (buf_ok(&s->held)) {
            scan(s);
            return;
        }
        go_raw(s);
    }
    emit(s, bytes.p, bytes.len);
}

void sse_scan_feed(struct sse_scan *s, struct str bytes)
{
    while (bytes.len) {
        size_t n = bytes.len < SLICE ? bytes.len : SLICE;
        feed_slice(s, str_n(bytes.p, n));
        bytes.p += n;
        bytes.len -= n;
    }
}

void sse_scan_finish(struct sse_scan *s)
{
    size_t n = s->held.len;
    if (s->raw || n == 0)
        return;
    if (!look_at(s, 0, 0, n))
        emit(s, s->held.data, n);
    s->pos = s->line = n;
    consume(s, n);
}
