/* shared.h - what all servers of a fleet see together: buckets of limits, exclusive leases, values
 * seen once, messages, cached values.
 *
 * Two drivers behind one contract: the memory of this process, or Redis. Each operation is one
 * atomic step. done() runs exactly once, on the loop; it may run before the call returns (memory;
 * a Redis known to be away) or later. done may be NULL where nothing is asked. A Redis that cannot
 * be asked - not connected, or no answer in timeout_ms - is ERR_UNAVAILABLE, at once while it is
 * known to be away; whether the step took place is then unknown. Nothing waits for a reconnect.
 * Everything is kept with an expiry. All texts are copied. Loop thread only. */
#ifndef CG_SHARED_SHARED_H
#define CG_SHARED_SHARED_H

#include "core/err.h"
#include "core/loop.h"
#include "core/str.h"

struct shared;

struct shared_opts {
    const char *url;          /* see conf/redis_url.h; NULL or "" = the memory of this process */
    const char *prefix;       /* of every name in Redis */
    int64_t timeout_ms;       /* for an answer, and for a connection to be ready */
    size_t cache_bytes;       /* memory only: of cached values; 0 = 64 MiB */
    int64_t (*wall_ms)(void); /* memory only: another clock, for tests; NULL = the real one */
};
/* Does not wait for a connection. NULL + ERR_CONFIG when the url is not one. With Redis the process
 * ignores SIGPIPE from now on. */
struct shared *shared_open(struct loop *loop, const struct shared_opts *opts, struct err *err);
/* Sends what waits to be sent as far as the socket takes it; what is unanswered ends with
 * ERR_UNAVAILABLE before this returns. Not from inside a callback. NULL is fine. */
void shared_close(struct shared *s);

struct shared_health {
    bool remote;      /* Redis is used */
    bool up;          /* memory: always */
    int64_t for_ms;   /* how long so */
    size_t replicas;  /* servers that share it, as last known; at least 1 */
    char reason[160]; /* why it is away; "" */
};
void shared_health(const struct shared *s, struct shared_health *ret_health);
bool shared_is_remote(const struct shared *s);
bool shared_is_up(const struct shared *s);
/* fn runs at each change, with Redis only. At most one per (fn, ctx). */
typedef void shared_watch_fn(void *ctx, bool up);
void shared_watch(struct shared *s, shared_watch_fn *fn, void *ctx);
void shared_unwatch(struct shared *s, shared_watch_fn *fn, void *ctx);

typedef void shared_done_fn(void *ctx, const struct err *err);

/* --- buckets ------------------------------------------------------------------------------
 * A group (an API key) has buckets, which are known by name. What a request takes it takes from
 * all of them or from none. It may hold a part under a ticket: that part comes back when the
 * ticket ends, by shared_adjust() or because nobody renews it any more. */
#define SHARED_NAME_MAX    64 /* bytes of a group, a ticket, an owner, ... */
#define SHARED_BUCKETS_MAX 8
#define SHARED_AMOUNT_MAX  (INT64_C(1) << 52) /* exact in Lua's numbers, too; sums stop there */

enum shared_kind {
    SHARED_RATE,    /* GCRA: `limit` per period_ms, and as many at once; their product is at most
                       SHARED_AMOUNT_MAX */
    SHARED_COUNTER, /* of a window of time */
    SHARED_TICKETS  /* tickets there may be at once; one bucket of a group at most */
};

struct shared_bucket {
    enum shared_kind kind;
    const char *name; /* up to 7 bytes */
    int64_t limit;    /* -1: counted, never refused */
    int64_t period_ms;
    /* Counters: gone at once; gone while the ticket lasts. What is gone may exceed the limit only
     * by adjusting. */
    int64_t spend, hold;
    /* Counters: start and end of the window that now is in by the caller's clock, and the end of
     * the next (wall ms). The store's clock decides; a clock that steps back over an end goes on
     * counting in the later window. */
    int64_t window[3];
};

struct shared_take {
    const char *group;
    const char *ticket; /* NULL: none; then nothing can be held */
    int64_t ticket_ms;  /* how long the ticket lasts without shared_renew() */
    const struct shared_bucket *buckets;
    size_t count;
    bool look; /* take nothing, refuse nothing: only tell */
};

struct shared_level {
    int64_t remaining;  /* -1 = unlimited */
    int64_t reset_ms;   /* until all of it is there again: window's end, empty bucket; tickets: 0 */
    int64_t used, held; /* counters; tickets: used = how many there are */
    int64_t window_end; /* counters: the window it counts in; goes into shared_use */
};
struct shared_taken {
    bool admitted;
    size_t refused;   /* the first bucket, in the order given, that refused */
    int64_t retry_ms; /* rate: exactly; counter: to the window's end; tickets: 0 = unknown */
    int64_t now_ms;   /* the store's clock */
    struct shared_level levels[SHARED_BUCKETS_MAX]; /* after it */
};
typedef void shared_take_fn(void *ctx, const struct shared_taken *taken, const struct err *err);
void shared_take(struct shared *s, const struct shared_take *take, shared_take_fn *done, void *ctx);

/* What really was used: added (may be negative) to counters, which never fall below 0. A counter
 * of another window than window_end is left alone; one that is not there begins. For a rate -1
 * gives one back. */
struct shared_use {
    enum shared_kind kind; /* RATE or COUNTER */
    const char *name;
    int64_t add;
    int64_t window_end; /* counters */
    int64_t period_ms;  /* rates */
};
/* Ends the ticket (NULL: there is none; one that has ended already is fine) and adds, in one
 * step. */
void shared_adjust(struct shared *s, const char *group, const char *ticket,
                   const struct shared_use *uses, size_t count, shared_done_fn *done, void *ctx);
/* The tickets last ticket_ms from now. One that had ended is a ticket again, but holds nothing. */
void shared_renew(struct shared *s, const char *group, const char *const *tickets, size_t count,
                  int64_t ticket_ms, shared_done_fn *done, void *ctx);
/* Raises what counters have used to at_least, for a store that has lost or never known it. Only
 * the window of the bucket counts: where the store is in another one nothing happens. */
struct shared_seed {
    const char *name;
    int64_t at_least;
    int64_t window[3];
};
void shared_seed(struct shared *s, const char *group, const struct shared_seed *seeds, size_t count,
                 shared_done_fn *done, void *ctx);

/* --- exclusive leases ---------------------------------------------------------------------- */
enum shared_lease_op {
    SHARED_LEASE_ACQUIRE, /* mine when it is nobody's, or mine already */
    SHARED_LEASE_RENEW,   /* when it is mine */
    SHARED_LEASE_RELEASE, /* when it is mine */
    SHARED_LEASE_WANT     /* asks the holder to release it: wanted is set, and the holder's server
                             gets "holder name" on the channel SHARED_LEASE_CHANNEL */
};
#define SHARED_LEASE_CHANNEL "lease-wanted"
struct shared_lease {
    bool mine;                        /* after the operation */
    bool wanted;                      /* somebody asked for it since it was acquired */
    char holder[SHARED_NAME_MAX + 1]; /* "" = nobody */
};
typedef void shared_lease_fn(void *ctx, const struct shared_lease *lease, const struct err *err);
/* owner: visible ASCII without spaces; of a name as well. */
void shared_lease(struct shared *s, enum shared_lease_op op, const char *name, const char *owner,
                  int64_t ttl_ms, shared_lease_fn *done, void *ctx);

/* --- values seen once ---------------------------------------------------------------------- */
/* first: it was not seen in the last ttl_ms; now it is. The memory of a process holds a million of
 * them; then ERR_OVERLOADED. */
typedef void shared_nonce_fn(void *ctx, bool first, const struct err *err);
void shared_nonce(struct shared *s, const char *value, int64_t ttl_ms, shared_nonce_fn *done,
                  void *ctx);

/* --- messages ------------------------------------------------------------------------------ */
#define SHARED_MESSAGE_MAX 4096
/* To every server that listens, this one included; never before the call returns. */
void shared_publish(struct shared *s, const char *channel, struct str payload, shared_done_fn *done,
                    void *ctx);
/* missed: payload is empty, and messages may have been lost: told whenever listening to Redis
 * begins, to those who have subscribed before. */
typedef void shared_message_fn(void *ctx, struct str payload, bool missed);
struct shared_subscription;
struct shared_subscription *shared_subscribe(struct shared *s, const char *channel,
                                             shared_message_fn *fn, void *ctx);
void shared_unsubscribe(struct shared *s, struct shared_subscription *sub); /* NULL is fine */

/* --- cached values -------------------------------------------------------------------------- */
#define SHARED_VALUE_MAX ((size_t)1 << 20)
/* value.p NULL: there is none. Borrowed. */
typedef void shared_value_fn(void *ctx, struct str value, const struct err *err);
void shared_cache_get(struct shared *s, const char *name, shared_value_fn *done, void *ctx);
/* May be forgotten earlier. */
void shared_cache_set(struct shared *s, const char *name, struct str value, int64_t ttl_ms,
                      shared_done_fn *done, void *ctx);
void shared_cache_delete(struct shared *s, const char *name, shared_done_fn *done, void *ctx);

#endif
