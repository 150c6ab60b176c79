/* replies.h - the table replies: answers kept for an Idempotency-Key. Comes with store/store.h.
 *
 * A row is somebody's while it is running: only its owner, for the request it was claimed for, may
 * renew, finish or drop it. All of these may be repeated. */
#ifndef CG_STORE_REPLIES_H
#define CG_STORE_REPLIES_H

#include "store/store.h"

#define REPLY_ID_SIZE          65 /* 64 hex digits */
#define REPLY_FINGERPRINT_SIZE 65

enum reply_state {
    REPLY_RUNNING,
    REPLY_DONE,
    REPLY_LOST /* answered once, too large to be kept */
};

struct reply_row {
    char id[REPLY_ID_SIZE];
    char fingerprint[REPLY_FINGERPRINT_SIZE];
    char request_id[ID_REQUEST_SIZE]; /* of the request that ran, or runs */
    enum reply_state state;
    struct str sealed_with; /* id of the master key, "" = plain */
    struct str content;     /* REPLY_DONE only */
    int64_t lease_until;    /* wall ms; negative: doubted until then */
};

/* Who works on a row, and on what. Borrowed until the call returns. */
struct reply_claim {
    const char *id, *api_key_id, *fingerprint, *request_id, *owner;
    int64_t now, lease_until, expires_at; /* wall ms */
};

/* count 1: the row is the claim's now. It was not there, has expired, ran for the same owner, or
 * its owner let the time of a doubt go by. 0: it is somebody else's, or finished. */
void reply_claim(struct db *db, const struct reply_claim *c, count_done_fn *done, void *ctx);
/* row NULL and err NULL: there is none that has not expired. Borrowed. */
typedef void reply_done_fn(void *ctx, const struct reply_row *row, const struct err *err);
void reply_find(struct db *db, const char *id, int64_t now, reply_done_fn *done, void *ctx);

/* Gives the owner of a row whose lease has run out until then to renew it. Count 0: it has renewed
 * it, or is doubted already. */
void reply_doubt(struct db *db, const char *id, int64_t now, int64_t until, count_done_fn *done,
                 void *ctx);

/* Of the owner's row: lease and expiry; count 0: it is not (any more). */
void reply_renew(struct db *db, const struct reply_claim *c, count_done_fn *done, void *ctx);
/* content "": it is lost. */
void reply_finish(struct db *db, const struct reply_claim *c, struct str content,
                  const char *sealed_with, count_done_fn *done, void *ctx);
void reply_drop(struct db *db, const struct reply_claim *c, count_done_fn *done, void *ctx);

void reply_delete_expired(struct db *db, int64_t now, count_done_fn *done, void *ctx);

/* --- master keys --------------------------------------------------------------------------- */
void reply_seal_counts(struct db *db, seal_counts_fn *done, void *ctx);
/* Finished ones not sealed with `key`, by id, after `after`; content and all. */
typedef void reply_list_fn(void *ctx, const struct reply_row *rows, size_t count,
                           const struct err *err);
void reply_list_unsealed(struct db *db, const char *key, const char *after, int limit,
                         reply_list_fn *done, void *ctx);
/* The same answer in another seal: count 1, or 0 when the row has gone or is another request's. */
void reply_reseal(struct db *db, const char *id, const char *request_id, struct str content,
                  const char *key, count_done_fn *done, void *ctx);

#endif
