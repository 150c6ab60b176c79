/* store.h - rows of the schema as structs, and every SQL statement, written once.
 *
 * A store function submits one statement and reports through its callback (db.h's contract: once,
 * later, on the loop). Structs handed to callbacks are borrowed; copy with the *_copy functions. */
#ifndef CG_STORE_STORE_H
#define CG_STORE_STORE_H

#include "core/id.h"
#include "db/db.h"

#include <jansson.h>

/* --- users ------------------------------------------------------------------------------- */
struct user {
    char id[ID_UUID_SIZE];
    char *name;          /* login name, unique */
    char *role;          /* owner | operator | viewer */
    char *password_hash; /* bcrypt, NULL = cannot log in */
    int64_t created_at;  /* wall ms */
};
/* user NULL and err NULL: there is none. A name taken already is ERR_CONFLICT. */
typedef void user_done_fn(void *ctx, const struct user *user, const struct err *err);
void user_insert(struct db *db, const struct user *user, user_done_fn *done, void *ctx);
void user_find_by_name(struct db *db, const char *name, user_done_fn *done, void *ctx);
typedef void count_done_fn(void *ctx, int64_t count, const struct err *err);
void user_count(struct db *db, count_done_fn *done, void *ctx);

/* --- API keys ---------------------------------------------------------------------------- */
#define KEY_PUBLIC_ID_LEN 12
#define KEY_SECRET_LEN    43
#define KEY_PRIORITY_MAX  10
#define KEY_NAME_MAX      255
#define KEY_METADATA_MAX  8192
#define KEY_TEXT_SIZE     (6 + KEY_PUBLIC_ID_LEN + 1 + KEY_SECRET_LEN + 1) /* sk-cg-<id>-<secret> */

struct key_limits { /* -1 = unlimited. JSON names as in the document: requestsPerMinute, ... */
    int64_t requests_per_minute, requests_per_day, tokens_per_day;
    int64_t max_concurrent;               /* requests at once */
    int64_t cost_per_day, cost_per_month; /* nano-USD; in JSON USD */
};
struct key_permissions {
    char **models; /* patterns with '*', NULL-terminated. JSON: models */
    int64_t max_tokens;
    bool allow_streaming;
    bool allow_agent;       /* may ask for agent turns */
    bool allow_tools;       /* may define tools of its own in a request */
    bool require_signature; /* each request must be signed: docs/signing.md */
    bool response_cache;    /* answers are kept and given again: gateway/cache.h */
};
struct api_key {
    char id[ID_UUID_SIZE];
    char public_id[KEY_PUBLIC_ID_LEN + 1];
    char *secret_hash; /* bcrypt $2b$ */
    char user_id[ID_UUID_SIZE];
    char *name;
    char *status; /* active | disabled | revoked, which is final */
    int priority; /* weight in the queue, 1..KEY_PRIORITY_MAX; 0 when inserted = 1 */
    int64_t created_at, expires_at, last_used_at; /* wall ms, 0 = none */
    struct key_limits limits;
    struct key_permissions permissions;
    char *metadata; /* a JSON object of the operator's, up to KEY_METADATA_MAX bytes; NULL = none */
    int64_t version; /* counts changes; set by the database */
    /* After a rotation: the secrets before it, good until then. NULL, 0 = none. */
    char *old_secret_hash, *old_signing_secret;
    int64_t old_secret_until;
    char *signing_secret; /* sealed, see auth/signature.h; NULL = none */
};
void api_key_copy(struct api_key *dst, const struct api_key *src); /* deep; dst uninitialised */
void api_key_release(struct api_key *key);
bool api_key_allows_model(const struct api_key *key, const char *model);

typedef void api_key_done_fn(void *ctx, const struct api_key *key, const struct err *err);
typedef void api_key_list_fn(void *ctx, const struct api_key *keys, size_t count,
                             const struct err *err);
void api_key_insert(struct db *db, const struct api_key *key, api_key_done_fn *done, void *ctx);
/* key NULL and err NULL: there is none. */
void api_key_find(struct db *db, const char *public_id, api_key_done_fn *done, void *ctx);
void api_key_list(struct db *db, api_key_list_fn *done, void *ctx); /* newest first */
/* By public id or uuid. ERR_NOT_FOUND when there is none. */
void api_key_get(struct db *db, const char *id, api_key_done_fn *done, void *ctx);
/* Writes what may change of a key that was read: all but ids, user, creation and last use.
 * ERR_CONFLICT when it was changed since, or is revoked. */
void api_key_update(struct db *db, const struct api_key *key, api_key_done_fn *done, void *ctx);
/* For good, whatever its state; its signing secrets are deleted. By public id or uuid. */
void api_key_revoke(struct db *db, const char *id, api_key_done_fn *done, void *ctx);
/* Many at once, one statement each, one transaction; errors are logged, nothing waits. */
struct api_key_use {
    char id[ID_UUID_SIZE];
    int64_t at;
};
void api_key_touch(struct db *db, const struct api_key_use *uses, size_t count);

/* --- usage_logs -------------------------------------------------------------------------- */
struct usage_row {
    char request_id[ID_REQUEST_SIZE]; /* unique: a replay never doubles */
    char api_key_id[ID_UUID_SIZE];
    char session_id[ID_UUID_SIZE]; /* "" = none */
    int64_t timestamp;             /* wall ms at accept */
    char endpoint[64], method[8], model[100];
    int64_t input_tokens, output_tokens, cache_creation_tokens, cache_read_tokens;
    bool estimated; /* output was cut off before upstream told its count */
    bool cached;    /* an answer that was kept: nothing was used */
    int64_t upstream_calls, retries;
    int64_t response_time_ms, ttft_ms, queue_ms; /* ttft -1 = no output */
    int status_code;
    int64_t cost_nano; /* USD * 10^-9; -1 = the model has no price */
    char error[200];   /* "" = none */
};
/* Inserts rows in one transaction, all or none; rows already there (request_id) are skipped. The
 * roll-up by hour is brought up to date in the same transaction. At most USAGE_BATCH_MAX rows.
 * Another error than ERR_UNAVAILABLE may be one row's fault (unknown key): the journal finds it. */
typedef void store_done_fn(void *ctx, const struct err *err);
#define USAGE_BATCH_MAX ((size_t)65536)
void usage_insert(struct db *db, const struct usage_row *rows, size_t count, store_done_fn *done,
                  void *ctx);
/* What a row counts against tokens per day: reads from the cache count a tenth. */
int64_t usage_counted_tokens(const struct usage_row *row);
/* Since `day` and `month` (wall ms), per key: to rebuild the limits' counters. */
struct usage_sum {
    char api_key_id[ID_UUID_SIZE];
    int64_t requests, tokens, day_cost; /* of the day; tokens as they count */
    int64_t month_cost;
};
typedef void usage_sums_fn(void *ctx, const struct usage_sum *sums, size_t count,
                           const struct err *err);
void usage_sums_since(struct db *db, int64_t day, int64_t month, usage_sums_fn *done, void *ctx);

/* From the roll-up: one key's usage of the hours [from, to) (wall ms / USAGE_HOUR_MS). */
#define USAGE_HOUR_MS INT64_C(3600000)
enum usage_group { USAGE_IN_ALL, USAGE_BY_HOUR, USAGE_BY_DAY, USAGE_BY_MODEL };
struct usage_total {
    int64_t start;                    /* by hour and by day (of UTC): when it begins, wall ms */
    char model[100];                  /* by model; "" = none was named */
    int64_t requests, errors, cached; /* cached: requests that got a kept answer */
    int64_t input_tokens, output_tokens, cache_creation_tokens, cache_read_tokens;
    int64_t cost_nano, unpriced; /* unpriced: requests whose cost is not in cost_nano */
};
typedef void usage_totals_fn(void *ctx, const struct usage_total *totals, size_t count,
                             const struct err *err);
void usage_totals(struct db *db, const char *api_key_id, int64_t from, int64_t to,
                  enum usage_group group, usage_totals_fn *done, void *ctx);

/* One key's rows, newest first: at most `limit` of those older than the one with the request id
 * `before` (NULL: the newest). ERR_NOT_FOUND: the key has no such row. */
typedef void usage_rows_fn(void *ctx, const struct usage_row *rows, size_t count,
                           const struct err *err);
void usage_list(struct db *db, const char *api_key_id, const char *before, size_t limit,
                usage_rows_fn *done, void *ctx);

/* --- values sealed with master keys ------------------------------------------------------- */
/* How many rows are sealed with which key; key "" = plain. */
struct seal_count {
    char key[16];
    int64_t count;
};
typedef void seal_counts_fn(void *ctx, const struct seal_count *counts, size_t count,
                            const struct err *err);

#include "store/replies.h"  /* IWYU pragma: export */
#include "store/sessions.h" /* IWYU pragma: export */

#endif
