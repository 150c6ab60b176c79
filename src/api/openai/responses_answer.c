/* responses_answer.c - the Response object, and what its items look like. */
#include "api/openai/responses_answer.h"
#include "api/openai/chat_answer.h"
#include "api/openai/responses_parts.h"

void response_init(struct response *r)
{
    *r = (struct response){0};
    buf_init(&r->text, (size_t)256 << 20);
    buf_init(&r->signature, (size_t)4 << 20);
}

void response_release(struct response *r)
{
    json_decref(r->echo);
    json_decref(r->item);
    json_decref(r->block);
    buf_release(&r->text);
    buf_release(&r->signature);
    *r = (struct response){0};
}

json_t *response_text_part(struct str text)
{
    return json_pack("{s:s, s:[], s:[], s:s%}", "type", "output_text", "annotations", "logprobs",
                     "text", text.p, text.len);
}

json_t *response_summary_part(struct str text)
{
    return json_pack("{s:s, s:s%}", "type", "summary_text", "text", text.p, text.len);
}

static void item_id(const struct response *r, const char *prefix, size_t index, char out[64])
{
    snprintf(out, 64, "%s_%s_%zu", prefix, r->id + 5, index);
}

/* Thoughts: a summary only when it was asked for, and all of them for the client to send back. */
static json_t *reasoning_item(const struct response *r, const json_t *block, const char *id)
{
    json_t *item = json_pack("{s:s, s:s, s:[]}", "id", id, "type", "reasoning", "summary");
    struct str text = json_get_str(block, "thinking");
    if (r->summary && text.len)
        json_array_append_new(json_object_get(item, "summary"), response_summary_part(text));
    if (r->encrypted) {
        AUTO(free_charp) char *sealed = responses_seal(block);
        json_object_set_new(item, "encrypted_content", json_string(sealed));
    }
    return item;
}

json_t *response_item(const struct response *r, const json_t *block, size_t index)
{
    char id[64];
    struct str type = json_get_str(block, "type");
    if (str_eq_c(type, "text")) {
        item_id(r, "msg", index, id);
        return json_pack("{s:s, s:s, s:s, s:[o], s:s}", "id", id, "type", "message", "status",
                         "completed", "content", response_text_part(json_get_str(block, "text")),
                         "role", "assistant");
    }
    if (str_eq_c(type, "tool_use")) {
        struct str name = json_get_str(block, "name"), call = json_get_str(block, "id");
        AUTO(buf_release) struct buf arguments;
        openai_arguments(block, &arguments);
        item_id(r, "fc", index, id);
        return json_pack("{s:s, s:s, s:s, s:s, s:s%, s:s%}", "id", id, "type", "function_call",
                         "status", "completed", "arguments", buf_cstr(&arguments), "call_id",
                         call.p, call.len, "name", name.p, name.len);
    }
    if (str_eq_c(type, "thinking") || str_eq_c(type, "redacted_thinking")) {
        item_id(r, "rs", index, id);
        return reasoning_item(r, block, id);
    }
    return NULL;
}

static json_t *output_of(const struct response *r, const json_t *content)
{
    json_t *output = json_array();
    size_t i, n = 0;
    const json_t *block;
    json_array_foreach(content, i, block)
    {
        json_t *item = response_item(r, block, n);
        if (item) {
            json_array_append_new(output, item);
            n++;
        }
    }
    return output;
}

static json_t *usage_of(const json_t *head, const json_t *content)
{
    struct openai_usage u =
        openai_usage_of(json_object_get(head, "usage"), openai_thinking_bytes(content));
    return json_pack("{s:I, s:{s:I}, s:I, s:{s:I}, s:I}", "input_tokens", (json_int_t)u.prompt,
                     "input_tokens_details", "cached_tokens", (json_int_t)u.cached, "output_tokens",
                     (json_int_t)u.completion, "output_tokens_details", "reasoning_tokens",
                     (json_int_t)u.reasoning, "total_tokens", (json_int_t)u.prompt + u.completion);
}

/* Why it is not all there is; NULL = it is. */
static const char *incomplete_reason(const char *stop_reason)
{
    const char *finish = openai_finish_reason(stop_reason, false);
    if (strcmp(finish, "length") == 0)
        return "max_output_tokens";
    return strcmp(finish, "content_filter") == 0 ? "content_filter" : NULL;
}

json_t *response_object(const struct response *r, const char *status, const json_t *head,
                        const json_t *content, const char *stop_reason)
{
    const char *why = status ? NULL : incomplete_reason(stop_reason);
    struct str model = head ? json_get_str(head, "model") : str_c(r->model);
    json_t *object = json_pack("{s:s, s:s, s:I, s:s, s:n, s:s%, s:o}", "id", r->id, "object",
                               "response", "created_at", (json_int_t)r->created, "status",
                               status ? status : (why ? "incomplete" : "completed"), "error",
                               "model", model.p, model.len, "output", output_of(r, content));
    BUG_ON(!object);
    json_object_set_new(object, "incomplete_details",
                        why ? json_pack("{s:s}", "reason", why) : json_null());
    json_object_set_new(object, "usage", head ? usage_of(head, content) : json_null());
    json_object_update(object, r->echo);
    return object;
}
