/* http_record.h - part of test_http.c: replies that are recorded, followed, and outlive clients. */
#ifndef CG_TEST_HTTP_RECORD_H
#define CG_TEST_HTTP_RECORD_H

#include "http/record.h"
#include "http_app.h"

struct watch { /* of one record */
    int grew, alone, over;
};

static void saw_growth(void *ctx)
{
    ((struct watch *)ctx)->grew++;
}

static void saw_nobody(void *ctx)
{
    ((struct watch *)ctx)->alone++;
}

static void saw_end(void *ctx)
{
    ((struct watch *)ctx)->over++;
}

static const struct http_record_ops watching = {
    .grew = saw_growth, .alone = saw_nobody, .over = saw_end};

/* A client whose request is recorded, and the record. */
static struct client *hold_recorded(struct fx *fx, size_t max, bool always, struct watch *w,
                                    struct http_record **ret)
{
    fx->held = NULL;
    struct client *c = hold(fx, HOLD);
    *ret = http_record_new(max, &watching, w);
    http_record_attach(*ret, fx->held, always);
    return c;
}

/* A client whose request follows. */
static struct client *hold_follower(struct fx *fx, struct http_record *rec, uint64_t after)
{
    struct err err;
    struct http_req *writer = fx->held;
    fx->held = NULL;
    struct client *c = hold(fx, HOLD);
    if (http_record_follow(rec, fx->held, after, &err) != 0)
        fail_msg("%s", err.msg);
    fx->held = writer;
    return c;
}

static int follow_fails(struct fx *fx, struct http_record *rec, uint64_t after, struct err *err)
{
    struct http_req *writer = fx->held;
    fx->held = NULL;
    struct client *c = hold(fx, HOLD);
    int rc = http_record_follow(rec, fx->held, after, err);
    assert_int_equal(rc, -1);
    http_reply_error(fx->held, err);
    expect_reply(c, err->status ? err->status : err_status(err));
    hang_up(c);
    fx->held = writer;
    return (int)err->code;
}

/* The body of a chunked reply without its framing; owned by the caller. */
static char *unframed(const struct reply *r)
{
    struct buf out;
    buf_init(&out, (size_t)8 << 20);
    for (struct str rest = r->body; rest.len;) {
        char *end;
        size_t n = strtoul(rest.p, &end, 16);
        if (n == 0)
            break;
        buf_add(&out, end + 2, n);
        rest = str_n(end + 2 + n + 2, rest.len - (size_t)(end + 2 + n + 2 - rest.p));
    }
    buf_addc(&out, '\0');
    return buf_take(&out);
}

static char *whole_stream(struct client *c)
{
    struct reply r = expect_reply(c, 200);
    return unframed(&r);
}

static void events(struct http_req *req, int from, int to)
{
    for (int i = from; i <= to; i++) {
        char data[32];
        snprintf(data, sizeof(data), "event %d", i);
        http_sse_event(req, "e", str_c(data));
    }
}

static void ended(struct fx *fx, struct client *c, struct http_record *rec)
{
    hang_up(c);
    http_record_free(rec);
    WAIT(fx, http_server_active(fx->server) == 0);
}

static void test_record_follow(void **state)
{
    struct fx *fx = *state;
    struct watch w = {0};
    struct http_record *rec;
    struct client *c = hold_recorded(fx, 10000, false, &w, &rec);
    struct client *early = hold_follower(fx, rec, 0);
    http_set_header(fx->held, "x-own", "yes");
    http_set_header(fx->held, "x-ratelimit-limit-requests", "7");
    http_sse_begin(fx->held);
    http_sse_comment(fx->held, "waits"); /* not kept */
    events(fx->held, 1, 2);
    struct client *late = hold_follower(fx, rec, 0), *third = hold_follower(fx, rec, 2);
    assert_int_equal(http_record_followers(rec), 3);
    events(fx->held, 3, 3);
    http_stream_end(fx->held);
    assert_int_equal(w.over, 1);
    assert_true(http_record_is_good(rec) && http_record_is_whole(rec));
    AUTO(free_charp) char *all = whole_stream(c);
    AUTO(free_charp) char *from_start = whole_stream(late);
    AUTO(free_charp) char *live = whole_stream(early);
    AUTO(free_charp) char *rest = whole_stream(third);
    assert_non_null(strstr(all, ":1\nevent: e\ndata: event 1\n\nid: req_"));
    assert_memory_equal(all, ": waits\n\n", 9);
    assert_string_equal(live, all); /* it listened when the comment came */
    assert_string_equal(from_start, all + 9);
    assert_string_equal(rest, strstr(all, ":2\n") + strlen(":2\nevent: e\ndata: event 2\n\n"));
    struct reply r = expect_reply(late, 200);
    assert_true(str_eq_c(header(&r, "x-own"), "yes"));
    assert_true(str_eq_c(header(&r, "Content-Type"), "text/event-stream; charset=utf-8"));
    assert_int_equal(header(&r, "x-ratelimit-limit-requests").len, 0);
    assert_true(w.alone >= 1);
    hang_up(early);
    hang_up(late);
    hang_up(third);
    ended(fx, c, rec);
}

static void test_record_outlives_client(void **state)
{
    struct fx *fx = *state;
    struct watch w = {0};
    struct http_record *rec;
    hang_up(hold_recorded(fx, 10000, true, &w, &rec));
    WAIT(fx, w.alone);
    assert_true(http_record_is_detached(rec));
    assert_int_equal(fx->gone, 0);
    http_sse_begin(fx->held);
    events(fx->held, 1, 2);
    struct client *back = hold_follower(fx, rec, 1);
    hang_up(back);
    WAIT(fx, w.alone == 2); /* once more alone */
    back = hold_follower(fx, rec, 1);
    events(fx->held, 3, 3);
    http_stream_end(fx->held);
    assert_true(http_record_is_good(rec));
    AUTO(free_charp) char *rest = whole_stream(back);
    assert_non_null(strstr(rest, "data: event 2\n\n"));
    assert_non_null(strstr(rest, "data: event 3\n\n"));
    assert_null(strstr(rest, "data: event 1\n\n"));
    assert_int_equal(fx->gone, 0);
    ended(fx, back, rec);
    assert_int_equal(fx->freed, 3); /* its own, and those of two that followed */
}

static void test_record_abandoned(void **state)
{
    struct fx *fx = *state;
    struct watch w = {0};
    struct http_record *rec;
    struct err err;
    hang_up(hold_recorded(fx, 10000, true, &w, &rec));
    WAIT(fx, w.alone);
    http_record_abandon(rec);
    assert_int_equal(fx->gone, 1);
    assert_int_equal(w.over, 1);
    assert_false(http_record_is_good(rec));
    http_record_abandon(rec); /* nothing more */
    WAIT(fx, http_server_active(fx->server) == 0);
    assert_int_equal(follow_fails(fx, rec, 0, &err), ERR_NOT_FOUND);
    http_record_free(rec);
    /* freed while detached: the same */
    hang_up(hold_recorded(fx, 10000, true, &w, &rec));
    WAIT(fx, w.alone > 2);
    http_record_free(rec);
    assert_int_equal(fx->gone, 2);
    WAIT(fx, http_server_active(fx->server) == 0);
}

/* Without an event nobody could come back. */
static void test_record_before_first_event(void **state)
{
    struct fx *fx = *state;
    struct watch w = {0};
    struct http_record *rec;
    hang_up(hold_recorded(fx, 10000, false, &w, &rec));
    WAIT(fx, fx->gone == 1);
    assert_int_equal(w.over, 1);
    http_record_free(rec);
    WAIT(fx, http_server_active(fx->server) == 0);
    struct client *c = hold_recorded(fx, 10000, false, &w, &rec);
    http_sse_begin(fx->held);
    events(fx->held, 1, 1);
    w.alone = 0;
    hang_up(c);
    WAIT(fx, w.alone);
    assert_int_equal(fx->gone, 1);
    http_record_free(rec);
    assert_int_equal(fx->gone, 2);
}

static void test_record_bound(void **state)
{
    struct fx *fx = *state;
    struct watch w = {0};
    struct http_record *rec;
    struct err err;
    struct client *c = hold_recorded(fx, 1000, true, &w, &rec);
    http_sse_begin(fx->held);
    events(fx->held, 1, 100);
    assert_in_range(http_record_bytes(rec), 500, 1000);
    assert_false(http_record_is_whole(rec));
    assert_int_equal(follow_fails(fx, rec, 0, &err), ERR_CONFLICT);
    assert_int_equal(follow_fails(fx, rec, 1, &err), ERR_NOT_FOUND);
    assert_int_equal(err.status, 410);
    uint64_t oldest;
    assert_true(str_to_u64(str_c(strrchr(err.msg, ' ') + 1), &oldest));
    assert_in_range(oldest, 80, 95);
    assert_int_equal(follow_fails(fx, rec, 101, &err), ERR_NOT_FOUND);
    assert_int_equal(err.status, 0);
    struct client *first = hold_follower(fx, rec, oldest), *last = hold_follower(fx, rec, 100);
    http_record_trim(rec, 0);
    assert_int_equal(http_record_bytes(rec), 0);
    assert_int_equal(follow_fails(fx, rec, 99, &err), ERR_NOT_FOUND);
    http_stream_end(fx->held);
    AUTO(free_charp) char *rest = whole_stream(first);
    char next[32];
    snprintf(next, sizeof(next), "event %d\n\n", (int)oldest + 1);
    assert_non_null(strstr(rest, next));
    assert_int_equal(strncmp(rest, "id: req_", 8), 0);
    assert_non_null(strstr(rest, "event 100\n\n"));
    AUTO(free_charp) char *nothing = whole_stream(last);
    assert_string_equal(nothing, "");
    hang_up(first);
    hang_up(last);
    ended(fx, c, rec);
}

/* A follower that does not read is cut off once the record has gone on without it. */
static void test_record_slow_follower(void **state)
{
    enum { PIECE = 60000 };
    struct fx *fx = *state;
    struct watch w = {0};
    struct http_record *rec;
    AUTO(free_charp) char *piece = x_malloc(PIECE);
    memset(piece, 'x', PIECE);
    hang_up(hold_recorded(fx, (size_t)4 * PIECE, true, &w, &rec));
    WAIT(fx, w.alone);
    http_sse_begin(fx->held);
    events(fx->held, 1, 1);
    struct client *slow = hold_follower(fx, rec, 1);
    for (int i = 0; i < 1000 && http_record_followers(rec) > 0; i++) {
        http_sse_event(fx->held, NULL, str_n(piece, PIECE));
        pump(fx);
    }
    assert_int_equal(http_record_followers(rec), 0);
    assert_int_equal(w.alone, 2);
    expect_eof(slow);
    assert_int_equal(fx->gone, 0);
    ended(fx, slow, rec);
}

/* Over, but one of its clients does not read: that one is cut off, and no other. */
static void test_record_stalled_follower(void **state)
{
    enum { PIECE = 60000, PIECES = 100 };
    struct fx *fx = *state;
    struct watch w = {0};
    struct http_record *rec;
    AUTO(free_charp) char *piece = x_malloc(PIECE);
    memset(piece, 'x', PIECE);
    fx->opts.idle_timeout_s = 1;
    fx_start(fx);
    hang_up(hold_recorded(fx, (size_t)(PIECES + 1) * PIECE, true, &w, &rec));
    WAIT(fx, w.alone);
    http_sse_begin(fx->held);
    events(fx->held, 1, 1);
    struct client *stalled = hold_follower(fx, rec, 1), *reads = hold_follower(fx, rec, 1);
    for (int i = 0; i < PIECES; i++)
        http_sse_event(fx->held, NULL, str_n(piece, PIECE));
    http_stream_end(fx->held);
    int64_t start = clock_mono_ms();
    assert_int_equal(http_record_followers(rec), 2);
    WAIT(fx, (collect(reads), http_record_cut_stalled(rec), http_record_followers(rec) == 0));
    assert_true(clock_mono_ms() - start >= 1000);
    AUTO(free_charp) char *rest = whole_stream(reads);
    assert_true(strlen(rest) > (size_t)PIECES * PIECE);
    expect_eof(stalled);
    hang_up(stalled);
    ended(fx, reads, rec);
}

static void check_plain(struct fx *fx, int status, bool good)
{
    struct watch w = {0};
    struct http_record *rec, *again;
    struct err err;
    struct client *c = hold_recorded(fx, 1000, true, &w, &rec);
    struct client *waits = hold_follower(fx, rec, 0);
    http_reply(fx->held, status, "text/plain", STR("the body"));
    assert_int_equal(http_record_is_good(rec), good);
    expect_body(c, status, "the body");
    expect_body(waits, status, "the body");
    assert_int_equal(follow_fails(fx, rec, 1, &err), ERR_NOT_FOUND);
    if (good) {
        AUTO(buf_release) struct buf text;
        buf_init(&text, http_record_text_size(rec));
        http_record_write(rec, &text);
        again = http_record_new(1000, &watching, &w);
        assert_int_equal(http_record_read(again, buf_str(&text), &err), 0);
        struct client *later = hold_follower(fx, again, 0);
        expect_body(later, status, "the body");
        hang_up(later);
        http_record_free(again);
        again = http_record_new(1000, &watching, &w);
        assert_int_equal(http_record_read(again, STR("whole 200\nno end"), &err), -1);
        assert_int_equal(http_record_read(again, STR("other 200\na: b\n\nx"), &err), -1);
        http_record_free(again);
    }
    hang_up(waits);
    ended(fx, c, rec);
}

static void test_record_plain(void **state)
{
    check_plain(*state, 200, true);
    check_plain(*state, 429, false);
}

/* Too long to be kept: its own client has it, a follower is told. */
static void test_record_plain_too_long(void **state)
{
    struct fx *fx = *state;
    struct watch w = {0};
    struct http_record *rec;
    struct client *c = hold_recorded(fx, 4, true, &w, &rec);
    struct client *waits = hold_follower(fx, rec, 0);
    http_reply(fx->held, 200, "text/plain", STR("five!"));
    expect_body(c, 200, "five!");
    struct reply r = expect_reply(waits, 409);
    assert_true(str_eq_c(header(&r, "x-should-retry"), "false"));
    assert_false(http_record_is_whole(rec));
    hang_up(waits);
    ended(fx, c, rec);
}

static void test_record_failed_stream(void **state)
{
    struct fx *fx = *state;
    struct watch w = {0};
    struct http_record *rec, *again;
    struct err err;
    for (int i = 0; i < 2; i++) {
        struct client *c = hold_recorded(fx, 1000, true, &w, &rec);
        http_sse_begin(fx->held);
        events(fx->held, 1, 3);
        if (i)
            http_req_set_failed(fx->held);
        http_stream_end(fx->held);
        assert_int_equal(http_record_is_good(rec), i == 0);
        AUTO(buf_release) struct buf text;
        buf_init(&text, http_record_text_size(rec));
        if (i == 0) { /* a stored stream can be resumed as well */
            http_record_write(rec, &text);
            again = http_record_new(1000, &watching, &w);
            assert_int_equal(http_record_read(again, buf_str(&text), &err), 0);
            assert_int_equal(http_record_events(again), 3);
            struct client *later = hold_follower(fx, again, 2);
            AUTO(free_charp) char *rest = whole_stream(later);
            assert_non_null(strstr(rest, "event 3\n\n"));
            assert_null(strstr(rest, "event 2\n\n"));
            hang_up(later);
            http_record_free(again);
        }
        ended(fx, c, rec);
    }
}

#endif
