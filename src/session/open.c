/* open.c - a session is looked for: for a turn, or to be ended, or only to be read.
 *
 *   lease -> cached: does its row still hold this version? -> it is ready
 *         -> else: its row, marked as used in the same statement -> it is ready
 *
 * An unsaved one is saved first, so that no turn begins that could not be kept. While it is looked
 * for it counts as busy; others who ask wait for what comes of it: "busy" when it was found, the
 * same error when it was not. */
#include "session/internal.h"

#include "core/clock.h"
#include "core/log.h"

/* --- limits ------------------------------------------------------------------------------ */

static int too_many_bytes(const struct sessions *ss, struct err *err)
{
    return err_set(err, ERR_TOO_LARGE,
                   "sessionId: this conversation has reached the limit of %lld bytes "
                   "(session.max_bytes); start a new session",
                   (long long)ss->opts.max_bytes);
}

static int check_usable(const struct session *s, struct err *err)
{
    const struct sessions *ss = s->priv->owner;
    if (s->bytes >= (size_t)ss->opts.max_bytes)
        return too_many_bytes(ss, err);
    if (ss->opts.max_messages && json_array_size(s->messages) >= (size_t)ss->opts.max_messages)
        return err_set(err, ERR_TOO_LARGE,
                       "sessionId: this conversation has reached the limit of %lld messages "
                       "(session.max_messages); start a new session",
                       (long long)ss->opts.max_messages);
    return 0;
}

int session_check_room(const struct session *s, const json_t *content, struct err *err)
{
    const struct sessions *ss = s->priv->owner;
    size_t bytes = json_dumpb(content, NULL, 0, JSON_COMPACT);
    if (s->bytes + bytes <= (size_t)ss->opts.max_bytes)
        return 0;
    if (json_array_size(s->messages) > 0)
        return too_many_bytes(ss, err);
    return err_set(err, ERR_TOO_LARGE,
                   "message: larger than the limit of %lld bytes of a conversation "
                   "(session.max_bytes)",
                   (long long)ss->opts.max_bytes);
}

/* --- the end of an opening ---------------------------------------------------------------- */

static void answer_waiters(struct list *waiters, const struct err *err)
{
    struct node *n;
    while ((n = list_pop_front(waiters))) {
        struct waiter *w = container_of(n, struct waiter, node);
        /* NOLINTNEXTLINE(clang-analyzer-core.CallAndMessage): it cannot follow the list */
        w->done(w->ctx, NULL, err);
        free(w);
    }
}

static void take_waiters(struct session *s, struct list *ret)
{
    struct node *n;
    list_init(ret);
    while ((n = list_pop_front(&s->priv->waiters)))
        list_push_back(ret, n);
}

static void opened(struct session *s)
{
    struct session_private *p = s->priv;
    struct list waiters;
    struct err busy;
    session_is_busy(&busy);
    take_waiters(s, &waiters);
    p->opening = false;
    s->last_accessed_at = clock_wall_ms();
    p->open_done(p->ctx, s, NULL);
    answer_waiters(&waiters, &busy);
}

/* Back into the cache, if there is something to keep. */
static void put_back(struct session *s)
{
    s->priv->opening = false;
    if (json_array_size(s->messages) > 0)
        session_idle(s);
    else
        session_free(s);
}

static void not_opened(struct session *s, const struct err *err)
{
    session_open_fn *done = s->priv->open_done;
    void *ctx = s->priv->ctx;
    struct list waiters;
    take_waiters(s, &waiters);
    put_back(s);
    done(ctx, NULL, err);
    answer_waiters(&waiters, err);
}

static void end_opening(struct session *s)
{
    struct err err;
    if (check_usable(s, &err) == 0)
        opened(s);
    else
        not_opened(s, &err);
}

/* --- from the database -------------------------------------------------------------------- */

static int take_row(struct session *s, const struct session_row *row, struct err *err)
{
    struct sessions *ss = s->priv->owner;
    struct session_content c = {0};
    size_t bytes = 0;
    if (!row)
        return session_not_found(err);
    if (session_content_read(ss->opts.vault, s->id, row->context, &c, &bytes, err) != 0)
        return -1;
    free(s->model);
    s->model = c.model;
    json_decref(s->messages);
    s->messages = c.messages;
    json_decref(s->system);
    s->system = c.system;
    s->agent = c.agent;
    snprintf(s->conversation_id, sizeof(s->conversation_id), "%.*s", (int)row->conversation_id.len,
             row->conversation_id.p);
    s->created_at = row->created_at;
    s->priv->saved = s->revision = (uint64_t)row->version;
    s->priv->touched_at = clock_mono_ms();
    s->bytes = bytes;
    ss->bytes += bytes;
    return 0;
}

static void on_found(void *ctx, const struct session_row *row, const struct err *db_err)
{
    struct session *s = OBJ(ctx, struct session, SESSION_TAG);
    struct err err;
    if (db_err) {
        not_opened(s, db_err);
    } else if (take_row(s, row, &err) != 0) {
        not_opened(s, &err);
    } else {
        sessions_tell(s->priv->owner, s->id, false);
        end_opening(s);
    }
}

static struct session_ref ref_of(const struct session *s)
{
    return (struct session_ref){.id = s->id,
                                .api_key_id = s->api_key_id,
                                .not_before = sessions_not_before(s->priv->owner)};
}

static void load(struct session *s)
{
    struct session_ref ref = ref_of(s);
    session_forget_content(s);
    session_use(s->priv->owner->opts.db, &ref, clock_wall_ms(), on_found, s);
}

/* --- from the cache ----------------------------------------------------------------------- */

static void on_checked(void *ctx, int64_t count, const struct err *err)
{
    struct session *s = OBJ(ctx, struct session, SESSION_TAG);
    if (err)
        not_opened(s, err);
    else if (count == 1)
        end_opening(s);
    else /* changed or ended on another server, or expired */
        load(s);
}

/* A save that failed before, once more. True: the row is what is in memory, or this is lost. */
static bool saved_now(struct session *s, const struct err *err)
{
    struct session_private *p = s->priv;
    if (err && err->code != ERR_CONFLICT)
        return false;
    p->unsaved = false;
    if (!err) {
        p->saved = s->revision;
        log_info("session saved at last", LF_S("session_id", s->id));
        return true;
    }
    log_warn("a turn is lost: it could not be saved, and another server went on with the session",
             LF_S("session_id", s->id));
    session_forget_content(s);
    return true;
}

static void on_saved_first(void *ctx, const struct err *err)
{
    struct session *s = OBJ(ctx, struct session, SESSION_TAG);
    if (!saved_now(s, err))
        not_opened(s, err);
    else if (json_array_size(s->messages) > 0)
        end_opening(s);
    else
        load(s);
}

/* One that was marked as used lately is not written again for it. */
static void check(struct session *s)
{
    struct session_private *p = s->priv;
    struct db *db = p->owner->opts.db;
    struct session_ref ref = ref_of(s);
    if (session_is_fresh(s)) {
        session_check(db, &ref, (int64_t)p->saved, on_checked, s);
        return;
    }
    p->touched_at = clock_mono_ms();
    session_touch(db, &ref, (int64_t)p->saved, clock_wall_ms(), on_checked, s);
}

static void on_lease(void *ctx, bool mine)
{
    struct session *s = OBJ(ctx, struct session, SESSION_TAG);
    struct session_private *p = s->priv;
    struct err err;
    if (!mine) {
        session_is_busy(&err);
        not_opened(s, &err);
    } else if (p->unsaved) {
        session_save_row(s, on_saved_first);
    } else if (p->saved) {
        check(s);
    } else {
        load(s);
    }
}

static void begin(struct session *s, session_open_fn *done, void *ctx)
{
    struct session_private *p = s->priv;
    p->opening = true;
    p->open_done = done;
    p->ctx = ctx;
    lease_take(p->owner->leases, &p->lease, on_lease, s);
}

/* Out of the cache, busy. */
static struct session *take(struct session_private *p)
{
    list_remove(&p->owner->recent, &p->node);
    p->session->busy = true;
    return p->session;
}

void session_open(struct sessions *ss, const char *id, const char *api_key_id,
                  session_open_fn *done, void *ctx)
{
    struct session_private *p = sessions_find(ss, id, api_key_id);
    struct err err;
    if (p && p->opening) {
        struct waiter *w = x_calloc(1, sizeof(*w));
        *w = (struct waiter){.done = done, .ctx = ctx};
        list_push_back(&p->waiters, &w->node);
    } else if (p && p->session->busy) {
        session_is_busy(&err);
        done(ctx, NULL, &err);
    } else {
        begin(p ? take(p) : session_new(ss, id, api_key_id), done, ctx);
    }
}

/* --- saving what could not be saved ------------------------------------------------------- */

/* Whoever has asked meanwhile is next. */
static void on_resaved(void *ctx, const struct err *err)
{
    struct session *s = OBJ(ctx, struct session, SESSION_TAG);
    struct node *n = list_pop_front(&s->priv->waiters);
    if (saved_now(s, err)) /* it works again: the others, too */
        timer_set(&s->priv->owner->keep, 0);
    if (n) {
        struct waiter w = *container_of(n, struct waiter, node);
        free(container_of(n, struct waiter, node));
        begin(s, w.done, w.ctx);
    } else {
        put_back(s);
    }
}

void session_resave(struct session *s)
{
    take(s->priv);
    s->priv->opening = true;
    session_save_row(s, on_resaved);
}

/* --- ending ------------------------------------------------------------------------------ */

static void ended(struct session *s, const struct err *err)
{
    struct session_private *p = s->priv;
    struct sessions *ss = p->owner;
    store_done_fn *done = p->end_done;
    void *ctx = p->ctx;
    bool gone = !err || err->code == ERR_NOT_FOUND;
    struct list waiters;
    struct err none;
    session_not_found(&none);
    take_waiters(s, &waiters);
    if (!err) { /* not for "not found": it may be somebody else's */
        sessions_part(ss, s->id, true);
        sessions_tell(ss, s->id, true);
    }
    if (gone)
        session_free(s);
    else
        put_back(s);
    done(ctx, err);
    answer_waiters(&waiters, gone ? &none : err);
}

static void on_deleted(void *ctx, int64_t count, const struct err *err)
{
    struct session *s = OBJ(ctx, struct session, SESSION_TAG);
    bool never_saved = s->priv->unsaved && !s->priv->saved;
    struct err none;
    if (!err && count == 0 && !never_saved) {
        session_not_found(&none);
        err = &none;
    }
    ended(s, err);
}

static void on_lease_to_end(void *ctx, bool mine)
{
    struct session *s = OBJ(ctx, struct session, SESSION_TAG);
    struct session_ref ref = ref_of(s);
    struct err err;
    if (mine) {
        session_delete(s->priv->owner->opts.db, &ref, on_deleted, s);
    } else {
        session_is_busy(&err);
        ended(s, &err);
    }
}

void session_end(struct sessions *ss, const char *id, const char *api_key_id, store_done_fn *done,
                 void *ctx)
{
    struct session_private *p = sessions_find(ss, id, api_key_id);
    struct err err;
    if (p && p->session->busy) {
        session_is_busy(&err);
        done(ctx, &err);
        return;
    }
    struct session *s = p ? take(p) : session_new(ss, id, api_key_id);
    p = s->priv;
    p->opening = true;
    p->end_done = done;
    p->ctx = ctx;
    lease_take(ss->leases, &p->lease, on_lease_to_end, s);
}

/* --- reading ----------------------------------------------------------------------------- */

#define READING_TAG TAG4('S', 'R', 'D', 'G')
struct reading {
    uint32_t tag;
    struct sessions *ss;
    session_read_fn *done;
    void *ctx;
};

static void on_read(void *ctx, const struct session_row *row, const struct err *db_err)
{
    struct reading *r = OBJ(ctx, struct reading, READING_TAG);
    struct session_content c = {0};
    struct err err;
    size_t bytes;
    if (db_err)
        err = *db_err;
    else if (!row || row->last_accessed_at < sessions_not_before(r->ss))
        session_not_found(&err);
    else if (session_content_read(r->ss->opts.vault, row->id, row->context, &c, &bytes, &err) == 0)
        err.code = ERR_NONE;
    bool ok = err.code == ERR_NONE;
    r->done(r->ctx, ok ? row : NULL, ok ? &c : NULL, ok ? NULL : &err);
    session_content_release(&c);
    r->tag = 0;
    free(r);
}

void session_read(struct sessions *ss, const char *id, const char *api_key_id,
                  session_read_fn *done, void *ctx)
{
    struct reading *r = x_calloc(1, sizeof(*r));
    *r = (struct reading){.tag = READING_TAG, .ss = ss, .done = done, .ctx = ctx};
    session_find(ss->opts.db, id, api_key_id, on_read, r);
}
