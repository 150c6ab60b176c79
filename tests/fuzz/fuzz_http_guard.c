/* fuzz_http_guard.c - the request guard must give the same verdict however the bytes are split,
 * never take more than it was given, and say the same when asked again. The first two bytes of the
 * input choose the split; a request that passes must keep what evhttp relies on. */
#include "http/guard.h"

#define MAX_HEAD 4096
#define MAX_BODY 512

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct verdict {
    enum guard_result result;
    enum guard_reason reason;
    size_t used;
    uint64_t body_len;
};

/* In pieces of `piece` bytes, each in memory of its own so that a read past it is seen. */
static struct verdict judge(const uint8_t *data, size_t size, size_t piece)
{
    struct guard g;
    struct verdict v = {.result = GUARD_MORE};
    guard_init(&g, MAX_HEAD, MAX_BODY);
    for (size_t at = 0; at < size && v.result == GUARD_MORE;) {
        size_t n = size - at < piece ? size - at : piece, used = 0;
        char *copy = x_malloc(n);
        memcpy(copy, data + at, n);
        if (at % 2 && guard_skip_body(&g, n))
            used = n;
        else
            v.result = guard_feed(&g, copy, n, &used);
        BUG_ON(used > n || (v.result == GUARD_MORE && used != n));
        BUG_ON(guard_feed(&g, copy, v.result == GUARD_MORE ? 0 : n, &n) != v.result);
        free(copy);
        v.used += used;
        at += used;
    }
    v.reason = g.reason;
    v.body_len = g.body_len;
    BUG_ON((v.result == GUARD_REFUSED) != (g.reason != GUARD_OK));
    BUG_ON(g.head_len > MAX_HEAD || g.body_len > MAX_BODY);
    return v;
}

static bool same(const struct verdict *a, const struct verdict *b)
{
    return a->result == b->result && a->reason == b->reason &&
           (a->result == GUARD_REFUSED || (a->used == b->used && a->body_len == b->body_len));
}

static void check_passed(const uint8_t *data, const struct verdict *v)
{
    const uint8_t *head_end = memmem(data, v->used, "\r\n\r\n", 4);
    BUG_ON(!head_end);
    size_t head = (size_t)(head_end - data) + 4;
    BUG_ON(memchr(data, '\0', head));
    for (size_t i = 0; i < head; i++)
        BUG_ON((data[i] == '\n') != (i > 0 && data[i - 1] == '\r'));
    BUG_ON(v->used - head < v->body_len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    size_t piece = 1 + ((size_t)data[0] << 8 | data[1]) % 700;
    data += 2;
    size -= 2;
    struct verdict whole = judge(data, size, SIZE_MAX), split = judge(data, size, piece),
                   bytes = judge(data, size, 1);
    BUG_ON(!same(&whole, &split) || !same(&whole, &bytes));
    if (whole.result == GUARD_DONE)
        check_passed(data, &whole);
    return 0;
}
