/* internal.h - the pool as its own files see it. Private to pool/. */
#ifndef CG_POOL_INTERNAL_H
#define CG_POOL_INTERNAL_H

#include "pool/breaker.h"
#include "pool/worker.h"

#define POOL_TAG TAG4('P', 'O', 'O', 'L')

struct crashes; /* keys whose turns kill their workers */

struct pool {
    uint32_t tag;
    struct loop *loop;
    struct pool_opts opts;
    char *claude_bin, *model, *pass_env, *run_dir;
    struct rundirs *dirs;
    struct list starting, spare, idle, busy, ending; /* every worker is on exactly one */
    struct queue *queue;
    size_t waiting_own; /* turns in the queue that need a process of their own */
    struct timer tick;
    bool dispatch_queued;
    size_t unserved; /* keys that the dispatch at work found no worker for */
    unsigned next_id, next_sample;
    int64_t starts;
    double start_ms; /* smoothed time from start to ready */
    struct breaker start_breaker;
    char last_start_error[400];
    struct crashes *crashes;
    enum pool_history history; /* in force */
    int doubts;                /* of trials that failed while none has passed */
    int64_t next_probe_ms;     /* in RESUME: when a new process is tried out again */
    bool ready_once;
    double cpu_s_ended; /* of workers that are gone */
    bool stopping, stopped_told;
    void (*stopped)(void *ctx);
    void *stopped_ctx;
};

static inline struct worker *worker_of(struct node *n)
{
    return container_of(n, struct worker, node);
}

static inline struct turn *turn_of(struct queued *e)
{
    return container_of(e, struct turn, queued);
}

/* pool.c */
extern const struct worker_ops pool_worker_callbacks;
size_t pool_total(const struct pool *p); /* workers */
void pool_move(struct worker *w, struct list *to);
void pool_end_worker(struct pool *p, struct worker *w, const char *reason);
/* Needs a process that is started for it: none that serves already will do, but its own. */
bool pool_needs_own(const struct pool *p, const struct turn *t);
void pool_count_own(struct pool *p, struct turn *t, bool waits);
void pool_note_start_failure(struct pool *p, const char *why);
/* A turn that has no worker (any more) ends with this error. */
void pool_fail_turn(struct turn *t, const struct err *why);

/* dispatch.c */
void dispatch_register(void); /* metrics */
void pool_dispatch(struct pool *p);

/* watch.c */
void watch_register(struct pool *p); /* metrics */
void watch_unregister(struct pool *p);
void watch_sample(struct pool *p); /* at each tick: memory and CPU of some workers */

/* crashes.c: a breaker per key. A prompt that kills the program must not take the processes of
 * everybody with it. */
int64_t crashes_pause_ms(struct pool *p, const char *key_id); /* 0 = its turns may run */
void crashes_note_try(struct pool *p, const char *key_id);    /* one runs: the next waits for it */
void crashes_count(struct pool *p, const char *key_id, bool crashed);
void crashes_sweep(struct pool *p); /* forgets old ones */
void crashes_free(struct pool *p);

#endif
