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

bool crashes_admit(struct pool *p, const char *key_id, struct err *err)
{
    struct crashes *c;
    int64_t now = clock_mono_ms();
    HASH_FIND_STR(p->crashes, key_id, c);
    if (!c || breaker_admits(&c->breaker, CRASHES_MAX, now))
        return true;
    err_set(err, ERR_OVERLOADED,
            "The last %lld requests of this key ended a claude process each; it has to pause",
            (long long)c->breaker.failures);
    err->retry_after_s = (int)(breaker_pause_ms(&c->breaker, now) / 1000) + 1;
    return false;
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
