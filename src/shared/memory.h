/* memory.h - private to shared/: the parts of the memory driver. */
#ifndef CG_SHARED_MEMORY_H
#define CG_SHARED_MEMORY_H

#include "shared/driver.h"

struct group;
struct ticket;

struct entry; /* of a table of small things, see memory_small.c */
struct table {
    struct entry *entries;
    struct list by_age;
    size_t bytes;
};

struct memory {
    struct shared common;
    int64_t (*wall_ms)(void);
    struct group *groups;
    struct ticket *tickets;
    struct table leases, nonces, cache;
    size_t cache_bytes;   /* the cache's bound */
    struct list messages; /* published, not delivered yet */
    struct timer deliver;
};

void memory_small_init(struct memory *m);
void memory_small_release(struct memory *m);

void memory_lease(struct shared *s, enum shared_lease_op op, const char *name, const char *owner,
                  int64_t ttl_ms, shared_lease_fn *done, void *ctx);
void memory_nonce(struct shared *s, const char *value, int64_t ttl_ms, shared_nonce_fn *done,
                  void *ctx);
void memory_publish(struct shared *s, const char *channel, struct str payload, shared_done_fn *done,
                    void *ctx);
void memory_cache_get(struct shared *s, const char *name, shared_value_fn *done, void *ctx);
void memory_cache_set(struct shared *s, const char *name, struct str value, int64_t ttl_ms,
                      shared_done_fn *done, void *ctx);
void memory_cache_delete(struct shared *s, const char *name, shared_done_fn *done, void *ctx);

#endif
