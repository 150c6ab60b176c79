/* cache.c - see the header.
 *
 * An answer is kept as the message that POST /v1/messages would return, and told as if the model
 * had just given it: its stream events are made from it again (cli_message_events), so that every
 * dialect writes it as always. Its usage is what the model reported when it gave it; what this
 * request used is nothing.
 *
 * An entry belongs to its request and to the look-up under way, whichever ends later. */
#include "gateway/cache.h"

#include "core/clock.h"
#include "core/log.h"
#include "metrics/metrics.h"

#include <sodium.h>

#define CACHE_TAG    TAG4('C', 'A', 'C', 'E')
#define FORMAT       "1" /* another one when what is kept, or what is hashed, changes its form */
#define HEADER_MAX   ((size_t)8192)
#define HASH_BYTES   32
#define HASH_TEXT    sodium_base64_ENCODED_LEN(HASH_BYTES, sodium_base64_VARIANT_URLSAFE_NO_PADDING)
#define NAME_PREFIX  "answer:"
#define CONTEXT_SIZE (CACHE_NAME_SIZE + 16)

struct cache_entry {
    uint32_t tag;
    int refs;
    struct gateway *g;
    struct http_req *http;
    char name[CACHE_NAME_SIZE];
    bool no_cache, no_store;
    cache_done_fn *done; /* NULL: nobody waits */
    void *ctx;
};

static struct metric requests_total = {
    .name = "claudegate_cache_requests_total",
    .help = "Requests whose answers are kept, by what the cache had: hit, miss, bypass (not "
            "looked up, as the client wished), unavailable (it could not be asked).",
    .type = METRIC_COUNTER,
    .labels = {"outcome"}};

static struct metric unstored_total = {
    .name = "claudegate_cache_unstored_total",
    .help = "Answers that would have been kept, but are too_large, or Redis has what "
            "cache.max_bytes allows (full).",
    .type = METRIC_COUNTER,
    .labels = {"reason"}};

/* --- the name ----------------------------------------------------------------------------- */

static int hash_some(const char *p, size_t n, void *ctx)
{
    return crypto_generichash_update(ctx, (const unsigned char *)p, n);
}

static json_t *text_or_null(const char *s)
{
    return s ? json_string(s) : json_null();
}

/* Which of several answers is by chance of their state; what they are is part of the name. */
static json_t *upstreams(const struct conf *conf)
{
    json_t *list = json_array();
    for (size_t i = 0; i < conf_target_count(conf); i++)
        json_array_append_new(list, json_string(conf_target_at(conf, i).base_url));
    return list;
}

/* 0, 0.0 and -0.0 are one temperature, and the only one there is here. */
static json_t *params_that_matter(const json_t *params)
{
    json_t *copy = json_copy((json_t *)(uintptr_t)params);
    json_object_del(copy, "metadata");
    json_object_del(copy, "temperature");
    return copy;
}

void cache_name(const struct gateway *g, const char *key_id, const struct chat_request *r,
                char out[CACHE_NAME_SIZE])
{
    unsigned char hash[HASH_BYTES];
    char text[HASH_TEXT];
    crypto_generichash_state state;
    AUTO(json_unref_p)
    json_t *all =
        json_pack("{s:s, s:s, s:o, s:s, s:o, s:o, s:O?, s:O?, s:O?, s:O?, s:o, s:o, s:o}", "format",
                  FORMAT, "key", key_id, "upstream", upstreams(g->conf), "kind", g->upstream_kind,
                  "program", text_or_null(g->cli_version), "model", text_or_null(r->model),
                  "system", r->system, "history", r->history, "content", r->content, "messages",
                  r->messages, "params", params_that_matter(r->params), "version",
                  text_or_null(r->version), "betas", text_or_null(r->betas));
    BUG_ON(!all || sodium_init() < 0);
    crypto_generichash_init(&state, NULL, 0, sizeof(hash));
    BUG_ON(json_dump_callback(all, hash_some, &state, JSON_COMPACT | JSON_SORT_KEYS) != 0);
    crypto_generichash_final(&state, hash, sizeof(hash));
    sodium_bin2base64(text, sizeof(text), hash, sizeof(hash),
                      sodium_base64_VARIANT_URLSAFE_NO_PADDING);
    snprintf(out, CACHE_NAME_SIZE, NAME_PREFIX "%s", text);
}

/* --- an entry ----------------------------------------------------------------------------- */

static void unref(struct cache_entry *c)
{
    if (--c->refs > 0)
        return;
    c->tag = 0;
    free(c);
}

static bool is_kept(const struct chat_request *r)
{
    const json_t *t = json_object_get(r->params, "temperature");
    bool zero = json_is_number(t) && !(json_number_value(t) < 0) && !(json_number_value(t) > 0);
    return zero && !r->with_session && r->profile != PROFILE_AGENT;
}

static void read_cache_control(struct cache_entry *c)
{
    AUTO(buf_release) struct buf b;
    buf_init(&b, HEADER_MAX);
    if (!http_req_header_all(c->http, "cache-control", &b))
        return;
    struct str rest = buf_str(&b);
    while (rest.len) {
        struct str word = str_trim(str_split(&rest, ','));
        c->no_cache |= str_ieq_c(word, "no-cache");
        c->no_store |= str_ieq_c(word, "no-store");
    }
}

struct cache_entry *cache_open(struct gateway *g, struct http_req *http, const struct api_key *key,
                               const struct chat_request *r)
{
    if (!key->permissions.response_cache || !is_kept(r))
        return NULL;
    struct cache_entry *c = x_calloc(1, sizeof(*c));
    *c = (struct cache_entry){.tag = CACHE_TAG, .refs = 1, .g = g, .http = http};
    cache_name(g, key->id, r, c->name);
    read_cache_control(c);
    return c;
}

void cache_close(struct cache_entry *c)
{
    if (!c)
        return;
    cache_cancel(c);
    unref(c);
}

void cache_cancel(struct cache_entry *c)
{
    c->done = NULL;
    c->http = NULL;
}

/* What a sealed answer is bound to. */
static const char *seal_context(const struct cache_entry *c, char out[CONTEXT_SIZE])
{
    snprintf(out, CONTEXT_SIZE, "cache %s", c->name);
    return out;
}

/* --- looking up --------------------------------------------------------------------------- */

static void conclude(struct cache_entry *c, const char *header, const char *outcome,
                     const struct turn_result *kept)
{
    struct http_req *http = TAKE_PTR(c->http);
    metric_add(&requests_total, 1, outcome);
    http_set_header(http, "x-claudegate-cache", header);
    TAKE_PTR(c->done)(c->ctx, kept);
}

/* The message; NULL: it cannot be read, so it is none. */
static json_t *read_message(const struct cache_entry *c, struct str value)
{
    char context[CONTEXT_SIZE];
    struct err err;
    const struct vault *v = c->g->vault;
    AUTO(buf_release) struct buf b;
    buf_init(&b, SHARED_VALUE_MAX);
    json_t *message = NULL;
    if (vault_open(v, seal_context(c, context), value, vault_has_key(v), &b, &err) == 0)
        message = json_parse(buf_str(&b), &err);
    if (message && json_is_array(json_object_get(message, "content")))
        return message;
    json_decref(message);
    log_debug("a kept answer cannot be read", LF_S("name", c->name));
    return NULL;
}

static void take_text(char *out, size_t size, const json_t *message, const char *name)
{
    struct str s = json_get_str(message, name);
    snprintf(out, size, "%.*s", (int)s.len, s.p);
}

/* message: its content is taken out, as in struct cli_message. */
static void tell_kept(struct cache_entry *c, json_t *message)
{
    struct cli_message m = {.head = message};
    struct turn_result r = {.ok = true, .message = &m};
    AUTO(json_unref_p) json_t *content = json_incref(json_object_get(message, "content"));
    json_object_set_new(message, "content", json_array());
    m.content = content;
    take_text(m.id, sizeof(m.id), message, "id");
    take_text(m.model, sizeof(m.model), message, "model");
    take_text(m.stop_reason, sizeof(m.stop_reason), message, "stop_reason");
    take_text(r.stop_reason, sizeof(r.stop_reason), message, "stop_reason");
    conclude(c, "hit", "hit", &r);
}

static void on_value(void *ctx, struct str value, const struct err *err)
{
    struct cache_entry *c = OBJ(ctx, struct cache_entry, CACHE_TAG);
    AUTO(json_unref_p)
    json_t *message = c->done && !err && value.p ? read_message(c, value) : NULL;
    if (message)
        tell_kept(c, message);
    else if (c->done)
        conclude(c, "miss", err ? "unavailable" : "miss", NULL);
    unref(c);
}

void cache_look_up(struct cache_entry *c, cache_done_fn *done, void *ctx)
{
    c->done = done;
    c->ctx = ctx;
    if (c->no_cache) {
        conclude(c, "bypass", "bypass", NULL);
        return;
    }
    c->refs++;
    shared_cache_get(c->g->shared, c->name, on_value, c);
}

/* --- storing ------------------------------------------------------------------------------ */

/* Tools that run upstream see the world as it is at that time. */
static bool used_upstream_tools(const json_t *content)
{
    size_t i;
    const json_t *block;
    json_array_foreach((json_t *)(uintptr_t)content, i, block)
    {
        struct str type = json_get_str(block, "type");
        if (str_eq_c(type, "server_tool_use") || str_eq_c(type, "mcp_tool_use"))
            return true;
    }
    return false;
}

static bool is_worth_keeping(const struct turn_result *r)
{
    static const char *const ends[] = {"end_turn", "stop_sequence", "tool_use", "max_tokens"};
    const struct cli_message *m = r->message;
    if (!r->ok || r->estimated || m->too_large || !m->head || json_array_size(m->content) == 0 ||
        used_upstream_tools(m->content))
        return false;
    for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
        if (strcmp(r->stop_reason, ends[i]) == 0)
            return true;
    }
    return false;
}

/* What lives was stored in this window or in the one before. */
bool cache_room_take(struct cache_room *room, int64_t at, int64_t ttl_ms, size_t max_bytes,
                     size_t bytes)
{
    if (at - room->since >= ttl_ms) {
        bool next = at - room->since < 2 * ttl_ms;
        *room = (struct cache_room){.since = next ? room->since + ttl_ms : at,
                                    .before = next ? room->now : 0};
    }
    if (room->now + room->before + bytes > max_bytes)
        return false;
    room->now += bytes;
    return true;
}

static void put(struct cache_entry *c, struct str value)
{
    struct gateway *g = c->g;
    int64_t ttl_ms = g->conf->cache.ttl * 1000;
    if (shared_is_remote(g->shared) &&
        !cache_room_take(&g->cache_room, clock_mono_ms(), ttl_ms, (size_t)g->conf->cache.max_bytes,
                         value.len))
        metric_add(&unstored_total, 1, "full");
    else
        shared_cache_set(g->shared, c->name, value, ttl_ms, NULL, NULL);
}

void cache_store(struct cache_entry *c, const struct turn_result *r)
{
    char context[CONTEXT_SIZE];
    if (c->no_store || !is_worth_keeping(r))
        return;
    AUTO(buf_release) struct buf plain;
    AUTO(buf_release) struct buf value;
    AUTO(json_unref_p) json_t *message = json_copy(r->message->head);
    json_object_set(message, "content", r->message->content);
    buf_init(&plain, SHARED_VALUE_MAX);
    buf_init(&value, SHARED_VALUE_MAX);
    json_write(&plain, message);
    if (buf_ok(&plain))
        vault_seal(c->g->vault, seal_context(c, context), buf_str(&plain), &value);
    if (buf_ok(&plain) && buf_ok(&value))
        put(c, buf_str(&value));
    else
        metric_add(&unstored_total, 1, "too_large");
}
