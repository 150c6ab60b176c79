/* session.h - conversations kept for their owners: one row each, and a cache of the recent ones.
 *
 * A session belongs to one API key; for another key it does not exist. One turn at a time: an
 * opened session is busy until session_release(), for the other servers of a fleet as well (a lease
 * in Redis), and what another server has saved meanwhile is noticed by the row's version, with or
 * without Redis: no turn is ever lost in silence. What is committed is in the database when the
 * commit's callback runs. Sessions unused for the time to live are deleted by a sweep. A session
 * exists once its first turn has ended well. */
#ifndef CG_SESSION_SESSION_H
#define CG_SESSION_SESSION_H

#include "core/json.h"
#include "core/list.h"
#include "session/content.h"
#include "shared/shared.h"
#include "store/store.h"

struct sessions;

struct session { /* read by the gateway; written by session/ only */
    uint32_t tag;
    char id[ID_UUID_SIZE];
    char api_key_id[ID_UUID_SIZE];
    char conversation_id[64]; /* the CLI's session id at the last turn */
    char *model;              /* of the last turn, "" = none yet */
    json_t *system;           /* string, or NULL */
    json_t *messages;         /* array of {"role","content":[blocks]} */
    bool agent;               /* its turns use tools, in a workspace */
    int64_t created_at, last_accessed_at;
    size_t bytes;      /* of the stored form, before it is sealed */
    uint64_t revision; /* of the messages: the version of their row */
    bool busy;
    struct session_private *priv;
};

struct sessions_opts {
    struct loop *loop;
    struct db *db;
    const struct vault *vault; /* NULL = nothing is sealed */
    struct shared *shared;     /* NULL = a single server */
    int64_t ttl_s;
    int64_t max_bytes;    /* of a conversation; a turn that passes it is still kept */
    int64_t max_messages; /* 0 = no limit */
};
struct sessions *sessions_new(const struct sessions_opts *opts);
/* After db_close(): no answer of the database is on its way any more. Before shared_close(). */
void sessions_free(struct sessions *s);
size_t sessions_cached(const struct sessions *s);
/* Is it in memory, busy or not? Walks them all. */
bool sessions_has(const struct sessions *s, const char *id);
/* swept(ctx) runs once a minute, after expired sessions were deleted. */
void sessions_on_sweep(struct sessions *s, void (*swept)(void *ctx), void *ctx);
/* A session has left this server: its worker should forget it. gone: it exists no more, so its
 * workspace may go. Runs from the loop, never inside another call. */
typedef void session_part_fn(void *ctx, const char *id, bool gone);
void sessions_on_part(struct sessions *s, session_part_fn *part, void *ctx);

/* A new, empty, busy session; it has a row only after its first commit. */
struct session *session_create(struct sessions *s, const char *api_key_id);
/* done: the session, now busy, or err: ERR_NOT_FOUND, ERR_SESSION_BUSY (retry_after_s 1),
 * ERR_TOO_LARGE (it has reached a limit), ERR_UNAVAILABLE, ERR_INTERNAL (its row cannot be read).
 * May run before this returns. */
typedef void session_open_fn(void *ctx, struct session *session, const struct err *err);
void session_open(struct sessions *s, const char *id, const char *api_key_id, session_open_fn *done,
                  void *ctx);
/* Is there room for this question (an array of blocks)? ERR_TOO_LARGE, naming the limit. */
MUST_USE int session_check_room(const struct session *session, const json_t *content,
                                struct err *err);

/* What a worker holds when it holds exactly this conversation: "<id>:<revision>". A revision is
 * random and never given twice: two histories of one id are told apart, on every server. */
uint64_t session_new_revision(struct session *session);
#define SESSION_TAG_SIZE (ID_UUID_SIZE + 24)
const char *session_tag(const struct session *session, uint64_t revision,
                        char out[SESSION_TAG_SIZE]);

struct session_turn {
    const char *model, *conversation_id;
    uint64_t revision;        /* from session_new_revision() */
    json_t *system;           /* string or NULL; referenced */
    json_t *user, *assistant; /* content arrays; referenced. An empty answer leaves no message */
    json_t *added; /* instead of assistant: array of messages, {"role","content"}; referenced. With
                      user NULL they are all of the turn */
    bool agent;    /* of a session's first turn: it stays so */
};
/* Appends a finished turn and saves the row. done always runs, later. ERR_SESSION_BUSY: another
 * server has saved a turn meanwhile, or ended the session; this turn is not in it. Another error:
 * the row could not be written; the session goes on in memory, and is saved when that works again.
 */
void session_commit(struct session *session, const struct session_turn *turn, store_done_fn *done,
                    void *ctx);
void session_release(struct session *session); /* no longer busy; the pointer is dead */

/* Ends it for good. ERR_NOT_FOUND, ERR_SESSION_BUSY, ERR_UNAVAILABLE. May run at once. */
void session_end(struct sessions *s, const char *id, const char *api_key_id, store_done_fn *done,
                 void *ctx);
/* What its row holds; a turn at work is not in it. Borrowed; row NULL with err only. */
typedef void session_read_fn(void *ctx, const struct session_row *row,
                             const struct session_content *content, const struct err *err);
void session_read(struct sessions *s, const char *id, const char *api_key_id, session_read_fn *done,
                  void *ctx);

#endif
