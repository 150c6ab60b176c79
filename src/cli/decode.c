/* decode.c - lines from the CLI's stdout.
 *
 * Two kinds of line are long, come in every turn and carry nothing we use: system/init (20 kB
 * with commands and tools) and finished assistant blocks (their text was already seen as deltas).
 * They are recognised by their first bytes and not parsed; a line with another key order simply
 * takes the slower way to the same answer. Unknown types are never fatal.
 *
 * The program is written in JavaScript, which may cut a text inside a surrogate pair and then
 * writes the half as an escape. jansson refuses that, and a result line refused would leave its
 * turn waiting for a time-out: such a line is repaired and parsed once more. */
#include "cli/protocol.h"

#include <ctype.h>

#define ESCAPE_LEN 6 /* \uXXXX */

static const struct {
    const char *prefix;
    enum cli_kind kind;
} unparsed[] = {
    {"{\"type\":\"system\",\"subtype\":\"init\",", CLI_INIT},
    {"{\"type\":\"system\",\"subtype\":\"status\",", CLI_OTHER},
};

static const struct {
    const char *type;
    enum cli_kind kind;
} types[] = {
    {"stream_event", CLI_STREAM},
    {"result", CLI_RESULT},
    {"control_response", CLI_CONTROL_RESPONSE},
    {"control_request", CLI_CONTROL_REQUEST},
    {"assistant", CLI_ASSISTANT_ERROR},
    {"system", CLI_OTHER},
    {"user", CLI_TOOL_RESULTS},
    {"keep_alive", CLI_OTHER},
    {"rate_limit_event", CLI_OTHER},
    {"tool_progress", CLI_OTHER},
    {"auth_status", CLI_OTHER},
    {"control_cancel_request", CLI_OTHER},
    {"prompt_suggestion", CLI_OTHER},
};

static void read_result(struct cli_msg *m)
{
    m->is_error = json_get_bool(m->root, "is_error", false);
    m->num_turns = json_get_int(m->root, "num_turns", 0);
    m->api_error_status = (int)json_get_int(m->root, "api_error_status", 0);
    m->result = json_get_str(m->root, "result");
    m->terminal_reason = json_get_str(m->root, "terminal_reason");
    m->session_id = json_get_str(m->root, "session_id");
}

static void read_control_response(struct cli_msg *m)
{
    const json_t *r = json_object_get(m->root, "response");
    m->request_id = json_get_str(r, "request_id");
    m->success = str_eq_c(json_get_str(r, "subtype"), "success");
    m->error = json_get_str(r, "error");
}

/* Other lines of a user are replays and notes, or belong to a subagent. */
static void read_tool_results(struct cli_msg *m)
{
    json_t *content = json_object_get(json_object_get(m->root, "message"), "content");
    bool found = false;
    for (size_t i = 0; i < json_array_size(content); i++)
        found |= str_eq_c(json_get_str(json_array_get(content, i), "type"), "tool_result");
    if (found && json_get_str(m->root, "parent_tool_use_id").len == 0)
        m->results = content;
    else
        m->kind = CLI_OTHER;
}

static void read_details(struct cli_msg *m)
{
    m->subtype = json_get_str(m->root, "subtype");
    switch (m->kind) {
    case CLI_STREAM:
        m->event = json_object_get(m->root, "event");
        if (!json_is_object(m->event)) {
            m->event = NULL;
            m->kind = CLI_OTHER;
        }
        break;
    case CLI_TOOL_RESULTS:
        read_tool_results(m);
        break;
    case CLI_RESULT:
        read_result(m);
        break;
    case CLI_CONTROL_RESPONSE:
        read_control_response(m);
        break;
    case CLI_CONTROL_REQUEST:
        m->request_id = json_get_str(m->root, "request_id");
        m->subtype = json_get_str(json_object_get(m->root, "request"), "subtype");
        break;
    case CLI_ASSISTANT_ERROR:
        m->error = json_get_str(m->root, "error");
        if (m->error.len == 0)
            m->kind = CLI_OTHER;
        break;
    case CLI_OTHER:
        if (str_eq_c(m->subtype, "init"))
            m->kind = CLI_INIT;
        else if (str_eq_c(m->subtype, "api_retry"))
            m->kind = CLI_API_RETRY;
        break;
    case CLI_INIT:
    case CLI_API_RETRY:
    case CLI_UNKNOWN:
    case CLI_GARBAGE:
        break;
    }
}

/* An assistant line without an "error" key anywhere needs no parsing. */
static bool plain_assistant(struct str line)
{
    return str_starts(line, "{\"type\":\"assistant\",") && !str_contains(line, "\"error\"");
}

/* --- parsing ----------------------------------------------------------------------------- */

/* The code unit of the escape at p (backslash, u, four hex digits), or -1. */
static long escape_unit(const char *p, const char *end)
{
    char digits[5] = "";
    if (end - p < ESCAPE_LEN || p[0] != '\\' || p[1] != 'u')
        return -1;
    for (size_t i = 0; i < 4; i++) {
        if (!isxdigit((unsigned char)p[i + 2]))
            return -1;
        digits[i] = p[i + 2];
    }
    return strtol(digits, NULL, 16);
}

/* How many bytes at p, an escape, are a whole character: 0 for half of a surrogate pair. */
static int whole_escape(const char *p, const char *end)
{
    long unit = escape_unit(p, end);
    if (unit < 0xD800 || unit > 0xDFFF)
        return unit < 0 ? 2 : ESCAPE_LEN;
    long next = unit <= 0xDBFF ? escape_unit(p + ESCAPE_LEN, end) : -1;
    return next >= 0xDC00 && next <= 0xDFFF ? 2 * ESCAPE_LEN : 0;
}

/* Puts U+FFFD in the place of each half of a surrogate pair; as long as before. */
static void repair(char *p, const char *end)
{
    while (p < end) {
        if (*p != '\\') {
            p++;
            continue;
        }
        int n = whole_escape(p, end);
        if (n == 0) {
            memcpy(p + 2, "fffd", 4);
            n = ESCAPE_LEN;
        }
        p += n;
    }
}

static json_t *parse(struct str text)
{
    json_t *j = json_loadb(text.p, text.len, JSON_ALLOW_NUL, NULL);
    if (j || !str_contains(text, "\\u"))
        return j;
    char *copy = str_dup(text);
    repair(copy, copy + text.len);
    j = json_loadb(copy, text.len, JSON_ALLOW_NUL, NULL);
    free(copy);
    return j;
}

/* --- stream events ----------------------------------------------------------------------- */

/* Most lines of a turn are stream events, and only the event in them is of use. The short ones
 * (block starts and stops, message stops) are the same bytes again and again: the parsed value is
 * kept and shared, events being read-only to everybody. Deltas are not: they are somebody's text.
 */
#define MEMO_SLOTS 64
#define MEMO_LEN   192

static struct {
    char text[MEMO_LEN];
    size_t len;
    json_t *event;
} memo[MEMO_SLOTS];

static size_t memo_slot(struct str text)
{
    uint32_t h = 2166136261u; /* FNV-1a */
    for (size_t i = 0; i < text.len; i++)
        h = (h ^ (unsigned char)text.p[i]) * 16777619u;
    return h % MEMO_SLOTS;
}

static json_t *parse_event(struct str text)
{
    json_t *event = parse(text);
    if (json_is_object(event))
        return event;
    json_decref(event);
    return NULL;
}

static json_t *recall_event(struct str text)
{
    if (text.len > MEMO_LEN || str_contains(text, "delta"))
        return parse_event(text);
    size_t i = memo_slot(text);
    if (memo[i].event && str_eq(text, str_n(memo[i].text, memo[i].len)))
        return json_incref(memo[i].event);
    json_t *event = parse_event(text);
    if (event) {
        json_decref(memo[i].event);
        memo[i].event = json_incref(event);
        memo[i].len = text.len;
        memcpy(memo[i].text, text.p, text.len);
    }
    return event;
}

void cli_decode_forget(void)
{
    for (size_t i = 0; i < MEMO_SLOTS; i++) {
        json_decref(memo[i].event);
        memo[i].event = NULL;
    }
}

/* The event stands between two fixed texts. Where that is not so, or what stands there is not
 * an object, the line is parsed whole instead. */
static bool decode_stream_event(struct str line, struct cli_msg *ret_msg)
{
    static const char before[] = "{\"type\":\"stream_event\",\"event\":";
    static const char after[] = ",\"session_id\":\"";
    size_t skip = sizeof(before) - 1;
    if (!str_starts(line, before))
        return false;
    const char *start = line.p + skip;
    const char *end = memmem(start, line.len - skip, after, sizeof(after) - 1);
    json_t *event = end ? recall_event(str_n(start, (size_t)(end - start))) : NULL;
    if (!event)
        return false;
    *ret_msg = (struct cli_msg){.kind = CLI_STREAM, .root = event, .event = event};
    return true;
}

/* A good result line is a kilobyte of numbers that the relay has told already; only the session's
 * id is of use. It stands behind the answer's text, in which these bytes cannot occur unescaped. */
static bool decode_good_result(struct str line, struct cli_msg *ret_msg)
{
    static const char before[] = "{\"type\":\"result\",\"subtype\":\"success\",\"is_error\":false,";
    static const char key[] = ",\"session_id\":\"";
    if (!str_starts(line, before))
        return false;
    const char *end = line.p + line.len;
    const char *id = memmem(line.p, line.len, key, sizeof(key) - 1);
    const char *quote =
        id ? memchr(id + sizeof(key) - 1, '"', (size_t)(end - id) - sizeof(key) + 1) : NULL;
    if (!quote || end[-1] != '}')
        return false;
    id += sizeof(key) - 1;
    *ret_msg = (struct cli_msg){.kind = CLI_RESULT,
                                .subtype = STR("success"),
                                .session_id = str_n(id, (size_t)(quote - id))};
    return true;
}

void cli_decode(struct str line, struct cli_msg *ret_msg)
{
    *ret_msg = (struct cli_msg){.kind = CLI_GARBAGE};
    if (decode_stream_event(line, ret_msg) || decode_good_result(line, ret_msg))
        return;
    for (size_t i = 0; i < ARRAY_SIZE(unparsed); i++) {
        if (str_starts(line, unparsed[i].prefix)) {
            ret_msg->kind = unparsed[i].kind;
            return;
        }
    }
    if (plain_assistant(line)) {
        ret_msg->kind = CLI_OTHER;
        return;
    }
    json_t *root = parse(line);
    struct str type = json_get_str(root, "type");
    if (type.len == 0) {
        json_decref(root);
        return;
    }
    ret_msg->root = root;
    ret_msg->kind = CLI_UNKNOWN;
    for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
        if (str_eq_c(type, types[i].type)) {
            ret_msg->kind = types[i].kind;
            read_details(ret_msg);
            return;
        }
    }
}

void cli_msg_release(struct cli_msg *msg)
{
    json_decref(msg->root);
    *msg = (struct cli_msg){.kind = CLI_GARBAGE};
}
