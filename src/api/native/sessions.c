/* sessions.c - GET /api/sessions, GET and DELETE /api/sessions/:id: the caller's key's own.
 *
 * A list is read by pages: `next` names the place behind the last one shown, by the time it was
 * made and its id, so that nothing is shown twice or left out when sessions come and go between two
 * pages. A session of another key is not found, as one that never was. */
#include "api/native/native.h"

#include "core/clock.h"

#include <ctype.h>

#define CALL_TAG   TAG4('N', 'S', 'E', 'S')
#define LIMIT      20
#define LIMIT_MAX  100
#define LIST_MAX   ((size_t)1 << 20)
#define AFTER_ALL  "ffffffff-ffff-ffff-ffff-ffffffffffff"
#define ANSWER_MAX ((size_t)2 << 30)

struct call {
    uint32_t tag;
    struct gateway *g;
    struct http_req *http; /* NULL: the client has left */
    size_t limit;
};

static void on_gone(void *ctx)
{
    struct call *c = OBJ(ctx, struct call, CALL_TAG);
    c->http = NULL;
}

static struct call *call_new(struct gateway *g, struct http_req *http)
{
    struct call *c = x_calloc(1, sizeof(*c));
    *c = (struct call){.tag = CALL_TAG, .g = g, .http = http};
    http_req_on_gone(http, on_gone, c);
    return c;
}

/* The request to answer, if anybody still waits for it; the call is over. */
static struct http_req *call_end(struct call *c)
{
    struct http_req *http = c->http;
    if (http)
        http_req_on_gone(http, NULL, NULL);
    c->tag = 0;
    free(c);
    return http;
}

static const char *key_id(const struct http_req *http)
{
    return gateway_key(http)->key.id;
}

static bool is_uuid(struct str s)
{
    if (s.len != ID_UUID_SIZE - 1)
        return false;
    for (size_t i = 0; i < s.len; i++) {
        bool dash = i == 8 || i == 13 || i == 18 || i == 23;
        if (dash ? s.p[i] != '-' : !isxdigit((unsigned char)s.p[i]))
            return false;
    }
    return true;
}

/* --- writing ----------------------------------------------------------------------------- */

static void put_time(struct buf *b, const char *name, int64_t at)
{
    char text[CLOCK_RFC3339_SIZE];
    buf_printf(b, ",\"%s\":\"%s\"", name, clock_rfc3339(at, text));
}

/* Without the closing brace. */
static void put_session(struct buf *b, const struct gateway *g, const struct session_row *row,
                        struct str model, int64_t messages)
{
    buf_printf(b, "{\"id\":\"%s\"", row->id);
    put_time(b, "createdAt", row->created_at);
    put_time(b, "lastAccessedAt", row->last_accessed_at);
    put_time(b, "expiresAt", row->last_accessed_at + g->conf->session.ttl * 1000);
    buf_adds(b, ",\"model\":");
    if (model.len)
        buf_json_str(b, model);
    else
        buf_adds(b, "null");
    buf_adds(b, ",\"messageCount\":");
    if (messages >= 0)
        buf_int(b, messages);
    else
        buf_adds(b, "null");
}

/* --- the list ----------------------------------------------------------------------------- */

static void on_listed(void *ctx, const struct session_row *rows, size_t count,
                      const struct err *err)
{
    struct call *c = OBJ(ctx, struct call, CALL_TAG);
    struct gateway *g = c->g;
    size_t shown = count < c->limit ? count : c->limit;
    struct http_req *http = call_end(c);
    struct buf b;
    if (!http)
        return;
    if (err) {
        http_reply_error(http, err);
        return;
    }
    buf_init(&b, LIST_MAX);
    buf_adds(&b, "{\"success\":true,\"sessions\":[");
    for (size_t i = 0; i < shown; i++) {
        buf_adds(&b, i ? "," : "");
        put_session(&b, g, &rows[i], rows[i].model, rows[i].message_count);
        buf_addc(&b, '}');
    }
    buf_adds(&b, "],\"next\":");
    if (count > shown && shown)
        buf_printf(&b, "\"%lld.%s\"}", (long long)rows[shown - 1].created_at, rows[shown - 1].id);
    else
        buf_adds(&b, "null}");
    http_reply_json(http, 200, &b);
    buf_release(&b);
}

static int read_limit(const char *text, size_t *ret, struct err *err)
{
    uint64_t n = LIMIT;
    if (text && (!str_to_u64(str_c(text), &n) || n < 1 || n > LIMIT_MAX))
        return err_field(err, "limit", "must be a whole number from 1 to %d", LIMIT_MAX);
    *ret = (size_t)n;
    return 0;
}

/* "<made at, ms>.<id>" */
static int read_before(const char *text, struct session_page *page, char id[ID_UUID_SIZE],
                       struct err *err)
{
    struct str rest = str_c(text);
    uint64_t at;
    if (!text)
        return 0;
    struct str ms = str_split(&rest, '.');
    if (!str_to_u64(ms, &at) || at > INT64_MAX || !is_uuid(rest))
        return err_field(err, "before", "must be what an earlier answer gave as next");
    snprintf(id, ID_UUID_SIZE, "%.*s", (int)rest.len, rest.p);
    page->made_before = (int64_t)at;
    page->id_before = id;
    return 0;
}

void native_sessions(struct http_req *http, void *ctx)
{
    struct gateway *g = OBJ(ctx, struct gateway, GATEWAY_TAG);
    char id[ID_UUID_SIZE];
    size_t limit = 0;
    struct err err;
    struct session_page page = {.api_key_id = key_id(http),
                                .not_before = clock_wall_ms() - g->conf->session.ttl * 1000,
                                .made_before = INT64_MAX,
                                .id_before = AFTER_ALL};
    if (read_limit(http_req_query(http, "limit"), &limit, &err) != 0 ||
        read_before(http_req_query(http, "before"), &page, id, &err) != 0) {
        http_reply_error(http, &err);
        return;
    }
    struct call *c = call_new(g, http);
    c->limit = limit;
    page.limit = (int)limit + 1;
    session_list(g->db, &page, on_listed, c);
}

/* --- one ---------------------------------------------------------------------------------- */

/* The id of the path in lower case. False after having answered: no session can have this one. */
static bool read_id(struct http_req *http, char id[ID_UUID_SIZE])
{
    struct err err;
    struct str text = str_c(http_req_param(http, "id"));
    if (!is_uuid(text)) {
        err_set(&err, ERR_NOT_FOUND, "sessionId: there is no such session");
        http_reply_error(http, &err);
        return false;
    }
    for (size_t i = 0; i < ID_UUID_SIZE; i++)
        id[i] = (char)tolower((unsigned char)text.p[i]);
    return true;
}

static void put_content(struct buf *b, const struct session_content *content)
{
    buf_printf(b, ",\"profile\":\"%s\",\"system\":", content->agent ? "agent" : "chat");
    if (content->system)
        json_write(b, content->system);
    else
        buf_adds(b, "null");
    buf_adds(b, ",\"messages\":");
    json_write(b, content->messages);
}

static void on_read(void *ctx, const struct session_row *row, const struct session_content *content,
                    const struct err *err)
{
    struct call *c = OBJ(ctx, struct call, CALL_TAG);
    struct gateway *g = c->g;
    struct http_req *http = call_end(c);
    struct buf b;
    if (!http)
        return;
    if (err) {
        http_reply_error(http, err);
        return;
    }
    buf_init(&b, ANSWER_MAX);
    buf_adds(&b, "{\"success\":true,\"session\":");
    put_session(&b, g, row, str_c(content->model), (int64_t)json_array_size(content->messages));
    put_content(&b, content);
    buf_adds(&b, "}}");
    http_reply_json(http, 200, &b);
    buf_release(&b);
}

void native_session(struct http_req *http, void *ctx)
{
    struct gateway *g = OBJ(ctx, struct gateway, GATEWAY_TAG);
    char id[ID_UUID_SIZE];
    if (read_id(http, id))
        session_read(g->sessions, id, key_id(http), on_read, call_new(g, http));
}

static void on_ended(void *ctx, const struct err *err)
{
    struct http_req *http = call_end(OBJ(ctx, struct call, CALL_TAG));
    if (!http)
        return;
    if (err)
        http_reply_error(http, err);
    else
        http_reply(http, 204, NULL, str_n("", 0));
}

void native_session_delete(struct http_req *http, void *ctx)
{
    struct gateway *g = OBJ(ctx, struct gateway, GATEWAY_TAG);
    char id[ID_UUID_SIZE];
    if (read_id(http, id))
        session_end(g->sessions, id, key_id(http), on_ended, call_new(g, http));
}
