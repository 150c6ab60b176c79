/* fake_history.c - the conversation as the program keeps it, and what it would send upstream.
 *
 * Entries are kept as they came (a JSON value, or the text of one finished block) and put
 * together only when somebody looks: the log, the upstream request, echo_history. Putting
 * together follows the real program: consecutive user messages become one; an assistant message
 * whose id stood before, with only tool results between, is appended to that one; text the
 * program put in itself (and string content) gets a newline when something follows it. */
#include "fake.h"

#define REMINDER                                                                                   \
    "<system-reminder>\nAs you answer the user's questions, you can use the following context:\n"  \
    "# currentDate\nToday's date is %.10s.\n\n      IMPORTANT: this context may or may not be "    \
    "relevant to your tasks. You should not respond to this context unless it is highly relevant " \
    "to your task.\n</system-reminder>\n"
#define DESCRIPTION_MAX 2048
#define HISTORY_MAX     100000

struct hist {
    struct node node;
    bool user, note;
    bool passing;    /* forgotten when the turn ends */
    char *id;        /* assistant only; NULL = had none */
    json_t *content; /* or */
    char *raw;       /* one block as JSON text */
};

static void hist_drop(struct fake *f, struct hist *h)
{
    list_remove(&f->history, &h->node);
    free(h->id);
    free(h->raw);
    json_decref(h->content);
    free(h);
}

void hist_clear(struct fake *f)
{
    while (f->history.len)
        hist_drop(f, container_of(list_first(&f->history), struct hist, node));
}

static struct hist *hist_add(struct fake *f, bool user)
{
    struct hist *h = x_calloc(1, sizeof(*h));
    h->user = user;
    list_push_back(&f->history, &h->node);
    if (f->history.len > HISTORY_MAX) /* a benchmark that never resets must not eat the machine */
        hist_drop(f, container_of(list_first(&f->history), struct hist, node));
    return h;
}

void hist_user(struct fake *f, json_t *content)
{
    struct hist *h = hist_add(f, true);
    h->note = json_is_string(content);
    h->content = json_incref(content);
}

void hist_note(struct fake *f, const char *text)
{
    json_t *s = json_stringn_nocheck(text, strlen(text));
    hist_user(f, s);
    json_decref(s);
}

void hist_passing_note(struct fake *f, const char *text)
{
    hist_note(f, text);
    container_of(f->history.head.prev, struct hist, node)->passing = true;
}

void hist_forget_passing(struct fake *f)
{
    for (struct node *n = f->history.head.next, *next; n != &f->history.head; n = next) {
        struct hist *h = container_of(n, struct hist, node);
        next = n->next;
        if (h->passing)
            hist_drop(f, h);
    }
}

void hist_assistant(struct fake *f, const char *id, json_t *content)
{
    struct hist *h = hist_add(f, false);
    h->id = id ? x_strdup(id) : NULL;
    h->content = json_incref(content);
}

void hist_assistant_block(struct fake *f, const char *id, struct str block_json)
{
    struct hist *h = hist_add(f, false);
    h->id = x_strdup(id);
    h->raw = str_dup(block_json);
}

static json_t *text_block(struct str s)
{
    return json_pack("{s:s,s:o}", "type", "text", "text", json_stringn_nocheck(s.p, s.len));
}

static bool empty_text(const json_t *block)
{
    return str_eq_c(json_get_str(block, "type"), "text") && json_get_str(block, "text").len == 0;
}

/* The entry's blocks without empty texts; new reference. */
static json_t *entry_blocks(const struct hist *h)
{
    json_t *blocks = json_array(), *item;
    size_t i;
    if (h->raw)
        json_array_append_new(blocks, json_loads(h->raw, JSON_ALLOW_NUL, NULL));
    if (json_is_string(h->content))
        json_array_append_new(blocks, text_block(json_str_of(h->content)));
    json_array_foreach(h->content, i, item)
    {
        if (!empty_text(item))
            json_array_append(blocks, item);
    }
    return blocks;
}

static void newline_after_last(json_t *blocks)
{
    size_t n = json_array_size(blocks);
    struct str s = n ? json_get_str(json_array_get(blocks, n - 1), "text") : STR("");
    struct buf longer;
    buf_init(&longer, FAKE_MAX_BYTES);
    buf_addstr(&longer, s);
    buf_addc(&longer, '\n');
    json_array_set_new(blocks, n - 1, text_block(buf_str(&longer)));
    buf_release(&longer);
}

struct building {
    json_t *messages;
    json_t *answered; /* ids of the calls whose result was seen: a second one is left out */
    json_t *ids; /* of each message: its id, null, or true for a user message that is one note */
    bool last_was_note;
};

static void add_message(struct building *b, const char *role, json_t *blocks, json_t *id)
{
    json_array_append_new(b->messages, json_pack("{s:s,s:O}", "role", role, "content", blocks));
    json_array_append_new(b->ids, id);
}

static void drop_second_results(struct building *b, json_t *blocks)
{
    for (size_t i = 0; i < json_array_size(blocks);) {
        const char *id =
            json_string_value(json_object_get(json_array_get(blocks, i), "tool_use_id"));
        if (id && json_object_get(b->answered, id)) {
            json_array_remove(blocks, i);
            continue;
        }
        if (id)
            json_object_set_new(b->answered, id, json_true());
        i++;
    }
}

static bool is_user(const json_t *message)
{
    return str_eq_c(json_get_str(message, "role"), "user");
}

static void build_user(struct building *b, bool note, json_t *blocks)
{
    size_t n = json_array_size(b->messages);
    json_t *last = n ? json_array_get(b->messages, n - 1) : NULL;
    if (last && is_user(last)) {
        json_t *content = json_object_get(last, "content");
        if (b->last_was_note)
            newline_after_last(content);
        json_array_extend(content, blocks);
        json_array_set_new(b->ids, n - 1, json_null());
    } else {
        if (json_array_size(blocks) == 0)
            json_array_append_new(blocks, text_block(STR("(no content)")));
        add_message(b, "user", blocks, note ? json_true() : json_null());
    }
    b->last_was_note = note;
}

static void build_reminder(struct building *b)
{
    char today[CLOCK_RFC3339_SIZE];
    char *text = x_printf(REMINDER, clock_rfc3339(clock_wall_ms(), today));
    json_t *blocks = json_pack("[o]", text_block(str_c(text)));
    build_user(b, true, blocks);
    json_decref(blocks);
    free(text);
}

static bool only_tool_results(const json_t *message)
{
    size_t i;
    json_t *block;
    json_array_foreach(json_object_get(message, "content"), i, block)
    {
        if (!str_eq_c(json_get_str(block, "type"), "tool_result"))
            return false;
    }
    return true;
}

/* Where an assistant message of this id goes on; NULL = it is a new one. */
static json_t *same_response(const struct building *b, const char *id)
{
    for (size_t i = json_array_size(b->messages); i-- > 0;) {
        json_t *m = json_array_get(b->messages, i);
        const json_t *its = json_array_get(b->ids, i);
        if (is_user(m)) {
            if (!only_tool_results(m))
                return NULL;
        } else if (id ? str_eq_c(json_str_of(its), id) : json_is_null(its)) {
            return m;
        }
    }
    return NULL;
}

static void build_assistant(struct building *b, const struct hist *h, json_t *blocks)
{
    json_t *same = same_response(b, h->id);
    if (same)
        json_array_extend(json_object_get(same, "content"), blocks);
    else
        add_message(b, "assistant", blocks, h->id ? json_string_nocheck(h->id) : json_null());
}

static json_t *ephemeral(void)
{
    return json_pack("{s:s}", "type", "ephemeral");
}

static void mark_last(json_t *messages)
{
    json_t *last = json_array_get(messages, json_array_size(messages) - 1);
    json_t *content = json_object_get(last, "content");
    size_t n = json_array_size(content);
    if (n == 0)
        return;
    json_t *copy = json_copy(json_array_get(content, n - 1)); /* the history keeps its own */
    json_object_set_new(copy, "cache_control", ephemeral());
    json_array_set_new(content, n - 1, copy);
}

/* A message that is one note goes upstream as a string, the last one excepted. */
static void notes_as_strings(const struct building *b)
{
    for (size_t i = 0; i + 1 < json_array_size(b->messages); i++) {
        json_t *m = json_array_get(b->messages, i);
        if (json_is_true(json_array_get(b->ids, i)))
            json_object_set(
                m, "content",
                json_object_get(json_array_get(json_object_get(m, "content"), 0), "text"));
    }
}

json_t *hist_messages(struct fake *f, bool for_upstream)
{
    struct building b = {.messages = json_array(), .answered = json_object(), .ids = json_array()};
    if (for_upstream)
        build_reminder(&b);
    for (struct node *n = f->history.head.next; n != &f->history.head; n = n->next) {
        const struct hist *h = container_of(n, struct hist, node);
        json_t *blocks = entry_blocks(h);
        if (h->user) {
            drop_second_results(&b, blocks);
            build_user(&b, h->note, blocks);
        } else {
            build_assistant(&b, h, blocks);
        }
        json_decref(blocks);
    }
    if (for_upstream) {
        mark_last(b.messages);
        notes_as_strings(&b);
    }
    json_decref(b.answered);
    json_decref(b.ids);
    return b.messages;
}

static void echo_block(struct buf *text, const json_t *block)
{
    struct str type = json_get_str(block, "type");
    const json_t *content = json_object_get(block, "content");
    if (text->len)
        buf_addc(text, '\n');
    if (str_eq_c(type, "text")) {
        buf_addstr(text, json_get_str(block, "text"));
        return;
    }
    buf_printf(text, "[%.*s", (int)type.len, type.p);
    if (json_object_get(block, "name"))
        buf_printf(text, " %s", json_string_value(json_object_get(block, "name")));
    if (content) {
        buf_addc(text, ' ');
        json_write(text, content);
    }
    buf_addc(text, ']');
}

void hist_echo(struct fake *f, struct buf *out)
{
    json_t *messages = hist_messages(f, false), *list = json_array(), *m, *block;
    size_t i, k;
    json_array_foreach(messages, i, m)
    {
        struct buf text;
        buf_init(&text, FAKE_MAX_BYTES);
        json_array_foreach(json_object_get(m, "content"), k, block) echo_block(&text, block);
        json_array_append_new(list,
                              json_pack("{s:O,s:o}", "role", json_object_get(m, "role"), "text",
                                        json_stringn_nocheck(buf_cstr(&text), text.len)));
        buf_release(&text);
    }
    json_write(out, list);
    json_decref(list);
    json_decref(messages);
}

/* ---- the request ---- */

static json_t *system_blocks(struct fake *f)
{
    const char *attribution = fake_env(f, "CLAUDE_CODE_ATTRIBUTION_HEADER");
    json_t *system = json_array();
    if (!attribution || strcmp(attribution, "0") != 0)
        json_array_append_new(system,
                              text_block(STR("x-anthropic-billing-header: cc_version=" FAKE_VERSION
                                             ".0df; cc_entrypoint=sdk-cli;")));
    json_t *identity = text_block(
        f->append_prompt ? STR("You are Claude Code, Anthropic's official CLI for Claude, running "
                               "within the Claude Agent SDK.")
                         : STR("You are a Claude agent, built on Anthropic's Claude Agent SDK."));
    json_object_set_new(identity, "cache_control", ephemeral());
    json_array_append_new(system, identity);
    const char *own = f->system_prompt ? f->system_prompt : "", *more = f->append_prompt;
    char *custom = x_printf("%s%s%s", own, own[0] && more ? "\n\n" : "", more ? more : "");
    if (custom[0]) {
        json_t *block = text_block(str_c(custom));
        json_object_set_new(block, "cache_control", ephemeral());
        json_array_append_new(system, block);
    }
    free(custom);
    return system;
}

static bool has_union(const json_t *schema)
{
    return json_object_get(schema, "anyOf") || json_object_get(schema, "oneOf") ||
           json_object_get(schema, "allOf");
}

static json_t *tool_upstream(struct fake *f, const struct tool *t)
{
    struct str d = json_get_str(t->def, "description");
    char *name = tool_visible(f, t);
    char *cut = d.len > DESCRIPTION_MAX
                    ? x_printf("%.*s\xE2\x80\xA6 [truncated]", DESCRIPTION_MAX, d.p)
                    : str_dup(d);
    json_t *out =
        json_pack("{s:o,s:o,s:O}", "name", json_string_nocheck(name), "description",
                  json_string_nocheck(cut), "input_schema", json_object_get(t->def, "inputSchema"));
    free(cut);
    free(name);
    return out;
}

static json_t *tools_upstream(struct fake *f)
{
    json_t *list = json_array();
    for (size_t i = 0; i < f->ntools; i++) {
        if (!has_union(json_object_get(f->tools[i].def, "inputSchema")))
            json_array_append_new(list, tool_upstream(f, &f->tools[i]));
    }
    return list;
}

static void add_thinking(struct fake *f, json_t *body, int64_t max_tokens)
{
    if (f->thinking == 0) {
        json_object_set_new(body, "thinking", json_pack("{s:s}", "type", "disabled"));
        json_object_set_new(body, "temperature", json_integer(1));
        return;
    }
    int64_t budget = f->thinking > 0 && f->thinking < max_tokens ? f->thinking : max_tokens - 1;
    json_object_set_new(
        body, "thinking",
        json_pack("{s:I,s:s}", "budget_tokens", (json_int_t)budget, "type", "enabled"));
    json_object_set_new(
        body, "context_management",
        json_pack("{s:[{s:s,s:s}]}", "edits", "type", "clear_thinking_20251015", "keep", "all"));
}

static void merge_extra_body(struct fake *f, json_t *body)
{
    const char *text = fake_env(f, "CLAUDE_CODE_EXTRA_BODY");
    json_t *extra = text ? json_loads(text, JSON_ALLOW_NUL, NULL) : NULL;
    if (json_is_object(extra)) /* anything else is ignored in silence, as by the real program */
        json_object_update(body, extra);
    json_decref(extra);
}

json_t *request_body(struct fake *f)
{
    uint64_t limit = 0;
    const char *text = fake_env(f, "CLAUDE_CODE_MAX_OUTPUT_TOKENS");
    if (!text || !str_to_u64(str_c(text), &limit) || limit == 0 || limit > 64000)
        limit = 32000;
    char *user = x_printf("{\"device_id\":\"%064d\",\"account_uuid\":\"\",\"session_id\":\"%s\"}",
                          0, f->session_id);
    json_t *body =
        json_pack("{s:s,s:o,s:o,s:o,s:{s:s},s:I}", "model", f->model, "messages",
                  hist_messages(f, true), "system", system_blocks(f), "tools", tools_upstream(f),
                  "metadata", "user_id", user, "max_tokens", (json_int_t)limit);
    free(user);
    add_thinking(f, body, (int64_t)limit);
    if (strstr(f->model, "opus"))
        json_object_set_new(body, "output_config", json_pack("{s:s}", "effort", "high"));
    merge_extra_body(f, body);
    json_object_set_new(body, "stream", json_true());
    return body;
}

json_t *request_headers(struct fake *f)
{
    json_t *headers = json_object();
    struct str rest = str_c(fake_env(f, "ANTHROPIC_CUSTOM_HEADERS"));
    while (rest.len) {
        struct str value = str_split(&rest, '\n');
        struct str name = str_trim(str_split(&value, ':'));
        value = str_trim(value);
        if (name.len) {
            char *key = str_dup(name);
            json_object_set_new_nocheck(headers, key, json_stringn_nocheck(value.p, value.len));
            free(key);
        }
    }
    return headers;
}
