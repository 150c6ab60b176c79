/* stream.c - replies whose body comes bit by bit.
 *
 * evhttp begins and ends them; the pieces go straight into the connection's output, framed here,
 * because evhttp_send_reply_chunk() costs four buffer chains per piece. Everything written in one
 * turn of the loop leaves in one system call. HTTP/1.0 clients get the body unframed and the end
 * of the connection as its end. */
#include "http/recorder.h"

void http_stream_begin(struct http_req *req, int status, const char *content_type)
{
    BUG_ON(req->done || req->status);
    req->streaming = true;
    if (!req->conn && !req->record) {
        req->status = status;
        return;
    }
    if (req->http10) /* or evhttp would promise to keep the connection, and length 0 */
        evhttp_remove_header(evhttp_request_get_input_headers(req->ev), "Connection");
    /* the same choice as evhttp's */
    req->chunked =
        !req->http10 && !req->head &&
        !evhttp_find_header(evhttp_request_get_output_headers(req->ev), "Content-Length");
    reply_headers(req, status, content_type);
    if (req->conn)
        evhttp_send_reply_start(req->ev, status, reply_phrase(status));
}

void stream_send(struct http_req *req, struct str data)
{
    BUG_ON(!req->streaming || req->done);
    if (!req->conn || data.len == 0 || req->head)
        return;
    struct evbuffer *out = bufferevent_get_output(req->conn->bev);
    if (req->chunked) {
        char size[24];
        int n = snprintf(size, sizeof(size), "%zx\r\n", data.len);
        evbuffer_add(out, size, (size_t)n);
    }
    evbuffer_add(out, data.p, data.len);
    if (req->chunked)
        evbuffer_add(out, "\r\n", 2);
    if (req->drain_fn && evbuffer_get_length(out) > req->drain_low)
        req->drain_above = true;
}

void http_stream_write(struct http_req *req, struct str data)
{
    if (req->record)
        record_stream(req->record, data);
    stream_send(req, data);
}

void http_stream_end(struct http_req *req)
{
    struct http_conn *c = req->conn;
    BUG_ON(!req->streaming || req->done);
    if (req->record)
        record_end(req, true);
    if (!c) {
        req_drop_reply(req);
        return;
    }
    req_owner_done(req);
    conn_move(c, CONN_SENDING);
    evhttp_send_reply_end(req->ev); /* may end the request at once */
}

size_t http_stream_backlog(const struct http_req *req)
{
    return req->conn ? evbuffer_get_length(bufferevent_get_output(req->conn->bev)) : 0;
}

void http_stream_on_drain(struct http_req *req, size_t low, http_gone_fn *fn, void *ctx)
{
    req->drain_fn = fn;
    req->drain_ctx = ctx;
    req->drain_low = low;
    req->drain_above = fn && http_stream_backlog(req) > low;
}
