/* queue_rig.h - part of test_queue.c: a clock and dice of its own, and a taker that serves as much
 * as it was told to and notes whom it was asked about. */
#ifndef CG_TESTS_QUEUE_RIG_H
#define CG_TESTS_QUEUE_RIG_H

#include "pool/queue.h"

#define SECOND  1000000
#define TURN_MS 5000 /* what queue.c believes of turns it knows nothing about */

static int64_t clock_us;

static int64_t virtual_now(void)
{
    return clock_us;
}

static uint32_t dice;

static uint32_t roll(uint32_t n)
{
    dice = dice * 1664525 + 1013904223;
    return (dice >> 8) % n;
}

static struct queue *open_queue(size_t max, size_t max_per_key, int64_t quantum_ms)
{
    clock_us = 1000 * (int64_t)SECOND;
    return queue_new(&(struct queue_opts){max, max_per_key, quantum_ms, virtual_now});
}

static struct queued *push(struct queue *q, struct queued *e, const char *key, int weight)
{
    struct err err = {0};
    assert_int_equal(queue_push(q, e, key, weight, &err), 0);
    return e;
}

/* --- a fn that takes some and notes whom it was asked about ------------------------------ */

static struct {
    const char *only;    /* letters of the keys that are served; NULL = all */
    size_t room;         /* how many more are served */
    struct queued *base; /* all entries are of this array; their keys stand in `letters` */
    size_t asked[4000], served[2000];
    size_t asked_len, served_len;
    char names[2000]; /* letters of the served */
} taker;

static char letters[2000];

static char letter_of(size_t index)
{
    return letters[index];
}

static bool take(void *ctx, struct queued *e)
{
    size_t i = (size_t)(e - taker.base);
    assert_null(ctx);
    assert_true(taker.asked_len < ARRAY_SIZE(taker.asked));
    taker.asked[taker.asked_len++] = i;
    if (!taker.room || (taker.only && !strchr(taker.only, letter_of(i))))
        return false;
    taker.room--;
    taker.names[taker.served_len] = letter_of(i);
    taker.served[taker.served_len++] = i;
    return true;
}

static void add(struct queue *q, size_t index, char key, int weight)
{
    char id[] = {key, 0};
    letters[index] = key;
    push(q, &taker.base[index], id, weight);
}

/* Serves up to `room`, of the keys in `only`; the letters of those served. */
static const char *serve(struct queue *q, size_t room, const char *only)
{
    taker.room = room;
    taker.only = only;
    taker.asked_len = taker.served_len = 0;
    size_t left = queue_serve(q, take, NULL);
    assert_int_equal(left, queue_length(q));
    taker.names[taker.served_len] = 0;
    return taker.names;
}

static void finish(struct queue *q, size_t index, int64_t spent_ms)
{
    queue_finished(q, &taker.base[index], spent_ms);
}

/* Serves one, which takes spent_ms; its letter. */
static char run_one(struct queue *q, int64_t spent_ms)
{
    char c = serve(q, 1, NULL)[0];
    assert_int_equal(taker.served_len, 1);
    finish(q, taker.served[0], spent_ms);
    return c;
}

static void end_waiting(struct queue *q)
{
    struct queued *e;
    while ((e = queue_oldest(q)))
        queue_remove(q, e);
}

static void end_all(struct queue *q)
{
    end_waiting(q);
    for (size_t i = 0; taker.base && i < ARRAY_SIZE(letters); i++) {
        if (taker.base[i].running)
            finish(q, i, 1);
    }
    assert_int_equal(queue_length(q), 0);
    assert_int_equal(queue_keys(q), 0);
    queue_free(q); /* stops the program when a key was not forgotten */
}

static int set_up(void **state)
{
    (void)state;
    taker.base = x_calloc(ARRAY_SIZE(letters), sizeof(*taker.base));
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    free(taker.base);
    taker.base = NULL;
    return 0;
}

#endif
