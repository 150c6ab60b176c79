/* test_queue.c - who is next: order, caps, places, estimates. Shares of worker time against the
 * weights are in queue_shares.h, a storm against a model in queue_storm.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "queue_rig.h"

#include "queue_shares.h"
#include "queue_storm.h"

/* --- rounds and debt --------------------------------------------------------------------- */

static void test_new_key_is_served_within_a_round(void **state)
{
    (void)state;
    for (int weight = 1; weight <= QUEUE_WEIGHT_MAX; weight += 3) {
        struct queue *q = open_queue(2000, 0, 100);
        for (size_t i = 0; i < 1000; i++)
            add(q, i, 'A', weight);
        for (size_t i = 0; i < 100; i++)
            assert_int_equal(run_one(q, 100), 'A');
        add(q, 1500, 'N', 1);
        int before = 0;
        while (run_one(q, 100) != 'N')
            before++;
        assert_in_range(before, 0, weight);
        end_all(q);
        memset(taker.base, 0, ARRAY_SIZE(letters) * sizeof(*taker.base));
    }
}

static void test_keys_take_turns_by_default(void **state)
{
    static const int64_t lengths[] = {2, 60, 7000, 600000};
    (void)state;
    for (size_t n = 0; n < ARRAY_SIZE(lengths); n++) {
        struct queue *q = open_queue(2000, 0, 0);
        int ahead_of = 0; /* A's turns less B's */
        for (size_t i = 0; i < 400; i++)
            add(q, i, "ABC"[i % 3], "149"[i % 3] - '0');
        for (size_t i = 0; i < 40; i++)
            run_one(q, lengths[n]);
        for (size_t i = 0; i < 100; i++) {
            char c = run_one(q, lengths[n]);
            ahead_of += c == 'A' ? 4 : c == 'B' ? -1 : 0;
            assert_in_range(ahead_of + 10, 4, 16);
        }
        end_all(q);
        memset(taker.base, 0, ARRAY_SIZE(letters) * sizeof(*taker.base));
    }
}

static void test_debt_is_bounded(void **state)
{
    struct queue *q = open_queue(2000, 0, 100);
    (void)state;
    for (size_t i = 0; i < 50; i++)
        add(q, i, 'A', 1); /* usual turns: 100 ms */
    for (size_t i = 0; i < 50; i++)
        run_one(q, 100);
    add(q, 50, 'D', 1);
    add(q, 51, 'D', 1);
    for (size_t i = 100; i < 1900; i++)
        add(q, i, 'A', 1);
    serve(q, 1, "D");
    assert_int_equal(taker.served_len, 1);
    finish(q, taker.served[0], 86400000); /* a day */
    size_t before = 0;
    while (run_one(q, 100) != 'D')
        before++;
    assert_in_range(before, 10, 1100); /* it pays, but not for a day */
    end_all(q);
}

/* Ten times the usual turn, ten at once: four (new) average turns of it are to be paid. */
static void test_debt_is_a_few_turns(void **state)
{
    struct queue *q = open_queue(2000, 0, 100);
    (void)state;
    for (size_t i = 0; i < 50; i++) {
        add(q, i, 'A', 1);
        run_one(q, 100);
    }
    for (size_t i = 50; i < 61; i++)
        add(q, i, 'D', 1);
    assert_string_equal(serve(q, 10, NULL), "DDDDDDDDDD");
    for (size_t i = 100; i < 300; i++)
        add(q, i, 'A', 1);
    for (size_t i = 50; i < 60; i++)
        finish(q, i, 1000);
    size_t before = 0;
    while (run_one(q, 100) != 'D')
        before++;
    assert_in_range(before, 30, 45);
    end_all(q);
}

static void test_running_key_saves_nothing_up(void **state)
{
    struct queue *q = open_queue(2000, 0, 100);
    size_t got = 0;
    (void)state;
    add(q, 1000, 'I', 1);
    serve(q, 1, NULL); /* runs all the time */
    for (size_t i = 0; i < 200; i++)
        add(q, i, 'A', 1);
    for (size_t i = 0; i < 150; i++)
        run_one(q, 100);
    for (size_t i = 1001; i < 1020; i++)
        add(q, i, 'I', 1);
    for (size_t i = 0; i < 6; i++)
        got += run_one(q, 100) == 'I';
    assert_in_range(got, 2, 4);
    end_all(q);
}

static void test_debt_does_not_stop_the_only_one(void **state)
{
    struct queue *q = open_queue(100, 0, 10);
    (void)state;
    for (size_t i = 0; i < 10; i++)
        add(q, i, 'A', 1);
    for (size_t i = 10; i < 14; i++)
        add(q, i, 'B', 1);
    assert_string_equal(serve(q, 8, "A"), "AAAAAAAA"); /* B cannot be served */
    assert_int_equal(queue_length(q), 6);
    assert_string_equal(serve(q, 3, NULL), "BAB"); /* each is one turn behind, B came first */
    end_all(q);
}

/* --- order ------------------------------------------------------------------------------- */

static void test_first_come_first_served_within_a_key(void **state)
{
    struct queue *q = open_queue(2000, 0, 1000);
    size_t last[3] = {0};
    (void)state;
    for (size_t i = 1; i <= 900; i++)
        add(q, i, (char)('A' + i % 3), 1 + (int)(i % 3));
    while (queue_length(q)) {
        serve(q, 7, NULL);
        for (size_t i = 0; i < taker.served_len; i++) {
            size_t n = taker.served[i];
            assert_true(n > last[n % 3]);
            last[n % 3] = n;
            finish(q, n, 10 + (int64_t)(n % 50));
        }
    }
    assert_int_equal(last[0] + last[1] + last[2], 900 + 898 + 899);
    end_all(q);
}

static void test_caps(void **state)
{
    struct queue *q = open_queue(5, 3, 0);
    struct queued *e = taker.base;
    struct err err = {0}, full = {0};
    (void)state;
    for (size_t i = 0; i < 3; i++)
        push(q, &e[i], "A", 1);
    assert_int_equal(queue_push(q, &e[3], "A", 1, &err), -1);
    assert_int_equal(err.code, ERR_OVERLOADED);
    assert_in_range(err.retry_after_s, 1, 60);
    assert_non_null(strstr(err.msg, "this API key"));
    assert_null(e[3].key);
    push(q, &e[3], "B", 1);
    push(q, &e[4], "B", 1);
    assert_int_equal(queue_push(q, &e[5], "C", 1, &full), -1);
    assert_int_equal(full.code, ERR_OVERLOADED);
    assert_in_range(full.retry_after_s, 1, 60);
    assert_non_null(strstr(full.msg, "queue is full"));
    assert_int_equal(queue_push(q, &e[5], "C", 1, NULL), -1);
    assert_int_equal(queue_length(q), 5);
    assert_int_equal(queue_keys(q), 2);
    queue_remove(q, &e[1]);
    assert_int_equal(queue_push(q, &e[5], "A", 1, &err), 0);
    queue_remove(q, &e[3]);
    queue_remove(q, &e[4]);
    assert_int_equal(queue_keys(q), 1);
    assert_int_equal(queue_push(q, &e[6], "A", 1, &err), -1);
    end_all(q);
}

static void test_full_does_not_count_what_runs(void **state)
{
    struct queue *q = open_queue(2, 2, 0);
    (void)state;
    add(q, 0, 'A', 1);
    add(q, 1, 'A', 1);
    assert_string_equal(serve(q, 2, NULL), "AA");
    add(q, 2, 'A', 1);
    add(q, 3, 'A', 1);
    queue_push_back_in(q, &taker.base[0]); /* never refused */
    assert_int_equal(queue_length(q), 3);
    end_all(q);
}

static void test_a_refused_key_keeps_its_place(void **state)
{
    struct queue *q = open_queue(100, 0, 1000);
    (void)state;
    for (size_t i = 0; i < 12; i++)
        add(q, i, "ABCD"[i % 4], 1);
    assert_string_equal(serve(q, 0, NULL), "");
    assert_int_equal(taker.asked_len, 4); /* each key once, its first entry */
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(taker.asked[i], i);
    assert_string_equal(serve(q, 2, "BCD"), "BC");
    assert_int_equal(taker.asked[0], 0); /* A was asked first, once */
    for (size_t i = 1; i < taker.asked_len; i++)
        assert_int_not_equal(letter_of(taker.asked[i]), 'A');
    assert_string_equal(serve(q, 1, "BCD"), "D");
    assert_int_equal(taker.asked[0], 0);
    assert_string_equal(serve(q, 1, NULL), "A");
    end_all(q);
}

/* The pool asks after every event, mostly when no worker is free. */
static void test_asking_in_vain_forgives_nothing(void **state)
{
    struct queue *q = open_queue(1000, 0, 100);
    (void)state;
    for (size_t i = 0; i < 40; i++)
        add(q, i, 'A', 1);
    for (size_t i = 40; i < 80; i++)
        add(q, i, 'B', 1);
    for (size_t i = 0; i < 10; i++)
        run_one(q, 100);
    serve(q, 1, "A");
    finish(q, taker.served[0], 1000);
    for (int i = 0; i < 1000; i++)
        serve(q, 0, NULL);
    int before = 0;
    while (run_one(q, 100) != 'A')
        before++;
    assert_in_range(before, 6, 12);
    end_all(q);
}

static void test_back_in_goes_to_the_front_uncharged(void **state)
{
    struct queue *q = open_queue(100, 0, 1000);
    struct queued *e = taker.base;
    (void)state;
    for (size_t i = 0; i < 3; i++)
        add(q, i, 'A', 1);
    for (size_t i = 3; i < 20; i++)
        add(q, i, 'B', 10);
    for (int i = 0; i < 10; i++) {
        assert_string_equal(serve(q, 1, "A"), "A");
        assert_int_equal(taker.served[0], 0);
        assert_true(e[0].running);
        assert_true(e[0].charged > 0);
        assert_int_equal(queue_position(q, &e[0]), 0);
        clock_us += SECOND;
        queue_push_back_in(q, &e[0]);
        assert_false(e[0].running);
        assert_int_equal(e[0].since_us, clock_us);
        assert_true(queue_position(q, &e[0]) < queue_position(q, &e[1]));
    }
    assert_ptr_equal(queue_oldest(q), &e[1]); /* its wait starts anew */
    serve(q, 3, NULL);
    assert_non_null(strchr(taker.names, 'A')); /* charged, it would stand behind ten of B */
    end_all(q);
}

static void test_removal(void **state)
{
    struct queue *q = open_queue(100, 0, 1000);
    struct queued *e = taker.base;
    (void)state;
    for (size_t i = 0; i < 6; i++)
        add(q, i, 'A', 1);
    queue_remove(q, &e[2]);
    queue_remove(q, &e[2]);
    assert_null(e[2].key);
    assert_int_equal(queue_position(q, &e[2]), 0);
    queue_remove(q, &e[0]);
    queue_remove(q, &e[5]);
    assert_int_equal(queue_length(q), 3);
    assert_ptr_equal(queue_oldest(q), &e[1]);
    serve(q, 9, NULL);
    assert_int_equal(taker.served_len, 3);
    assert_int_equal(taker.served[0], 1);
    assert_int_equal(taker.served[1], 3);
    assert_int_equal(taker.served[2], 4);
    queue_remove(q, &e[3]); /* runs: not its business */
    assert_true(e[3].running);
    add(q, 2, 'A', 1); /* the same entry may come again */
    assert_int_equal(queue_position(q, &e[2]), 1);
    end_all(q);
}

static void test_the_latest_weight_counts(void **state)
{
    struct queue *q = open_queue(2000, 0, 100);
    size_t a = 0;
    (void)state;
    for (size_t i = 0; i < 1000; i++)
        add(q, i, "AB"[i % 2], 1);
    for (size_t i = 0; i < 100; i++)
        run_one(q, 100);
    add(q, 1500, 'A', 9);
    for (size_t i = 0; i < 100; i++)
        a += run_one(q, 100) == 'A';
    assert_in_range(a, 86, 94);
    add(q, 1501, 'A', 0); /* moved to 1 */
    a = 0;
    for (size_t i = 0; i < 100; i++)
        a += run_one(q, 100) == 'A';
    assert_in_range(a, 45, 60);
    end_all(q);
}

/* --- estimates --------------------------------------------------------------------------- */

static void assert_monotone(const struct queue *q, size_t from, size_t to)
{
    size_t last[256] = {0};
    for (size_t i = from; i < to; i++) {
        size_t p = queue_position(q, &taker.base[i]);
        unsigned char key = (unsigned char)letter_of(i);
        if (!p)
            continue;
        assert_true(p > last[key]);
        assert_in_range(p, 1, queue_length(q));
        last[key] = p;
    }
}

static void check_positions(int64_t quantum_ms)
{
    static const int weights[] = {1, 2, 10};
    struct queue *q = open_queue(1000, 0, quantum_ms);
    size_t said[90], worst = 0;
    for (size_t i = 0; i < 30; i++) {
        add(q, 500 + i, 'Z', 1); /* so that the averages are known */
        run_one(q, 100);
    }
    for (size_t i = 0; i < 90; i++)
        add(q, i, "ABC"[i % 3], weights[i % 3]);
    for (size_t i = 0; i < 90; i++)
        said[i] = queue_position(q, &taker.base[i]);
    assert_true(said[29 * 3 + 2] < said[10 * 3]); /* weight 10: its last before the tenth of A */
    for (size_t n = 1; n <= 90; n++) {
        assert_monotone(q, 0, 90);
        run_one(q, 100);
        size_t i = taker.served[0], off = said[i] > n ? said[i] - n : n - said[i];
        worst = off > worst ? off : worst;
    }
    assert_in_range(worst, 0, 6);
    end_all(q);
    memset(taker.base, 0, ARRAY_SIZE(letters) * sizeof(*taker.base));
}

static void test_positions_come_true(void **state)
{
    (void)state;
    check_positions(10);
    check_positions(100);
    check_positions(400);
}

static void test_the_next_has_position_1(void **state)
{
    static const int64_t quanta[] = {1, 30, 100, 1000};
    (void)state;
    dice = 99;
    for (size_t round = 0; round < ARRAY_SIZE(quanta); round++) {
        struct queue *q = open_queue(1000, 0, quanta[round]);
        for (size_t i = 0; i < 400; i++)
            add(q, i, (char)('A' + roll(8)), 1 + (int)roll(10));
        while (queue_length(q)) {
            size_t first = 0, firsts = 0;
            for (size_t i = 0; i < 400; i++) {
                if (queue_position(q, &taker.base[i]) == 1) {
                    first = i;
                    firsts++;
                }
            }
            assert_int_equal(firsts, 1);
            run_one(q, 20 + roll(200));
            assert_int_equal(taker.served[0], first);
        }
        end_all(q);
        memset(taker.base, 0, ARRAY_SIZE(letters) * sizeof(*taker.base));
    }
}

/* Only draining, equal turns: nobody is told to have fallen back. */
static void test_positions_only_sink(void **state)
{
    struct queue *q = open_queue(1000, 0, 100);
    size_t last[200];
    (void)state;
    for (size_t i = 0; i < 200; i++)
        add(q, i, (char)('A' + i % 5), 1);
    for (size_t i = 0; i < 200; i++)
        last[i] = queue_position(q, &taker.base[i]);
    while (queue_length(q)) {
        run_one(q, TURN_MS);
        for (size_t i = 0; i < 200; i++) {
            size_t p = queue_position(q, &taker.base[i]);
            assert_true(p <= last[i]);
            last[i] = p;
        }
    }
    end_all(q);
}

/* One worker and one key: serves its entries from..from + n - 1, one every gap_ms. */
static void drain(struct queue *q, size_t from, size_t n, int64_t gap_ms)
{
    for (size_t i = 0; i < n; i++) {
        serve(q, 1, NULL);
        clock_us += gap_ms * 1000;
        finish(q, from + i, gap_ms);
    }
}

static void test_retry_after(void **state)
{
    struct queue *q = open_queue(1000, 0, 0);
    (void)state;
    assert_in_range(queue_retry_after(q), 1, 10); /* nothing measured */
    for (size_t i = 0; i < 109; i++)
        add(q, i, 'A', 1);
    serve(q, 0, NULL);
    clock_us += 500000;
    drain(q, 0, 100, 500); /* two a second; nine wait */
    assert_in_range(queue_retry_after(q), 5, 6);
    drain(q, 100, 9, 500);
    clock_us += 3600 * (int64_t)SECOND; /* an hour with nothing to do */
    assert_int_equal(queue_retry_after(q), 1);
    for (size_t i = 200; i < 250; i++) { /* a quiet time: each is served at once */
        add(q, i, 'A', 1);
        assert_string_equal(serve(q, 1, NULL), "A");
        clock_us += 60 * (int64_t)SECOND;
        finish(q, i, 500);
    }
    for (size_t i = 300; i < 319; i++)
        add(q, i, 'A', 1);
    serve(q, 0, NULL);
    assert_in_range(queue_retry_after(q), 10,
                    11); /* neither the hour nor the empty queue counted */
    end_waiting(q);      /* the clients leave */
    clock_us += 3600 * (int64_t)SECOND;
    for (size_t i = 300; i < 319; i++)
        add(q, i, 'A', 1);
    drain(q, 300, 1, 0);
    assert_in_range(queue_retry_after(q), 10, 11);
    clock_us += 20 * (int64_t)SECOND;
    assert_in_range(queue_retry_after(q), 30, 60); /* nothing moves any more */
    clock_us += 100000 * (int64_t)SECOND;
    assert_int_equal(queue_retry_after(q), 60);
    end_all(q);
}

/* The own line counts for who is refused because of it. */
static void test_retry_after_of_a_key(void **state)
{
    struct queue *q = open_queue(1000, 4, 100);
    struct queued *last = NULL;
    struct err err = {0};
    (void)state;
    for (size_t k = 0; k < 26; k++) {
        for (size_t i = 0; i < 4; i++)
            add(q, k * 4 + i, (char)('A' + k), k ? 1 : 10);
    }
    serve(q, 0, NULL);
    for (size_t i = 0; i < 20; i++) {
        clock_us += SECOND;
        serve(q, 1, NULL);
        finish(q, taker.served[0], 100);
    }
    for (size_t i = 0; i < 4; i++) {
        struct queued *e = &taker.base[1000 + i];
        letters[1000 + i] = 'A';
        if (queue_push(q, e, "A", 10, &err) != 0)
            break;
        last = e;
    }
    assert_int_equal(err.code, ERR_OVERLOADED);
    assert_non_null(last);
    assert_int_equal(queue_retry_after(q), 60);
    int before = 0; /* one a second: what is true? */
    while (queue_length(q) && queue_position(q, last)) {
        run_one(q, 100);
        before++;
    }
    assert_in_range(before, 6, 40);
    assert_in_range(err.retry_after_s, before - 5, before + 6);
    end_all(q);
}

/* --- forgetting -------------------------------------------------------------------------- */

static void push_named(struct queue *q, size_t index, size_t name)
{
    char id[16];
    snprintf(id, sizeof(id), "B%zu", name);
    letters[index] = 'B';
    push(q, &taker.base[index], id, 1);
}

/* A debt outlives the key's last entry only while others wait, and until it is paid. Whether a key
 * was forgotten shows in what it is charged: its own average, or everybody's. */
static void test_debtors_are_forgotten(void **state)
{
    struct queue *q = open_queue(100, 0, 100);
    struct queued *d = &taker.base[0];
    (void)state;
    for (size_t i = 10; i < 60; i++)
        add(q, i, 'A', 1);
    for (size_t i = 0; i < 20; i++)
        run_one(q, 100);
    push_named(q, 0, 0);
    serve(q, 1, "B");
    finish(q, 0, 1000);
    assert_null(d->key);
    assert_int_equal(queue_keys(q), 1);
    push_named(q, 0, 0); /* known: stands behind */
    assert_true(queue_position(q, d) > 5);
    queue_remove(q, d);
    for (size_t i = 0; i < 29; i++)
        run_one(q, 100); /* by now it has paid */
    push_named(q, 0, 0);
    serve(q, 1, "B");
    assert_in_range(d->charged, 1000, 2000);
    finish(q, 0, 20000);
    assert_string_equal(serve(q, 1, NULL), "A"); /* nothing waits any more */
    push_named(q, 0, 0);
    add(q, 5, 'C', 1);
    assert_string_equal(serve(q, 2, NULL), "BC");
    end_all(q);
}

static void test_not_all_debtors_are_remembered(void **state)
{
    struct queue *q = open_queue(2000, 0, 100);
    (void)state;
    add(q, 1999, 'A', 1);
    for (size_t i = 0; i < 1500; i++)
        push_named(q, i, i);
    assert_int_equal(queue_keys(q), 1501);
    for (size_t i = 0; i < 1500; i += 500)
        serve(q, 500, "B");
    assert_int_equal(queue_length(q), 1);
    for (size_t i = 0; i < 1500; i++)
        finish(q, i, 20000);
    push_named(q, 1499, 1499);
    push_named(q, 0, 0); /* forgotten: as good as new */
    assert_true(queue_position(q, &taker.base[0]) < queue_position(q, &taker.base[1499]));
    end_all(q);
    queue_free(NULL);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(test_shares_follow_weights),
        T(test_time_counts_and_not_turns),
        T(test_minutes_beside_seconds),
        T(test_asking_one_by_one_is_no_advantage),
        T(test_blocked_key_saves_nothing_up),
        T(test_idle_key_saves_nothing_up),
        T(test_new_key_is_served_within_a_round),
        T(test_keys_take_turns_by_default),
        T(test_debt_is_bounded),
        T(test_debt_is_a_few_turns),
        T(test_running_key_saves_nothing_up),
        T(test_debt_does_not_stop_the_only_one),
        T(test_first_come_first_served_within_a_key),
        T(test_caps),
        T(test_full_does_not_count_what_runs),
        T(test_a_refused_key_keeps_its_place),
        T(test_asking_in_vain_forgives_nothing),
        T(test_back_in_goes_to_the_front_uncharged),
        T(test_removal),
        T(test_the_latest_weight_counts),
        T(test_positions_come_true),
        T(test_the_next_has_position_1),
        T(test_positions_only_sink),
        T(test_retry_after),
        T(test_retry_after_of_a_key),
        T(test_storm),
        T(test_debtors_are_forgotten),
        T(test_not_all_debtors_are_remembered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
