/* session.c - the cache of recent sessions over the table.
 *
 * An entry is in the hash while it is cached; a busy one is never evicted, so two turns of one
 * session always meet in the same object and the second is told "busy". Lookups of one id that
 * is being loaded are joined by the busy rule too: the loading placeholder counts as busy. The
 * owner is part of the hash's key: a stranger's lookup of a known id never meets the owner's. */
#include "session/session.h"

#include "core/clock.h"
#include "core/log.h"
#include "metrics/metrics.h"

#define HASH_FUNCTION HASH_FNV /* ids are ours; the default warns under clang */
#include <uthash.h>

#define SESSIONS_TAG TAG4('S', 'E', 'S', 'S')
#define SESSION_TAG  TAG4('S', 'E', 'S', '1')
#define CACHE_MAX    2000
#define CACHE_BYTES  ((size_t)128 << 20)
#define SWEEP_MS     60000

#define PROFILE_AGENT "agent" /* in the stored form; without the member it is a chat */

struct cache_key { /* zeroed first: compared as bytes */
    char id[ID_UUID_SIZE];
    char owner[ID_UUID_SIZE];
};

struct session_private {
    struct cache_key key;
    struct sessions *owner;
    struct node node; /* recency: front = used longest ago */
    UT_hash_handle hh;
    struct session *session;
    session_open_fn *open_done;
    store_done_fn *commit_done;
    void *ctx;
};

struct sessions {
    uint32_t tag;
    struct loop *loop;
    struct db *db;
    int64_t ttl_ms;
    size_t max_bytes;
    struct session_private *by_id;
    struct list recent;
    uint64_t last_revision;
    size_t bytes;
    struct timer sweep;
    void (*swept)(void *ctx);
    void *swept_ctx;
};

static struct metric cached_gauge = {.name = "claudegate_sessions_cached",
                                     .help = "Sessions in this process's memory.",
                                     .type = METRIC_GAUGE};

static void free_session(struct session *s)
{
    struct session_private *p = s->priv;
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

static struct session *new_session(struct sessions *ss, const char *id, const char *api_key_id)
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
    HASH_ADD(hh, ss->by_id, key, sizeof(p->key), p);
    return s;
}

struct session *session_create(struct sessions *ss, const char *api_key_id)
{
    char id[ID_UUID_SIZE];
    return new_session(ss, id_uuid(id), api_key_id);
}

static int check_usable(const struct sessions *ss, const struct session *s, struct err *err)
{
    if (s->bytes >= ss->max_bytes)
        return err_set(err, ERR_TOO_LARGE,
                       "sessionId: this conversation has reached the limit of %zu bytes; start a "
                       "new session",
                       ss->max_bytes);
    return 0;
}

/* --- opening ----------------------------------------------------------------------------- */

static int read_row(struct session *s, const struct session_row *row, struct err *err)
{
    AUTO(json_unref_p) json_t *ctx = json_parse(row->context, err);
    json_t *messages = json_object_get(ctx, "messages");
    if (!json_is_array(messages))
        return err_set(err, ERR_INTERNAL, "session %s has an unreadable context", s->id);
    char *model = str_dup(json_get_str(ctx, "model"));
    free(s->model);
    s->model = model;
    json_decref(s->messages);
    s->messages = json_incref(messages);
    s->agent = str_eq_c(json_get_str(ctx, "profile"), PROFILE_AGENT);
    json_t *system = json_object_get(ctx, "system");
    s->system = json_is_string(system) ? json_incref(system) : NULL;
    snprintf(s->conversation_id, sizeof(s->conversation_id), "%.*s", (int)row->conversation_id.len,
             row->conversation_id.p);
    s->created_at = row->created_at;
    s->bytes = row->context.len;
    s->priv->owner->bytes += s->bytes;
    return 0;
}

static int not_found(struct err *err)
{
    return err_set(err, ERR_NOT_FOUND, "sessionId: there is no such session");
}

static int accept_row(struct session *s, const struct session_row *row, const struct err *db_err,
                      struct err *err)
{
    struct sessions *ss = s->priv->owner;
    if (db_err) {
        *err = *db_err;
        return -1;
    }
    if (!row || clock_wall_ms() - row->last_accessed_at > ss->ttl_ms)
        return not_found(err);
    if (read_row(s, row, err) != 0)
        return -1;
    s->last_accessed_at = clock_wall_ms();
    return check_usable(ss, s, err);
}

static void on_found(void *ctx, const struct session_row *row, const struct err *db_err)
{
    struct session *s = OBJ(ctx, struct session, SESSION_TAG);
    struct session_private *p = s->priv;
    struct err err;
    if (accept_row(s, row, db_err, &err) == 0) {
        p->open_done(p->ctx, s, NULL);
        return;
    }
    session_open_fn *done = p->open_done;
    void *done_ctx = p->ctx;
    free_session(s);
    done(done_ctx, NULL, &err);
}

/* A cached session: 0 and busy, or -1. */
static int take_cached(struct sessions *ss, struct session *s, struct err *err)
{
    if (s->busy) {
        err_set(err, ERR_SESSION_BUSY, "sessionId: another turn of this session is running");
        err->retry_after_s = 1;
        return -1;
    }
    if (clock_wall_ms() - s->last_accessed_at > ss->ttl_ms) {
        free_session(s);
        return not_found(err);
    }
    if (check_usable(ss, s, err) != 0)
        return -1;
    list_remove(&ss->recent, &s->priv->node);
    s->busy = true;
    s->last_accessed_at = clock_wall_ms();
    return 0;
}

void session_open(struct sessions *ss, const char *id, const char *api_key_id,
                  session_open_fn *done, void *ctx)
{
    struct session_private *p;
    struct err err;
    struct cache_key key = cache_key(id, api_key_id);
    HASH_FIND(hh, ss->by_id, &key, sizeof(key), p);
    if (p) {
        struct session *s = p->session;
        bool ok = take_cached(ss, s, &err) == 0;
        done(ctx, ok ? s : NULL, ok ? NULL : &err);
        return;
    }
    struct session *s = new_session(ss, id, api_key_id);
    s->priv->open_done = done;
    s->priv->ctx = ctx;
    session_find(ss->db, id, api_key_id, on_found, s);
}

uint64_t session_new_revision(struct session *s)
{
    return ++s->priv->owner->last_revision;
}

const char *session_tag(const struct session *s, uint64_t revision, char out[SESSION_TAG_SIZE])
{
    snprintf(out, SESSION_TAG_SIZE, "%s:%llu", s->id, (unsigned long long)revision);
    return out;
}

/* --- committing -------------------------------------------------------------------------- */

static void append_message(struct session *s, const char *role, json_t *content)
{
    json_array_append_new(s->messages, json_pack("{s:s, s:O}", "role", role, "content", content));
}

static void on_saved(void *ctx, const struct err *err)
{
    struct session *s = OBJ(ctx, struct session, SESSION_TAG);
    struct session_private *p = s->priv;
    if (err)
        log_error("session could not be saved", LF_S("session_id", s->id), LF_S("error", err->msg));
    p->commit_done(p->ctx, err);
}

void session_commit(struct session *s, const struct session_turn *turn, store_done_fn *done,
                    void *ctx)
{
    struct session_private *p = s->priv;
    x_replace(&s->model, turn->model);
    s->revision = turn->revision;
    json_t *system = json_incref(turn->system);
    json_decref(s->system);
    s->system = system;
    snprintf(s->conversation_id, sizeof(s->conversation_id), "%s", turn->conversation_id);
    s->agent |= turn->agent;
    append_message(s, "user", turn->user);
    if (turn->added)
        json_array_extend(s->messages, turn->added);
    else if (json_array_size(turn->assistant) > 0)
        append_message(s, "assistant", turn->assistant);
    s->last_accessed_at = clock_wall_ms();
    json_t *row_json = json_pack("{s:s, s:O?, s:O}", "model", s->model, "system", s->system,
                                 "messages", s->messages);
    if (s->agent)
        json_object_set_new(row_json, "profile", json_string(PROFILE_AGENT));
    char *text = json_dumps(row_json, JSON_COMPACT);
    BUG_ON(!text);
    json_decref(row_json);
    p->owner->bytes -= s->bytes;
    s->bytes = strlen(text);
    p->owner->bytes += s->bytes;
    struct session_row row = {.conversation_id = str_c(s->conversation_id),
                              .context = str_n(text, s->bytes),
                              .created_at = s->created_at,
                              .last_accessed_at = s->last_accessed_at};
    memcpy(row.id, s->id, sizeof(row.id));
    memcpy(row.api_key_id, s->api_key_id, sizeof(row.api_key_id));
    p->commit_done = done;
    p->ctx = ctx;
    session_save(p->owner->db, &row, on_saved, s);
    free(text);
}

static void trim_cache(struct sessions *ss)
{
    while (ss->recent.len && (ss->recent.len > CACHE_MAX || ss->bytes > CACHE_BYTES))
        free_session(container_of(list_first(&ss->recent), struct session_private, node)->session);
}

void session_release(struct session *s)
{
    struct sessions *ss = s->priv->owner;
    BUG_ON(!s->busy);
    s->busy = false;
    if (json_array_size(s->messages) == 0) { /* never committed: it does not exist */
        free_session(s);
        return;
    }
    list_push_back(&ss->recent, &s->priv->node);
    trim_cache(ss);
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
    int64_t before = clock_wall_ms() - ss->ttl_ms;
    LIST_EACH(&ss->recent, n)
    {
        struct session *s = container_of(n, struct session_private, node)->session;
        if (s->last_accessed_at < before)
            free_session(s);
    }
    session_delete_expired(ss->db, before, on_swept, ss);
    timer_set(&ss->sweep, SWEEP_MS);
}

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

void sessions_on_sweep(struct sessions *ss, void (*swept)(void *ctx), void *ctx)
{
    ss->swept = swept;
    ss->swept_ctx = ctx;
}

struct sessions *sessions_new(struct loop *loop, struct db *db, int64_t ttl_s, int64_t max_bytes)
{
    struct sessions *ss = x_calloc(1, sizeof(*ss));
    *ss = (struct sessions){.tag = SESSIONS_TAG,
                            .loop = loop,
                            .db = db,
                            .ttl_ms = ttl_s * 1000,
                            .max_bytes = (size_t)max_bytes};
    list_init(&ss->recent);
    timer_init(&ss->sweep, loop, on_sweep, ss);
    timer_set(&ss->sweep, 1000);
    metric_register(&cached_gauge);
    metrics_add_collector(collect, ss);
    return ss;
}

void sessions_free(struct sessions *ss)
{
    struct session_private *p, *next;
    if (!ss)
        return;
    metrics_remove_collector(collect, ss);
    timer_release(&ss->sweep);
    HASH_ITER(hh, ss->by_id, p, next)
    {
        free_session(p->session);
    }
    ss->tag = 0;
    free(ss);
}
