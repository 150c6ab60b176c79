/* core_loop.h - part of test_core.c: the loop, deferred calls, timers, worker threads. */
#ifndef CG_TESTS_CORE_LOOP_H
#define CG_TESTS_CORE_LOOP_H

#include "core/clock.h"
#include "core/loop.h"

#include <dirent.h>
#include <event2/event.h>
#include <pthread.h>
#include <unistd.h>

/* What happened, in order. */
static struct {
    struct loop *loop;
    char trace[256];
    size_t len;
    int limit;
    int64_t at_ms;
    struct timer timer;
} lt;

static void note(char c)
{
    assert_true(lt.len < sizeof(lt.trace) - 1);
    lt.trace[lt.len++] = c;
    lt.trace[lt.len] = '\0';
}

static int loop_set_up(void **state)
{
    (void)state;
    memset(&lt, 0, sizeof(lt));
    lt.loop = loop_new();
    return 0;
}

static int loop_tear_down(void **state)
{
    (void)state;
    loop_free(lt.loop);
    lt.loop = NULL;
    return 0;
}

static void once(void)
{
    event_base_loop(loop_base(lt.loop), EVLOOP_ONCE);
}

/* The objects of these callbacks are the letters themselves. */
static char letters[] = "abcdefghijklmnopqrstuvwxyz";

static void defer_note(void *obj)
{
    note(*(char *)obj);
}

static void defer_and_more(void *obj)
{
    note(*(char *)obj);
    loop_defer(lt.loop, defer_note, (char *)obj + 1);
    loop_defer(lt.loop, defer_note, (char *)obj + 2);
}

static void stop_now(void *obj)
{
    (void)obj;
    loop_stop(lt.loop);
}

static void test_defer_runs_in_order_and_later(void **state)
{
    (void)state;
    for (int i = 0; i < 5; i++)
        loop_defer(lt.loop, defer_note, letters + i);
    assert_string_equal(lt.trace, "");
    loop_defer(lt.loop, stop_now, NULL);
    loop_run(lt.loop);
    assert_string_equal(lt.trace, "abcde");
}

static void test_defer_during_defer_comes_after_the_others(void **state)
{
    (void)state;
    loop_defer(lt.loop, defer_and_more, letters);     /* a, then b c */
    loop_defer(lt.loop, defer_note, letters + 25);    /* z */
    loop_defer(lt.loop, defer_and_more, letters + 3); /* d, then e f */
    for (int i = 0; i < 10 && lt.len < 7; i++)
        once();
    assert_string_equal(lt.trace, "azdbcef");
}

static void test_loop_free_runs_what_is_deferred(void **state)
{
    (void)state;
    loop_defer(lt.loop, defer_and_more, letters);
    loop_free(lt.loop);
    lt.loop = loop_new();
    assert_string_equal(lt.trace, "abc");
}

static void again_and_again(void *obj)
{
    if (++lt.limit < 200000)
        loop_defer(lt.loop, again_and_again, obj);
}

static void on_fast_timer(void *obj)
{
    (void)obj;
    if (!lt.at_ms)
        lt.at_ms = lt.limit;
    loop_stop(lt.loop);
}

/* "Next turn" means that timers and sockets have their turn in between. */
static void test_defer_does_not_starve_the_loop(void **state)
{
    (void)state;
    timer_init(&lt.timer, lt.loop, on_fast_timer, NULL);
    timer_set(&lt.timer, 1);
    loop_defer(lt.loop, again_and_again, NULL);
    loop_run(lt.loop);
    timer_release(&lt.timer);
    lt.limit = 200000;
    assert_in_range(lt.at_ms, 1, 199999);
}

static void on_timer(void *obj)
{
    note(*(char *)obj);
    lt.at_ms = clock_mono_ms();
}

static void test_timer_fires_once_and_not_early(void **state)
{
    (void)state;
    int64_t start = clock_mono_ms();
    timer_init(&lt.timer, lt.loop, on_timer, letters);
    assert_false(timer_pending(&lt.timer));
    timer_set(&lt.timer, 30);
    assert_true(timer_pending(&lt.timer));
    once();
    assert_string_equal(lt.trace, "a");
    assert_false(timer_pending(&lt.timer));
    assert_in_range(lt.at_ms - start, 29, 5000);
    event_base_loop(loop_base(lt.loop), EVLOOP_NONBLOCK);
    assert_string_equal(lt.trace, "a");
    timer_release(&lt.timer);
}

static void test_timer_rearm_stop_release(void **state)
{
    struct timer zero = {NULL, NULL, NULL};
    (void)state;
    timer_stop(&zero);
    timer_release(&zero);
    assert_false(timer_pending(&zero));
    timer_init(&lt.timer, lt.loop, on_timer, letters);
    timer_stop(&lt.timer);
    timer_set(&lt.timer, 1);
    timer_set(&lt.timer, 100000); /* the later setting counts */
    usleep(3000);
    event_base_loop(loop_base(lt.loop), EVLOOP_NONBLOCK);
    assert_string_equal(lt.trace, "");
    timer_set(&lt.timer, 0);
    timer_stop(&lt.timer);
    event_base_loop(loop_base(lt.loop), EVLOOP_NONBLOCK);
    assert_string_equal(lt.trace, "");
    timer_set(&lt.timer, 0);
    once();
    assert_string_equal(lt.trace, "a");
    timer_release(&lt.timer);
    timer_release(&lt.timer);
}

static void on_timer_releases_itself(void *obj)
{
    note(*(char *)obj);
    timer_release(&lt.timer);
}

static void test_timer_may_be_released_in_its_callback(void **state)
{
    (void)state;
    timer_init(&lt.timer, lt.loop, on_timer_releases_itself, letters);
    timer_set(&lt.timer, 0);
    once();
    assert_string_equal(lt.trace, "a");
}

/* --- work --------------------------------------------------------------------------------- */

struct item {
    int run_at, done_at, number;
    pthread_t runner;
    struct work *work, *submit_again_to;
};

static int run_counter, done_counter; /* run_counter: atomic */
static bool submitting_work;
static pthread_t loop_thread;

static void item_run(void *arg)
{
    struct item *it = arg;
    it->runner = pthread_self();
    usleep(it->number % 3 == 0 ? 500 : 0);
    it->run_at = __atomic_add_fetch(&run_counter, 1, __ATOMIC_SEQ_CST);
}

static void item_done(void *arg)
{
    struct item *it = arg;
    assert_false(submitting_work);
    assert_true(pthread_equal(pthread_self(), loop_thread));
    assert_int_not_equal(it->run_at, 0);
    assert_int_equal(it->done_at, 0);
    it->done_at = ++done_counter;
    if (it->submit_again_to) {
        struct work *w = TAKE_PTR(it->submit_again_to);
        it->run_at = it->done_at = 0;
        work_submit(w, item_run, item_done, it);
    }
}

static void submit_all(struct work *w, struct item *items, size_t n)
{
    run_counter = done_counter = 0;
    loop_thread = pthread_self();
    submitting_work = true;
    for (size_t i = 0; i < n; i++) {
        items[i] = (struct item){.number = (int)i, .work = w};
        work_submit(w, item_run, item_done, &items[i]);
    }
    submitting_work = false;
}

static void run_until_done(struct work *w)
{
    int64_t deadline = clock_mono_ms() + 20000;
    while (work_pending(w)) {
        assert_true(clock_mono_ms() < deadline);
        once();
    }
}

static void test_work_one_thread_keeps_the_order(void **state)
{
    struct item items[200];
    (void)state;
    struct work *w = work_new(lt.loop, "test", 1);
    submit_all(w, items, ARRAY_SIZE(items));
    assert_int_equal(work_pending(w), ARRAY_SIZE(items));
    run_until_done(w);
    for (size_t i = 0; i < ARRAY_SIZE(items); i++) {
        assert_int_equal(items[i].run_at, i + 1);
        assert_int_equal(items[i].done_at, i + 1);
        assert_false(pthread_equal(items[i].runner, loop_thread));
    }
    work_free(w);
}

static void test_work_many_threads_each_once(void **state)
{
    struct item items[500];
    bool seen[ARRAY_SIZE(items) + 1] = {false};
    (void)state;
    struct work *w = work_new(lt.loop, "a name longer than the kernel takes", 4);
    submit_all(w, items, ARRAY_SIZE(items));
    run_until_done(w);
    for (size_t i = 0; i < ARRAY_SIZE(items); i++) {
        assert_in_range(items[i].done_at, 1, ARRAY_SIZE(items));
        assert_false(seen[items[i].done_at]);
        seen[items[i].done_at] = true;
    }
    work_free(w);
}

static size_t thread_count(void)
{
    size_t n = 0;
    DIR *d = opendir("/proc/self/task");
    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n - 2;
}

/* Nothing submitted is lost, even what a done() submits, and no thread stays. */
static void test_work_free_finishes_everything(void **state)
{
    struct item items[50];
    (void)state;
    size_t threads = thread_count();
    struct work *w = work_new(lt.loop, "test", 2);
    submit_all(w, items, ARRAY_SIZE(items));
    for (size_t i = 0; i < ARRAY_SIZE(items); i += 5)
        items[i].submit_again_to = w;
    work_free(w);
    assert_int_equal(done_counter, ARRAY_SIZE(items) + 10);
    assert_int_equal(thread_count(), threads);
    work_free(NULL);
}

static void test_work_free_at_once(void **state)
{
    (void)state;
    for (int i = 0; i < 50; i++)
        work_free(work_new(lt.loop, "test", 3));
}

static void test_work_done_may_submit(void **state)
{
    struct item it;
    (void)state;
    struct work *w = work_new(lt.loop, "test", 1);
    submit_all(w, &it, 1);
    it.submit_again_to = w;
    run_until_done(w);
    assert_int_equal(done_counter, 2);
    work_free(w);
}

#endif
