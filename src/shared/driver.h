/* driver.h - private to shared/: what a driver provides, and what both have in common.
 *
 * A driver's struct begins with struct shared. Arguments have been checked when an op runs; ops
 * behave as shared.h says, with a done that is never NULL. */
#ifndef CG_SHARED_DRIVER_H
#define CG_SHARED_DRIVER_H

#include "core/list.h"
#include "shared/shared.h"

struct shared_ops {
    void (*close)(struct shared *s); /* frees s; the common part is released already */
    void (*health)(const struct shared *s, struct shared_health *ret_health);
    void (*take)(struct shared *s, const struct shared_take *take, shared_take_fn *done, void *ctx);
    void (*adjust)(struct shared *s, const char *group, const char *ticket,
                   const struct shared_use *uses, size_t count, shared_done_fn *done, void *ctx);
    void (*renew)(struct shared *s, const char *group, const char *const *tickets, size_t count,
                  int64_t ticket_ms, shared_done_fn *done, void *ctx);
    void (*seed)(struct shared *s, const char *group, const struct shared_seed *seeds, size_t count,
                 shared_done_fn *done, void *ctx);
    void (*lease)(struct shared *s, enum shared_lease_op op, const char *name, const char *owner,
                  int64_t ttl_ms, shared_lease_fn *done, void *ctx);
    void (*nonce)(struct shared *s, const char *value, int64_t ttl_ms, shared_nonce_fn *done,
                  void *ctx);
    void (*publish)(struct shared *s, const char *channel, struct str payload, shared_done_fn *done,
                    void *ctx);
    void (*cache_get)(struct shared *s, const char *name, shared_value_fn *done, void *ctx);
    void (*cache_set)(struct shared *s, const char *name, struct str value, int64_t ttl_ms,
                      shared_done_fn *done, void *ctx);
    void (*cache_delete)(struct shared *s, const char *name, shared_done_fn *done, void *ctx);
};

struct shared {
    uint32_t tag;
    const struct shared_ops *ops;
    struct loop *loop;
    struct list watches, subscriptions;
    int calling;     /* inside watches or subscriptions: what is removed is freed afterwards */
    bool up, remote; /* set by the driver: shared_set_up() */
};
#define SHARED_TAG TAG4('S', 'H', 'R', 'D')

/* Fills in the common part. */
void shared_init(struct shared *s, const struct shared_ops *ops, struct loop *loop, bool remote);
/* Tells the watches when it changes. */
void shared_set_up(struct shared *s, bool up);
/* To the subscriptions of the channel; channel NULL: all are told that they may have missed some.
 */
void shared_deliver(struct shared *s, struct str channel, struct str payload);
void shared_deliver_missed(struct shared *s);

struct shared *shared_memory_open(struct loop *loop, const struct shared_opts *opts);
struct shared *shared_redis_open(struct loop *loop, const struct shared_opts *opts,
                                 struct err *err);

#endif
