/* queue_storm.h - part of test_queue.c: random operations against a plain model. Nobody is lost or
 * served twice, lines are kept, no key is passed over or asked twice. */
#ifndef CG_TESTS_QUEUE_STORM_H
#define CG_TESTS_QUEUE_STORM_H

#include "queue_rig.h"

#define STORM_STEPS 10000
#define STORM_ITEMS 300
#define STORM_KEYS  12

enum item_state { ITEM_OUT, ITEM_WAITS, ITEM_RUNS };

struct model_item {
    struct queued q;
    enum item_state state;
    size_t key;
    int64_t place; /* within its key's line; lowest = next */
    int64_t age;   /* order of its last (re-)entry */
};

static struct {
    uint32_t seed;
    int step;
    struct queue *q;
    struct model_item items[STORM_ITEMS];
    int64_t clock;
    size_t pushed, refused, removed, served, finished, back;
    bool told_no[STORM_KEYS];
    size_t room, asked;
    uint32_t willing; /* bit per key */
} storm;

#define STORM_CHECK(cond)                                                                       \
    do {                                                                                        \
        if (!(cond))                                                                            \
            fail_msg("seed %u step %d: %s (line %d)", storm.seed, storm.step, #cond, __LINE__); \
    } while (0)

static size_t count_items(enum item_state state, size_t key)
{
    size_t n = 0;
    for (size_t i = 0; i < STORM_ITEMS; i++)
        n += storm.items[i].state == state && (key == STORM_KEYS || storm.items[i].key == key);
    return n;
}

static struct model_item *first_of(size_t key)
{
    struct model_item *first = NULL;
    for (size_t i = 0; i < STORM_ITEMS; i++) {
        struct model_item *m = &storm.items[i];
        if (m->state == ITEM_WAITS && m->key == key && (!first || m->place < first->place))
            first = m;
    }
    return first;
}

static struct model_item *random_item(enum item_state state)
{
    size_t start = roll(STORM_ITEMS);
    for (size_t i = 0; i < STORM_ITEMS; i++) {
        struct model_item *m = &storm.items[(start + i) % STORM_ITEMS];
        if (m->state == state)
            return m;
    }
    return NULL;
}

static void storm_push(void)
{
    struct model_item *m = random_item(ITEM_OUT);
    struct err err = {0};
    if (!m)
        return;
    m->key = roll(4) ? roll(STORM_KEYS) : 0;
    char id[] = {(char)('A' + m->key), 0};
    bool room = count_items(ITEM_WAITS, STORM_KEYS) < 120 && count_items(ITEM_WAITS, m->key) < 40;
    bool ok = queue_push(storm.q, &m->q, id, 1 + (int)roll(10), &err) == 0;
    STORM_CHECK(ok == room);
    STORM_CHECK(ok || (err.code == ERR_OVERLOADED && err.retry_after_s >= 1));
    storm.refused += !ok;
    storm.pushed += ok;
    if (ok) {
        m->state = ITEM_WAITS;
        m->place = m->age = ++storm.clock;
    }
}

static void storm_remove(void)
{
    struct model_item *m = random_item((enum item_state)roll(3));
    if (!m)
        return;
    queue_remove(storm.q, &m->q);
    if (m->state != ITEM_WAITS)
        return;
    m->state = ITEM_OUT;
    storm.removed++;
}

static bool storm_take(void *ctx, struct queued *e)
{
    struct model_item *m = container_of(e, struct model_item, q);
    (void)ctx;
    storm.asked++;
    STORM_CHECK(m->state == ITEM_WAITS);
    STORM_CHECK(first_of(m->key) == m);
    STORM_CHECK(!storm.told_no[m->key]);
    if (!storm.room || !(storm.willing >> m->key & 1)) {
        storm.told_no[m->key] = true;
        return false;
    }
    storm.room--;
    m->state = ITEM_RUNS;
    storm.served++;
    return true;
}

static void storm_serve(void)
{
    size_t keys = queue_keys(storm.q), served = storm.served;
    memset(storm.told_no, 0, sizeof(storm.told_no));
    storm.asked = 0;
    storm.room = roll(10) ? roll(4) : roll(30);
    storm.willing = roll(2) ? UINT32_MAX : roll(1 << STORM_KEYS);
    size_t left = queue_serve(storm.q, storm_take, NULL);
    STORM_CHECK(left == count_items(ITEM_WAITS, STORM_KEYS));
    STORM_CHECK(storm.asked <= keys + storm.served - served);
    for (size_t k = 0; k < STORM_KEYS; k++) /* nobody was passed over */
        STORM_CHECK(storm.told_no[k] == (first_of(k) != NULL));
}

static void storm_end(struct model_item *m)
{
    bool back = roll(5) == 0;
    STORM_CHECK(m->q.running && m->q.charged > 0);
    if (back) {
        struct model_item *first = first_of(m->key);
        m->place = first ? first->place - 1 : 0;
        m->age = ++storm.clock;
        m->state = ITEM_WAITS;
        queue_push_back_in(storm.q, &m->q);
        storm.back++;
        return;
    }
    int64_t spent = roll(20) ? roll(3000) : roll(2) ? -5 : INT64_MAX / 2;
    queue_finished(storm.q, &m->q, spent);
    m->state = ITEM_OUT;
    storm.finished++;
}

static void storm_invariants(void)
{
    struct model_item *oldest = NULL;
    size_t keys = 0, ones = 0;
    for (size_t i = 0; i < STORM_ITEMS; i++) {
        struct model_item *m = &storm.items[i];
        if (m->state == ITEM_WAITS && (!oldest || m->age < oldest->age))
            oldest = m;
        STORM_CHECK(node_linked(&m->q.node) == (m->state == ITEM_WAITS));
        STORM_CHECK(m->q.running == (m->state == ITEM_RUNS));
    }
    for (size_t k = 0; k < STORM_KEYS; k++) {
        struct model_item *first = first_of(k);
        keys += first != NULL;
        ones += first && queue_position(storm.q, &first->q) == 1;
    }
    size_t len = count_items(ITEM_WAITS, STORM_KEYS);
    STORM_CHECK(queue_length(storm.q) == len);
    STORM_CHECK(queue_keys(storm.q) == keys);
    STORM_CHECK(queue_oldest(storm.q) == (oldest ? &oldest->q : NULL));
    STORM_CHECK(ones == (len > 0));
    STORM_CHECK(queue_retry_after(storm.q) >= 1 && queue_retry_after(storm.q) <= 60);
    struct model_item *m = random_item(ITEM_WAITS), *first = m ? first_of(m->key) : NULL;
    if (m) {
        size_t p = queue_position(storm.q, &m->q);
        STORM_CHECK(p >= queue_position(storm.q, &first->q) && p <= len);
    }
}

static void storm_step(void)
{
    uint32_t what = roll(100), pushes = storm.step / 500 % 2 ? 60 : 20; /* it fills and drains */
    struct model_item *m;
    clock_us += roll(500000);
    if (what < pushes)
        storm_push();
    else if (what < pushes + 10)
        storm_remove();
    else if (what < pushes + 20)
        storm_serve();
    else if ((m = random_item(ITEM_RUNS)))
        storm_end(m);
    storm_invariants();
}

static void storm_run(uint32_t seed)
{
    memset(&storm, 0, sizeof(storm));
    storm.seed = dice = seed;
    storm.q = open_queue(120, 40, seed % 2 ? 1 + roll(2000) : 0);
    for (storm.step = 0; storm.step < STORM_STEPS; storm.step++)
        storm_step();
    struct queued *e;
    while ((e = queue_oldest(storm.q))) {
        struct model_item *m = container_of(e, struct model_item, q);
        queue_remove(storm.q, e);
        m->state = ITEM_OUT;
        storm.removed++;
    }
    struct model_item *m;
    while ((m = random_item(ITEM_RUNS))) {
        queue_finished(storm.q, &m->q, 1);
        m->state = ITEM_OUT;
        storm.finished++;
    }
    storm_invariants();
    STORM_CHECK(storm.pushed == storm.finished + storm.removed);
    STORM_CHECK(storm.served == storm.finished + storm.back);
    STORM_CHECK(storm.pushed > 500 && storm.removed > 100 && storm.served > 500);
    STORM_CHECK(storm.refused > 50 && storm.back > 100);
    queue_free(storm.q);
}

static void test_storm(void **state)
{
    static const uint32_t seeds[] = {1, 20260101, 3141592653, 424242, 4000000007};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(seeds); i++)
        storm_run(seeds[i]);
}

#endif
