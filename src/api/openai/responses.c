/* responses.c - POST /v1/responses, GET and DELETE /v1/responses/{id}.
 *
 * A stored response is a session of its own that holds the whole conversation up to it, and, in
 * the place of the system text, its envelope: the Response object without the output. So any
 * response can be continued more than once and none can be changed by that; the price is that a
 * conversation is stored anew with every turn, for as long as sessions live. The row is in the
 * database before the client is told that the response is complete. */
#include "api/openai/openai.h"
#include "api/openai/responses_answer.h"
#include "api/openai/responses_request.h"

#include "api/anthropic/messages.h"
#include "core/clock.h"

#define ANSWER_MAX ((size_t)256 << 20)
#define EVENT_MAX  ((size_t)256 << 20)
#define CALL_TAG   TAG4('O', 'R', 'S', 'P')

/* One request, from its body to its reply. */
struct call {
    uint32_t tag;
    int refs; /* the job's request, and each callback that is still to come */
    struct gateway *g;
    struct http_req *http; /* NULL: the client has left, or the job has it */
    json_t *body;
    struct responses_request req;
    size_t loaded; /* of the responses it refers to */
    struct response answer;
    struct session *session; /* where it will be stored; NULL = it will not be */
    json_t *object;          /* the answer, while it is being stored */
    bool stream;
    struct openai_quiet quiet;
};

static void call_unref(struct call *c)
{
    if (--c->refs > 0)
        return;
    if (c->session) /* never stored: then it does not exist */
        session_release(c->session);
    responses_request_release(&c->req);
    response_release(&c->answer);
    json_decref(c->body);
    json_decref(c->object);
    c->tag = 0;
    free(c);
}

static void extra_free(void *extra)
{
    call_unref(OBJ(extra, struct call, CALL_TAG));
}

static struct call *call_of(const struct job *job)
{
    return OBJ(job_request(job)->extra, struct call, CALL_TAG);
}

/* --- telling ------------------------------------------------------------------------------ */

static void emit(void *ctx, const char *name, const struct buf *data)
{
    struct call *c = OBJ(ctx, struct call, CALL_TAG);
    if (c->http)
        http_sse_event(c->http, name, buf_str(data));
}

static void on_begin(struct job *job)
{
    (void)job; /* the first event needs the model's name, which comes with upstream's first */
}

static void on_event(struct job *job, const json_t *event)
{
    struct call *c = call_of(job);
    int64_t before = c->answer.sequence;
    c->http = job_http(job);
    response_event(&c->answer, event);
    openai_keep_alive(&c->quiet, job, c->answer.sequence > before);
}

static void reply(struct call *c)
{
    AUTO(buf_release) struct buf b;
    struct http_req *http = TAKE_PTR(c->http);
    buf_init(&b, ANSWER_MAX);
    if (!http)
        return;
    http_req_on_gone(http, NULL, NULL);
    if (c->stream) {
        c->http = http;
        response_finish(&c->answer, c->object);
        c->http = NULL;
        http_stream_end(http);
        return;
    }
    json_write(&b, c->object);
    http_reply_json(http, 200, &b);
}

static void on_gone(void *ctx)
{
    struct call *c = OBJ(ctx, struct call, CALL_TAG);
    c->http = NULL;
}

static void on_stored(void *ctx, const struct err *err)
{
    struct call *c = OBJ(ctx, struct call, CALL_TAG);
    (void)err; /* logged by the session module; the answer itself is good */
    session_release(TAKE_PTR(c->session));
    reply(c);
    call_unref(c);
}

/* The object but for its output, which is in the conversation. */
static json_t *envelope(const json_t *object)
{
    AUTO(json_unref_p) json_t *copy = json_copy((json_t *)(uintptr_t)object);
    json_object_del(copy, "output");
    char *text = json_dumps(copy, JSON_COMPACT);
    json_t *j = json_string(text);
    free(text);
    return j;
}

static void store(struct call *c, const struct turn_result *r)
{
    AUTO(json_unref_p) json_t *added = json_copy(c->req.kept);
    AUTO(json_unref_p) json_t *system = envelope(c->object);
    if (json_array_size(r->message->content))
        json_array_append_new(
            added, json_pack("{s:s, s:O}", "role", "assistant", "content", r->message->content));
    struct session_turn turn = {
        .model = r->message->model,
        .conversation_id = r->cli_session_id,
        .revision = session_new_revision(c->session),
        .system = system,
        .added = added,
    };
    c->refs++;
    if (c->http)
        http_req_on_gone(c->http, on_gone, c);
    session_commit(c->session, &turn, on_stored, c);
}

static void on_finish(struct job *job, const struct turn_result *r)
{
    struct call *c = call_of(job);
    c->http = job_http(job);
    c->object =
        response_object(&c->answer, NULL, r->message->head, r->message->content, r->stop_reason);
    if (c->session)
        store(c, r);
    else
        reply(c);
}

static void on_fail(struct job *job, const struct err *err)
{
    struct call *c = call_of(job);
    struct err ignored;
    AUTO(buf_release) struct buf b;
    buf_init(&b, EVENT_MAX);
    http_error_body(DIALECT_OPENAI, http_req_id(job_http(job)), err, &b);
    AUTO(json_unref_p) json_t *body = json_parse(buf_str(&b), &ignored);
    c->http = job_http(job);
    response_error(&c->answer, json_object_get(body, "error"));
    http_stream_end(TAKE_PTR(c->http));
}

static const struct dialect responses_dialect = {.name = "openai-responses",
                                                 .begin = on_begin,
                                                 .event = on_event,
                                                 .finish = on_finish,
                                                 .fail = on_fail};

/* --- asking ------------------------------------------------------------------------------- */

static void set_ids(struct call *c)
{
    char uuid[ID_UUID_SIZE];
    if (c->req.store) {
        c->session = session_create(c->g->sessions, gateway_key(c->http)->key.id);
        responses_uuid_to_id(c->session->id, c->answer.id);
    } else {
        responses_uuid_to_id(id_uuid(uuid), c->answer.id);
    }
}

/* Takes a reference of c over. */
static void submit(struct call *c)
{
    struct openai_env env = openai_env_of(c->g, c->http);
    struct chat_request *r = NULL;
    struct http_req *http = c->http;
    struct err err;
    if (responses_translate(c->body, &env, &c->req, &err) == 0)
        r = openai_parse(http, &c->req.base, true, "max_output_tokens", &err);
    if (!r) {
        http_reply_error(http, &err);
        call_unref(c);
        return;
    }
    set_ids(c);
    c->answer.created = clock_wall_ms() / 1000;
    c->answer.echo = json_incref(c->req.echo);
    c->answer.summary = c->req.summary;
    c->answer.encrypted = c->req.encrypted;
    c->answer.emit = emit;
    c->answer.ctx = c;
    c->stream = c->req.base.stream;
    if (c->session)
        memcpy(r->kept_as, c->session->id, sizeof(r->kept_as));
    r->extra = c;
    r->extra_free = extra_free;
    messages_tell_ignored(http, r);
    c->http = NULL; /* the job knows whether the client is still there */
    gateway_submit(c->g, http, r, &responses_dialect);
}

/* In the words of this API. One that is not there is told as OpenAI's service does. */
static void say_not_loaded(struct str id, const char *field, struct err *err)
{
    if (err->code == ERR_NOT_FOUND) {
        err_set(err, ERR_INVALID, "Previous response with id '%.60s' not found.", id.p);
        err->detail = "previous_response_not_found";
    } else if (err->code == ERR_SESSION_BUSY) {
        err_set(err, ERR_SESSION_BUSY,
                "Response '%.60s' is still being made, or is just being continued by another "
                "request; try again shortly",
                id.p);
        err->retry_after_s = 1;
    } else {
        return;
    }
    snprintf(err->field, sizeof(err->field), "%s", field);
}

static void load_next(struct call *c);

static void on_loaded(void *ctx, struct session *session, const struct err *err)
{
    struct call *c = OBJ(ctx, struct call, CALL_TAG);
    struct str id = json_str_of(json_array_get(c->req.wanted, c->loaded++));
    struct err why;
    bool previous = str_eq(id, c->req.previous);
    if (session) {
        json_object_setn(c->req.stored, id.p, id.len, session->messages);
        session_release(session);
    }
    if (!c->http) {
        call_unref(c);
    } else if (err && (previous || err->code != ERR_NOT_FOUND)) {
        why = *err;
        say_not_loaded(id, previous ? "previous_response_id" : "input", &why);
        http_req_on_gone(c->http, NULL, NULL);
        http_reply_error(c->http, &why);
        call_unref(c);
    } else {
        load_next(c); /* an item that is not there: the translation says where */
    }
}

/* The conversations that the request refers to, one after the other. */
static void load_next(struct call *c)
{
    char uuid[ID_UUID_SIZE];
    if (c->loaded == json_array_size(c->req.wanted)) {
        http_req_on_gone(c->http, NULL, NULL);
        submit(c);
        return;
    }
    struct str id = json_str_of(json_array_get(c->req.wanted, c->loaded));
    if (responses_id_to_uuid(id, uuid)) {
        session_open(c->g->sessions, uuid, gateway_key(c->http)->key.id, on_loaded, c);
        return;
    }
    struct err err;
    err_set(&err, ERR_NOT_FOUND, "no id of ours");
    on_loaded(c, NULL, &err);
}

void openai_responses(struct http_req *req, void *ctx)
{
    struct gateway *g = OBJ(ctx, struct gateway, GATEWAY_TAG);
    struct call *c = x_calloc(1, sizeof(*c));
    struct err err;
    *c = (struct call){.tag = CALL_TAG, .refs = 1, .g = g, .http = req};
    responses_request_init(&c->req);
    response_init(&c->answer);
    c->body = json_parse_foreign(http_req_body(req), &err);
    if (c->body && responses_read(c->body, &c->req, &err) == 0) {
        http_req_on_gone(req, on_gone, c);
        load_next(c);
        return;
    }
    http_reply_error(req, &err);
    call_unref(c);
}

/* --- looking it up ------------------------------------------------------------------------ */

struct lookup {
    struct gateway *g;
    struct http_req *http; /* NULL: the client has left */
    char id[RESPONSE_ID_SIZE], uuid[ID_UUID_SIZE];
};

static void lookup_gone(void *ctx)
{
    struct lookup *l = ctx;
    l->http = NULL;
}

/* The blocks of the last message, if it is the assistant's. */
static const json_t *answer_content(const json_t *messages)
{
    size_t n = json_array_size(messages);
    const json_t *last = n ? json_array_get(messages, n - 1) : NULL;
    return str_eq_c(json_get_str(last, "role"), "assistant") ? json_object_get(last, "content")
                                                             : NULL;
}

/* NULL: a session, but no response. */
static json_t *envelope_of(const struct lookup *l, const json_t *system)
{
    struct err ignored;
    json_t *object = json_parse(json_str_of(system), &ignored);
    if (object && str_eq_c(json_get_str(object, "id"), l->id))
        return object;
    json_decref(object);
    return NULL;
}

static json_t *stored_object(const struct lookup *l, const struct session_content *c)
{
    struct response r;
    json_t *object = envelope_of(l, c->system);
    if (!object)
        return NULL;
    response_init(&r);
    memcpy(r.id, l->id, sizeof(r.id));
    r.summary = json_is_string(json_object_get(json_object_get(object, "reasoning"), "summary"));
    AUTO(json_unref_p)
    json_t *whole = response_object(&r, "completed", NULL, answer_content(c->messages), "");
    json_object_set(object, "output", json_object_get(whole, "output"));
    response_release(&r);
    return object;
}

static void no_such(const char *id, struct err *err)
{
    err_set(err, ERR_NOT_FOUND, "There is no response '%.60s'; it is not complete, or has expired",
            id);
}

/* The client, if it is still there. The lookup is over. */
static struct http_req *lookup_end(struct lookup *l)
{
    struct http_req *http = l->http;
    if (http)
        http_req_on_gone(http, NULL, NULL);
    free(l);
    return http;
}

/* err NULL: there is a session, but it is no response. */
static void lookup_fail(struct lookup *l, const struct err *err)
{
    struct err why;
    if (!err || err->code == ERR_NOT_FOUND)
        no_such(l->id, &why);
    else
        why = *err;
    struct http_req *http = lookup_end(l);
    if (http)
        http_reply_error(http, &why);
}

static void lookup_reply(struct lookup *l, const json_t *object)
{
    AUTO(buf_release) struct buf b;
    struct http_req *http = lookup_end(l);
    buf_init(&b, ANSWER_MAX);
    if (!http)
        return;
    json_write(&b, object);
    http_reply_json(http, 200, &b);
}

/* NULL after having answered: no response can have this id. */
static struct lookup *lookup_new(struct gateway *g, struct http_req *req)
{
    struct lookup *l = x_calloc(1, sizeof(*l));
    struct str id = str_c(http_req_param(req, "id"));
    *l = (struct lookup){.g = g, .http = req};
    snprintf(l->id, sizeof(l->id), "%s", id.p);
    if (!responses_id_to_uuid(id, l->uuid)) {
        lookup_fail(l, NULL);
        return NULL;
    }
    http_req_on_gone(req, lookup_gone, l);
    return l;
}

static void on_lookup(void *ctx, const struct session_row *row,
                      const struct session_content *content, const struct err *err)
{
    struct lookup *l = ctx;
    AUTO(json_unref_p) json_t *object = row ? stored_object(l, content) : NULL;
    if (object)
        lookup_reply(l, object);
    else
        lookup_fail(l, err);
}

void openai_response_get(struct http_req *req, void *ctx)
{
    struct lookup *l = lookup_new(OBJ(ctx, struct gateway, GATEWAY_TAG), req);
    if (l)
        session_read(l->g->sessions, l->uuid, gateway_key(req)->key.id, on_lookup, l);
}

/* --- deleting it -------------------------------------------------------------------------- */

static void on_deleted(void *ctx, const struct err *err)
{
    struct lookup *l = ctx;
    AUTO(json_unref_p)
    json_t *told = json_pack("{s:s, s:s, s:b}", "id", l->id, "object", "response", "deleted", 1);
    if (err)
        lookup_fail(l, err);
    else
        lookup_reply(l, told);
}

/* A session of the native API is not ended under this name. */
static void on_found(void *ctx, const struct session_row *row,
                     const struct session_content *content, const struct err *err)
{
    struct lookup *l = ctx;
    AUTO(json_unref_p) json_t *object = row ? envelope_of(l, content->system) : NULL;
    if (object)
        session_end(l->g->sessions, l->uuid, row->api_key_id, on_deleted, l);
    else
        lookup_fail(l, err);
}

void openai_response_delete(struct http_req *req, void *ctx)
{
    struct lookup *l = lookup_new(OBJ(ctx, struct gateway, GATEWAY_TAG), req);
    if (l)
        session_read(l->g->sessions, l->uuid, gateway_key(req)->key.id, on_found, l);
}
