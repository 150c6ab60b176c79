/* replay_internal.h - replays as their own files see them. Private to replay.c and replay_row.c. */
#ifndef CG_GATEWAY_REPLAY_INTERNAL_H
#define CG_GATEWAY_REPLAY_INTERNAL_H

#include "gateway/replay.h"
#include "http/record.h"

#define HASH_FUNCTION HASH_FNV /* ids are hashes and random; the default warns under clang */
#include <uthash.h>

#define REPLAYS_TAG TAG4('R', 'P', 'L', 'S')
#define REPLAY_TAG  TAG4('R', 'P', 'L', 'Y')

#define REPLAY_RENEW_MS   3000
#define REPLAY_OWNER_SIZE 23

enum state { CLAIMING, RUNNING, OVER };

struct replay {
    uint32_t tag;
    struct replays *rs;
    struct node node; /* in rs->active or rs->over */
    enum state state;
    unsigned refs;          /* the table's and the database's */
    char id[REPLY_ID_SIZE]; /* "" = without an Idempotency-Key */
    char fingerprint[REPLY_FINGERPRINT_SIZE];
    char request_id[ID_REQUEST_SIZE];
    char api_key_id[ID_UUID_SIZE];
    const char *route; /* a constant of the route table */
    bool has_id, has_request, retired;
    bool lookup;       /* of a stream to be resumed: nothing is run */
    bool loaded;       /* from the database */
    bool storing, due; /* due: to be retired once it is stored */
    int claims, stores;
    UT_hash_handle by_id, by_request;
    struct list waiters; /* while CLAIMING */
    struct http_record *record;
    size_t counted;     /* of its bytes, in rs->bytes */
    struct timer timer; /* RUNNING: nobody came back; OVER: nobody needs it any more */
};

struct replays {
    uint32_t tag;
    struct replays_opts opts;
    char owner[REPLAY_OWNER_SIZE];
    struct replay *ids, *requests;
    struct list active; /* claiming or running */
    struct list over;   /* oldest first */
    size_t bytes;       /* in all records */
    bool draining, stopped;
    struct timer renew, sweep;
};

void replay_unref(struct replay *r);

/* --- replay_row.c: its row in the database. What is asked holds a reference until it is answered.
 */
/* done(r, ...) has to give up that reference. */
void replay_row_claim(struct replay *r, count_done_fn *done);
void replay_row_find(struct replay *r, reply_done_fn *done);
/* Into r->record, which is new. */
MUST_USE int replay_row_open(struct replay *r, const struct reply_row *row, struct err *err);
/* r->storing until it is stored, or given up. */
void replay_row_store(struct replay *r);
void replay_row_drop(struct replay *r);
void replay_row_renew(struct replay *r);
/* Another server's, whose lease has run out. */
void replay_row_doubt(struct replay *r);

#endif
