/* call_refuse.c - errors that the relay itself tells the CLI. */
#include "upstream/call.h"

#include "core/buf.h"

#include <event2/buffer.h>
#include <event2/http.h>

void call_write_error(struct evbuffer *out, const char *type, const char *message)
{
    AUTO(buf_release) struct buf b;
    buf_init(&b, 4096);
    buf_adds(&b, "{\"type\":\"error\",\"error\":{\"type\":");
    buf_json_str(&b, str_c(type));
    buf_adds(&b, ",\"message\":");
    buf_json_str(&b, str_c(message));
    buf_adds(&b, "}}");
    evbuffer_add(out, b.data, b.len);
}

void call_refuse(struct evhttp_request *req, int status, const char *type, const char *message)
{
    struct evkeyvalq *headers = evhttp_request_get_output_headers(req);
    struct evbuffer *body = evbuffer_new();
    BUG_ON(!body);
    evhttp_remove_header(headers, "content-type");
    evhttp_add_header(headers, "content-type", "application/json");
    evhttp_add_header(headers, "x-should-retry", "false"); /* what helps was tried here */
    call_write_error(body, type, message);
    evhttp_send_reply(req, status, NULL, body);
    evbuffer_free(body);
}
