/* targets.h - the upstream credentials, each with the base URL it belongs to: which of them a call
 * goes to, and how long one that failed is left alone. Loop thread only; times are clock_mono_ms().
 *
 * Choice: weighted rendezvous hashing over an affinity number (Thaler and Ravishankar, "Using
 * name-based mappings to increase hit rates", IEEE/ACM Transactions on Networking 6(1), 1998; the
 * weight as -w/ln(h): Schindelhauer and Schomaker, "Weighted distributed hash tables", SPAA 2005).
 * Each target has a score of its name and the number; the highest wins. So the same conversation
 * always meets the same credential, whose prompt cache knows it; numbers spread by weight; when one
 * target drops out, only its own share moves; and servers agree without telling each other.
 *
 * Cool-down: a target that limits (429, 529, or anything with retry-after) is left alone for as
 * long as it says, at most an hour, else 5 s; one that refuses its credential (401, 402, 403) for
 * 60 s; one that fails (5xx, no connection, a broken answer) for 1 s, doubled with each further
 * failure in a row up to 60 s. After the last two, one request at a time tries it until one goes
 * well. What began before a failure says nothing about what comes after it. Statuses and
 * retry-after: https://docs.anthropic.com/en/api/errors, .../rate-limits. */
#ifndef CG_UPSTREAM_TARGETS_H
#define CG_UPSTREAM_TARGETS_H

#include "upstream/relay.h"

enum target_state { TARGET_OK, TARGET_LIMITED, TARGET_REFUSED, TARGET_FAILING };

struct target { /* read by others; written by targets.c only */
    struct targets *home;
    char *name;
    char *base_url;   /* without a slash at its end */
    char *credential; /* a whole header line, NULL = none; secret. For base_url only */
    bool loopback;
    int weight; /* 0 = a backup */
    enum target_state state;
    int failures;              /* in a row */
    int64_t free_at, since_ms; /* cooling until; the latest trouble */
    int64_t told_until;        /* what retry-after said */
    bool trying;               /* the one request is on its way */
};

/* As it stands in a URL. */
bool host_is_loopback(const char *host);

struct targets;
/* ERR_CONFIG: no URL, a credential that is no header's value. */
struct targets *targets_new(const struct upstream_target *list, size_t count, struct err *err);
void targets_free(struct targets *ts); /* NULL is fine; wipes the credentials */
size_t targets_count(const struct targets *ts);
const struct target *targets_at(const struct targets *ts, size_t i);

/* One call's way through the targets; begin with {.affinity = n}, 0 = any. */
struct target_walk {
    uint64_t affinity;
    uint32_t tried; /* in this round: bit i = target i */
};
/* Begins a round: the target to ask first. When all cool, the one that is free soonest. */
struct target *targets_first(struct targets *ts, struct target_walk *walk, int64_t now_ms);
/* The next usable one that this round has not tried, backups last; NULL = none. */
struct target *targets_next(struct targets *ts, struct target_walk *walk, int64_t now_ms);
/* Until one may be asked, by what they said themselves (retry-after); 0 = now. One that refuses its
 * credential does not count. */
int64_t targets_wait_ms(const struct targets *ts, int64_t now_ms);

int64_t target_cooling_ms(const struct target *t, int64_t now_ms); /* 0 = it is not */
const char *target_state_name(enum target_state state);

/* One request to a target. Ends with attempt_over(), whatever was said before. */
struct attempt {
    struct target *target;
    int64_t begun_ms;
    bool is_trial; /* the one request, see above */
};
void attempt_begin(struct attempt *a, struct target *target, int64_t now_ms);
/* A response's status, or that of an error told inside it. retry_after_s 0 = not said. */
void attempt_answered(struct attempt *a, int status, int retry_after_s, int64_t now_ms);
/* No response, or one that broke off. */
void attempt_failed(struct attempt *a, int64_t now_ms);
void attempt_over(struct attempt *a);

#endif
