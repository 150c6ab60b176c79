/* shared_small_cases.h - leases, nonces, messages, cached values, on either driver. */
#ifndef CG_TESTS_SHARED_SMALL_CASES_H
#define CG_TESTS_SHARED_SMALL_CASES_H

#include "shared_rig.h"

static const struct shared_lease *lease(enum shared_lease_op op, const char *owner, int64_t ttl_ms)
{
    begin();
    shared_lease(fx.s, op, "session-1", owner, ttl_ms, on_lease, &got);
    finish();
    return &got.lease;
}

static void test_lease(void **state)
{
    (void)state;
    const struct shared_lease *l = lease(SHARED_LEASE_RENEW, "a", 1000);
    assert_false(l->mine);
    assert_string_equal(l->holder, "");
    assert_true(lease(SHARED_LEASE_ACQUIRE, "a", 60000)->mine);
    assert_true(lease(SHARED_LEASE_ACQUIRE, "a", 60000)->mine);
    l = lease(SHARED_LEASE_ACQUIRE, "b", 60000);
    assert_false(l->mine);
    assert_string_equal(l->holder, "a");
    assert_false(lease(SHARED_LEASE_RENEW, "b", 60000)->mine);
    lease(SHARED_LEASE_RELEASE, "b", 60000); /* not his to release */
    assert_true(lease(SHARED_LEASE_RENEW, "a", 60000)->mine);
    l = lease(SHARED_LEASE_RELEASE, "a", 60000);
    assert_false(l->mine);
    assert_string_equal(l->holder, "");
    assert_true(lease(SHARED_LEASE_ACQUIRE, "b", 150)->mine);
    assert_false(lease(SHARED_LEASE_ACQUIRE, "a", 60000)->mine);
    run_for(200);
    assert_true(lease(SHARED_LEASE_ACQUIRE, "a", 60000)->mine); /* it has ended by itself */
    assert_false(lease(SHARED_LEASE_RENEW, "b", 60000)->mine);
}

struct heard {
    int messages, missed;
    char last[SHARED_MESSAGE_MAX + 1], all[256];
    size_t last_len;
    bool done;
    int wanted;
    struct shared_subscription *sub;
    bool once;
};

static void on_heard(void *ctx, struct str payload, bool missed)
{
    struct heard *h = ctx;
    if (missed) {
        assert_int_equal(payload.len, 0);
        h->missed++;
    } else {
        h->messages++;
        h->last_len = payload.len;
        memcpy(h->last, payload.p, payload.len);
        h->last[payload.len] = '\0';
        if (strlen(h->all) + payload.len < sizeof(h->all))
            memcpy(h->all + strlen(h->all), h->last, payload.len + 1);
    }
    if (h->once)
        shared_unsubscribe(fx.s, TAKE_PTR(h->sub));
    h->done = h->messages >= h->wanted;
    loop_stop(fx.loop);
}

static void test_lease_wanted(void **state)
{
    (void)state;
    struct heard h = {.wanted = 1};
    h.sub = shared_subscribe(fx.s, SHARED_LEASE_CHANNEL, on_heard, &h);
    lease(SHARED_LEASE_WANT, "b", 1000); /* nobody has it */
    lease(SHARED_LEASE_ACQUIRE, "a", 60000);
    assert_false(lease(SHARED_LEASE_WANT, "a", 1000)->wanted); /* by oneself */
    const struct shared_lease *l = lease(SHARED_LEASE_WANT, "b", 1000);
    assert_false(l->mine);
    assert_true(l->wanted);
    assert_string_equal(l->holder, "a");
    assert_true(run_until(&h.done, 3000));
    assert_string_equal(h.last, "a session-1");
    assert_int_equal(h.messages, 1);
    l = lease(SHARED_LEASE_RENEW, "a", 60000);
    assert_true(l->mine);
    assert_true(l->wanted);
    lease(SHARED_LEASE_RELEASE, "a", 1000);
    l = lease(SHARED_LEASE_ACQUIRE, "b", 60000);
    assert_true(l->mine);
    assert_false(l->wanted);
    shared_unsubscribe(fx.s, h.sub);
}

static bool nonce(const char *value, int64_t ttl_ms)
{
    begin();
    shared_nonce(fx.s, value, ttl_ms, on_nonce, &got);
    finish();
    return got.first;
}

static void test_nonce(void **state)
{
    (void)state;
    assert_true(nonce("a b{c}", 60000));
    assert_false(nonce("a b{c}", 60000));
    assert_true(nonce("a b", 60000));
    assert_true(nonce("short", 100));
    assert_false(nonce("short", 100000)); /* seen again does not last longer */
    run_for(150);
    assert_true(nonce("short", 100));
    for (int i = 0; i < 100; i++) {
        char text[16];
        snprintf(text, sizeof(text), "n%d", i % 50);
        assert_int_equal(nonce(text, 60000), i < 50);
    }
}

static void publish(const char *channel, struct str payload)
{
    begin();
    shared_publish(fx.s, channel, payload, on_done, &got);
    finish();
}

static void test_messages(void **state)
{
    (void)state;
    struct heard a = {.wanted = 4}, b = {.wanted = 1}, once = {.once = true, .wanted = 1};
    a.sub = shared_subscribe(fx.s, "one", on_heard, &a);
    b.sub = shared_subscribe(fx.s, "two", on_heard, &b);
    once.sub = shared_subscribe(fx.s, "one", on_heard, &once);
    shared_publish(fx.s, "one", STR("x"), NULL, NULL);
    assert_int_equal(a.messages, 0); /* not before the call returns */
    publish("one", STR("y z"));
    publish("one", STR(""));
    publish("two", STR("a\0b\r\nc"));
    publish("other", STR("nobody listens"));
    char large[SHARED_MESSAGE_MAX];
    memset(large, 'L', sizeof(large));
    publish("one", str_n(large, sizeof(large)));
    assert_true(run_until(&a.done, 3000) && run_until(&b.done, 3000));
    run_for(50);
    assert_int_equal(a.messages, 4);
    assert_int_equal(a.last_len, SHARED_MESSAGE_MAX);
    assert_string_equal(a.all, "xy z");
    assert_int_equal(b.messages, 1);
    assert_int_equal(b.last_len, 6);
    assert_memory_equal(b.last, "a\0b\r\nc", 6);
    assert_int_equal(once.messages, 1);
    shared_unsubscribe(fx.s, a.sub);
    publish("one", STR("late"));
    run_for(50);
    assert_int_equal(a.messages, 4);
    shared_unsubscribe(fx.s, b.sub);
    shared_publish(fx.s, "one", STR("never delivered"), NULL, NULL); /* closed before */
}

static void cache_get(const char *name)
{
    begin();
    shared_cache_get(fx.s, name, on_value, &got);
    finish();
}

static void cache_set(const char *name, struct str value, int64_t ttl_ms)
{
    begin();
    shared_cache_set(fx.s, name, value, ttl_ms, on_done, &got);
    finish();
}

static void test_cache(void **state)
{
    (void)state;
    cache_get("k");
    assert_false(got.found);
    cache_set("k", STR("a\0b\n"), 60000);
    cache_get("k");
    assert_true(got.found);
    assert_int_equal(got.len, 4);
    assert_memory_equal(got.value, "a\0b\n", 4);
    cache_set("k", STR(""), 60000);
    cache_get("k");
    assert_true(got.found);
    assert_int_equal(got.len, 0);
    for (int i = 0; i < 2; i++) {
        begin();
        shared_cache_delete(fx.s, "k", on_done, &got);
        finish();
        cache_get("k");
        assert_false(got.found);
    }
    cache_set("k", STR("short"), 100);
    run_for(150);
    cache_get("k");
    assert_false(got.found);
    char *large = x_malloc(SHARED_VALUE_MAX);
    for (size_t i = 0; i < SHARED_VALUE_MAX; i++)
        large[i] = (char)(i * 7);
    cache_set("k", str_n(large, SHARED_VALUE_MAX), 60000);
    cache_get("k");
    assert_int_equal(got.len, SHARED_VALUE_MAX);
    assert_memory_equal(got.value, large, SHARED_VALUE_MAX);
    free(large);
}

/* The memory of a process is bounded: the cache forgets, nonces are refused. */
static void test_memory_bounds(void **state)
{
    (void)state;
    char name[24];
    char *large = x_calloc(1, SHARED_VALUE_MAX);
    for (int i = 0; i < 70; i++) {
        snprintf(name, sizeof(name), "l%d", i);
        shared_cache_set(fx.s, name, str_n(large, SHARED_VALUE_MAX), 60000, NULL, NULL);
    }
    free(large);
    cache_get("l6");
    assert_false(got.found);
    cache_get("l7");
    assert_true(got.found);
}

/* A bound of one's own; values that are small take memory, too. */
static void test_memory_cache_bytes(void **state)
{
    (void)state;
    struct err err;
    char name[24];
    const struct shared_opts o = {.cache_bytes = 100000};
    struct shared *whole = fx.s;
    fx.s = shared_open(fx.loop, &o, &err);
    for (int i = 0; i < 1000; i++) {
        snprintf(name, sizeof(name), "k%d", i);
        shared_cache_set(fx.s, name, STR("v"), 60000, NULL, NULL);
    }
    cache_get("k0");
    assert_false(got.found);
    cache_get("k999");
    assert_true(got.found);
    size_t there = 0;
    for (int i = 0; i < 1000; i++) {
        snprintf(name, sizeof(name), "k%d", i);
        cache_get(name);
        there += got.found;
    }
    assert_in_range(there, 200, 999);
    char large[50000] = "";
    cache_set("large", str_n(large, sizeof(large)), 60000);
    cache_get("large");
    assert_true(got.found);
    cache_get("k998");
    assert_true(got.found);
    shared_close(fx.s);
    fx.s = whole;
}

#endif
