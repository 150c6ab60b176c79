/* conversation.c - the `messages` of a request, and whether the claude program can be told them.
 *
 * The program repairs a conversation in silence: it invents results for calls that have none, drops
 * results without a call, joins what shares an id. What the API refuses of that is refused here, in
 * the API's words. What it may accept, or judges in its own way, makes the conversation awkward:
 *   - an assistant's message at the end (a prefill) or at the beginning, a role "system";
 *   - an assistant's message of thinking alone; a server's tool call without its result;
 *   - results of tools that do not come first, and failed ones with more than text;
 *   - images and documents in base64, which the program opens and may write anew (large ones, and
 *     those of another type than they say); more than 100 of any kind, of which it keeps 80;
 *   - blocks that are not known here;
 *   - a megabyte and more: the program's reading is quadratic in a line's length;
 *   - more than 40 messages of history: it is told them one by one, and acknowledges each. Before
 *     the first byte of an answer that took 25 ms without a history, 80 ms with 40 messages, 125 ms
 *     with 100 and 880 ms with 1,000, on two cores that had little else to do, and several times
 *     that on busy ones; around the program it is 10 ms, and 20 ms with 1,000. Not from the first
 *     message on, because the program adds a text to the first one: a conversation that changes
 *     over meets the prompt cache anew, once, while it is still short.
 * What reaches upstream is what the client said, either way. */
#include "api/anthropic/body.h"

#define MESSAGES_MAX 100000
#define MEDIA_MAX    100
#define TOLD_MAX     ((size_t)1 << 20) /* bytes of text */
#define HISTORY_MAX  40                /* messages before the live one */

struct conversation {
    struct body_conversation out;
    json_t *open;     /* owned: ids of calls in the latest assistant message */
    json_t *seen_ids; /* owned: of all calls */
    struct body_marks *marks;
    size_t media, bytes;
    struct err *err;
};

static bool is_type(const json_t *block, const char *type)
{
    return str_eq_c(json_get_str(block, "type"), type);
}

static bool is_thinking(const json_t *block)
{
    return is_type(block, "thinking") || is_type(block, "redacted_thinking");
}

static void look_at_media(struct conversation *c, const json_t *content)
{
    size_t i;
    const json_t *block;
    json_array_foreach(content, i, block)
    {
        const json_t *source = json_object_get(block, "source");
        bool media = is_type(block, "image") || is_type(block, "document");
        c->media += media;
        c->out.awkward |= media && is_type(source, "base64");
        look_at_media(c, json_object_get(media ? source : block, "content"));
    }
}

static size_t text_size(const json_t *j)
{
    const char *key;
    size_t i, sum = 0;
    json_t *v;
    if (json_is_string(j))
        return json_string_length(j);
    json_object_foreach((json_t *)(uintptr_t)j, key, v) sum += strlen(key) + text_size(v);
    json_array_foreach((json_t *)(uintptr_t)j, i, v) sum += text_size(v);
    return sum;
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

/* +1: a call of a tool that runs upstream; -1: the result of one. */
static int server_call(const json_t *block)
{
    struct str type = json_get_str(block, "type");
    if (str_eq_c(type, "server_tool_use") || str_eq_c(type, "mcp_tool_use"))
        return 1;
    return str_ends(type, "_tool_result") ? -1 : 0;
}

static int add_calls(struct conversation *c, const json_t *content, const struct place *at)
{
    const json_t *block;
    size_t i;
    int server_calls = 0;
    bool more_than_thinking = false;
    json_array_foreach(content, i, block)
    {
        struct place here = {.up = at, .index = i};
        server_calls += server_call(block);
        more_than_thinking |= !is_thinking(block);
        if (is_type(block, "tool_use") && add_call(c, block, &here) != 0)
            return -1;
    }
    c->out.awkward |= server_calls != 0 || !more_than_thinking;
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
static bool has_more_than_text(const json_t *result)
{
    const json_t *inner;
    size_t i;
    json_array_foreach(json_object_get(result, "content"), i, inner)
    {
        if (!is_type(inner, "text"))
            return true;
    }
    return false;
}

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
        c->out.awkward |= other || (json_is_true(json_object_get(block, "is_error")) &&
                                    has_more_than_text(block));
        if (add_result(c, block, &here) != 0)
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
static void append(json_t *messages, const char *role, const json_t *content)
{
    size_t n = json_array_size(messages);
    json_t *last = n ? json_array_get(messages, n - 1) : NULL;
    if (last && str_eq_c(json_get_str(last, "role"), role))
        json_array_extend(json_object_get(last, "content"), (json_t *)(uintptr_t)content);
    else
        json_array_append_new(messages, json_pack("{s:s, s:o}", "role", role, "content",
                                                  json_copy((json_t *)(uintptr_t)content)));
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

/* NULL: it is none. */
static const char *read_role(const json_t *message, unsigned *ret_where)
{
    static const struct {
        const char *name;
        unsigned where;
    } roles[] = {{"user", IN_USER}, {"assistant", IN_ASSISTANT}, {"system", IN_SYSTEM}};
    struct str role = json_get_str(message, "role");
    for (size_t i = 0; i < ARRAY_SIZE(roles); i++) {
        *ret_where = roles[i].where;
        if (str_eq_c(role, roles[i].name))
            return roles[i].name;
    }
    return NULL;
}

/* Of the last message only, an assistant's. */
static bool is_empty(const json_t *content)
{
    return (json_is_string(content) && json_string_length(content) == 0) ||
           (json_is_array(content) && json_array_size(content) == 0);
}

static int add_message(struct conversation *c, const json_t *message, bool last,
                       const struct place *at)
{
    struct place inside = {.up = at, .name = "content"};
    json_t *given = json_object_get(message, "content");
    unsigned where;
    if (check_keys(message, at, c->err) != 0)
        return -1;
    const char *role = read_role(message, &where);
    if (!role)
        return place_err(at, "role", c->err, "Input should be 'user', 'assistant' or 'system'");
    bool prefill = where == IN_ASSISTANT && last;
    AUTO(json_unref_p)
    json_t *content = prefill && is_empty(given)
                          ? json_array()
                          : body_content(given, where, &inside, c->marks, c->err);
    if (!content)
        return -1;
    if (json_array_size(content) == 0 && !prefill)
        return place_err(at, NULL, c->err, "%s messages must have non-empty content", role);
    look_at_media(c, content);
    c->bytes += text_size(content);
    c->out.awkward |= prefill || where == IN_SYSTEM ||
                      (where == IN_ASSISTANT && json_array_size(c->out.given) == 0);
    json_array_append_new(c->out.given, json_pack("{s:s, s:O}", "role", role, "content",
                                                  json_is_string(given) ? given : content));
    if (where != IN_SYSTEM)
        append(c->out.joined, role, content);
    return 0;
}

/* Roles alternate by now. */
static int check_calls(struct conversation *c, const struct place *top)
{
    const json_t *message;
    size_t i;
    json_array_foreach(c->out.joined, i, message)
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
        if (add_message(c, message, i + 1 == json_array_size(messages), &at) != 0)
            return -1;
    }
    c->out.awkward |= c->media > MEDIA_MAX || c->bytes > TOLD_MAX || c->marks->unknown ||
                      json_array_size(c->out.joined) > HISTORY_MAX + 1;
    return check_calls(c, &top);
}

void body_conversation_release(struct body_conversation *c)
{
    json_decref(c->given);
    json_decref(c->joined);
    *c = (struct body_conversation){0};
}

int body_messages(const json_t *messages, struct body_marks *marks, struct body_conversation *ret,
                  struct err *err)
{
    marks->unknown = false; /* of the system text, which the program is never told */
    struct conversation c = {.out = {.given = json_array(), .joined = json_array()},
                             .open = json_object(),
                             .seen_ids = json_object(),
                             .marks = marks,
                             .err = err};
    int rc = add_messages(&c, messages);
    json_decref(c.open);
    json_decref(c.seen_ids);
    if (rc == 0)
        *ret = c.out;
    else
        body_conversation_release(&c.out);
    return rc;
}
