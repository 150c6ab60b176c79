/* auth_throttle_cases.h - addresses that try keys. Over Redis: tests/e2e/throttle.test.mjs. */
#include "auth/throttle.h"

static void test_places(void **state)
{
    static const char *const cases[][2] = {
        {"192.0.2.1", "192.0.2.1"},
        {"::ffff:192.0.2.1", "192.0.2.1"},
        {"2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"},
        {"2001:db8:1:2::", "2001:db8:1:2::/64"},
        {"::1", "::/64"},
        {"fe80::1%eth0", "fe80::/64"},
        {"unix", "unix"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        char out[THROTTLE_PLACE_SIZE];
        assert_string_equal(throttle_place(cases[i][0], out), cases[i][1]);
    }
}

struct throttled {
    struct loop *loop;
    struct shared *shared;
    struct throttle *t;
};

static struct throttled new_throttled(int64_t max)
{
    struct throttled x = {.loop = loop_new()};
    struct shared_opts o = {.url = "", .prefix = "t:", .timeout_ms = 1000};
    struct err err;
    x.shared = shared_open(x.loop, &o, &err);
    assert_non_null(x.shared);
    x.t = throttle_new(x.shared, max);
    return x;
}

static void free_throttled(struct throttled *x)
{
    throttle_free(x->t);
    shared_close(x->shared);
    loop_free(x->loop);
}

static void test_throttle(void **state)
{
    struct throttled x = new_throttled(60); /* one a second */
    (void)state;
    for (int i = 0; i < 60; i++) {
        if (throttle_wait_ms(x.t, "192.0.2.1"))
            fail_msg("waits after %d", i);
        throttle_failed(x.t, "192.0.2.1");
    }
    int64_t wait = throttle_wait_ms(x.t, "192.0.2.1");
    assert_in_range(wait, 500, 1000);
    assert_int_equal(throttle_wait_ms(x.t, "192.0.2.2"), 0);
    assert_in_range(throttle_wait_ms(x.t, "::ffff:192.0.2.1"), 500, 1000);
    for (int i = 0; i < 500; i++) /* what was under way already does not make it longer */
        throttle_failed(x.t, "192.0.2.1");
    assert_in_range(throttle_wait_ms(x.t, "192.0.2.1"), 500, 1000);
    usleep((unsigned)(throttle_wait_ms(x.t, "192.0.2.1") * 1000) + 2000);
    assert_int_equal(throttle_wait_ms(x.t, "192.0.2.1"), 0);
    throttle_failed(x.t, "192.0.2.1"); /* one, and it waits again */
    assert_in_range(throttle_wait_ms(x.t, "192.0.2.1"), 500, 1000);
    free_throttled(&x);
}

static void test_throttle_off(void **state)
{
    struct throttled x = new_throttled(0);
    (void)state;
    for (int i = 0; i < 1000; i++)
        throttle_failed(x.t, "192.0.2.1");
    assert_int_equal(throttle_wait_ms(x.t, "192.0.2.1"), 0);
    free_throttled(&x);
    throttle_free(NULL);
}

static void publish(struct throttled *x, const char *text)
{
    shared_publish(x->shared, "auth-wait", str_c(text), NULL, NULL);
    for (int i = 0; i < 5; i++)
        event_base_loop(loop_base(x->loop), EVLOOP_NONBLOCK);
}

/* What other servers have found. */
static void test_throttle_told(void **state)
{
    static const char *const nonsense[] = {
        "", "5", "x 192.0.2.9", "-5 192.0.2.9", "60001 192.0.2.9", "5 "};
    struct throttled x = new_throttled(10);
    (void)state;
    publish(&x, "5000 192.0.2.1");
    assert_in_range(throttle_wait_ms(x.t, "192.0.2.1"), 4000, 5000);
    publish(&x, "100 192.0.2.1"); /* never shorter */
    assert_in_range(throttle_wait_ms(x.t, "192.0.2.1"), 4000, 5000);
    for (size_t i = 0; i < ARRAY_SIZE(nonsense); i++)
        publish(&x, nonsense[i]);
    assert_int_equal(throttle_wait_ms(x.t, "192.0.2.9"), 0);
    free_throttled(&x);
}

/* A flood from everywhere lets go of the oldest, and only of those. */
static void test_throttle_bounded(void **state)
{
    struct throttled x = new_throttled(1);
    char address[32];
    (void)state;
    for (int i = 0; i < 25000; i++) {
        snprintf(address, sizeof(address), "10.%d.%d.%d", i >> 16, i >> 8 & 255, i & 255);
        throttle_failed(x.t, address);
    }
    assert_int_equal(throttle_wait_ms(x.t, "10.0.0.0"), 0);
    assert_in_range(throttle_wait_ms(x.t, address), 50000, 60000);
    assert_in_range(throttle_wait_ms(x.t, "10.0.97.0"), 50000, 60000);
    free_throttled(&x);
}
