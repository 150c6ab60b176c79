/* queue.h - who is next: a bounded queue, first come first served within a key, deficit round robin
 * between keys. Private to pool/.
 *
 * Deficit round robin (M. Shreedhar and G. Varghese, "Efficient Fair Queuing using Deficit Round
 * Robin", SIGCOMM 1995) with worker time as the cost: each round gives a key quantum_ms x weight;
 * what it is given to run is charged with the average time of its turns at once, and trued up when
 * the time is known. Credit and debt are bounded. A key without waiting or running entries is
 * forgotten, unless it owes worker time to others that wait: then when it has paid, or when nothing
 * waits any more. So asking one question at a time does not buy a larger share.
 *
 * Costs: push, remove and finish O(1); serve O(keys + entries served); position O(keys). Nothing is
 * allocated per entry. */
#ifndef CG_POOL_QUEUE_H
#define CG_POOL_QUEUE_H

#include "core/err.h"
#include "core/list.h"

#define QUEUE_WEIGHT_MAX 10

struct queue;
struct queue_key; /* private */

struct queue_opts {
    size_t max;              /* entries waiting */
    size_t max_per_key;      /* of them with the same key; 0 = no such limit */
    int64_t quantum_ms;      /* worker time that weight 1 gets per round; 0 = it follows the average
                                turn, so that keys of equal weight take turns one by one */
    int64_t (*now_us)(void); /* NULL = clock_mono_us */
};

/* Embedded in what waits. Zeroed before the first push; `since_us` is the entry's place in time.
 * Waiting = node_linked(&node). All fields are the queue's; only to be read. */
struct queued {
    struct node node;   /* in its key's line */
    struct node by_age; /* among all that wait */
    struct queue_key *key;
    int64_t number;   /* grows along its key's line */
    int64_t since_us; /* clock_mono_us() when it was pushed, or pushed back in */
    int64_t charged;  /* while it runs: what its key was charged, in the queue's own unit */
    bool running;
};

struct queue *queue_new(const struct queue_opts *opts);
void queue_free(struct queue *q); /* nothing waits or runs any more; NULL is legal */

/* At the end of its key's line. -1 + ERR_OVERLOADED with retry_after_s: full, or full for this key
 * (the messages differ). weight: 1..QUEUE_WEIGHT_MAX (others are moved there), the key's latest
 * counts. */
MUST_USE int queue_push(struct queue *q, struct queued *e, const char *key_id, int weight,
                        struct err *err);
/* What ran and has to run again: to the front of its key's line, never refused; the charge is given
 * back; since_us starts anew. Only while running. */
void queue_push_back_in(struct queue *q, struct queued *e);
/* Leaves without having run. Harmless when it does not wait. */
void queue_remove(struct queue *q, struct queued *e);

/* Offers the first entry of each key to fn, keys in the order of deficit round robin, until no key
 * can be served any more. fn true: the entry was given a worker - it no longer waits, its key is
 * charged, and queue_finished() or queue_push_back_in() must follow. fn false: nothing for this key
 * now; it keeps its place and is not asked again in this call. No worker stays unused for the sake
 * of fairness: keys in debt are asked after the others. A call in which fn is always false changes
 * nothing. fn may look but must not push, remove or finish. Returns how many still wait. */
typedef bool queue_serve_fn(void *ctx, struct queued *e);
size_t queue_serve(struct queue *q, queue_serve_fn *fn, void *ctx);
/* A served entry has ended after spent_ms of a worker's time. */
void queue_finished(struct queue *q, struct queued *e, int64_t spent_ms);

size_t queue_length(const struct queue *q);
size_t queue_keys(const struct queue *q); /* keys that have entries waiting */
/* The entry that has waited longest, NULL when none waits: for deadlines. */
struct queued *queue_oldest(const struct queue *q);
/* 1 = next; an estimate that takes the other keys' entries, weights and usual times into account,
 * and counts entries that left the middle of the own line until the line has moved past them.
 * 0 = does not wait. */
size_t queue_position(const struct queue *q, const struct queued *e);
/* Seconds (1..60) until an entry behind all that wait now would be served, from the drain rate
 * measured while entries waited. */
int queue_retry_after(const struct queue *q);

#endif
