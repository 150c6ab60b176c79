/* shared.c - the store that servers share, opened and waited for. */
#include "setup/setup.h"

/* A server that starts with its Redis should not decide its first requests without it. */
struct arrival {
    struct loop *loop;
    bool over;
};

static void on_up(void *ctx, bool up)
{
    struct arrival *a = ctx;
    a->over = a->over || up;
    loop_stop(a->loop);
}

static void on_late(void *obj)
{
    struct arrival *a = obj;
    a->over = true;
    loop_stop(a->loop);
}

static void wait_up(struct shared *s, struct loop *loop, int64_t ms)
{
    struct arrival a = {.loop = loop, .over = shared_is_up(s)};
    struct timer late = {0};
    shared_watch(s, on_up, &a);
    timer_init(&late, loop, on_late, &a);
    timer_set(&late, ms);
    while (!a.over)
        loop_run(loop);
    timer_release(&late);
    shared_unwatch(s, on_up, &a);
}

struct shared *setup_open_shared(const struct conf *conf, struct loop *loop, struct err *err)
{
    struct shared_opts o = {.url = conf->redis.url,
                            .prefix = conf->redis.prefix,
                            .timeout_ms = conf->redis.timeout_ms,
                            .cache_bytes = (size_t)conf->cache.max_bytes};
    struct shared *s = shared_open(loop, &o, err);
    if (s)
        wait_up(s, loop, conf->redis.timeout_ms * 2);
    return s;
}
