/* trial.c - the answer to a trial's request: a whole message stream in one piece.
 *
 * Everything is handed to evhttp before the request's callback returns, so a trial holds no call
 * that its end would have to cut. */
#include "upstream/trial.h"

#include "core/id.h"
#include "core/json.h"
#include "upstream/call.h"

#include <event2/buffer.h>
#include <event2/http.h>

#define BYTES_PER_TOKEN 4 /* a guess is good enough for an answer that nobody pays for */
#define ID_CHARS        24

static void put_event(struct evbuffer *out, const char *name, json_t *data_consume)
{
    char *text = json_dumps(data_consume, JSON_COMPACT);
    BUG_ON(!text); /* made of valid parts only */
    evbuffer_add_printf(out, "event: %s\ndata: %s\n\n", name, text);
    free(text);
    json_decref(data_consume);
}

static json_t *message(const json_t *request, json_int_t input_tokens)
{
    char id[ID_CHARS + 1];
    struct str model = json_get_str(request, "model");
    id_alnum(id, ID_CHARS);
    return json_pack("{s:s+,s:s,s:s,s:s%,s:[],s:n,s:n,s:{s:I,s:i,s:i,s:I}}", "id", "msg_", id,
                     "type", "message", "role", "assistant", "model", model.p ? model.p : "",
                     model.len, "content", "stop_reason", "stop_sequence", "usage", "input_tokens",
                     input_tokens, "cache_creation_input_tokens", 0, "cache_read_input_tokens", 0,
                     "output_tokens", (json_int_t)1);
}

static void put_message(struct evbuffer *out, const json_t *request, size_t bytes,
                        const char *answer)
{
    json_int_t input = (json_int_t)(bytes / BYTES_PER_TOKEN) + 1;
    json_int_t output = (json_int_t)(strlen(answer) / BYTES_PER_TOKEN) + 1;
    put_event(out, "message_start",
              json_pack("{s:s,s:o}", "type", "message_start", "message", message(request, input)));
    put_event(out, "content_block_start",
              json_pack("{s:s,s:i,s:{s:s,s:s}}", "type", "content_block_start", "index", 0,
                        "content_block", "type", "text", "text", ""));
    put_event(out, "content_block_delta",
              json_pack("{s:s,s:i,s:{s:s,s:s}}", "type", "content_block_delta", "index", 0, "delta",
                        "type", "text_delta", "text", answer));
    put_event(out, "content_block_stop",
              json_pack("{s:s,s:i}", "type", "content_block_stop", "index", 0));
    put_event(out, "message_delta",
              json_pack("{s:s,s:{s:s,s:n},s:{s:I}}", "type", "message_delta", "delta",
                        "stop_reason", "end_turn", "stop_sequence", "usage", "output_tokens",
                        output));
    put_event(out, "message_stop", json_pack("{s:s}", "type", "message_stop"));
}

static void answer(struct relay_trial *trial, struct evhttp_request *req, size_t bytes)
{
    struct evkeyvalq *headers = evhttp_request_get_output_headers(req);
    struct evbuffer *out = evbuffer_new();
    BUG_ON(!out);
    evhttp_add_header(headers, "content-type", "text/event-stream; charset=utf-8");
    evhttp_add_header(headers, "cache-control", "no-cache");
    put_message(out, trial->request, bytes, trial->answer);
    evhttp_send_reply(req, HTTP_OK, NULL, out);
    evbuffer_free(out);
}

void trial_serve(struct relay_trial *trial, struct evhttp_request *req)
{
    struct evbuffer *in = evhttp_request_get_input_buffer(req);
    size_t bytes = evbuffer_get_length(in);
    struct str body = str_n((const char *)evbuffer_pullup(in, -1), bytes);
    struct err err;
    trial->calls++;
    json_t *request = json_parse(body, &err);
    if (!json_is_object(request)) {
        json_decref(request);
        call_refuse(req, 400, "invalid_request_error", "the request body is not one JSON object");
        return;
    }
    json_decref(trial->request);
    trial->request = request;
    answer(trial, req, bytes);
}
