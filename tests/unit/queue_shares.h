/* queue_shares.h - part of test_queue.c: simulated workers, and whose time they spend. */
#ifndef CG_TESTS_QUEUE_SHARES_H
#define CG_TESTS_QUEUE_SHARES_H

#include "queue_rig.h"

/* --- simulated workers ------------------------------------------------------------------- */

struct sim_key {
    int weight;
    uint32_t min_ms, max_ms; /* of a turn */
    size_t waiting_max;      /* kept waiting */
    size_t own_max;          /* waiting and running together; 0 = no limit */
    size_t running_max;      /* 0 = no limit */
    int64_t worked_ms;
    size_t turns, waiting, running;
};

struct sim_item {
    struct queued q;
    struct sim_key *key;
    int64_t length_ms, ends_us;
};

static struct {
    struct queue *q;
    struct sim_key *keys;
    size_t key_count, workers, busy;
    struct sim_item *running[64];
} sim;

static bool sim_take(void *ctx, struct queued *e)
{
    struct sim_item *it = container_of(e, struct sim_item, q);
    struct sim_key *k = it->key;
    (void)ctx;
    if (sim.busy == sim.workers || (k->running_max && k->running == k->running_max))
        return false;
    it->ends_us = clock_us + it->length_ms * 1000;
    sim.running[sim.busy++] = it;
    k->waiting--;
    k->running++;
    return true;
}

static void sim_top_up(struct sim_key *k)
{
    char id[] = {(char)('a' + (k - sim.keys)), 0};
    while (k->waiting < k->waiting_max && (!k->own_max || k->waiting + k->running < k->own_max)) {
        struct sim_item *it = x_calloc(1, sizeof(*it));
        it->key = k;
        it->length_ms = k->min_ms + roll(k->max_ms - k->min_ms + 1);
        push(sim.q, &it->q, id, k->weight);
        k->waiting++;
    }
}

static void sim_finish_next(void)
{
    size_t next = 0;
    assert_true(sim.busy > 0);
    for (size_t i = 1; i < sim.busy; i++) {
        if (sim.running[i]->ends_us < sim.running[next]->ends_us)
            next = i;
    }
    struct sim_item *it = sim.running[next];
    sim.running[next] = sim.running[--sim.busy];
    clock_us = it->ends_us;
    queue_finished(sim.q, &it->q, it->length_ms);
    it->key->running--;
    it->key->turns++;
    it->key->worked_ms += it->length_ms;
    free(it);
}

static void sim_open(struct sim_key *keys, size_t n, size_t workers, int64_t quantum_ms)
{
    dice = 7;
    sim.q = open_queue(100000, 0, quantum_ms);
    sim.keys = keys;
    sim.key_count = n;
    sim.workers = workers;
    sim.busy = 0;
}

static void sim_run(int64_t ms)
{
    int64_t until = clock_us + ms * 1000;
    while (clock_us < until) {
        for (size_t i = 0; i < sim.key_count; i++)
            sim_top_up(&sim.keys[i]);
        queue_serve(sim.q, sim_take, NULL);
        sim_finish_next();
    }
}

static void sim_forget_counts(void)
{
    for (size_t i = 0; i < sim.key_count; i++) {
        sim.keys[i].worked_ms = 0;
        sim.keys[i].turns = 0;
    }
}

static void sim_close(void)
{
    struct queued *e;
    while ((e = queue_oldest(sim.q))) {
        queue_remove(sim.q, e);
        free(container_of(e, struct sim_item, q));
    }
    while (sim.busy)
        sim_finish_next();
    queue_free(sim.q);
}

/* Each key's part of all worker time is its weight's part of all weights. */
static void assert_shares(double tolerance)
{
    double weights = 0, worked = 0;
    for (size_t i = 0; i < sim.key_count; i++) {
        weights += sim.keys[i].weight;
        worked += (double)sim.keys[i].worked_ms;
    }
    for (size_t i = 0; i < sim.key_count; i++) {
        double want = sim.keys[i].weight / weights;
        double is = (double)sim.keys[i].worked_ms / worked;
        if (is < want * (1 - tolerance) || is > want * (1 + tolerance))
            fail_msg("key %zu has %.4f of the worker time instead of %.4f", i, is, want);
    }
}

/* --- shares ------------------------------------------------------------------------------ */

static void test_shares_follow_weights(void **state)
{
    static const size_t workers[] = {1, 3, 8};
    static const int64_t quanta[] = {0, 5, 100, 1000};
    (void)state;
    for (size_t i = 0; i < 12; i++) {
        struct sim_key keys[] = {{.weight = 1, .min_ms = 100, .max_ms = 100, .waiting_max = 20},
                                 {.weight = 2, .min_ms = 100, .max_ms = 100, .waiting_max = 20},
                                 {.weight = 3, .min_ms = 100, .max_ms = 100, .waiting_max = 20},
                                 {.weight = 10, .min_ms = 100, .max_ms = 100, .waiting_max = 20}};
        sim_open(keys, ARRAY_SIZE(keys), workers[i % 3], quanta[i / 3]);
        sim_run(100000); /* until the averages are known */
        sim_forget_counts();
        sim_run(1000000);
        assert_shares(0.03);
        assert_true(keys[3].turns > 9 * keys[0].turns);
        sim_close();
    }
}

static void test_time_counts_and_not_turns(void **state)
{
    static const size_t workers[] = {1, 4, 9};
    static const int64_t quanta[] = {0, 20, 200, 1000};
    (void)state;
    for (size_t i = 0; i < 12; i++) {
        struct sim_key keys[] = {{.weight = 1, .min_ms = 100, .max_ms = 100, .waiting_max = 50},
                                 {.weight = 1, .min_ms = 1000, .max_ms = 1000, .waiting_max = 50},
                                 {.weight = 2, .min_ms = 1, .max_ms = 1500, .waiting_max = 50},
                                 {.weight = 2, .min_ms = 400, .max_ms = 500, .waiting_max = 50}};
        sim_open(keys, ARRAY_SIZE(keys), workers[i % 3], quanta[i / 3]);
        sim_run(100000);
        sim_forget_counts();
        sim_run(3000000);
        assert_shares(0.02);
        assert_true(keys[0].turns > 8 * keys[1].turns);
        sim_close();
    }
}

/* Agents at work for minutes beside short questions: the quantum finds its place, and a long turn's
 * whole price fits in the bounds. */
static void test_minutes_beside_seconds(void **state)
{
    struct sim_key keys[] = {{.weight = 1, .min_ms = 2000, .max_ms = 8000, .waiting_max = 50},
                             {.weight = 1, .min_ms = 100000, .max_ms = 500000, .waiting_max = 50},
                             {.weight = 3, .min_ms = 5000, .max_ms = 5000, .waiting_max = 50}};
    (void)state;
    sim_open(keys, ARRAY_SIZE(keys), 8, 0);
    sim_run(10000000);
    sim_forget_counts();
    sim_run(100000000);
    assert_shares(0.05);
    sim_close();
}

/* Without its debt remembered it would have ten times the others' time. */
static void test_asking_one_by_one_is_no_advantage(void **state)
{
    struct sim_key keys[] = {
        {.weight = 1, .min_ms = 1000, .max_ms = 1000, .waiting_max = 1, .own_max = 1},
        {.weight = 1, .min_ms = 100, .max_ms = 100, .waiting_max = 50}};
    (void)state;
    sim_open(keys, ARRAY_SIZE(keys), 1, 100);
    sim_run(100000);
    sim_forget_counts();
    sim_run(1000000);
    assert_shares(0.1);
    sim_close();
}

static void test_blocked_key_saves_nothing_up(void **state)
{
    struct sim_key keys[] = {
        {.weight = 1, .min_ms = 100, .max_ms = 100, .waiting_max = 50},
        {.weight = 1, .min_ms = 100, .max_ms = 100, .waiting_max = 50, .running_max = 1}};
    (void)state;
    sim_open(keys, ARRAY_SIZE(keys), 8, 100);
    sim_run(100000);
    assert_in_range(keys[0].turns, 6900, 7100); /* nobody else can use the seven */
    assert_in_range(keys[1].turns, 980, 1020);
    keys[1].running_max = 0;
    sim_forget_counts();
    sim_run(10000);
    assert_shares(0.05); /* at once, with nothing to catch up */
    sim_close();
}

/* One that ran a single long turn meanwhile has its share afterwards, and no more. */
static void test_idle_key_saves_nothing_up(void **state)
{
    struct sim_key keys[] = {
        {.weight = 1, .min_ms = 100, .max_ms = 100, .waiting_max = 50},
        {.weight = 1, .min_ms = 100, .max_ms = 100, .waiting_max = 1, .own_max = 1},
        {.weight = 1, .min_ms = 100, .max_ms = 100, .waiting_max = 0}};
    (void)state;
    sim_open(keys, ARRAY_SIZE(keys), 4, 100);
    sim_run(100000);
    keys[1].own_max = 0;
    keys[1].waiting_max = keys[2].waiting_max = 50;
    sim_forget_counts();
    sim_run(20000);
    assert_shares(0.05);
    sim_close();
}

#endif
