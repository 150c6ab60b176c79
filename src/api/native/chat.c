/* chat.c - POST /api/chat: the handler, and how its answers are written. */
#include "api/native/native.h"

#define ANSWER_MAX ((size_t)256 << 20)
#define EVENT_MAX  ((size_t)128 << 20)

static void put_usage(struct buf *b, const struct turn_result *r)
{
    int64_t prompt = r->input_tokens + r->cache_creation_tokens + r->cache_read_tokens;
    const struct {
        const char *name;
        int64_t value;
    } parts[] = {{"{\"promptTokens\":", prompt},
                 {",\"completionTokens\":", r->output_tokens},
                 {",\"totalTokens\":", prompt + r->output_tokens},
                 {",\"cacheCreationTokens\":", r->cache_creation_tokens},
                 {",\"cacheReadTokens\":", r->cache_read_tokens}};
    buf_adds(b, "\"usage\":");
    for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
        buf_adds(b, parts[i].name);
        buf_int(b, parts[i].value);
    }
    buf_addc(b, '}');
}

/* sessionId, requestId, model: what every kind of answer begins with. */
static void put_identity(struct buf *b, const struct job *job)
{
    buf_printf(b, "\"sessionId\":\"%s\",\"requestId\":\"%s\",\"model\":", job_session_id(job),
               http_req_id(job_http(job)));
    buf_json_str(b, str_c(job_request(job)->model));
}

static void put_end(struct buf *b, const struct turn_result *r)
{
    buf_adds(b, ",\"stopReason\":");
    buf_json_str(b, str_c(r->stop_reason));
    buf_addc(b, ',');
    put_usage(b, r);
    buf_addc(b, '}');
}

static void chat_begin(struct job *job)
{
    struct buf b;
    buf_init(&b, EVENT_MAX);
    buf_adds(&b, "{\"type\":\"start\",");
    put_identity(&b, job);
    buf_addc(&b, '}');
    http_sse_event(job_http(job), NULL, buf_str(&b));
    buf_release(&b);
}

static void chat_event(struct job *job, const json_t *event)
{
    const json_t *delta = json_object_get(event, "delta");
    struct str text = json_get_str(delta, "text");
    if (!str_eq_c(json_get_str(delta, "type"), "text_delta") || text.len == 0)
        return;
    struct buf b;
    buf_init(&b, EVENT_MAX);
    buf_adds(&b, "{\"type\":\"delta\",\"delta\":");
    buf_json_str(&b, text);
    buf_addc(&b, '}');
    http_sse_event(job_http(job), NULL, buf_str(&b));
    buf_release(&b);
}

/* {"type":"tool_use","id","name","input"} and {"type":"tool_result","id","isError"}: what a tool
 * read may be large, and stands in the next answer as far as it matters. */
static void chat_tool(struct job *job, const json_t *block)
{
    bool result = str_eq_c(json_get_str(block, "type"), "tool_result");
    const json_t *input = json_object_get(block, "input");
    struct buf b;
    buf_init(&b, EVENT_MAX);
    buf_printf(&b, "{\"type\":\"%s\",\"id\":", result ? "tool_result" : "tool_use");
    buf_json_str(&b, json_get_str(block, result ? "tool_use_id" : "id"));
    if (result) {
        buf_printf(&b, ",\"isError\":%s",
                   json_get_bool(block, "is_error", false) ? "true" : "false");
    } else if (input) {
        buf_adds(&b, ",\"name\":");
        buf_json_str(&b, json_get_str(block, "name"));
        buf_adds(&b, ",\"input\":");
        json_write(&b, input);
    }
    buf_addc(&b, '}');
    http_sse_event(job_http(job), NULL, buf_str(&b));
    buf_release(&b);
}

static void finish_stream(struct job *job, const struct turn_result *r)
{
    struct buf b;
    buf_init(&b, EVENT_MAX);
    buf_adds(&b, "{\"type\":\"end\",");
    put_identity(&b, job);
    put_end(&b, r);
    http_sse_event(job_http(job), NULL, buf_str(&b));
    http_sse_event(job_http(job), NULL, STR("[DONE]"));
    http_stream_end(job_http(job));
    buf_release(&b);
}

static void chat_finish(struct job *job, const struct turn_result *r)
{
    if (job_request(job)->stream) {
        finish_stream(job, r);
        return;
    }
    struct buf text, b;
    buf_init(&text, ANSWER_MAX);
    buf_init(&b, ANSWER_MAX);
    cli_message_text(r->message, &text);
    buf_adds(&b, "{\"success\":true,");
    put_identity(&b, job);
    buf_adds(&b, ",\"response\":");
    buf_json_str(&b, buf_str(&text));
    put_end(&b, r);
    http_reply_json(job_http(job), 200, &b);
    buf_release(&text);
    buf_release(&b);
}

static void chat_fail(struct job *job, const struct err *err)
{
    struct buf b;
    buf_init(&b, EVENT_MAX);
    http_error_body(DIALECT_NATIVE, http_req_id(job_http(job)), err, &b);
    http_sse_event(job_http(job), NULL, buf_str(&b));
    http_stream_end(job_http(job)); /* no [DONE]: the answer is not complete */
    buf_release(&b);
}

static const struct dialect native = {.name = "native",
                                      .begin = chat_begin,
                                      .event = chat_event,
                                      .tool = chat_tool,
                                      .finish = chat_finish,
                                      .fail = chat_fail};

void native_chat(struct http_req *req, void *ctx)
{
    struct gateway *g = OBJ(ctx, struct gateway, GATEWAY_TAG);
    struct err err;
    struct chat_request *r = native_parse_chat(http_req_body(req), &err);
    if (r)
        gateway_submit(g, req, r, &native);
    else
        http_reply_error(req, &err);
}
