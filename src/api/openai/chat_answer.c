/* chat_answer.c - written as text, not through JSON values: a stream has many chunks, and all of
 * them begin the same. */
#include "api/openai/chat_answer.h"

#define TEXT_MAX ((size_t)256 << 20)

/* --- usage -------------------------------------------------------------------------------- */

size_t openai_thinking_bytes(const json_t *content)
{
    size_t i, n = 0;
    const json_t *block;
    json_array_foreach(content, i, block)
    {
        n += json_get_str(block, "thinking").len;
    }
    return n;
}

struct openai_usage openai_usage_of(const json_t *usage, size_t thinking_bytes)
{
    struct openai_usage u = {0};
    u.cached = json_get_int(usage, "cache_read_input_tokens", 0);
    u.prompt = json_get_int(usage, "input_tokens", 0) + u.cached +
               json_get_int(usage, "cache_creation_input_tokens", 0);
    u.completion = json_get_int(usage, "output_tokens", 0);
    u.reasoning = (int64_t)((thinking_bytes + 3) / 4);
    if (u.reasoning > u.completion)
        u.reasoning = u.completion;
    return u;
}

static void put_usage(const struct openai_usage *u, struct buf *out)
{
    const struct {
        const char *lead;
        int64_t value;
    } parts[] = {
        {"{\"prompt_tokens\":", u->prompt},
        {",\"completion_tokens\":", u->completion},
        {",\"total_tokens\":", u->prompt + u->completion},
        {",\"prompt_tokens_details\":{\"cached_tokens\":", u->cached},
        {",\"audio_tokens\":0},\"completion_tokens_details\":{\"reasoning_tokens\":", u->reasoning},
    };
    for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
        buf_adds(out, parts[i].lead);
        buf_int(out, parts[i].value);
    }
    buf_adds(out, ",\"audio_tokens\":0,\"accepted_prediction_tokens\":0,"
                  "\"rejected_prediction_tokens\":0}}");
}

/* --- the whole answer --------------------------------------------------------------------- */

void openai_chat_init(struct openai_chat *c)
{
    *c = (struct openai_chat){.tool = -1};
    buf_init(&c->head, 2048);
}

void openai_chat_release(struct openai_chat *c)
{
    buf_release(&c->head);
}

const char *openai_finish_reason(const char *stop_reason, bool legacy)
{
    struct str s = str_c(stop_reason);
    if (str_eq_c(s, "max_tokens") || str_eq_c(s, "model_context_window_exceeded"))
        return "length";
    if (str_eq_c(s, "tool_use"))
        return legacy ? "function_call" : "tool_calls";
    return str_eq_c(s, "refusal") ? "content_filter" : "stop";
}

static bool is_type(const json_t *block, const char *type)
{
    return str_eq_c(json_get_str(block, "type"), type);
}

static void put_identity(const struct openai_chat *c, const char *object, struct str model,
                         struct buf *out)
{
    buf_printf(out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", c->id, object,
               (long long)c->created);
    buf_json_str(out, model);
    buf_printf(out, ",\"service_tier\":\"default\",\"system_fingerprint\":\"%s\"", c->fingerprint);
}

void openai_arguments(const json_t *block, struct buf *ret_text)
{
    const json_t *input = json_object_get(block, "input");
    buf_init(ret_text, TEXT_MAX);
    if (input)
        json_write(ret_text, input);
    else
        buf_adds(ret_text, "{}");
}

/* "name" and "arguments", which is JSON text inside a string. */
static void put_function(const json_t *block, struct buf *out)
{
    AUTO(buf_release) struct buf text;
    openai_arguments(block, &text);
    buf_adds(out, "{\"name\":");
    buf_json_str(out, json_get_str(block, "name"));
    buf_adds(out, ",\"arguments\":");
    buf_json_str(out, buf_str(&text));
    buf_addc(out, '}');
}

static void put_calls(const struct openai_chat *c, const json_t *content, struct buf *out)
{
    size_t i, n = 0;
    const json_t *block;
    json_array_foreach(content, i, block)
    {
        if (!is_type(block, "tool_use"))
            continue;
        if (c->legacy) {
            buf_adds(out, ",\"function_call\":");
            put_function(block, out);
            return;
        }
        buf_adds(out, n++ ? "," : ",\"tool_calls\":[");
        buf_adds(out, "{\"id\":");
        buf_json_str(out, json_get_str(block, "id"));
        buf_adds(out, ",\"type\":\"function\",\"function\":");
        put_function(block, out);
        buf_addc(out, '}');
    }
    if (n)
        buf_addc(out, ']');
}

static void put_text(const json_t *content, bool calls, struct buf *out)
{
    AUTO(buf_release) struct buf text;
    size_t i;
    const json_t *block;
    buf_init(&text, TEXT_MAX);
    json_array_foreach(content, i, block)
    {
        if (is_type(block, "text"))
            buf_addstr(&text, json_get_str(block, "text"));
    }
    if (text.len == 0 && calls)
        buf_adds(out, "null");
    else
        buf_json_str(out, buf_str(&text));
}

void openai_chat_completion(const struct openai_chat *c, const json_t *head, const json_t *content,
                            const char *stop_reason, struct buf *out)
{
    struct openai_usage u =
        openai_usage_of(json_object_get(head, "usage"), openai_thinking_bytes(content));
    bool calls = str_eq_c(str_c(stop_reason), "tool_use");
    put_identity(c, "chat.completion", json_get_str(head, "model"), out);
    buf_adds(out, ",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":");
    put_text(content, calls, out);
    put_calls(c, content, out);
    buf_printf(out,
               ",\"refusal\":null,\"annotations\":[]},\"logprobs\":null,\"finish_reason\":\"%s\"}]",
               openai_finish_reason(stop_reason, c->legacy));
    buf_adds(out, ",\"usage\":");
    put_usage(&u, out);
    buf_addc(out, '}');
}

/* --- a stream ----------------------------------------------------------------------------- */

static void begin_chunk(const struct openai_chat *c, struct buf *out)
{
    buf_addstr(out, buf_str(&c->head));
    buf_adds(out, ",\"choices\":[{\"index\":0,\"delta\":{");
}

static void end_chunk(const struct openai_chat *c, const char *finish, struct buf *out)
{
    buf_adds(out, "},\"logprobs\":null,\"finish_reason\":");
    if (finish)
        buf_printf(out, "\"%s\"", finish);
    else
        buf_adds(out, "null");
    buf_adds(out, c->include_usage ? "}],\"usage\":null}" : "}]}");
}

static void start_message(struct openai_chat *c, const json_t *message, struct buf *out)
{
    struct str model = json_get_str(message, "model");
    snprintf(c->model, sizeof(c->model), "%.*s", (int)model.len, model.p);
    buf_clear(&c->head);
    put_identity(c, "chat.completion.chunk", str_c(c->model), &c->head);
    begin_chunk(c, out);
    buf_adds(out, "\"role\":\"assistant\",\"content\":\"\",\"refusal\":null");
    end_chunk(c, NULL, out);
}

static void start_call(struct openai_chat *c, const json_t *block, struct buf *out)
{
    c->in_tool = true;
    c->got_json = false;
    c->tool++;
    begin_chunk(c, out);
    if (c->legacy) {
        buf_adds(out, "\"function_call\":{\"name\":");
        buf_json_str(out, json_get_str(block, "name"));
        buf_adds(out, ",\"arguments\":\"\"}");
    } else {
        buf_printf(out, "\"tool_calls\":[{\"index\":%lld,\"id\":", (long long)c->tool);
        buf_json_str(out, json_get_str(block, "id"));
        buf_adds(out, ",\"type\":\"function\",\"function\":{\"name\":");
        buf_json_str(out, json_get_str(block, "name"));
        buf_adds(out, ",\"arguments\":\"\"}}]");
    }
    end_chunk(c, NULL, out);
}

static void put_arguments(struct openai_chat *c, struct str json, struct buf *out)
{
    if (json.len == 0)
        return;
    c->got_json = true;
    begin_chunk(c, out);
    if (c->legacy)
        buf_adds(out, "\"function_call\":{\"arguments\":");
    else
        buf_printf(out, "\"tool_calls\":[{\"index\":%lld,\"function\":{\"arguments\":",
                   (long long)c->tool);
    buf_json_str(out, json);
    buf_adds(out, c->legacy ? "}" : "}}]");
    end_chunk(c, NULL, out);
}

static void put_delta(struct openai_chat *c, const json_t *delta, struct buf *out)
{
    struct str text = json_get_str(delta, "text");
    if (c->in_tool) {
        put_arguments(c, json_get_str(delta, "partial_json"), out);
    } else if (is_type(delta, "text_delta") && text.len) {
        begin_chunk(c, out);
        buf_adds(out, "\"content\":");
        buf_json_str(out, text);
        end_chunk(c, NULL, out);
    } else {
        c->thinking_bytes += json_get_str(delta, "thinking").len;
    }
}

/* What comes before message_start is no answer: the turn will fail. */
void openai_chat_event(struct openai_chat *c, const json_t *event, struct buf *out)
{
    if (c->head.len == 0 && !is_type(event, "message_start"))
        return;
    if (is_type(event, "content_block_delta")) {
        put_delta(c, json_object_get(event, "delta"), out);
    } else if (is_type(event, "content_block_start")) {
        const json_t *block = json_object_get(event, "content_block");
        c->in_tool = false;
        if (is_type(block, "tool_use"))
            start_call(c, block, out);
    } else if (is_type(event, "content_block_stop")) {
        if (c->in_tool && !c->got_json) /* no arguments at all: still JSON */
            put_arguments(c, STR("{}"), out);
        c->in_tool = false;
    } else if (is_type(event, "message_start")) {
        start_message(c, json_object_get(event, "message"), out);
    }
}

void openai_chat_finish_chunk(const struct openai_chat *c, const char *stop_reason, struct buf *out)
{
    begin_chunk(c, out);
    end_chunk(c, openai_finish_reason(stop_reason, c->legacy), out);
}

void openai_chat_usage_chunk(const struct openai_chat *c, const json_t *usage, struct buf *out)
{
    struct openai_usage u = openai_usage_of(usage, c->thinking_bytes);
    buf_addstr(out, buf_str(&c->head));
    buf_adds(out, ",\"choices\":[],\"usage\":");
    put_usage(&u, out);
    buf_addc(out, '}');
}
