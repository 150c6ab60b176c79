/* loop.h - the one event loop, deferred frees, and the threads for blocking work.
 *
 * One thread runs the loop and owns every object. Blocking work (SQLite, bcrypt, large files)
 * runs through work_submit() and its result comes back on the loop: those two functions are the
 * only place where threads meet. */
#ifndef CG_CORE_LOOP_H
#define CG_CORE_LOOP_H

#include "core/util.h"

#include <stdbool.h>

struct event_base;
struct event;
struct loop;

struct loop *loop_new(void);
void loop_free(struct loop *loop); /* runs what is still deferred */
struct event_base *loop_base(struct loop *loop);
void loop_run(struct loop *loop); /* until loop_stop() */
void loop_stop(struct loop *loop);

/* Calls fn(obj) on the next turn of the loop, in the order asked. The only way to free a
 * connection, job or child: never inside its own callback. */
typedef void loop_defer_fn(void *obj);
void loop_defer(struct loop *loop, loop_defer_fn *fn, void *obj);

/* One-shot timer. Embedded in its owner; timer_set() re-arms, timer_stop() may be called always
 * after timer_init(). fn runs on the loop. */
struct timer {
    struct event *ev;
    loop_defer_fn *fn;
    void *obj;
};
void timer_init(struct timer *t, struct loop *loop, loop_defer_fn *fn, void *obj);
void timer_set(struct timer *t, int64_t ms);
void timer_stop(struct timer *t);
bool timer_pending(const struct timer *t);
void timer_release(struct timer *t); /* accepts a zeroed timer */

/* A pool of `threads` threads. run(arg) executes on one of them, in submission order when there
 * is one thread; then done(arg) on the loop, exactly once, never before work_submit() returned. */
struct work;
typedef void work_fn(void *arg);
struct work *work_new(struct loop *loop, const char *name, int threads);
void work_submit(struct work *work, work_fn *run, work_fn *done, void *arg);
/* Finishes everything submitted (run and done), then joins the threads. */
void work_free(struct work *work);
size_t work_pending(struct work *work);

#endif
