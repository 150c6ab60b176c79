/* conversation.c - messages of the Messages API, put together block by block.
 *
 * OpenAI's messages are flatter: each tool result is a message of its own there, and a system text
 * may stand anywhere. Here results are blocks of the user's next message, and the system texts go
 * to the front, in their order. */
#include "api/openai/parts.h"

#include <ctype.h>

void openai_request_init(struct openai_request *r)
{
    *r = (struct openai_request){.body = json_object(),
                                 .system = json_array(),
                                 .messages = json_array(),
                                 .pending = json_object()};
}

void openai_request_release(struct openai_request *r)
{
    json_decref(r->body);
    json_decref(r->system);
    json_decref(r->messages);
    json_decref(r->pending);
    *r = (struct openai_request){0};
}

void openai_ignore(struct openai_request *r, const char *name)
{
    for (size_t i = 0; i < r->ignored_count; i++) {
        if (strcmp(r->ignored[i], name) == 0)
            return;
    }
    BUG_ON(r->ignored_count == OPENAI_IGNORED_MAX);
    r->ignored[r->ignored_count++] = name;
}

bool openai_is_blank(struct str s)
{
    for (size_t i = 0; i < s.len; i++) {
        if (!isspace((unsigned char)s.p[i]))
            return false;
    }
    return true;
}

void openai_add_block(struct openai_request *r, const char *role, json_t *block_take)
{
    size_t n = json_array_size(r->messages);
    json_t *last = n ? json_array_get(r->messages, n - 1) : NULL;
    BUG_ON(!block_take);
    if (!last || !str_eq_c(json_get_str(last, "role"), role)) {
        last = json_pack("{s:s, s:[]}", "role", role, "content");
        json_array_append_new(r->messages, last);
    }
    json_array_append_new(json_object_get(last, "content"), block_take);
    r->answers_tool = false;
}

static json_t *text_block(struct str text)
{
    json_t *block = json_pack("{s:s, s:s%}", "type", "text", "text", text.p, text.len);
    BUG_ON(!block);
    return block;
}

void openai_add_system(struct openai_request *r, struct str text)
{
    if (!openai_is_blank(text)) /* says nothing, and the API refuses it */
        json_array_append_new(r->system, text_block(text));
}

void openai_add_text(struct openai_request *r, const char *role, struct str text)
{
    if (!openai_is_blank(text))
        openai_add_block(r, role, text_block(text));
}

/* --- tool calls and results --------------------------------------------------------------- */

/* The Messages API knows letters, digits, '_' and '-' only in ids. */
static void clean_id(struct str id, char out[65])
{
    size_t n = id.len < 64 ? id.len : 64;
    for (size_t i = 0; i < n; i++)
        out[i] = isalnum((unsigned char)id.p[i]) || id.p[i] == '-' ? id.p[i] : '_';
    out[n] = '\0';
}

static json_t *parse_arguments(struct openai_request *r, struct str text, struct err *err)
{
    if (openai_is_blank(text))
        return json_object();
    r->argument_marks += json_marks(text);
    if (r->argument_marks > JSON_MARKS_MAX) {
        err_set(err, ERR_TOO_LARGE, "all arguments have more than %d commas and opening brackets",
                JSON_MARKS_MAX);
        return NULL;
    }
    json_t *j = json_parse(text, err);
    if (j && json_is_object(j))
        return j;
    json_decref(j);
    openai_invalid(err, "arguments", "must be a JSON object, as text");
    return NULL;
}

int openai_add_call(struct openai_request *r, struct str id, struct str name, struct str arguments,
                    struct err *err)
{
    char key[65];
    json_t *input = parse_arguments(r, arguments, err);
    if (!input)
        return -1;
    if (id.len == 0)
        snprintf(key, sizeof(key), "call_%lld", (long long)++r->legacy_calls);
    else
        clean_id(id, key);
    json_object_set_new(r->pending, key, json_true());
    openai_add_block(r, "assistant",
                     json_pack("{s:s, s:s, s:s%, s:o}", "type", "tool_use", "id", key, "name",
                               name.p, name.len, "input", input));
    return 0;
}

int openai_add_result(struct openai_request *r, struct str id, json_t *content_take,
                      struct err *err)
{
    char key[65];
    if (id.len == 0)
        snprintf(key, sizeof(key), "call_%lld", (long long)r->legacy_calls);
    else
        clean_id(id, key);
    if (json_object_del(r->pending, key) != 0) {
        json_decref(content_take);
        return openai_invalid(err, "",
                              "a result must answer a call of the assistant's message "
                              "before it");
    }
    json_t *block = json_pack("{s:s, s:s}", "type", "tool_result", "tool_use_id", key);
    if (json_array_size(content_take))
        json_object_set(block, "content", content_take);
    json_decref(content_take);
    openai_add_block(r, "user", block);
    r->answers_tool = true;
    return 0;
}

int openai_check_answered(const struct openai_request *r, struct err *err)
{
    const char *id = json_object_iter_key(json_object_iter(r->pending));
    if (!id)
        return 0;
    return openai_invalid(err, "",
                          "the assistant's calls must each be followed by their result: there is "
                          "none of '%.64s'",
                          id);
}

/* --- images and files --------------------------------------------------------------------- */

static bool is_base64(struct str s)
{
    while (s.len && s.p[s.len - 1] == '=')
        s.len--;
    for (size_t i = 0; i < s.len; i++) {
        if (!isalnum((unsigned char)s.p[i]) && s.p[i] != '+' && s.p[i] != '/')
            return false;
    }
    return s.len > 0;
}

/* "data:image/png;base64,..." */
static bool split_data_url(struct str url, struct str *ret_type, struct str *ret_data)
{
    if (!str_starts(url, "data:"))
        return false;
    struct str rest = str_n(url.p + 5, url.len - 5);
    *ret_type = str_split(&rest, ',');
    *ret_data = rest;
    static const char mark[] = ";base64";
    const size_t n = sizeof(mark) - 1;
    if (ret_type->len < n || memcmp(ret_type->p + ret_type->len - n, mark, n) != 0)
        return false;
    ret_type->len -= n;
    struct str params = *ret_type; /* "text/plain;charset=utf-8" */
    *ret_type = str_split(&params, ';');
    return is_base64(*ret_data);
}

static json_t *source_block(const char *kind, const char *media_type, struct str data)
{
    return json_pack("{s:s, s:{s:s, s:s, s:s%}}", "type", kind, "source", "type", "base64",
                     "media_type", media_type, "data", data.p, data.len);
}

static json_t *url_block(const char *kind, struct str url)
{
    return json_pack("{s:s, s:{s:s, s:s%}}", "type", kind, "source", "type", "url", "url", url.p,
                     url.len);
}

json_t *openai_image_block(struct str url, const char *field, struct err *err)
{
    static const struct {
        const char *given, *type;
    } types[] = {{"image/jpeg", "image/jpeg"},
                 {"image/jpg", "image/jpeg"},
                 {"image/png", "image/png"},
                 {"image/gif", "image/gif"},
                 {"image/webp", "image/webp"}};
    struct str type, data;
    if (str_starts(url, "https://"))
        return url_block("image", url);
    if (!split_data_url(url, &type, &data)) {
        openai_invalid(err, field, "must be an https URL, or data:image/...;base64,...");
        return NULL;
    }
    for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
        if (str_ieq_c(type, types[i].given))
            return source_block("image", types[i].type, data);
    }
    openai_unsupported(err, field, "must be a JPEG, PNG, GIF or WebP image");
    return NULL;
}

json_t *openai_file_block(struct str data, struct str url, struct str title, struct err *err)
{
    struct str type, bytes;
    json_t *block;
    if (url.len) {
        if (!str_starts(url, "https://")) {
            openai_invalid(err, "file_url", "must be an https URL");
            return NULL;
        }
        block = url_block("document", url);
    } else if (!split_data_url(data, &type, &bytes) || !str_ieq_c(type, "application/pdf")) {
        openai_unsupported(err, "file_data", "must be data:application/pdf;base64,...");
        return NULL;
    } else {
        block = source_block("document", "application/pdf", bytes);
    }
    if (title.len)
        json_object_set_new(block, "title", json_stringn(title.p, title.len));
    return block;
}
