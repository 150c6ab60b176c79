/* chat.c - POST /v1/chat/completions: the handler, and how its answers are written. */
#include "api/openai/chat_answer.h"
#include "api/openai/chat_request.h"
#include "api/openai/openai.h"

#include "api/anthropic/messages.h"
#include "core/clock.h"

#define ANSWER_MAX ((size_t)256 << 20)
#define EVENT_MAX  ((size_t)128 << 20)
#define CHAT_TAG   TAG4('O', 'C', 'H', 'T')

struct chat {
    uint32_t tag;
    struct openai_chat answer;
    struct openai_quiet quiet;
};

static void chat_free(void *extra)
{
    struct chat *c = OBJ(extra, struct chat, CHAT_TAG);
    openai_chat_release(&c->answer);
    c->tag = 0;
    free(c);
}

static struct openai_chat *answer_of(const struct job *job)
{
    struct chat *c = OBJ(job_request(job)->extra, struct chat, CHAT_TAG);
    return &c->answer;
}

static void send(struct job *job, struct buf *b)
{
    if (b->len)
        http_sse_event(job_http(job), NULL, buf_str(b));
    buf_clear(b);
}

static void chat_begin(struct job *job)
{
    (void)job; /* the first chunk needs the model's name, which comes with the first event */
}

static void chat_event(struct job *job, const json_t *event)
{
    struct chat *c = OBJ(job_request(job)->extra, struct chat, CHAT_TAG);
    AUTO(buf_release) struct buf b;
    buf_init(&b, EVENT_MAX);
    openai_chat_event(&c->answer, event, &b);
    openai_keep_alive(&c->quiet, job, b.len > 0);
    send(job, &b);
}

static void finish_stream(struct job *job, const struct turn_result *r)
{
    const struct openai_chat *c = answer_of(job);
    AUTO(buf_release) struct buf b;
    buf_init(&b, EVENT_MAX);
    openai_chat_finish_chunk(c, r->stop_reason, &b);
    send(job, &b);
    if (c->include_usage) {
        openai_chat_usage_chunk(c, json_object_get(r->message->head, "usage"), &b);
        send(job, &b);
    }
    http_sse_event(job_http(job), NULL, STR("[DONE]"));
    http_stream_end(job_http(job));
}

static void chat_finish(struct job *job, const struct turn_result *r)
{
    if (job_request(job)->stream) {
        finish_stream(job, r);
        return;
    }
    AUTO(buf_release) struct buf b;
    buf_init(&b, ANSWER_MAX);
    openai_chat_completion(answer_of(job), r->message->head, r->message->content, r->stop_reason,
                           &b);
    http_reply_json(job_http(job), 200, &b);
}

static void chat_fail(struct job *job, const struct err *err)
{
    AUTO(buf_release) struct buf b;
    buf_init(&b, EVENT_MAX);
    http_error_body(DIALECT_OPENAI, http_req_id(job_http(job)), err, &b);
    http_sse_event(job_http(job), NULL, buf_str(&b));
    http_stream_end(job_http(job)); /* no [DONE]: the answer is not complete */
}

static const struct dialect chat_dialect = {.name = "openai-chat",
                                            .begin = chat_begin,
                                            .event = chat_event,
                                            .finish = chat_finish,
                                            .fail = chat_fail};

static void attach(struct chat_request *r, const struct openai_request *t, const struct gateway *g,
                   const struct http_req *req)
{
    struct chat *c = x_calloc(1, sizeof(*c));
    c->tag = CHAT_TAG;
    openai_chat_init(&c->answer);
    c->answer.created = clock_wall_ms() / 1000;
    c->answer.include_usage = t->include_usage;
    c->answer.legacy = t->legacy;
    openai_make_id(req, "chatcmpl-", c->answer.id, sizeof(c->answer.id));
    openai_fingerprint(g, r->model, c->answer.fingerprint);
    r->extra = c;
    r->extra_free = chat_free;
}

static struct chat_request *read_body(const struct gateway *g, struct http_req *req,
                                      struct err *err)
{
    struct openai_env env = openai_env_of(g, req);
    AUTO(json_unref_p) json_t *body = json_parse_foreign(http_req_body(req), err);
    AUTO(openai_request_release) struct openai_request t;
    openai_request_init(&t);
    if (!body || openai_chat_translate(body, &env, &t, err) != 0)
        return NULL;
    struct chat_request *r = openai_parse(req, &t, false, openai_chat_max_tokens_name(body), err);
    if (r)
        attach(r, &t, g, req);
    return r;
}

void openai_chat_completions(struct http_req *req, void *ctx)
{
    struct gateway *g = OBJ(ctx, struct gateway, GATEWAY_TAG);
    struct err err;
    struct chat_request *r = read_body(g, req, &err);
    if (!r) {
        http_reply_error(req, &err);
        return;
    }
    messages_tell_ignored(req, r);
    gateway_submit(g, req, r, &chat_dialect);
}
