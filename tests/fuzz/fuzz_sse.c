/* fuzz_sse.c - the event scanner must emit every byte once and in order, see the same events
 * however the bytes are split, and hold back nothing but the event under way. The first two bytes
 * of the input choose the split. */
#include "upstream/sse_scan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct run {
    struct buf out;    /* what was emitted */
    struct buf events; /* name, data, and a mark per event */
    bool change;       /* put other data in place of some */
};

static bool on_event(void *ctx, struct str name, struct str data, struct buf *ret_data)
{
    struct run *r = ctx;
    BUG_ON(ret_data->len != 0);
    buf_addstr(&r->events, name);
    buf_addc(&r->events, '=');
    buf_addstr(&r->events, data);
    buf_addc(&r->events, '|');
    if (!r->change || data.len % 2 == 0)
        return false;
    buf_adds(ret_data, "CHANGED");
    return true;
}

static void on_emit(void *ctx, struct str bytes)
{
    struct run *r = ctx;
    BUG_ON(bytes.len == 0);
    buf_addstr(&r->out, bytes);
}

static const struct sse_ops ops = {.event = on_event, .emit = on_emit};

/* In pieces of `piece` bytes, each in memory of its own so that a read past it is seen. */
static void scan(struct run *r, const uint8_t *data, size_t size, size_t piece, bool change)
{
    struct sse_scan s;
    *r = (struct run){.change = change};
    buf_init(&r->out, (size_t)1 << 26);
    buf_init(&r->events, (size_t)1 << 26);
    sse_scan_init(&s, &ops, r);
    for (size_t at = 0; at < size; at += piece) {
        size_t n = size - at < piece ? size - at : piece;
        char *copy = x_malloc(n);
        memcpy(copy, data + at, n);
        sse_scan_feed(&s, str_n(copy, n));
        free(copy);
        BUG_ON(!change && r->out.len + s.held.len != at + n);
        BUG_ON(!s.raw && s.held.len && memmem(s.held.data, s.held.len, "\n\n", 2));
    }
    sse_scan_finish(&s);
    BUG_ON(s.held.len != 0 || !buf_ok(&r->out) || !buf_ok(&r->events));
    sse_scan_release(&s);
}

static void release(struct run *r)
{
    buf_release(&r->out);
    buf_release(&r->events);
}

static void compare(const uint8_t *data, size_t size, size_t piece, bool change)
{
    struct run whole, split;
    scan(&whole, data, size, size ? size : 1, change);
    scan(&split, data, size, piece, change);
    BUG_ON(!str_eq(buf_str(&whole.out), buf_str(&split.out)));
    BUG_ON(!str_eq(buf_str(&whole.events), buf_str(&split.events)));
    BUG_ON(!change && !str_eq(buf_str(&whole.out), str_n((const char *)data, size)));
    release(&whole);
    release(&split);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    size_t piece = (size_t)(data[0] | data[1] << 8) % 64 + 1;
    compare(data + 2, size - 2, piece, false);
    compare(data + 2, size - 2, piece, true);
    return 0;
}
