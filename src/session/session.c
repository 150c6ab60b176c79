/* session.c - the cache of recent sessions over the table.
 *
 * An entry is in the hash while it is cached; a busy one is never evicted, so two turns of one
 * session on this server always meet in the same object and the second is told "busy". The owner is
 * part of the hash's key: a stranger's lookup of a known id never meets the owner's. Whether what
 * is cached is still what the row holds is asked at each opening (open.c). */
#include "session/internal.h"

#include "core/clock.h"
#include "core/log.h"
#include "metrics/metrics.h"

#include <sodium.h>

#define CACHE_MAX   2000
#define CACHE_BYTES ((size_t)128 << 20)
#define SWEEP_MS    60000
#define KEEP_MS     5000 /* sessions at work are marked as used, unsaved ones saved */
#define RESAVES_MAX 32   /* at once */

static struct metric cached_gauge = {.name = "claudegate_sessions_cached",
                                     .help = "Sessions in this process's memory.",
                                     .type = METRIC_GAUGE};

/* --- objects ----------------------------------------------------------------------------- */

void session_free(struct session *s)
{
    struct session_private *p = s->priv;
    BUG_ON(p->waiters.len);
    lease_give(p->owner->leases, &p->lease);
    if (node_linked(&p->node))
        list_remove(&p->owner->recent, &p->node);
    HASH_DELETE(hh, p->owner->by_id, p);
    p->owner->bytes -= s->bytes;
    free(s->model);
    json_decref(s->system);
    json_decref(s->messages);
    s->tag = 0;
    free(p);
    free(s);
}

static struct cache_key cache_key(const char *id, const char *owner)
{
    struct cache_key key;
    memset(&key, 0, sizeof(key));
    snprintf(key.id, sizeof(key.id), "%s", id);
    snprintf(key.owner, sizeof(key.owner), "%s", owner);
    return key;
}

struct session_private *sessions_find(struct sessions *ss, const char *id, const char *api_key_id)
{
    struct cache_key key = cache_key(id, api_key_id);
    struct session_private *p;
    HASH_FIND(hh, ss->by_id, &key, sizeof(key), p);
    return p;
}

struct session *session_new(struct sessions *ss, const char *id, const char *api_key_id)
{
    struct session *s = x_calloc(1, sizeof(*s));
    struct session_private *p = s->priv = x_calloc(1, sizeof(*p));
    s->tag = SESSION_TAG;
    snprintf(s->id, sizeof(s->id), "%s", id);
    snprintf(s->api_key_id, sizeof(s->api_key_id), "%s", api_key_id);
    s->model = x_strdup("");
    s->messages = json_array();
    s->created_at = s->last_accessed_at = clock_wall_ms();
    s->busy = true;
    p->owner = ss;
    p->session = s;
    p->key = cache_key(id, api_key_id);
    p->touched_at = clock_mono_ms();
    list_init(&p->waiters);
    lease_name(&p->lease, id, api_key_id);
    HASH_ADD(hh, ss->by_id, key, sizeof(p->key), p);
    return s;
}

struct session *session_create(struct sessions *ss, const char *api_key_id)
{
    char id[ID_UUID_SIZE];
    return session_new(ss, id_uuid(id), api_key_id);
}

void session_forget_content(struct session *s)
{
    struct session_private *p = s->priv;
    json_array_clear(s->messages);
    p->owner->bytes -= s->bytes;
    s->bytes = 0;
    p->saved = 0;
    p->unsaved = false;
}

int session_not_found(struct err *err)
{
    return err_set(err, ERR_NOT_FOUND, "sessionId: there is no such session");
}

int session_is_busy(struct err *err)
{
    err_set(err, ERR_SESSION_BUSY, "sessionId: another turn of this session is running");
    err->retry_after_s = 1;
    return -1;
}

int64_t sessions_not_before(const struct sessions *ss)
{
    return clock_wall_ms() - ss->opts.ttl_s * 1000;
}

/* Random: whatever became of the turns in between, no state of a conversation has another's. */
uint64_t session_new_revision(struct session *s)
{
    uint64_t v;
    (void)s;
    randombytes_buf(&v, sizeof(v));
    v >>= 1; /* a positive number in the database */
    return v < 2 ? 2 : v;
}

const char *session_tag(const struct session *s, uint64_t revision, char out[SESSION_TAG_SIZE])
{
    snprintf(out, SESSION_TAG_SIZE, "%s:%llu", s->id, (unsigned long long)revision);
    return out;
}

/* --- saving ------------------------------------------------------------------------------ */

void session_save_row(struct session *s, store_done_fn *done)
{
    struct session_private *p = s->priv;
    struct sessions *ss = p->owner;
    struct session_content c = {
        .model = s->model, .system = s->system, .messages = s->messages, .agent = s->agent};
    struct buf stored;
    char *text = session_content_write(&c);
    ss->bytes -= s->bytes;
    s->bytes = strlen(text);
    ss->bytes += s->bytes;
    session_content_buf(&stored, s->bytes);
    session_content_seal(ss->opts.vault, s->id, str_n(text, s->bytes), &stored);
    BUG_ON(!buf_ok(&stored));
    free(text);
    struct session_row row = {.conversation_id = str_c(s->conversation_id),
                              .model = str_c(s->model),
                              .context = buf_str(&stored),
                              .sealed_with = str_c(vault_key_id(ss->opts.vault, 0)),
                              .message_count = (int64_t)json_array_size(s->messages),
                              .version = (int64_t)s->revision,
                              .created_at = s->created_at,
                              .last_accessed_at = s->last_accessed_at};
    memcpy(row.id, s->id, sizeof(row.id));
    memcpy(row.api_key_id, s->api_key_id, sizeof(row.api_key_id));
    p->touched_at = clock_mono_ms();
    session_save(ss->opts.db, &row, (int64_t)p->saved, done, s);
    buf_release(&stored);
}

static void append_message(struct session *s, const char *role, json_t *content)
{
    json_array_append_new(s->messages, json_pack("{s:s, s:O}", "role", role, "content", content));
}

static void on_committed(void *ctx, const struct err *err)
{
    struct session *s = OBJ(ctx, struct session, SESSION_TAG);
    struct session_private *p = s->priv;
    struct err conflict;
    p->unsaved = err != NULL;
    if (!err) {
        p->saved = s->revision;
    } else if (err->code == ERR_CONFLICT) {
        p->stale = true;
        session_is_busy(&conflict);
        snprintf(conflict.msg, sizeof(conflict.msg),
                 "sessionId: while this turn ran, another server changed or ended the session; "
                 "this turn was not added to it");
        err = &conflict;
    } else {
        log_error("session could not be saved, trying again later", LF_S("session_id", s->id),
                  LF_S("error", err->msg));
    }
    p->commit_done(p->ctx, err);
}

void session_commit(struct session *s, const struct session_turn *turn, store_done_fn *done,
                    void *ctx)
{
    struct session_private *p = s->priv;
    BUG_ON(!turn->revision || p->unsaved);
    x_replace(&s->model, turn->model);
    s->revision = turn->revision;
    json_t *system = json_incref(turn->system);
    json_decref(s->system);
    s->system = system;
    snprintf(s->conversation_id, sizeof(s->conversation_id), "%s", turn->conversation_id);
    s->agent |= turn->agent;
    if (turn->user)
        append_message(s, "user", turn->user);
    if (turn->added)
        json_array_extend(s->messages, turn->added);
    else if (json_array_size(turn->assistant) > 0)
        append_message(s, "assistant", turn->assistant);
    s->last_accessed_at = clock_wall_ms();
    p->commit_done = done;
    p->ctx = ctx;
    session_save_row(s, on_committed);
}

/* --- the cache --------------------------------------------------------------------------- */

static bool over(const struct sessions *ss, size_t times)
{
    return ss->recent.len > times * CACHE_MAX || ss->bytes > times * CACHE_BYTES;
}

/* What the database does not have yet stays as long as there is room for as much again. */
static void trim_cache(struct sessions *ss)
{
    LIST_EACH(&ss->recent, n)
    {
        struct session_private *p = container_of(n, struct session_private, node);
        if (!over(ss, 1) || (p->unsaved && !over(ss, 2)))
            continue;
        if (p->unsaved)
            log_error("a session is lost: the database is away, and too many wait for it",
                      LF_S("session", p->session->id));
        session_free(p->session);
    }
}

void session_idle(struct session *s)
{
    struct sessions *ss = s->priv->owner;
    lease_give(ss->leases, &s->priv->lease);
    s->busy = false;
    list_push_back(&ss->recent, &s->priv->node);
    trim_cache(ss);
}

void session_release(struct session *s)
{
    struct session_private *p = s->priv;
    BUG_ON(!s->busy);
    if (json_array_size(s->messages) == 0) { /* never committed: it does not exist */
        sessions_part(p->owner, s->id, true);
        session_free(s);
    } else if (p->stale) {
        sessions_part(p->owner, s->id, false);
        session_free(s);
    } else {
        session_idle(s);
    }
}

/* --- those who are told ------------------------------------------------------------------- */

struct parted {
    struct node node;
    char id[ID_UUID_SIZE];
    bool gone;
};

static void tell_parted(void *obj)
{
    struct sessions *ss = OBJ(obj, struct sessions, SESSIONS_TAG);
    struct node *n;
    for (size_t left = ss->parted.len; left > 0 && (n = list_pop_front(&ss->parted)); left--) {
        struct parted *p = container_of(n, struct parted, node);
        if (ss->part)
            ss->part(ss->part_ctx, p->id, p->gone);
        free(p);
    }
}

void sessions_part(struct sessions *ss, const char *id, bool gone)
{
    struct parted *p = x_calloc(1, sizeof(*p));
    snprintf(p->id, sizeof(p->id), "%s", id);
    p->gone = gone;
    list_push_back(&ss->parted, &p->node);
    if (!timer_pending(&ss->tell_parted))
        timer_set(&ss->tell_parted, 0);
}

void sessions_on_part(struct sessions *ss, session_part_fn *part, void *ctx)
{
    ss->part = part;
    ss->part_ctx = ctx;
}

/* --- sweeping ---------------------------------------------------------------------------- */

static void on_swept(void *ctx, int64_t count, const struct err *err)
{
    struct sessions *ss = OBJ(ctx, struct sessions, SESSIONS_TAG);
    if (err) {
        log_warn("expired sessions could not be deleted, ignoring", LF_S("error", err->msg));
        return;
    }
    if (count)
        log_info("expired sessions deleted", LF_I("count", count));
    if (ss->swept)
        ss->swept(ss->swept_ctx);
}

static void on_sweep(void *obj)
{
    struct sessions *ss = OBJ(obj, struct sessions, SESSIONS_TAG);
    int64_t before = sessions_not_before(ss);
    LIST_EACH(&ss->recent, n)
    {
        struct session *s = container_of(n, struct session_private, node)->session;
        if (s->last_accessed_at < before) {
            sessions_part(ss, s->id, false);
            session_free(s);
        }
    }
    session_delete_expired(ss->opts.db, before, on_swept, ss);
    timer_set(&ss->sweep, SWEEP_MS);
}

bool session_is_fresh(const struct session *s)
{
    return clock_mono_ms() - s->priv->touched_at < s->priv->owner->opts.ttl_s * 1000 / 4;
}

/* Another server's sweep must not take away what a long turn works on here. */
static void touch(struct session *s)
{
    struct session_private *p = s->priv;
    struct session_ref ref = {.id = s->id, .api_key_id = s->api_key_id};
    p->touched_at = clock_mono_ms();
    session_touch(p->owner->opts.db, &ref, (int64_t)p->saved, clock_wall_ms(), NULL, NULL);
}

static int64_t keep_ms(const struct sessions *ss)
{
    int64_t ms = ss->opts.ttl_s * 1000 / 4;
    return ms < 250 ? 250 : ms < KEEP_MS ? ms : KEEP_MS;
}

static void on_keep(void *obj)
{
    struct sessions *ss = OBJ(obj, struct sessions, SESSIONS_TAG);
    struct session_private *p, *next;
    int resaves = RESAVES_MAX;
    HASH_ITER(hh, ss->by_id, p, next)
    {
        struct session *s = p->session;
        if (!s->busy && p->unsaved && resaves-- > 0)
            session_resave(s);
        else if (s->busy && !p->opening && p->saved && !session_is_fresh(s))
            touch(s);
    }
    timer_set(&ss->keep, keep_ms(ss));
}

void sessions_on_sweep(struct sessions *ss, void (*swept)(void *ctx), void *ctx)
{
    ss->swept = swept;
    ss->swept_ctx = ctx;
}

/* --- life -------------------------------------------------------------------------------- */

static void collect(void *ctx)
{
    metric_set(&cached_gauge, (double)sessions_cached(ctx));
}

size_t sessions_cached(const struct sessions *s)
{
    return HASH_COUNT(s->by_id);
}

bool sessions_has(const struct sessions *ss, const char *id)
{
    const struct session_private *p;
    for (p = ss->by_id; p; p = p->hh.next) {
        if (strcmp(p->key.id, id) == 0)
            return true;
    }
    return false;
}

struct sessions *sessions_new(const struct sessions_opts *opts)
{
    struct sessions *ss = x_calloc(1, sizeof(*ss));
    *ss = (struct sessions){.tag = SESSIONS_TAG, .opts = *opts};
    id_alnum(ss->me, sizeof(ss->me) - 1);
    ss->leases = leases_new(opts->loop, opts->shared, ss->me);
    list_init(&ss->recent);
    list_init(&ss->parted);
    timer_init(&ss->tell_parted, opts->loop, tell_parted, ss);
    timer_init(&ss->sweep, opts->loop, on_sweep, ss);
    timer_set(&ss->sweep, 1000);
    timer_init(&ss->keep, opts->loop, on_keep, ss);
    timer_set(&ss->keep, keep_ms(ss));
    sessions_listen(ss);
    metric_register(&cached_gauge);
    metrics_add_collector(collect, ss);
    return ss;
}

void sessions_free(struct sessions *ss)
{
    struct session_private *p, *next;
    struct node *n;
    if (!ss)
        return;
    metrics_remove_collector(collect, ss);
    sessions_unlisten(ss);
    timer_release(&ss->sweep);
    timer_release(&ss->keep);
    timer_release(&ss->tell_parted);
    HASH_ITER(hh, ss->by_id, p, next)
    {
        while ((n = list_pop_front(&p->waiters)))
            free(container_of(n, struct waiter, node));
        session_free(p->session);
    }
    while ((n = list_pop_front(&ss->parted)))
        free(container_of(n, struct parted, node));
    leases_free(ss->leases);
    ss->tag = 0;
    free(ss);
}
