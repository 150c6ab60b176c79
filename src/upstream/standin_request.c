/* standin_request.c - checks a Messages request, finds the text to repeat, estimates its tokens.
 *
 * The claude program puts blocks of its own, marked <system-reminder>, beside or in front of the
 * user's text; they are not what the user said and are skipped. */
#include "upstream/standin_request.h"

#define IMAGE_TOKENS 1600 /* what the real API counts for an image of the largest useful size */

#define REMINDER_OPEN  "<system-reminder>"
#define REMINDER_CLOSE "</system-reminder>"

int64_t standin_tokens(size_t bytes)
{
    return bytes ? (int64_t)((bytes + 3) / 4) : 1;
}

struct str standin_utf8_prefix(struct str s, size_t n)
{
    if (n >= s.len)
        return s;
    while (n > 0 && ((unsigned char)s.p[n] & 0xC0) == 0x80)
        n--;
    return str_n(s.p, n);
}

/* Every string value counts; binary content counts as an image. jansson bounds the depth. */
static size_t text_bytes(const json_t *j)
{
    size_t total = 0, i;
    const char *key;
    json_t *v;
    if (json_is_string(j))
        return json_string_length(j);
    if (json_is_object(j)) {
        if (str_eq_c(json_get_str(j, "type"), "base64"))
            return IMAGE_TOKENS * 4;
        json_object_foreach((json_t *)(uintptr_t)j, key, v) total += text_bytes(v);
        return total;
    }
    json_array_foreach(j, i, v) total += text_bytes(v);
    return total;
}

static struct str trim_all(struct str s)
{
    while (s.len && strchr(" \t\r\n", s.p[0])) {
        s.p++;
        s.len--;
    }
    return s;
}

static struct str skip_reminders(struct str s)
{
    for (;;) {
        struct str rest = trim_all(s);
        if (!str_starts(rest, REMINDER_OPEN))
            return s;
        const char *end = memmem(rest.p, rest.len, REMINDER_CLOSE, strlen(REMINDER_CLOSE));
        if (!end)
            return STR("");
        end += strlen(REMINDER_CLOSE);
        s = trim_all(str_n(end, (size_t)(rest.p + rest.len - end)));
    }
}

static void add_text(struct buf *out, struct str text)
{
    text = skip_reminders(text);
    if (text.len == 0)
        return;
    if (out->len)
        buf_addc(out, '\n');
    buf_addstr(out, text);
}

static void message_text(const json_t *message, struct buf *out)
{
    const json_t *content = json_object_get(message, "content");
    size_t i;
    json_t *block;
    if (json_is_string(content))
        add_text(out, json_str_of(content));
    json_array_foreach(content, i, block)
    {
        if (str_eq_c(json_get_str(block, "type"), "text"))
            add_text(out, json_get_str(block, "text"));
    }
}

static void find_user_text(struct standin_request *q, const json_t *messages)
{
    for (size_t i = json_array_size(messages); i > 0 && q->user_text.len == 0; i--) {
        const json_t *message = json_array_get(messages, i - 1);
        if (str_eq_c(json_get_str(message, "role"), "user"))
            message_text(message, &q->user_text);
    }
}

static int check_messages(const json_t *messages, struct err *err)
{
    size_t i;
    json_t *message;
    char name[64];
    if (!messages)
        return err_field(err, "messages", "Field required");
    if (!json_is_array(messages))
        return err_field(err, "messages", "Input should be a valid list");
    if (json_array_size(messages) == 0)
        return err_field(err, "messages", "at least one message is required");
    json_array_foreach(messages, i, message)
    {
        const json_t *content = json_object_get(message, "content");
        snprintf(name, sizeof(name), "messages.%zu", i);
        if (!json_is_object(message))
            return err_field(err, name, "Input should be a valid dictionary");
        if (!json_is_string(json_object_get(message, "role")))
            return err_field(err, name, "role: Field required");
        if (!json_is_string(content) && !json_is_array(content))
            return err_field(err, name, "content: Field required");
    }
    return 0;
}

static int check_max_tokens(struct standin_request *q, struct err *err)
{
    const json_t *j = json_object_get(q->root, "max_tokens");
    if (!j)
        return err_field(err, "max_tokens", "Field required");
    if (!json_is_integer(j))
        return err_field(err, "max_tokens", "Input should be a valid integer");
    q->max_tokens = json_integer_value(j);
    if (q->max_tokens < 1)
        return err_field(err, "max_tokens", "must be greater than or equal to 1");
    return 0;
}

static int check(struct standin_request *q, bool counting, struct err *err)
{
    const json_t *stream = json_object_get(q->root, "stream");
    if (!json_is_object(q->root))
        return err_set(err, ERR_INVALID, "Input should be a valid dictionary");
    q->model = json_get_str(q->root, "model");
    if (q->model.len == 0)
        return err_field(err, "model", "Field required");
    if (!counting && check_max_tokens(q, err) != 0)
        return -1;
    if (stream && !json_is_boolean(stream))
        return err_field(err, "stream", "Input should be a valid boolean");
    q->stream = json_is_true(stream);
    return check_messages(json_object_get(q->root, "messages"), err);
}

int standin_request_parse(struct standin_request *q, struct str body, bool counting,
                          struct err *err)
{
    *q = (struct standin_request){.root = json_parse(body, err)};
    if (!q->root)
        return err_prefix(err, "The request body");
    buf_init(&q->user_text, body.len + 1);
    if (check(q, counting, err) != 0) {
        standin_request_release(q);
        return -1;
    }
    const json_t *messages = json_object_get(q->root, "messages");
    size_t bytes = text_bytes(messages);
    bytes += text_bytes(json_object_get(q->root, "system"));
    bytes += text_bytes(json_object_get(q->root, "tools"));
    q->input_tokens = standin_tokens(bytes);
    q->stop_sequences = json_object_get(q->root, "stop_sequences");
    find_user_text(q, messages);
    return 0;
}

void standin_request_release(struct standin_request *q)
{
    json_decref(q->root);
    buf_release(&q->user_text);
    *q = (struct standin_request){0};
}
