/* conversation.c - the `messages` of a request, made fit to be told to the claude program turn by
 * turn.
 *
 * The program repairs a broken conversation in silence: it invents results for calls that have
 * none, drops results without a call, joins what shares an id. The API refuses all of that, so it
 * is refused here, in the API's words: what reaches upstream is what the client said. */
#include "api/anthropic/body.h"

#define MESSAGES_MAX 100000
#define IMAGES_MAX   80 /* the claude program sends no more, and drops the first ones in silence */

struct conversation {
    json_t *out;      /* owned: messages so far */
    json_t *open;     /* owned: ids of calls in the latest assistant message */
    json_t *seen_ids; /* owned: of all calls */
    struct body_marks *marks;
    size_t images;
    struct err *err;
};

static bool is_type(const json_t *block, const char *type)
{
    return str_eq_c(json_get_str(block, "type"), type);
}

static size_t count_images(const json_t *content)
{
    size_t n = 0, i;
    const json_t *block;
    json_array_foreach(content, i, block)
    {
        n += is_type(block, "image");
        n += count_images(json_object_get(block, "content"));
    }
    return n;
}

static int add_call(struct conversation *c, const json_t *block, const struct place *at)
{
    const char *id = json_string_value(json_object_get(block, "id"));
    if (json_object_get(c->seen_ids, id))
        return place_err(at, NULL, c->err, "`tool_use` ids must be unique");
    json_object_set_new(c->seen_ids, id, json_true());
    json_object_set_new(c->open, id, json_true());
    return 0;
}

static int add_calls(struct conversation *c, const json_t *content, const struct place *at)
{
    const json_t *block;
    size_t i;
    bool more_than_thinking = false;
    json_array_foreach(content, i, block)
    {
        struct place here = {.up = at, .index = i};
        more_than_thinking |= !is_type(block, "thinking") && !is_type(block, "redacted_thinking");
        if (is_type(block, "tool_use") && add_call(c, block, &here) != 0)
            return -1;
    }
    if (!more_than_thinking)
        return place_err(at, NULL, c->err,
                         "a message of thinking alone cannot be passed on by this server");
    return 0;
}

static int add_result(struct conversation *c, const json_t *block, const struct place *at)
{
    const char *id = json_string_value(json_object_get(block, "tool_use_id"));
    if (json_object_get(c->open, id)) {
        json_object_del(c->open, id);
        return 0;
    }
    return place_err(at, NULL, c->err,
                     "unexpected `tool_use_id` found in `tool_result` blocks: %.60s. Each "
                     "`tool_result` block must have a corresponding `tool_use` block in the "
                     "previous message",
                     id);
}

/* The program keeps only the text of a failed tool. */
static int check_failed(struct conversation *c, const json_t *block, const struct place *at)
{
    const json_t *inner;
    size_t i;
    if (!json_is_true(json_object_get(block, "is_error")))
        return 0;
    json_array_foreach(json_object_get(block, "content"), i, inner)
    {
        if (!is_type(inner, "text"))
            return place_err(at, NULL, c->err,
                             "all content must be type `text` if `is_error` is true");
    }
    return 0;
}

/* Results come first: the program would move them there. */
static int add_results(struct conversation *c, const json_t *content, const struct place *at)
{
    const json_t *block;
    size_t i;
    bool other = false;
    json_array_foreach(content, i, block)
    {
        struct place here = {.up = at, .index = i};
        if (!is_type(block, "tool_result")) {
            other = true;
            continue;
        }
        if (other)
            return place_err(&here, NULL, c->err,
                             "`tool_result` blocks must come before all other content");
        if (check_failed(c, block, &here) != 0 || add_result(c, block, &here) != 0)
            return -1;
    }
    if (json_object_size(c->open))
        return place_err(at->up, NULL, c->err,
                         "`tool_use` ids were found without `tool_result` blocks immediately "
                         "after: %.60s. Each `tool_use` block must have a corresponding "
                         "`tool_result` block in the next message",
                         json_object_iter_key(json_object_iter(c->open)));
    return 0;
}

/* Behind the latest message, or as a part of it. */
static void append(struct conversation *c, const char *role, json_t *content)
{
    size_t n = json_array_size(c->out);
    json_t *last = n ? json_array_get(c->out, n - 1) : NULL;
    if (last && str_eq_c(json_get_str(last, "role"), role))
        json_array_extend(json_object_get(last, "content"), content);
    else
        json_array_append_new(c->out, json_pack("{s:s, s:O}", "role", role, "content", content));
}

static int check_keys(const json_t *message, const struct place *at, struct err *err)
{
    const char *key;
    json_t *v;
    if (!json_is_object(message))
        return place_err(at, NULL, err, "Input should be a valid dictionary");
    json_object_foreach((json_t *)(uintptr_t)message, key, v)
    {
        if (strcmp(key, "role") != 0 && strcmp(key, "content") != 0)
            return place_err(at, key, err, "Extra inputs are not permitted");
    }
    return 0;
}

static int add_message(struct conversation *c, const json_t *message, const struct place *at)
{
    struct place inside = {.up = at, .name = "content"};
    struct str role = json_get_str(message, "role");
    bool user = str_eq_c(role, "user");
    if (check_keys(message, at, c->err) != 0)
        return -1;
    if (str_eq_c(role, "system"))
        return place_err(at, "role", c->err,
                         "system messages inside `messages` are not supported by this server: "
                         "use the top-level `system`");
    if (!user && !str_eq_c(role, "assistant"))
        return place_err(at, "role", c->err, "Input should be 'user' or 'assistant'");
    AUTO(json_unref_p)
    json_t *content = body_content(json_object_get(message, "content"),
                                   user ? IN_USER : IN_ASSISTANT, &inside, c->marks, c->err);
    if (!content)
        return -1;
    if (json_array_size(content) == 0)
        return place_err(at, NULL, c->err, "%s messages must have non-empty content",
                         user ? "user" : "assistant");
    c->images += count_images(content);
    append(c, user ? "user" : "assistant", content);
    return 0;
}

/* Roles alternate by now. */
static int check_calls(struct conversation *c, const struct place *top)
{
    const json_t *message;
    size_t i;
    json_array_foreach(c->out, i, message)
    {
        struct place at = {.up = top, .index = i}, inside = {.up = &at, .name = "content"};
        const json_t *content = json_object_get(message, "content");
        bool user = str_eq_c(json_get_str(message, "role"), "user");
        if ((user ? add_results(c, content, &inside) : add_calls(c, content, &inside)) != 0)
            return -1;
    }
    return 0;
}

static int add_messages(struct conversation *c, const json_t *messages)
{
    static const struct place top = {.name = "messages"};
    const json_t *message;
    size_t i;
    if (!messages)
        return place_err(&top, NULL, c->err, "Field required");
    if (!json_is_array(messages))
        return place_err(&top, NULL, c->err, "Input should be a valid list");
    if (json_array_size(messages) == 0)
        return place_err(&top, NULL, c->err, "at least one message is required");
    if (json_array_size(messages) > MESSAGES_MAX)
        return place_err(&top, NULL, c->err, "at most %d messages are allowed", MESSAGES_MAX);
    json_array_foreach(messages, i, message)
    {
        struct place at = {.up = &top, .index = i};
        if (add_message(c, message, &at) != 0)
            return -1;
    }
    if (!str_eq_c(json_get_str(json_array_get(messages, i - 1), "role"), "user"))
        return place_err(&top, NULL, c->err,
                         "This server does not support assistant message prefill. The conversation "
                         "must end with a user message.");
    if (c->images > IMAGES_MAX)
        return place_err(&top, NULL, c->err, "at most %d images are supported by this server",
                         IMAGES_MAX);
    return check_calls(c, &top);
}

json_t *body_messages(const json_t *messages, struct body_marks *marks, struct err *err)
{
    struct conversation c = {.out = json_array(),
                             .open = json_object(),
                             .seen_ids = json_object(),
                             .marks = marks,
                             .err = err};
    int rc = add_messages(&c, messages);
    json_decref(c.open);
    json_decref(c.seen_ids);
    if (rc == 0)
        return c.out;
    json_decref(c.out);
    return NULL;
}
