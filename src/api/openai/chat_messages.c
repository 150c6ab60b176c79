/* chat_messages.c - the messages of a chat request. */
#include "api/openai/chat_request.h"

/* --- parts of a content ------------------------------------------------------------------- */

struct part {
    struct str type, text, refusal;
    json_t *image_url, *file, *input_audio, *cache_control;
};

static const struct json_field part_fields[] = {
    {.name = "type", .type = JF_STRING, .offset = offsetof(struct part, type), .required = true},
    {.name = "text", .type = JF_STRING, .offset = offsetof(struct part, text)},
    {.name = "refusal", .type = JF_STRING, .offset = offsetof(struct part, refusal)},
    {.name = "image_url", .type = JF_OBJECT, .offset = offsetof(struct part, image_url)},
    {.name = "file", .type = JF_OBJECT, .offset = offsetof(struct part, file)},
    {.name = "input_audio", .type = JF_OBJECT, .offset = offsetof(struct part, input_audio)},
};

struct image {
    struct str url, detail;
};

static const struct json_field image_fields[] = {
    {.name = "url", .type = JF_STRING, .offset = offsetof(struct image, url), .required = true},
    {.name = "detail", .type = JF_STRING, .offset = offsetof(struct image, detail)},
};

struct file {
    struct str data, id, name;
};

static const struct json_field file_fields[] = {
    {.name = "file_data", .type = JF_STRING, .offset = offsetof(struct file, data)},
    {.name = "file_id", .type = JF_STRING, .offset = offsetof(struct file, id)},
    {.name = "filename", .type = JF_STRING, .offset = offsetof(struct file, name)},
};

static json_t *image_part(struct openai_request *r, const json_t *obj, struct err *err)
{
    struct image im = {0};
    json_t *block = NULL;
    if (openai_read(obj, image_fields, ARRAY_SIZE(image_fields), &im, err) == 0)
        block = openai_image_block(im.url, "url", err);
    if (!block)
        openai_place(err, "image_url");
    else if (im.detail.len && !str_eq_c(im.detail, "auto"))
        openai_ignore(r, "image_url.detail");
    return block;
}

static json_t *file_part(const json_t *obj, struct err *err)
{
    struct file f = {0};
    json_t *block = NULL;
    if (openai_read(obj, file_fields, ARRAY_SIZE(file_fields), &f, err) == 0) {
        if (f.id.len)
            openai_unsupported(err, "file_id", "files are not kept here: send file_data");
        else
            block = openai_file_block(f.data, STR(""), f.name, err);
    }
    if (!block)
        openai_place(err, "file");
    return block;
}

enum part_kind { PARTS_TEXT, PARTS_ASSISTANT, PARTS_USER };

static json_t *text_part(struct str text)
{
    return json_pack("{s:s, s:s%}", "type", "text", "text", text.p, text.len);
}

/* *ret_block NULL: a text of nothing but white space, which is left out. */
static int read_part(struct openai_request *r, const json_t *obj, enum part_kind kind,
                     json_t **ret_block, struct err *err)
{
    struct part p = {0};
    *ret_block = NULL;
    if (openai_read(obj, part_fields, ARRAY_SIZE(part_fields), &p, err) != 0)
        return -1;
    if (str_eq_c(p.type, "text") || (kind == PARTS_ASSISTANT && str_eq_c(p.type, "refusal"))) {
        struct str text = str_eq_c(p.type, "text") ? p.text : p.refusal;
        if (!text.p)
            return openai_invalid(err, "text", "is required");
        if (!openai_is_blank(text))
            *ret_block = text_part(text);
        return 0;
    }
    if (kind == PARTS_USER && str_eq_c(p.type, "image_url"))
        *ret_block = image_part(r, p.image_url, err);
    else if (kind == PARTS_USER && str_eq_c(p.type, "file"))
        *ret_block = file_part(p.file, err);
    else if (str_eq_c(p.type, "input_audio"))
        return openai_unsupported(err, "type", "audio is not supported");
    else
        return openai_invalid(err, "type", "'%.40s' is no part of such a message", p.type.p);
    return *ret_block ? 0 : -1;
}

/* A string, or an array of parts, as an array of blocks. */
static json_t *read_content(struct openai_request *r, const json_t *content, enum part_kind kind,
                            struct err *err)
{
    AUTO(json_unref_p) json_t *blocks = json_array();
    size_t i;
    const json_t *part;
    if (json_is_string(content)) {
        struct str text = json_str_of(content);
        if (!openai_is_blank(text))
            json_array_append_new(blocks, text_part(text));
        return TAKE_PTR(blocks);
    }
    if (!json_is_array(content)) {
        openai_invalid(err, "content", "must be a string or an array of parts");
        err->detail = "invalid_type";
        return NULL;
    }
    json_array_foreach(content, i, part)
    {
        json_t *block;
        if (read_part(r, part, kind, &block, err) != 0) {
            openai_place(err, "content[%zu]", i);
            return NULL;
        }
        if (block)
            json_array_append_new(blocks, block);
    }
    return TAKE_PTR(blocks);
}

/* --- messages, by role -------------------------------------------------------------------- */

struct message {
    struct str role, name, tool_call_id, refusal;
    json_t *content, *tool_calls, *function_call, *annotations, *audio;
};

static const struct json_field message_fields[] = {
    {.name = "role", .type = JF_STRING, .offset = offsetof(struct message, role), .required = true},
    {.name = "content", .type = JF_ANY, .offset = offsetof(struct message, content)},
    {.name = "name", .type = JF_STRING, .offset = offsetof(struct message, name)},
    {.name = "refusal", .type = JF_STRING, .offset = offsetof(struct message, refusal)},
    {.name = "tool_call_id", .type = JF_STRING, .offset = offsetof(struct message, tool_call_id)},
    {.name = "tool_calls", .type = JF_ARRAY, .offset = offsetof(struct message, tool_calls)},
    {.name = "function_call", .type = JF_OBJECT, .offset = offsetof(struct message, function_call)},
    {.name = "annotations", .type = JF_ARRAY, .offset = offsetof(struct message, annotations)},
    {.name = "audio", .type = JF_OBJECT, .offset = offsetof(struct message, audio)},
};

static void add_blocks(struct openai_request *r, const char *role, json_t *blocks)
{
    size_t i;
    json_t *block;
    json_array_foreach(blocks, i, block) openai_add_block(r, role, json_incref(block));
}

static int add_system(struct openai_request *r, const struct message *m, struct err *err)
{
    AUTO(json_unref_p) json_t *blocks = read_content(r, m->content, PARTS_TEXT, err);
    size_t i;
    const json_t *block;
    if (!blocks)
        return -1;
    json_array_foreach(blocks, i, block) openai_add_system(r, json_get_str(block, "text"));
    return 0;
}

static int add_user(struct openai_request *r, const struct message *m, struct err *err)
{
    AUTO(json_unref_p) json_t *blocks = read_content(r, m->content, PARTS_USER, err);
    if (!blocks)
        return -1;
    if (json_array_size(blocks) == 0)
        return openai_invalid(err, "content", "must not be empty");
    add_blocks(r, "user", blocks);
    return 0;
}

struct call {
    struct str id, type, name, arguments;
    json_t *function;
    int64_t index;
};

static const struct json_field call_fields[] = {
    {.name = "id", .type = JF_STRING, .offset = offsetof(struct call, id), .required = true},
    {.name = "type", .type = JF_STRING, .offset = offsetof(struct call, type)},
    {.name = "index", .type = JF_INT, .offset = offsetof(struct call, index)},
    {.name = "function",
     .type = JF_OBJECT,
     .offset = offsetof(struct call, function),
     .required = true},
};

static const struct json_field called_fields[] = {
    {.name = "name", .type = JF_STRING, .offset = offsetof(struct call, name), .required = true},
    {.name = "arguments", .type = JF_STRING, .offset = offsetof(struct call, arguments)},
};

static int add_call(struct openai_request *r, const json_t *obj, struct err *err)
{
    struct call c = {0};
    if (openai_read(obj, call_fields, ARRAY_SIZE(call_fields), &c, err) != 0)
        return -1;
    if (c.type.len && !str_eq_c(c.type, "function"))
        return openai_unsupported(err, "type", "must be \"function\"");
    if (c.id.len == 0)
        return openai_invalid(err, "id", "must not be empty");
    if (openai_read(c.function, called_fields, ARRAY_SIZE(called_fields), &c, err) != 0 ||
        openai_add_call(r, c.id, c.name, c.arguments, err) != 0)
        return openai_place(err, "function");
    return 0;
}

static int add_calls(struct openai_request *r, const struct message *m, struct err *err)
{
    size_t i;
    const json_t *call;
    json_array_foreach(m->tool_calls, i, call)
    {
        if (add_call(r, call, err) != 0)
            return openai_place(err, "tool_calls[%zu]", i);
    }
    if (!m->function_call)
        return 0;
    struct call c = {0};
    if (openai_read(m->function_call, called_fields, ARRAY_SIZE(called_fields), &c, err) != 0 ||
        openai_add_call(r, STR(""), c.name, c.arguments, err) != 0)
        return openai_place(err, "function_call");
    return 0;
}

static int add_assistant(struct openai_request *r, const struct message *m, struct err *err)
{
    bool calls = json_array_size(m->tool_calls) > 0 || m->function_call;
    if (m->audio)
        return openai_unsupported(err, "audio", "audio is not supported");
    if (m->content && !json_is_null(m->content)) {
        AUTO(json_unref_p) json_t *blocks = read_content(r, m->content, PARTS_ASSISTANT, err);
        if (!blocks)
            return -1;
        add_blocks(r, "assistant", blocks);
    } else if (m->refusal.len) {
        openai_add_text(r, "assistant", m->refusal);
    } else if (!calls) {
        return openai_invalid(err, "content", "is required without tool_calls");
    }
    return add_calls(r, m, err);
}

static int add_result(struct openai_request *r, const struct message *m, struct err *err)
{
    bool legacy = str_eq_c(m->role, "function");
    if (!legacy && m->tool_call_id.len == 0)
        return openai_invalid(err, "tool_call_id", "is required");
    json_t *blocks;
    if (legacy && json_is_null(m->content))
        blocks = json_array();
    else
        blocks = read_content(r, m->content, PARTS_USER, err);
    if (!blocks)
        return -1;
    if (openai_add_result(r, legacy ? STR("") : m->tool_call_id, blocks, err) != 0)
        return openai_place(err, legacy ? "role" : "tool_call_id");
    return 0;
}

static int add_message(struct openai_request *r, const json_t *obj, struct err *err)
{
    struct message m = {0};
    if (openai_read(obj, message_fields, ARRAY_SIZE(message_fields), &m, err) != 0)
        return -1;
    bool tool = str_eq_c(m.role, "tool") || str_eq_c(m.role, "function");
    if (!tool && openai_check_answered(r, err) != 0)
        return -1;
    if (m.name.len && !str_eq_c(m.role, "function"))
        openai_ignore(r, "messages.name");
    if (tool)
        return add_result(r, &m, err);
    if (str_eq_c(m.role, "user"))
        return add_user(r, &m, err);
    if (str_eq_c(m.role, "assistant"))
        return add_assistant(r, &m, err);
    if (str_eq_c(m.role, "system") || str_eq_c(m.role, "developer"))
        return add_system(r, &m, err);
    return openai_invalid(err, "role",
                          "must be one of system, developer, user, assistant, tool "
                          "and function");
}

int openai_chat_messages(const json_t *messages, struct openai_request *r, struct err *err)
{
    size_t i, n;
    const json_t *item;
    json_array_foreach(messages, i, item)
    {
        if (add_message(r, item, err) != 0)
            return openai_place(err, "messages[%zu]", i);
    }
    if (openai_check_answered(r, err) != 0)
        return openai_place(err, "messages");
    n = json_array_size(r->messages);
    const json_t *last = n ? json_array_get(r->messages, n - 1) : NULL;
    if (!last || !str_eq_c(json_get_str(last, "role"), "user"))
        return openai_unsupported(err, "messages", "must end with what the user, or a tool, says");
    return 0;
}
