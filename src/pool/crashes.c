/* crashes.c - keys whose turns end their processes, each with a circuit breaker.
 *
 * A process costs a second of CPU to start. A key whose requests crash one after the other is made
 * to pause, so that the others' processes go on. A key without crashes has no entry. */
#include "pool/internal.h"

#include "core/clock.h"

#define HASH_FUNCTION HASH_FNV /* ids are ours; the default warns under clang */
#include <uthash.h>

#define CRASHES_MAX 5 /* in a row */
#define FORGET_MS   60000

struct crashes {
    char *key_id;
    struct breaker breaker;
    UT_hash_handle hh;
};

static struct crashes *find(struct pool *p, const char *key_id)
{
    struct crashes *c;
    HASH_FIND_STR(p->crashes, key_id, c);
    return c && c->breaker.failures >= CRASHES_MAX ? c : NULL;
}

int64_t crashes_pause_ms(struct pool *p, const char *key_id)
{
    const struct crashes *c = find(p, key_id);
    return c ? breaker_pause_ms(&c->breaker, clock_mono_ms()) : 0;
}

void crashes_note_try(struct pool *p, const char *key_id)
{
    struct crashes *c = find(p, key_id);
    if (c)
        breaker_tried(&c->breaker, clock_mono_ms());
}

static void forget(struct pool *p, struct crashes *c)
{
    HASH_DEL(p->crashes, c);
    free(c->key_id);
    free(c);
}

void crashes_count(struct pool *p, const char *key_id, bool crashed)
{
    struct crashes *c;
    HASH_FIND_STR(p->crashes, key_id, c);
    if (!crashed) {
        if (c)
            forget(p, c);
        return;
    }
    if (!c) {
        c = x_calloc(1, sizeof(*c));
        c->key_id = x_strdup(key_id);
        HASH_ADD_KEYPTR(hh, p->crashes, c->key_id, strlen(c->key_id), c);
    }
    breaker_failed(&c->breaker, clock_mono_ms());
}

void crashes_sweep(struct pool *p)
{
    struct crashes *c, *next;
    HASH_ITER(hh, p->crashes, c, next)
    {
        if (clock_mono_ms() - c->breaker.open_until_ms > FORGET_MS)
            forget(p, c);
    }
}

void crashes_free(struct pool *p)
{
    struct crashes *c, *next;
    HASH_ITER(hh, p->crashes, c, next)
    {
        forget(p, c);
    }
}
