/* responses_items.c - input items: messages, calls, results and thoughts.
 *
 * Thoughts come back as the client got them: encrypted_content holds the block of the Messages API,
 * whose signature upstream checks. Without it they say nothing and are left out. */
#include "api/openai/responses_request.h"

#include <sodium.h>

#define SEALED_MAX ((size_t)4 << 20)

/* --- thoughts ----------------------------------------------------------------------------- */

char *responses_seal(const json_t *block)
{
    AUTO(buf_release) struct buf text;
    buf_init(&text, SEALED_MAX);
    json_write(&text, block);
    if (!buf_ok(&text))
        return x_strdup("");
    size_t size = sodium_base64_encoded_len(text.len, sodium_base64_VARIANT_URLSAFE_NO_PADDING);
    char *out = x_malloc(size);
    sodium_bin2base64(out, size, (const unsigned char *)text.data, text.len,
                      sodium_base64_VARIANT_URLSAFE_NO_PADDING);
    return out;
}

json_t *responses_unseal(struct str sealed)
{
    size_t n = 0;
    struct err ignored;
    if (sealed.len > SEALED_MAX * 2)
        return NULL;
    AUTO(free_charp) char *text = x_malloc(sealed.len + 1);
    if (sodium_base642bin((unsigned char *)text, sealed.len + 1, sealed.p, sealed.len, NULL, &n,
                          NULL, sodium_base64_VARIANT_URLSAFE_NO_PADDING) != 0)
        return NULL;
    AUTO(json_unref_p) json_t *j = json_parse(str_n(text, n), &ignored);
    struct str type = json_get_str(j, "type");
    if (str_eq_c(type, "thinking"))
        return json_pack("{s:s, s:O, s:O}", "type", "thinking", "thinking",
                         json_object_get(j, "thinking"), "signature",
                         json_object_get(j, "signature"));
    if (str_eq_c(type, "redacted_thinking"))
        return json_pack("{s:s, s:O}", "type", "redacted_thinking", "data",
                         json_object_get(j, "data"));
    return NULL;
}

/* --- items -------------------------------------------------------------------------------- */

struct item {
    struct str type, id, role, status, call_id, name, arguments, encrypted, phase;
    json_t *content, *output, *summary;
};

static const struct json_field item_fields[] = {
    {.name = "type", .type = JF_STRING, .offset = offsetof(struct item, type)},
    {.name = "id", .type = JF_STRING, .offset = offsetof(struct item, id)},
    {.name = "role", .type = JF_STRING, .offset = offsetof(struct item, role)},
    {.name = "status", .type = JF_STRING, .offset = offsetof(struct item, status)},
    {.name = "phase", .type = JF_STRING, .offset = offsetof(struct item, phase)},
    {.name = "call_id", .type = JF_STRING, .offset = offsetof(struct item, call_id)},
    {.name = "name", .type = JF_STRING, .offset = offsetof(struct item, name)},
    {.name = "arguments", .type = JF_STRING, .offset = offsetof(struct item, arguments)},
    {.name = "encrypted_content", .type = JF_STRING, .offset = offsetof(struct item, encrypted)},
    {.name = "content", .type = JF_ANY, .offset = offsetof(struct item, content)},
    {.name = "output", .type = JF_ANY, .offset = offsetof(struct item, output)},
    {.name = "summary", .type = JF_ARRAY, .offset = offsetof(struct item, summary)},
};

struct part {
    struct str type, text, refusal, image_url, detail, file_id, file_data, file_url, filename;
    json_t *annotations, *logprobs;
};

static const struct json_field part_fields[] = {
    {.name = "type", .type = JF_STRING, .offset = offsetof(struct part, type), .required = true},
    {.name = "text", .type = JF_STRING, .offset = offsetof(struct part, text)},
    {.name = "refusal", .type = JF_STRING, .offset = offsetof(struct part, refusal)},
    {.name = "image_url", .type = JF_STRING, .offset = offsetof(struct part, image_url)},
    {.name = "detail", .type = JF_STRING, .offset = offsetof(struct part, detail)},
    {.name = "file_id", .type = JF_STRING, .offset = offsetof(struct part, file_id)},
    {.name = "file_data", .type = JF_STRING, .offset = offsetof(struct part, file_data)},
    {.name = "file_url", .type = JF_STRING, .offset = offsetof(struct part, file_url)},
    {.name = "filename", .type = JF_STRING, .offset = offsetof(struct part, filename)},
    {.name = "annotations", .type = JF_ANY, .offset = offsetof(struct part, annotations)},
    {.name = "logprobs", .type = JF_ANY, .offset = offsetof(struct part, logprobs)},
};

static json_t *text_block(struct str text)
{
    return json_pack("{s:s, s:s%}", "type", "text", "text", text.p, text.len);
}

static json_t *image_block(struct openai_request *r, const struct part *p, struct err *err)
{
    json_t *block = openai_image_block(p->image_url, "image_url", err);
    if (block && p->detail.len && !str_eq_c(p->detail, "auto"))
        openai_ignore(r, "input_image.detail");
    return block;
}

/* *ret_block NULL: a text of nothing but white space. */
static int read_part(struct openai_request *r, const json_t *obj, json_t **ret_block,
                     struct err *err)
{
    struct part p = {0};
    *ret_block = NULL;
    if (openai_read(obj, part_fields, ARRAY_SIZE(part_fields), &p, err) != 0)
        return -1;
    if (str_eq_c(p.type, "input_text") || str_eq_c(p.type, "output_text") ||
        str_eq_c(p.type, "refusal")) {
        struct str text = str_eq_c(p.type, "refusal") ? p.refusal : p.text;
        if (!text.p)
            return openai_invalid(err, "text", "is required");
        if (!openai_is_blank(text))
            *ret_block = text_block(text);
        return 0;
    }
    if (p.file_id.len)
        return openai_unsupported(err, "file_id", "files are not kept here: send the data");
    if (str_eq_c(p.type, "input_image"))
        *ret_block = image_block(r, &p, err);
    else if (str_eq_c(p.type, "input_file"))
        *ret_block = openai_file_block(p.file_data, p.file_url, p.filename, err);
    else
        return openai_unsupported(err, "type",
                                  "must be one of input_text, input_image, "
                                  "input_file, output_text and refusal");
    return *ret_block ? 0 : -1;
}

/* A string, or an array of parts, as an array of blocks. */
static json_t *read_content(struct openai_request *r, const json_t *content, const char *field,
                            struct err *err)
{
    AUTO(json_unref_p) json_t *blocks = json_array();
    size_t i;
    const json_t *part;
    if (json_is_string(content)) {
        if (!openai_is_blank(json_str_of(content)))
            json_array_append_new(blocks, text_block(json_str_of(content)));
        return TAKE_PTR(blocks);
    }
    if (!json_is_array(content)) {
        openai_invalid(err, field, "must be a string or an array of parts");
        err->detail = "invalid_type";
        return NULL;
    }
    json_array_foreach(content, i, part)
    {
        json_t *block;
        if (read_part(r, part, &block, err) != 0) {
            openai_place(err, "%s[%zu]", field, i);
            return NULL;
        }
        if (block)
            json_array_append_new(blocks, block);
    }
    return TAKE_PTR(blocks);
}

static int add_blocks(struct openai_request *r, struct str role, const json_t *blocks,
                      struct err *err)
{
    size_t i;
    json_t *block;
    bool system = str_eq_c(role, "system") || str_eq_c(role, "developer");
    bool user = str_eq_c(role, "user");
    if (!system && !user && !str_eq_c(role, "assistant"))
        return openai_invalid(err, "role", "must be one of user, assistant, system and developer");
    if (user && json_array_size(blocks) == 0)
        return openai_invalid(err, "content", "must not be empty");
    json_array_foreach(blocks, i, block)
    {
        bool text = str_eq_c(json_get_str(block, "type"), "text");
        if (!user && !text)
            return openai_invalid(err, "content", "must be text in such a message");
        if (system)
            openai_add_system(r, json_get_str(block, "text"));
        else
            openai_add_block(r, user ? "user" : "assistant", json_incref(block));
    }
    return 0;
}

static int add_message(struct openai_request *r, const struct item *it, struct err *err)
{
    if (openai_check_answered(r, err) != 0)
        return -1;
    AUTO(json_unref_p) json_t *blocks = read_content(r, it->content, "content", err);
    return blocks ? add_blocks(r, it->role, blocks, err) : -1;
}

static int add_call(struct openai_request *r, const struct item *it, struct err *err)
{
    if (it->call_id.len == 0)
        return openai_invalid(err, "call_id", "is required");
    if (it->name.len == 0)
        return openai_invalid(err, "name", "is required");
    return openai_add_call(r, it->call_id, it->name, it->arguments, err);
}

static int add_output(struct openai_request *r, const struct item *it, struct err *err)
{
    if (it->call_id.len == 0)
        return openai_invalid(err, "call_id", "is required");
    json_t *blocks = read_content(r, it->output, "output", err);
    if (!blocks)
        return -1;
    if (openai_add_result(r, it->call_id, blocks, err) != 0)
        return openai_place(err, "call_id");
    return 0;
}

static int add_thoughts(struct openai_request *r, const struct item *it, struct err *err)
{
    if (it->encrypted.len == 0)
        return 0;
    json_t *block = responses_unseal(it->encrypted);
    if (!block)
        return openai_invalid(err, "encrypted_content", "is not what an answer here gave");
    openai_add_block(r, "assistant", block);
    return 0;
}

/* The n-th block of the answer, counting those that are items. */
static json_t *nth_block(const json_t *messages, size_t n)
{
    size_t count = json_array_size(messages), i;
    const json_t *last = count ? json_array_get(messages, count - 1) : NULL;
    json_t *block;
    if (!str_eq_c(json_get_str(last, "role"), "assistant"))
        return NULL;
    json_array_foreach(json_object_get(last, "content"), i, block)
    {
        struct str type = json_get_str(block, "type");
        bool item = str_eq_c(type, "text") || str_eq_c(type, "tool_use") ||
                    str_eq_c(type, "thinking") || str_eq_c(type, "redacted_thinking");
        if (item && n-- == 0)
            return block;
    }
    return NULL;
}

/* An item that an earlier answer had, by its id alone. */
static int add_reference(struct responses_request *q, const struct item *it, struct err *err)
{
    struct openai_request *r = &q->base;
    char id[RESPONSE_ID_SIZE];
    size_t index;
    json_t *block = NULL;
    if (responses_item_owner(it->id, id, &index))
        block = nth_block(json_object_get(q->stored, id), index);
    if (!block) {
        err_set(err, ERR_NOT_FOUND,
                "Item with id '%.60s' not found. Items are not kept when `store` is false.",
                it->id.len ? it->id.p : "");
        snprintf(err->field, sizeof(err->field), "id");
        err->detail = "item_not_found";
        return -1;
    }
    struct str call = json_get_str(block, "id");
    bool is_call = str_eq_c(json_get_str(block, "type"), "tool_use");
    if (!is_call && openai_check_answered(r, err) != 0)
        return -1;
    openai_add_block(r, "assistant", json_incref(block));
    if (is_call)
        json_object_setn_new(r->pending, call.p, call.len, json_true());
    return 0;
}

static int add_item(struct responses_request *q, const json_t *obj, struct err *err)
{
    struct openai_request *r = &q->base;
    struct item it = {0};
    if (openai_read(obj, item_fields, ARRAY_SIZE(item_fields), &it, err) != 0)
        return -1;
    if (it.type.len == 0 && it.role.len == 0)
        return openai_invalid(err, "type", "is required");
    if (it.type.len == 0 || str_eq_c(it.type, "message"))
        return add_message(r, &it, err);
    if (str_eq_c(it.type, "function_call"))
        return add_call(r, &it, err);
    if (str_eq_c(it.type, "function_call_output"))
        return add_output(r, &it, err);
    if (str_eq_c(it.type, "reasoning"))
        return add_thoughts(r, &it, err);
    if (str_eq_c(it.type, "item_reference"))
        return add_reference(q, &it, err);
    return openai_unsupported(err, "type",
                              "must be one of message, function_call, "
                              "function_call_output, reasoning and item_reference");
}

int responses_items(const json_t *items, struct responses_request *r, struct err *err)
{
    size_t i;
    const json_t *item;
    json_array_foreach(items, i, item)
    {
        if (add_item(r, item, err) != 0)
            return openai_place(err, "input[%zu]", i);
    }
    return 0;
}
