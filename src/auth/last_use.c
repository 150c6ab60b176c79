/* last_use.c - see the header. One time per key, so it is bounded by the number of keys in use. */
#include "auth/last_use.h"

#include "core/clock.h"

#define HASH_FUNCTION HASH_FNV /* ids are made here; the default warns in clang */
#include <uthash.h>

#define LAST_USE_TAG TAG4('L', 'U', 'S', 'E')

struct use {
    char id[ID_UUID_SIZE];
    int64_t at;
    UT_hash_handle hh;
};

struct last_use {
    uint32_t tag;
    struct db *db;
    struct use *uses;
    struct timer timer;
};

static void write_all(void *obj)
{
    struct last_use *u = OBJ(obj, struct last_use, LAST_USE_TAG);
    size_t count = HASH_COUNT(u->uses), i = 0;
    if (!count)
        return;
    struct api_key_use *rows = x_calloc(count, sizeof(*rows));
    struct use *use, *next;
    HASH_ITER(hh, u->uses, use, next)
    {
        memcpy(rows[i].id, use->id, sizeof(rows[i].id));
        rows[i++].at = use->at;
        HASH_DEL(u->uses, use);
        free(use);
    }
    api_key_touch(u->db, rows, count);
    free(rows);
}

void last_use_note(struct last_use *u, const char *key_id, int64_t delay_ms)
{
    struct use *use;
    HASH_FIND_STR(u->uses, key_id, use);
    if (!use) {
        use = x_calloc(1, sizeof(*use));
        snprintf(use->id, sizeof(use->id), "%s", key_id);
        HASH_ADD_STR(u->uses, id, use);
    }
    use->at = clock_wall_ms();
    if (!timer_pending(&u->timer))
        timer_set(&u->timer, delay_ms);
}

struct last_use *last_use_new(struct loop *loop, struct db *db)
{
    struct last_use *u = x_calloc(1, sizeof(*u));
    u->tag = LAST_USE_TAG;
    u->db = db;
    timer_init(&u->timer, loop, write_all, u);
    return u;
}

void last_use_free(struct last_use *u)
{
    write_all(u);
    timer_release(&u->timer);
    u->tag = 0;
    free(u);
}
