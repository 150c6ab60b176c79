/* decode.c - lines from the CLI's stdout.
 *
 * Two kinds of line are long, come in every turn and carry nothing we use: system/init (20 kB
 * with commands and tools) and finished assistant blocks (their text was already seen as deltas).
 * They are recognised by their first bytes and not parsed; a line with another key order simply
 * takes the slower way to the same answer. Unknown types are never fatal. */
#include "cli/protocol.h"

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
    {"user", CLI_OTHER},
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

static void read_details(struct cli_msg *m)
{
    m->subtype = json_get_str(m->root, "subtype");
    switch (m->kind) {
    case CLI_STREAM:
        m->event = json_object_get(m->root, "event");
        if (!json_is_object(m->event))
            m->kind = CLI_OTHER;
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

/* Most lines of a turn are stream events, and only the event in them is of use: it is parsed from
 * where it stands, and what follows it (ids) is not looked at. */
static bool decode_stream_event(struct str line, struct cli_msg *ret_msg)
{
    static const char prefix[] = "{\"type\":\"stream_event\",\"event\":";
    size_t skip = sizeof(prefix) - 1;
    if (!str_starts(line, prefix))
        return false;
    json_t *event =
        json_loadb(line.p + skip, line.len - skip, JSON_ALLOW_NUL | JSON_DISABLE_EOF_CHECK, NULL);
    if (!json_is_object(event)) {
        json_decref(event);
        return false;
    }
    *ret_msg = (struct cli_msg){.kind = CLI_STREAM, .root = event, .event = event};
    return true;
}

void cli_decode(struct str line, struct cli_msg *ret_msg)
{
    *ret_msg = (struct cli_msg){.kind = CLI_GARBAGE};
    if (decode_stream_event(line, ret_msg))
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
    json_t *root = json_loadb(line.p, line.len, JSON_ALLOW_NUL, NULL);
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
