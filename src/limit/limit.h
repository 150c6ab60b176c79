/* limit.h - what a key may spend: all buckets are taken in one step, or none.
 *
 * Buckets per key: requests per minute (GCRA:
 * https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm, burst = the limit), requests per day,
 * tokens per day. Days are UTC. limit_acquire() reserves an estimate of tokens; limit_settle()
 * trues it up with what was really used. In memory; the day's counters are rebuilt from usage rows
 * at start. */
#ifndef CG_LIMIT_LIMIT_H
#define CG_LIMIT_LIMIT_H

#include "core/err.h"
#include "store/store.h"

struct limits;

struct limits *limits_new(void);
void limits_free(struct limits *l);

struct limit_ticket { /* what one admitted request holds */
    char api_key_id[ID_UUID_SIZE];
    int64_t reserved_tokens;
    int64_t day; /* days since 1970: a settle after midnight does not touch the new day */
    bool held;
};
/* 0 and a held ticket, or -1: ERR_RATE_LIMITED (retry_after_s true, <= 60) or ERR_QUOTA. */
MUST_USE int limit_acquire(struct limits *l, const struct api_key *key, int64_t tokens_estimate,
                           int64_t now_wall_ms, struct limit_ticket *ret_ticket, struct err *err);
/* Exactly once per held ticket. */
void limit_settle(struct limits *l, struct limit_ticket *ticket, int64_t tokens_used);
/* At start: what the day has already seen. */
void limit_restore(struct limits *l, const char *api_key_id, int64_t requests, int64_t tokens,
                   int64_t now_wall_ms);

struct limit_view { /* for headers; -1 = unlimited */
    int64_t limit, remaining, reset_s;
};
void limit_view(struct limits *l, const struct api_key *key, int64_t now_wall_ms,
                struct limit_view *ret_minute, struct limit_view *ret_day_requests,
                struct limit_view *ret_day_tokens);

#endif
