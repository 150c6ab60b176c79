/* upstream_door.h - tests of what a hostile tool in a worker can take of the relay's side. */
#ifndef CG_TESTS_UPSTREAM_DOOR_H
#define CG_TESTS_UPSTREAM_DOOR_H

#include "upstream_rig.h"

#include <dirent.h>
#include <errno.h>

#define CROWD 100

static size_t open_descriptors(void)
{
    size_t n = 0;
    DIR *dir = opendir("/proc/self/fd");
    assert_non_null(dir);
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

/* The peers are plain sockets: what they have written is in the kernel or at the relay. */
static int crowd_connect(const struct rig *rig)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    memcpy(a.sun_path, rig->path, strlen(rig->path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_true(fd >= 0);
    (void)!connect(fd, (struct sockaddr *)&a, sizeof(a)); /* the backlog may be full */
    return fd;
}

static void door_rig(struct rig *rig, const struct step *steps, size_t count, int timeout_ms)
{
    rig_prepare(rig, steps, count);
    struct upstream_opts opts = quick_opts(rig->fake.url);
    opts.request_timeout_ms = timeout_ms;
    rig_open_with(rig, &opts);
    relay_begin_turn(rig->relay, &rig->turn);
    run_for(rig, 20);
}

static void a_crowd_gets_sixteen_places(void **state)
{
    struct rig rig;
    AUTO(buf_release) struct buf b;
    struct step steps[] = {chunked(&b, STREAM)};
    int fds[CROWD];
    (void)state;
    door_rig(&rig, steps, 1, 1500);
    cli_close(&rig.cli);
    run_for(&rig, 20);
    size_t before = open_descriptors();
    for (size_t i = 0; i < CROWD; i++) {
        fds[i] = crowd_connect(&rig);
        run_for(&rig, 3);
    }
    assert_int_equal(open_descriptors() - before - CROWD, 16);
    /* the CLI comes last, and is served when those that say nothing have been sent away */
    for (size_t i = 20; i < CROWD; i++)
        close(fds[i]);
    run_for(&rig, 2700);
    cli_open(&rig.cli, rig.loop, rig.path);
    ask_and_wait(&rig);
    assert_status(&rig, 200);
    for (size_t i = 0; i < 20; i++)
        close(fds[i]);
    run_for(&rig, 100);
    assert_int_equal(open_descriptors(), before + 4); /* the CLI's two ends, upstream's two */
    rig_close(&rig);
}

/* Writes all that the peers can get rid of; returns the most that was out at one time: what was
 * written to connections that are still there. */
static size_t crowd_fill(struct rig *rig, const int *fds, size_t count)
{
    static char block[64 << 10];
    size_t live[CROWD] = {0}, most = 0;
    memset(block, 'x', sizeof(block));
    for (int idle = 0, rounds = 0; idle < 20 && rounds < 20000; rounds++) {
        size_t all = 0;
        idle++;
        for (size_t i = 0; i < count; i++) {
            ssize_t n = send(fds[i], block, sizeof(block), MSG_NOSIGNAL);
            if (n > 0)
                idle = 0;
            else if (errno != EAGAIN)
                live[i] = 0; /* it was sent away */
            live[i] += n > 0 ? (size_t)n : 0;
            all += live[i];
        }
        most = all > most ? all : most;
        event_base_loop(loop_base(rig->loop), EVLOOP_ONCE);
    }
    return most;
}

static void crowd_begin(const int *fds, size_t count, const char *head)
{
    for (size_t i = 0; i < count; i++)
        assert_int_equal(send(fds[i], head, strlen(head), MSG_NOSIGNAL), strlen(head));
}

#define HALF_SENT "POST /v1/messages HTTP/1.1\r\nHost: r\r\nContent-Length: 41943040\r\n\r\n"
#define NO_LINE   "POST /v1/messages HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\n1"

static void half_sent_bodies_are_bounded(void **state)
{
    static const struct {
        const char *head;
        bool turn;
        size_t most;
    } cases[] = {
        {HALF_SENT, true, 56 * MB}, /* 48 and what is in the kernel: 12 times 200 KiB and more */
        {HALF_SENT, false, 6 * MB}, /* refused at once */
        {NO_LINE, true, 56 * MB},
        {NO_LINE, false, 24 * MB},
    };
    (void)state;
    for (size_t k = 0; k < ARRAY_SIZE(cases); k++) {
        struct rig rig;
        int fds[12];
        door_rig(&rig, NULL, 0, 0);
        if (!cases[k].turn)
            relay_end_turn(rig.relay);
        for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
            fds[i] = crowd_connect(&rig);
        crowd_begin(fds, ARRAY_SIZE(fds), cases[k].head);
        assert_in_range(crowd_fill(&rig, fds, ARRAY_SIZE(fds)), 1, cases[k].most);
        run_for(&rig, 2200); /* those refused are sent away, whatever they were at */
        for (size_t i = 0; i < ARRAY_SIZE(fds) && !cases[k].turn; i++)
            assert_true(send(fds[i], "x", 1, MSG_NOSIGNAL) < 0 && errno != EAGAIN);
        get(&rig, "HEAD /"); /* and whoever behaves is served */
        assert_status(&rig, 200);
        for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
            close(fds[i]);
        rig_close(&rig);
    }
}

static bool first_seen(struct rig *rig)
{
    return rig->fake.request_count == 1;
}

static void large_body(struct buf *b)
{
    AUTO(free_charp) char *fill = x_calloc(1, 30 * MB);
    memset(fill, 'x', 30 * MB - 1);
    buf_init(b, 64 * MB);
    buf_adds(b, "{\"model\":\"m\",\"x\":\"");
    buf_adds(b, fill);
    buf_adds(b, "\"}");
}

/* A second large one is refused in so many words; the first, and a small one, go their way. */
static void one_large_request_at_a_time(void **state)
{
    struct rig rig;
    struct cli large[2];
    AUTO(buf_release) struct buf body, b;
    struct step steps[] = {{.bytes = "", .delay_ms = 1}, chunked(&b, STREAM)};
    (void)state;
    door_rig(&rig, steps, 2, 0);
    large_body(&body);
    cli_open(&large[0], rig.loop, rig.path);
    cli_send(&large[0], "/v1/messages", "", buf_str(&body));
    assert_true(run_until(&rig, first_seen, 20000)); /* whole, and not answered yet */
    cli_open(&large[1], rig.loop, rig.path);
    cli_send(&large[1], "/v1/messages", "", buf_str(&body));
    for (int i = 0; i < 1000 && !response_status(&large[1].in) && !large[1].broken; i++)
        run_for(&rig, 10);
    /* its connection is closed with bytes unread, which may overtake the answer */
    assert_true(response_status(&large[1].in) == 413 || large[1].broken);
    ask_and_wait(&rig);
    assert_status(&rig, 200);
    assert_int_equal(rig.turn.calls, 2);
    evbuffer_add_printf(bufferevent_get_output(rig.fake.conns[0]->bev), "%s", b.data);
    for (int i = 0; i < 500 && !response_status(&large[0].in); i++)
        run_for(&rig, 10);
    assert_int_equal(response_status(&large[0].in), 200);
    cli_close(&large[0]);
    cli_close(&large[1]);
    rig_close(&rig);
}

/* Dripping moves no deadline; a request that is being answered has none. */
static void a_request_comes_in_time_or_not_at_all(void **state)
{
    struct rig rig;
    struct cli drip;
    AUTO(buf_release) struct buf b;
    struct step late = chunked(&b, STREAM);
    late.delay_ms = 1500;
    struct step steps[] = {late};
    (void)state;
    door_rig(&rig, steps, 1, 300);
    cli_send(&rig.cli, "/v1/messages", "", ask);
    cli_open(&drip, rig.loop, rig.path);
    int64_t start = clock_mono_ms();
    cli_send(&drip, "/v1/messages", "content-Type: x\r\n", STR(""));
    run_for(&rig, 20);
    buf_clear(&drip.in);
    evbuffer_add_printf(bufferevent_get_output(drip.bev), "POST /v1/mes");
    while (!drip.eof && !drip.broken && clock_mono_ms() - start < 5000) {
        evbuffer_add_printf(bufferevent_get_output(drip.bev), "s");
        run_for(&rig, 20);
    }
    assert_in_range(clock_mono_ms() - start, 290, 1400);
    assert_true(run_until(&rig, cli_has_response, 5000));
    assert_status(&rig, 200);
    assert_true(clock_mono_ms() - start > 1400);
    assert_true(run_until(&rig, cli_sees_end, 3000)); /* kept alive, and then idle too long */
    cli_close(&drip);
    rig_close(&rig);
}

/* While a reply streams, what its reader sends ahead stays in the kernel. */
static void nobody_sends_ahead_without_end(void **state)
{
    struct rig rig;
    struct step steps[] = {{.bytes = CLOSED_STREAM START TEXT("1234")}};
    AUTO(free_charp)
    char *head = x_printf("POST /v1/messages HTTP/1.1\r\nHost: r\r\n"
                          "Content-Length: %zu\r\n\r\n%s",
                          ask.len, ask.p);
    (void)state;
    door_rig(&rig, steps, 1, 200);
    int fd = crowd_connect(&rig);
    crowd_begin(&fd, 1, head);
    run_for(&rig, 500); /* the answer has begun, and has no deadline */
    assert_in_range(crowd_fill(&rig, &fd, 1), 1, MB);
    assert_int_equal(rig.fake.request_count, 1);
    close(fd);
    rig_close(&rig);
}

/* As the program does it: a preheat, then a connection for each call, or one for several. */
static void the_programs_own_ways_pass(void **state)
{
    struct rig rig;
    AUTO(buf_release) struct buf b;
    struct step one = chunked(&b, STREAM);
    struct step steps[] = {one, one, one, one};
    (void)state;
    door_rig(&rig, steps, 4, 0);
    relay_end_turn(rig.relay);
    get(&rig, "HEAD /");
    assert_status(&rig, 200);
    for (size_t i = 0; i < 4; i++) {
        relay_begin_turn(rig.relay, &rig.turn);
        ask_and_wait(&rig);
        assert_status(&rig, 200);
        assert_body(&rig, STREAM);
        relay_end_turn(rig.relay);
        if (i == 0)
            continue; /* the next call comes on the same connection */
        cli_close(&rig.cli);
        cli_open(&rig.cli, rig.loop, rig.path);
    }
    assert_int_equal(rig.turn.calls, 4);
    rig_close(&rig);
}

/* --- what a turn is told, and tells -------------------------------------------------------- */

static void a_turn_may_be_told_its_model(void **state)
{
    struct rig rig;
    AUTO(buf_release) struct buf b;
    struct step steps[] = {chunked(&b, STREAM)};
    (void)state;
    door_rig(&rig, steps, 1, 0);
    relay_end_turn(rig.relay);
    rig.turn.only_model = "cheap";
    relay_begin_turn(rig.relay, &rig.turn);
    ask_and_wait(&rig); /* of "m": the first call has no say */
    assert_status(&rig, 400);
    assert_body(&rig,
                ERROR_JSON("invalid_request_error", "this turn may only call the model 'cheap'"));
    assert_int_equal(rig.fake.request_count, 0);
    buf_clear(&rig.cli.in);
    cli_send(&rig.cli, "/v1/messages", "", STR("{\"model\":\"cheap\"}"));
    assert_true(run_until(&rig, cli_has_response, 5000));
    assert_status(&rig, 200);
    assert_string_equal(rig.turn.model, "cheap");
    rig_close(&rig);
}

static void a_second_try_starts_clean(void **state)
{
    struct rig rig;
    AUTO(buf_release) struct buf b, c;
    struct step steps[] = {chunked(&b, STREAM),
                           plain(&c, 429, "request-id: r\r\nretry-after: 21\r\n",
                                 ERROR_JSON("rate_limit_error", "slow"))};
    (void)state;
    door_rig(&rig, steps, 2, 0);
    ask_and_wait(&rig);
    ask_and_wait(&rig);
    relay_end_turn(rig.relay);
    assert_int_equal(rig.turn.status, 429);
    assert_int_equal(rig.turn.retry_after_s, 21);
    assert_string_equal(rig.turn.error_type, "rate_limit_error");
    assert_string_equal(rig.turn.stop_reason, "end_turn");
    rig.turn.failure = RELAY_TIMED_OUT;
    relay_begin_turn(rig.relay, &rig.turn);
    assert_int_equal(rig.turn.status, 0);
    assert_int_equal(rig.turn.retry_after_s, 0);
    assert_int_equal(rig.turn.failure, RELAY_OK);
    assert_false(rig.turn.answered);
    assert_string_equal(rig.turn.error_type, "");
    assert_string_equal(rig.turn.error_message, "");
    assert_string_equal(rig.turn.stop_reason, "");
    assert_string_equal(rig.turn.upstream_request_id, "");
    assert_int_equal(rig.turn.calls, 2); /* what was used stays */
    assert_int_equal(rig.turn.output_tokens, 7);
    rig_close(&rig);
}

#endif
