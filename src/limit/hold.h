/* hold.h - private to limit/: one request's part of the limits, and what is said about it. */
#ifndef CG_LIMIT_HOLD_H
#define CG_LIMIT_HOLD_H

#include "core/list.h"
#include "limit/limit.h"

/* In the order in which they are asked: when several refuse, the one that stays shut longest is
 * named. "Try again in 6 s" would be untrue when the day is spent. */
enum bucket { B_REQUESTS, B_TOKENS, B_DAY_COST, B_MONTH_COST, B_MINUTE, B_CONCURRENT, B_COUNT };
#define COUNTERS 4 /* the first four count */

struct hold_bucket {
    enum bucket which;
    int64_t limit; /* as asked: the key's, or this server's share of it */
};

struct limit_hold {
    uint32_t tag;
    struct limits *l;            /* NULL: freed meanwhile */
    struct limit_ticket *ticket; /* NULL: cancelled */
    limit_done_fn *done;
    void *ctx;
    bool look, pending;
    bool counted; /* by the store; otherwise it was away, and hears of it when this ends */
    char id[40];
    char key_id[ID_UUID_SIZE];
    struct key_limits limits;
    struct limit_need need;
    int64_t windows[COUNTERS]; /* the ends of those it counts in */
    struct hold_bucket buckets[B_COUNT];
    size_t count;
    struct spender *spender; /* with a remote store: whose it is */
    struct node node;        /* on the spender's list */
    struct node all;         /* on the list of all */
};

const char *bucket_name(enum bucket b); /* in the store */
/* -1 and the error of a refusal. */
int hold_refused(const struct limit_hold *h, const struct shared_taken *taken, struct err *err);
/* taken NULL: nothing is known. */
struct limit_views hold_views(const struct limit_hold *h, const struct shared_taken *taken);

#endif
