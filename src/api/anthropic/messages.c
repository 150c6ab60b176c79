/* messages.c - POST /v1/messages: the handler, and how its answers are written.
 *
 * Stream events are upstream's own, written as they came with the name the API gives them. Two are
 * ours: `ping`, which the claude program keeps to itself, and message_stop, which is written when
 * the turn is settled, so that a client that has seen it has an answer that is good and booked. */
#include "api/anthropic/messages.h"

#include <ctype.h>

#define ANSWER_MAX ((size_t)256 << 20)
#define EVENT_MAX  ((size_t)128 << 20)
#define BETA_MAX   64
#define BETAS_MAX  40

static void put_event(struct job *job, const char *name, const json_t *event)
{
    AUTO(buf_release) struct buf b;
    buf_init(&b, EVENT_MAX);
    json_write(&b, event);
    http_sse_event(job_http(job), name, buf_str(&b));
}

static void on_ping(struct job *job)
{
    http_sse_event(job_http(job), "ping", STR("{\"type\": \"ping\"}"));
}

static void on_begin(struct job *job)
{
    (void)job; /* message_start is the beginning */
}

static void on_event(struct job *job, const json_t *event)
{
    const char *name = json_string_value(json_object_get(event, "type"));
    if (!name || strcmp(name, "message_stop") == 0)
        return;
    put_event(job, name, event);
    if (strcmp(name, "content_block_start") == 0 && json_get_int(event, "index", -1) == 0)
        on_ping(job); /* where the API has it */
}

static void finish_whole(struct job *job, const struct turn_result *r)
{
    AUTO(buf_release) struct buf b;
    AUTO(json_unref_p) json_t *message = json_copy(r->message->head);
    buf_init(&b, ANSWER_MAX);
    json_object_set(message, "content", r->message->content);
    json_write(&b, message);
    http_reply_json(job_http(job), 200, &b);
}

static void on_finish(struct job *job, const struct turn_result *r)
{
    if (!job_request(job)->stream) {
        finish_whole(job, r);
        return;
    }
    http_sse_event(job_http(job), "message_stop", STR("{\"type\":\"message_stop\"}"));
    http_stream_end(job_http(job));
}

static void on_fail(struct job *job, const struct err *err)
{
    AUTO(buf_release) struct buf b;
    buf_init(&b, EVENT_MAX);
    http_error_body(DIALECT_ANTHROPIC, http_req_id(job_http(job)), err, &b);
    http_sse_event(job_http(job), "error", buf_str(&b));
    http_stream_end(job_http(job));
}

static const struct dialect anthropic = {.name = "anthropic",
                                         .begin = on_begin,
                                         .event = on_event,
                                         .ping = on_ping,
                                         .finish = on_finish,
                                         .fail = on_fail};

/* --- the request's headers --------------------------------------------------------------- */

static bool is_beta(struct str s)
{
    for (size_t i = 0; i < s.len; i++) {
        if (!isalnum((unsigned char)s.p[i]) && !memchr("-._", s.p[i], 3))
            return false;
    }
    return s.len <= BETA_MAX;
}

static int check_betas(const struct http_req *http, struct err *err)
{
    struct str rest = str_c(http_req_header(http, "anthropic-beta"));
    int count = 0;
    while (rest.len) {
        struct str word = str_trim(str_split(&rest, ','));
        if (!is_beta(word) || ++count > BETAS_MAX)
            return err_field(err, "anthropic-beta", "is not a list of beta names");
    }
    return 0;
}

int messages_check_headers(const struct http_req *http, struct err *err)
{
    static const char *const refused[] = {"anthropic-user-profile-id", "anthropic-workspace-id"};
    for (size_t i = 0; i < ARRAY_SIZE(refused); i++) {
        if (http_req_header(http, refused[i]))
            return err_field(err, refused[i], "is not supported by this server");
    }
    return check_betas(http, err);
}

int messages_check_version(const struct http_req *http, const char **ret_version, struct err *err)
{
    static const char *const known[] = {"2023-06-01", "2026-10-21"};
    const char *version = http_req_header(http, "anthropic-version");
    for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
        if (!version || strcmp(version, known[i]) == 0) {
            *ret_version = known[i];
            return 0;
        }
    }
    return err_field(err, "anthropic-version", "\"%.40s\" is not a valid version", version);
}

void anthropic_messages(struct http_req *req, void *ctx)
{
    struct gateway *g = OBJ(ctx, struct gateway, GATEWAY_TAG);
    struct err err;
    struct chat_request *r = NULL;
    const char *version = NULL;
    if (messages_check_version(req, &version, &err) == 0 && messages_check_headers(req, &err) == 0)
        r = messages_parse_text(http_req_body(req), &err);
    if (!r) {
        http_reply_error(req, &err);
        return;
    }
    r->version = version;
    x_replace(&r->betas, http_req_header(req, "anthropic-beta"));
    messages_tell_ignored(req, r);
    gateway_submit(g, req, r, &anthropic);
}
