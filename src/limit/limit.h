/* limit.h - what a key may spend: all buckets are taken in one step, or none.
 *
 * Buckets of a key: requests per minute (GCRA:
 * https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm, burst = the limit), requests, tokens
 * and cost per day, cost per month, requests at once. Days and months are those of a time zone.
 * They are kept in shared/: in this process, or in Redis for all servers together.
 *
 * limit_acquire() reserves an estimate of tokens and cost; limit_settle() trues it up with what was
 * really used. A reservation lasts as long as this server lives: it is renewed all the time, and
 * ends by itself half a minute after a crash. What was used is known from the database after a
 * restart: limit_restore().
 *
 * While Redis is away the policy decides: refuse (503), do not limit, or give this server's share
 * of every limit out of its own memory. */
#ifndef CG_LIMIT_LIMIT_H
#define CG_LIMIT_LIMIT_H

#include "core/err.h"
#include "limit/zone.h"
#include "shared/shared.h"
#include "store/store.h"

enum limit_away { LIMIT_AWAY_CLOSED, LIMIT_AWAY_OPEN, LIMIT_AWAY_SHARE };

struct limits_opts {
    struct loop *loop;
    struct shared *shared;   /* borrowed; closed after limits_free() */
    const struct zone *zone; /* borrowed; NULL = UTC */
    enum limit_away away;
    int64_t lease_ms;         /* how long a reservation outlives this server; 0 = 30000 */
    int64_t (*wall_ms)(void); /* for tests; NULL = the real clock */
};

struct limits;

struct limits *limits_new(const struct limits_opts *opts);
/* What is held or waits for an answer is forgotten: no ticket may be used any more. */
void limits_free(struct limits *l);

struct limit_need {
    int64_t tokens; /* at most, as far as is known */
    int64_t cost;   /* the same in nano-USD; 0 = unknown */
};

struct limit_view { /* for headers; limit -1 = unlimited (remaining is -1, too) */
    int64_t limit, remaining, reset_s;
    int64_t reset_at; /* when all of it is there again (wall ms); 0 = it is, or nobody knows */
};
struct limit_views {
    struct limit_view minute, day_requests, day_tokens, concurrent, day_cost, month_cost;
};

/* What one admitted request holds, or what waits for an answer. Zeroed: nothing. It stays where it
 * is while it waits. */
struct limit_ticket {
    struct limit_hold *hold; /* private */
};

/* err NULL: admitted, the ticket is held. Otherwise ERR_RATE_LIMITED (retry_after_s true, <= 60),
 * ERR_QUOTA (day, month) or ERR_UNAVAILABLE, and the ticket is empty. views are true either way. */
typedef void limit_done_fn(void *ctx, const struct limit_views *views, const struct err *err);
/* done() runs exactly once, before this returns or later, unless limit_cancel() comes first. */
void limit_acquire(struct limits *l, const struct api_key *key, const struct limit_need *need,
                   struct limit_ticket *ticket, limit_done_fn *done, void *ctx);
/* Only what limit_acquire() would say of the views: nothing is taken, the ticket is empty again
 * when done() runs. */
void limit_look(struct limits *l, const struct api_key *key, struct limit_ticket *ticket,
                limit_done_fn *done, void *ctx);
/* While done() has not run: it will not. What the answer says was taken is given back then. */
void limit_cancel(struct limits *l, struct limit_ticket *ticket);
/* Exactly once per held ticket. */
void limit_settle(struct limits *l, struct limit_ticket *ticket, int64_t tokens, int64_t cost);
bool limit_is_held(const struct limit_ticket *ticket);

/* At start, and whenever Redis has come back: what the database knows of this day and month. Raises
 * what is counted, never lowers it. */
struct limit_spent {
    int64_t requests, tokens, day_cost, month_cost;
    /* What limit_day_start() and limit_month_start() were when the database was asked: of a day
     * that has ended meanwhile nothing is taken over. 0 = just now. */
    int64_t day, month;
};
void limit_restore(struct limits *l, const char *api_key_id, const struct limit_spent *spent);
/* Since when limit_restore() wants to know (wall ms). */
int64_t limit_day_start(struct limits *l);
int64_t limit_month_start(struct limits *l);

#endif
