/* sessions.h - the table sessions. Comes with store/store.h.
 *
 * version names one state of a conversation: random, never given twice. Who saves says which one it
 * replaces; when another one stands there, nothing is written. A save may be repeated. */
#ifndef CG_STORE_SESSIONS_H
#define CG_STORE_SESSIONS_H

#include "store/store.h"

struct session_row {
    char id[ID_UUID_SIZE];
    char api_key_id[ID_UUID_SIZE];
    struct str conversation_id; /* the CLI's session id at the last turn, "" = none */
    struct str model;           /* of the last turn; "" = unknown */
    struct str context;         /* JSON: see session/content.h */
    struct str sealed_with;     /* id of the master key, "" = plain */
    int64_t message_count;      /* -1 = unknown */
    int64_t version;
    int64_t created_at, last_accessed_at;
};

/* row NULL and err NULL: none with this id belonging to this key. Borrowed. */
typedef void session_done_fn(void *ctx, const struct session_row *row, const struct err *err);
void session_find(struct db *db, const char *id, const char *api_key_id, session_done_fn *done,
                  void *ctx);

/* Who is asked for: one of this key's, used at or after not_before (0: whenever). */
struct session_ref {
    const char *id, *api_key_id;
    int64_t not_before;
};
/* The same, for a turn: last_accessed_at becomes `now`. */
void session_use(struct db *db, const struct session_ref *ref, int64_t now, session_done_fn *done,
                 void *ctx);
/* Does this version stand there? count 1, otherwise 0. */
void session_check(struct db *db, const struct session_ref *ref, int64_t version,
                   count_done_fn *done, void *ctx);
/* Marks it as used, if this version stands there: count 1, otherwise 0. */
void session_touch(struct db *db, const struct session_ref *ref, int64_t version, int64_t now,
                   count_done_fn *done, void *ctx);

/* replaces: the version that is to stand there, 0 = no row at all. ERR_CONFLICT: neither it nor
 * row->version does, or the id is another key's. created_at of an old row stays. */
void session_save(struct db *db, const struct session_row *row, int64_t replaces,
                  store_done_fn *done, void *ctx);
/* count 1, or 0: there is none. */
void session_delete(struct db *db, const struct session_ref *ref, count_done_fn *done, void *ctx);
void session_delete_expired(struct db *db, int64_t last_accessed_before, count_done_fn *done,
                            void *ctx);
/* How many have this id, whosever they are: 0 or 1. */
void session_count(struct db *db, const char *id, count_done_fn *done, void *ctx);

/* One key's, newest first, without context: those made before the one with this time and id. */
struct session_page {
    const char *api_key_id;
    int64_t not_before; /* last used */
    int64_t made_before;
    const char *id_before; /* for those made at the same time */
    int limit;
};
typedef void session_list_fn(void *ctx, const struct session_row *rows, size_t count,
                             const struct err *err);
void session_list(struct db *db, const struct session_page *page, session_list_fn *done, void *ctx);

/* --- master keys --------------------------------------------------------------------------- */
void session_seal_counts(struct db *db, seal_counts_fn *done, void *ctx);
/* Id and api_key_id of those not sealed with `key`, by id, after `after`. */
void session_list_unsealed(struct db *db, const char *key, const char *after, int limit,
                           session_list_fn *done, void *ctx);
/* The same conversation in another seal: count 1, or 0 when the version is another one by now. */
void session_reseal(struct db *db, const char *id, int64_t version, struct str context,
                    const char *key, count_done_fn *done, void *ctx);

#endif
