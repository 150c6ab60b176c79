/* parse.c - the body of POST /v1/messages.
 *
 * Parameters are passed on as the client gave them: the API is the judge of their values, and says
 * what it thinks of them. Checked here is what this server itself acts upon. A parameter that is
 * absent becomes null, so that the relay takes out what the claude program would say by itself. */
#include "api/anthropic/body.h"
#include "api/anthropic/messages.h"

#include <ctype.h>

#define BODY_MAX ((size_t)32 << 20) /* the API's own limit */
/* What the claude program is told in place of a conversation that it cannot be told. */
#define STAND_IN       "The conversation is in the request."
#define MODEL_MAX      100
#define MAX_TOKENS_MAX 10000000

/* By this the SDKs know to go on without threads. */
#define NO_THREADS "{\"error_code\":\"thread_unsupported_request\",\"unsupported\":[\"thread\"]}"

enum param_rule {
    PASS,   /* to upstream, or null */
    OWN,    /* read here */
    KEEP,   /* to upstream, else the claude program's own stays */
    REFUSE, /* concerns the operator's account or other models, or has no meaning here */
};

static const struct {
    const char *name;
    enum param_rule rule;
} params[] = {
    {"model", OWN},
    {"messages", OWN},
    {"system", OWN},
    {"stream", OWN},
    {"max_tokens", OWN},
    {"metadata", KEEP},
    {"temperature", PASS},
    {"top_p", PASS},
    {"top_k", PASS},
    {"stop_sequences", PASS},
    {"tools", PASS},
    {"tool_choice", PASS},
    {"thinking", PASS},
    {"service_tier", PASS},
    {"output_config", PASS},
    {"output_format", PASS},
    {"context_management", PASS},
    {"cache_control", PASS},
    {"container", PASS},
    {"mcp_servers", PASS},
    {"inference_geo", PASS},
    {"speed", PASS},
    {"diagnostics", PASS},
    {"compaction", PASS},
    {"fallbacks", REFUSE},
    {"fallback_credit_token", REFUSE},
    {"billing_policy", REFUSE},
    {"thread", REFUSE},
    {"user_profile_id", REFUSE},
    {"workspace_id", REFUSE},
};

static enum param_rule rule_of(const char *name, bool *ret_known)
{
    for (size_t i = 0; i < ARRAY_SIZE(params); i++) {
        *ret_known = strcmp(params[i].name, name) == 0;
        if (*ret_known)
            return params[i].rule;
    }
    return REFUSE;
}

static int check_names(const json_t *body, struct err *err)
{
    const char *name;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)body, name, v)
    {
        bool known;
        enum param_rule rule = rule_of(name, &known);
        if (!known)
            return place_err(NULL, name, err, "Extra inputs are not permitted");
        if (rule == REFUSE && !json_is_null(v)) {
            place_err(NULL, name, err, "is not supported by this server");
            if (strcmp(name, "thread") == 0)
                err->anthropic_details = NO_THREADS;
            return -1;
        }
    }
    return 0;
}

static int read_model(const json_t *body, struct chat_request *r, struct err *err)
{
    const json_t *v = json_object_get(body, "model");
    struct str model = json_str_of(v);
    if (!v)
        return place_err(NULL, "model", err, "Field required");
    if (!json_is_string(v) || model.len == 0 || model.len > MODEL_MAX)
        return place_err(NULL, "model", err, "Input should be a string of 1 to %d characters",
                         MODEL_MAX);
    for (size_t i = 0; i < model.len; i++) {
        if (!isalnum((unsigned char)model.p[i]) && !memchr("-._:@/[]", model.p[i], 8))
            return place_err(NULL, "model", err, "may hold letters, digits and -._:@/[] only");
    }
    if (str_ieq_c(model, "default"))
        return place_err(NULL, "model", err, "must name a model");
    r->model = str_dup(model);
    return 0;
}

static int read_numbers(const json_t *body, struct chat_request *r, struct err *err)
{
    const json_t *max = json_object_get(body, "max_tokens");
    const json_t *stream = json_object_get(body, "stream");
    if (max && !json_is_integer(max))
        return place_err(NULL, "max_tokens", err, "Input should be a valid integer");
    if (max && (json_integer_value(max) < 1 || json_integer_value(max) > MAX_TOKENS_MAX))
        return place_err(NULL, "max_tokens", err, "Input should be between 1 and %d",
                         MAX_TOKENS_MAX);
    if (stream && !json_is_boolean(stream) && !json_is_null(stream))
        return place_err(NULL, "stream", err, "Input should be a valid boolean");
    r->max_tokens = json_integer_value(max);
    r->stream = json_is_true(stream);
    return 0;
}

static int read_system(const json_t *body, struct chat_request *r, struct body_marks *marks,
                       struct err *err)
{
    static const struct place at = {.name = "system"};
    json_t *v = json_object_get(body, "system");
    if (!v || json_is_null(v) || (json_is_string(v) && json_string_length(v) == 0))
        return 0;
    if (!json_is_string(v) && !json_is_array(v))
        return place_err(&at, NULL, err, "Input should be a valid string or list");
    r->system = body_content(v, IN_SYSTEM, &at, marks, err);
    return r->system ? 0 : -1;
}

static int check_tool(const json_t *tool, json_t *names, const struct place *at,
                      struct body_marks *marks, struct err *err)
{
    const char *name = json_string_value(json_object_get(tool, "name"));
    const json_t *mark = json_object_get(tool, "cache_control");
    const json_t *type = json_object_get(tool, "type");
    bool custom = !json_is_string(type) || str_eq_c(json_str_of(type), "custom");
    struct place mark_at = {.up = at, .name = "cache_control"};
    if (!json_is_object(tool))
        return place_err(at, NULL, err, "Input should be a valid dictionary");
    if (mark && !json_is_null(mark) && body_mark(mark, &mark_at, marks, err) != 0)
        return -1;
    if (custom && !name)
        return place_err(at, "name", err, "Field required");
    if (custom && !json_is_object(json_object_get(tool, "input_schema")))
        return place_err(at, "input_schema", err, "Field required");
    if (name && json_object_get(names, name))
        return place_err(at->up, NULL, err, "Tool names must be unique.");
    if (name)
        json_object_set_new(names, name, json_true());
    return 0;
}

static int check_tools(const json_t *tools, struct body_marks *marks, struct err *err)
{
    static const struct place top = {.name = "tools"};
    AUTO(json_unref_p) json_t *names = json_object();
    const json_t *tool;
    size_t i;
    if (!tools || json_is_null(tools))
        return 0;
    if (!json_is_array(tools))
        return place_err(&top, NULL, err, "Input should be a valid list");
    json_array_foreach(tools, i, tool)
    {
        struct place at = {.up = &top, .index = i};
        if (check_tool(tool, names, &at, marks, err) != 0)
            return -1;
    }
    return 0;
}

static void read_params(const json_t *body, struct chat_request *r)
{
    r->params = json_object();
    json_object_set_new(r->params, "model", json_string(r->model));
    for (size_t i = 0; i < ARRAY_SIZE(params); i++) {
        json_t *v = json_object_get(body, params[i].name);
        bool given = v && !json_is_null(v);
        if (given && (params[i].rule == PASS || params[i].rule == KEEP))
            json_object_set(r->params, params[i].name, v);
        else if (params[i].rule == PASS)
            json_object_set_new(r->params, params[i].name, json_null());
    }
}

/* The live message is the last; what is before it is history. A conversation that the claude
 * program would alter goes around it: the program asks a question of its own, once, and the relay
 * writes the client's messages in its place. */
static int read_messages(const json_t *body, struct chat_request *r, struct body_marks *marks,
                         struct err *err)
{
    struct body_conversation c;
    if (body_messages(json_object_get(body, "messages"), marks, &c, err) != 0)
        return -1;
    if (c.awkward) {
        r->messages = json_incref(c.given);
        r->history = json_array();
        r->content = json_pack("[{s:s, s:s}]", "type", "text", "text", STAND_IN);
    } else {
        size_t last = json_array_size(c.joined) - 1;
        r->history = json_incref(c.joined);
        r->content = json_incref(json_object_get(json_array_get(r->history, last), "content"));
        json_array_remove(r->history, last);
    }
    body_conversation_release(&c);
    return 0;
}

static int read_body(const json_t *body, struct chat_request *r, struct err *err)
{
    struct body_marks marks = {0};
    const json_t *top_mark = json_object_get(body, "cache_control");
    static const struct place mark_at = {.name = "cache_control"};
    if (!json_is_object(body))
        return err_set(err, ERR_INVALID, "The request body must be a JSON object");
    if (check_names(body, err) != 0 || read_model(body, r, err) != 0 ||
        read_numbers(body, r, err) != 0 || body_check_owned(body, err) != 0)
        return -1;
    if (top_mark && !json_is_null(top_mark) && body_mark(top_mark, &mark_at, &marks, err) != 0)
        return -1;
    if (check_tools(json_object_get(body, "tools"), &marks, err) != 0 ||
        read_system(body, r, &marks, err) != 0 || read_messages(body, r, &marks, err) != 0)
        return -1;
    read_params(body, r);
    return 0;
}

struct chat_request *messages_parse(const json_t *body, struct err *err)
{
    struct chat_request *r = x_calloc(1, sizeof(*r));
    r->exact = true;
    if (read_body(body, r, err) == 0)
        return r;
    chat_request_free(r);
    return NULL;
}

struct chat_request *messages_parse_text(struct str body, struct err *err)
{
    if (body.len > BODY_MAX) {
        err_set(err, ERR_TOO_LARGE, "Request exceeds the maximum size");
        return NULL;
    }
    AUTO(json_unref_p) json_t *root = json_parse_foreign(body, err);
    if (json_is_object(root) && !json_object_get(root, "max_tokens")) {
        place_err(NULL, "max_tokens", err, "Field required");
        return NULL;
    }
    return root ? messages_parse(root, err) : NULL;
}

int messages_check_count(struct str body, char **ret_model, struct err *err)
{
    AUTO(json_unref_p) json_t *root = json_parse_foreign(body, err);
    struct chat_request r = {0};
    if (!root)
        return -1;
    if (!json_is_object(root))
        return err_set(err, ERR_INVALID, "The request body must be a JSON object");
    if (check_names(root, err) != 0 || body_check_owned(root, err) != 0 ||
        read_model(root, &r, err) != 0)
        return -1;
    *ret_model = r.model;
    return 0;
}

void messages_ignore(struct chat_request *r, const char *name)
{
    char *all = r->ignored ? x_printf("%s,%s", r->ignored, name) : x_strdup(name);
    free(r->ignored);
    r->ignored = all;
}

void messages_tell_ignored(struct http_req *http, const struct chat_request *r)
{
    if (r->ignored)
        http_set_header(http, "x-claudegate-ignored-params", r->ignored);
}
