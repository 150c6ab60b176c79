/* reply.c - whole replies: status, headers, body. Streams are in stream.c. */
#include "http/recorder.h"

#include "core/clock.h"
#include "core/log.h"

#define JSON_TYPE "application/json"

/* Those evhttp 2.1 does not know. */
static const struct {
    int status;
    const char *phrase;
} phrases[] = {
    {408, "Request Timeout"},
    {409, "Conflict"},
    {413, "Content Too Large"},
    {414, "URI Too Long"},
    {422, "Unprocessable Content"},
    {425, "Too Early"},
    {429, "Too Many Requests"},
    {431, "Request Header Fields Too Large"},
    {499, "Client Closed Request"},
    {529, "Overloaded"},
    /* for refusals, which evhttp does not write */
    {400, "Bad Request"},
    {415, "Unsupported Media Type"},
    {417, "Expectation Failed"},
    {501, "Not Implemented"},
    {503, "Service Unavailable"},
    {505, "HTTP Version Not Supported"},
};

const char *reply_phrase(int status)
{
    for (size_t i = 0; i < ARRAY_SIZE(phrases); i++) {
        if (phrases[i].status == status)
            return phrases[i].phrase;
    }
    return NULL; /* evhttp's own */
}

void http_set_header(struct http_req *req, const char *name, const char *value)
{
    BUG_ON(req->status);
    if (!req->conn && !req->record)
        return;
    struct evkeyvalq *headers = evhttp_request_get_output_headers(req->ev);
    evhttp_remove_header(headers, name);
    if (strpbrk(value, "\r\n") || evhttp_add_header(headers, name, value) != 0)
        log_error("response header with a line break, ignoring", LF_S("header", name),
                  LF_S("request_id", req->id));
}

static void openai_headers(const struct http_req *req, struct evkeyvalq *headers)
{
    char ms[24];
    snprintf(ms, sizeof(ms), "%lld", (long long)((clock_mono_us() - req->start_us) / 1000));
    evhttp_add_header(headers, "openai-version", HTTP_OPENAI);
    evhttp_add_header(headers, "openai-processing-ms", ms);
}

void reply_headers(struct http_req *req, int status, const char *content_type)
{
    struct evkeyvalq *headers = evhttp_request_get_output_headers(req->ev);
    if (content_type && status != 204)
        http_set_header(req, "Content-Type", content_type);
    if (content_type && strcmp(content_type, JSON_TYPE) == 0 &&
        !evhttp_find_header(headers, "Cache-Control"))
        evhttp_add_header(headers, "Cache-Control", "no-store");
    if (req->record)
        record_head(req->record, status, headers);
    evhttp_add_header(headers, "request-id", req->id);
    evhttp_add_header(headers, "x-request-id", req->id);
    evhttp_add_header(headers, "X-Content-Type-Options", "nosniff");
    if (req->dialect == DIALECT_OPENAI)
        openai_headers(req, headers);
    if (req->server->opts.hsts)
        evhttp_add_header(headers, "Strict-Transport-Security", HTTP_HSTS);
    if (req->wants_close || req->server->draining)
        http_set_header(req, "Connection", "close");
    req->status = status;
}

static bool has_body(int status)
{
    return status != 204 && status != 304;
}

static void put_body(struct http_req *req, int status, struct str body)
{
    if (!has_body(status))
        return;
    if (!req->head) {
        evbuffer_add(evhttp_request_get_output_buffer(req->ev), body.p, body.len);
        return;
    }
    char len[24]; /* what GET would have */
    snprintf(len, sizeof(len), "%zu", body.len);
    http_set_header(req, "Content-Length", len);
}

void http_reply(struct http_req *req, int status, const char *content_type, struct str body)
{
    struct http_conn *c = req->conn;
    BUG_ON(req->done || req->status);
    if (c)
        put_body(req, status, body);
    if (c || req->record)
        reply_headers(req, status, content_type);
    if (req->record) {
        record_whole(req->record, body);
        record_end(req, true);
    }
    if (!c) {
        req_drop_reply(req);
        return;
    }
    req_owner_done(req);
    conn_move(c, CONN_SENDING);
    evhttp_send_reply(req->ev, status, reply_phrase(status), NULL);
    conn_flush(c); /* req may be gone now */
}

void http_reply_json(struct http_req *req, int status, const struct buf *body)
{
    if (buf_ok(body)) {
        http_reply(req, status, JSON_TYPE, buf_str(body));
        return;
    }
    struct err err;
    err_set(&err, ERR_INTERNAL, "the reply is over its limit of %zu bytes", body->max);
    http_reply_error(req, &err);
}

/* The advice that SDKs follow before their own rules; NULL = none. The claude program as a client
 * would repeat even a wrong key, for minutes. */
const char *reply_advice(enum http_dialect dialect, const struct err *err)
{
    if (err->code == ERR_QUOTA) /* the official SDKs would try again all the same */
        return "false";
    if (err->should_retry)
        return err->should_retry > 0 ? "true" : "false";
    bool certain = err->code == ERR_INVALID || err->code == ERR_UNAUTHENTICATED ||
                   err->code == ERR_FORBIDDEN || err->code == ERR_NOT_FOUND ||
                   err->code == ERR_METHOD;
    return certain && dialect != DIALECT_NATIVE ? "false" : NULL;
}

void http_reply_error(struct http_req *req, const struct err *err)
{
    const char *advice = reply_advice(req->dialect, err);
    struct buf body AUTO(buf_release);
    buf_init(&body, 16384);
    http_error_body(req->dialect, req->id, err, &body);
    /* An SDK sleeps for as long as it is told: a day's limit is not to be waited for. */
    bool hopeless = err->code == ERR_QUOTA && req->dialect != DIALECT_NATIVE;
    if (err->retry_after_s > 0 && !hopeless) {
        char seconds[16];
        snprintf(seconds, sizeof(seconds), "%d", err->retry_after_s);
        http_set_header(req, "Retry-After", seconds);
    }
    if (advice)
        http_set_header(req, "x-should-retry", advice);
    observe_fault(req, err);
    http_reply(req, http_error_status(req->dialect, err), JSON_TYPE, buf_str(&body));
}
