/* internal.h - sessions as their own files see them. Private to session/. */
#ifndef CG_SESSION_INTERNAL_H
#define CG_SESSION_INTERNAL_H

#include "session/lease.h"
#include "session/session.h"

#define HASH_FUNCTION HASH_FNV /* ids are ours; the default warns under clang */
#include <uthash.h>

#define SESSIONS_TAG TAG4('S', 'E', 'S', 'S')
#define SESSION_TAG  TAG4('S', 'E', 'S', '1')

struct cache_key { /* zeroed first: compared as bytes */
    char id[ID_UUID_SIZE];
    char owner[ID_UUID_SIZE];
};

/* Somebody who asks for a session that is being looked for. */
struct waiter {
    struct node node;
    session_open_fn *done;
    void *ctx;
};

struct session_private {
    struct cache_key key;
    struct sessions *owner;
    struct node node; /* recency: front = used longest ago */
    UT_hash_handle hh;
    struct session *session;
    struct lease lease;
    bool opening;       /* busy, but not anybody's yet */
    bool unsaved;       /* the last save failed: the row may be older than what is in memory */
    bool stale;         /* another server has saved another turn: freed when released */
    uint64_t saved;     /* what the row holds, as far as is known; 0 = there is none */
    int64_t touched_at; /* when its row was last marked as used, monotonic ms */
    struct list waiters;
    session_open_fn *open_done;
    store_done_fn *commit_done, *end_done;
    void *ctx;
};

struct sessions {
    uint32_t tag;
    struct sessions_opts opts;
    char me[24]; /* this server, among those that share Redis */
    struct leases *leases;
    struct shared_subscription *news;
    struct session_private *by_id;
    struct list recent;
    size_t bytes;
    struct timer sweep, keep;
    void (*swept)(void *ctx);
    void *swept_ctx;
    session_part_fn *part;
    void *part_ctx;
    struct list parted;
    struct timer tell_parted;
};

/* session.c */
struct session *session_new(struct sessions *ss, const char *id, const char *api_key_id);
void session_free(struct session *s);
struct session_private *sessions_find(struct sessions *ss, const char *id, const char *api_key_id);
void session_idle(struct session *s); /* no longer busy: into the cache */
/* Its row was marked as used a short part of its time to live ago. */
bool session_is_fresh(const struct session *s);
/* What stands in memory is not what the row holds: away with it. */
void session_forget_content(struct session *s);
void session_save_row(struct session *s, store_done_fn *done);
int session_not_found(struct err *err);
int session_is_busy(struct err *err);
int64_t sessions_not_before(const struct sessions *ss); /* older ones have expired */
/* Whoever has something of this session in hand is told, later. */
void sessions_part(struct sessions *ss, const char *id, bool gone);
/* The other servers are told as well. */
void sessions_tell(struct sessions *ss, const char *id, bool gone);

/* open.c */
void session_resave(struct session *s); /* of an idle one that is unsaved */

/* news.c */
void sessions_listen(struct sessions *ss);
void sessions_unlisten(struct sessions *ss);

#endif
