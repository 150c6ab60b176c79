/* fake_control.c - control requests, answered at once whatever runs, and our side of MCP.
 *
 * Each sdk server of the driver gets a client instance that speaks initialize, initialized,
 * tools/list over control requests; the first turn waits until all have finished or failed.
 * Removing a server forgets its tools only when names are prefixed: without a prefix the real
 * program keeps them, so here they accumulate as well. */
#include "fake.h"

#include <unistd.h>

#define DEFAULT_MODEL "claude-opus-4-8[1m]" /* what "default" means to this version */

typedef void control_fn(struct fake *f, json_t *id, json_t *request);

/* ---- settings ---- */

static char *joined_prompt(const json_t *value)
{
    struct buf b;
    size_t i;
    json_t *part;
    if (json_is_string(value))
        return x_strdup(json_string_value(value));
    buf_init(&b, FAKE_MAX_BYTES);
    json_array_foreach((json_t *)(uintptr_t)value, i, part)
    {
        buf_adds(&b, i ? "\n\n" : "");
        buf_addstr(&b, json_str_of(part));
    }
    return buf_take(&b);
}

static void add_server(struct fake *f, const char *name)
{
    if (f->nservers < (int)ARRAY_SIZE(f->servers))
        f->servers[f->nservers++] = x_strdup(name);
    f->init_stale = true;
    mcp_connect(f, name);
    if (f->mcp_twice)
        mcp_connect(f, name);
}

static void do_initialize(struct fake *f, json_t *id, json_t *request)
{
    const struct step *first = script_peek(f);
    bool first_time = !f->initialised && !f->saw_user;
    size_t i;
    json_t *name;
    if (first && first->exit_at == P_INITIALIZE) {
        step_clear(&f->turn.step);
        f->turn.step = *first;
        json_incref(f->turn.step.src);
        turn_point(f, P_INITIALIZE);
    }
    out_reply(f, id,
              json_pack("{s:[],s:[],s:s,s:[s,s,s,s],s:[],s:{s:s,s:s,s:s},s:i}", "commands",
                        "agents", "output_style", "default", "available_output_styles", "default",
                        "Proactive", "Explanatory", "Learning", "models", "account", "tokenSource",
                        "none", "apiKeySource", "ANTHROPIC_API_KEY", "apiProvider", "firstParty",
                        "pid", (int)getpid()));
    f->initialised = true;
    if (!first_time)
        return;
    f->system_prompt = joined_prompt(json_object_get(request, "systemPrompt"));
    struct str append = json_get_str(request, "appendSystemPrompt");
    f->append_prompt = append.len ? str_dup(append) : NULL;
    json_array_foreach(json_object_get(request, "sdkMcpServers"), i, name)
    {
        if (json_is_string(name))
            add_server(f, json_string_value(name));
    }
}

static void set_model_name(struct fake *f, struct str name)
{
    snprintf(f->model, sizeof(f->model), "%.*s", (int)name.len, name.p);
    f->init_stale = true;
}

static void do_set_model(struct fake *f, json_t *id, json_t *request)
{
    struct str wanted = json_get_str(request, "model");
    if (wanted.len == 0)
        wanted = STR("default");
    set_model_name(f, str_eq_c(wanted, "default") ? STR(DEFAULT_MODEL) : wanted);
    char *said = x_printf("Set model to %s", f->model);
    char *shown = x_printf("<local-command-stdout>%s</local-command-stdout>", said);
    input_breadcrumbs(f, "model", wanted, said);
    out_user_replay(f, str_c(shown));
    free(shown);
    free(said);
    out_reply(f, id, NULL);
}

static void do_set_permission_mode(struct fake *f, json_t *id, json_t *request)
{
    struct str mode = json_get_str(request, "mode");
    if (str_eq_c(mode, "bypassPermissions") && !f->may_bypass) {
        out_reply_error(f, id,
                        "Cannot set permission mode to bypassPermissions because the session was "
                        "not launched with --dangerously-skip-permissions");
        return;
    }
    snprintf(f->mode, sizeof(f->mode), "%.*s", (int)mode.len, mode.len ? mode.p : "");
    f->init_stale = true;
    out_reply(f, id, json_pack("{s:s}", "mode", f->mode));
    out_permission_mode(f);
}

static void do_set_thinking(struct fake *f, json_t *id, json_t *request)
{
    const json_t *n = json_object_get(request, "max_thinking_tokens");
    f->thinking = json_is_integer(n) ? json_integer_value(n) : -1;
    out_reply(f, id, NULL);
}

/* Keys are copied into the environment and never leave it again; "" neutralises one. */
static void apply_env(struct fake *f, json_t *env)
{
    const char *key;
    json_t *v;
    json_object_foreach(env, key, v)
    {
        if (json_is_string(v))
            json_object_set(f->env, key, v);
    }
}

static void do_apply_settings(struct fake *f, json_t *id, json_t *request)
{
    json_t *settings = json_object_get(request, "settings"), *v;
    const char *key;
    if (!json_is_object(settings)) { /* seen on 2.1.197: no reply, and stdin is never read again */
        f->hung = true;
        return;
    }
    json_object_foreach(settings, key, v)
    {
        if (json_is_null(v))
            json_object_del(f->settings, key);
        else
            json_object_set(f->settings, key, v);
    }
    apply_env(f, json_object_get(settings, "env"));
    if (json_get_str(settings, "model").len)
        set_model_name(f, json_get_str(settings, "model"));
    out_reply(f, id, NULL);
}

static void do_get_settings(struct fake *f, json_t *id, json_t *request)
{
    (void)request;
    out_reply(f, id,
              json_pack("{s:O,s:[{s:s,s:O}],s:{s:s,s:s,s:b}}", "effective", f->settings, "sources",
                        "source", "flagSettings", "settings", f->settings, "applied", "model",
                        f->model, "effort", "high", "ultracode", 0));
}

/* ---- the small ones ---- */

static void do_success(struct fake *f, json_t *id, json_t *request)
{
    (void)request;
    out_reply(f, id, NULL);
}

static void do_cancel_message(struct fake *f, json_t *id, json_t *request)
{
    (void)request;
    out_reply(f, id, json_pack("{s:b}", "cancelled", 0));
}

static void do_get_cost(struct fake *f, json_t *id, json_t *request)
{
    struct buf text;
    (void)request;
    buf_init(&text, 1u << 16);
    totals_text(f, &text);
    out_reply(f, id, json_pack("{s:s}", "text", buf_cstr(&text)));
    buf_release(&text);
}

static void do_get_usage(struct fake *f, json_t *id, json_t *request)
{
    (void)request;
    out_reply(f, id, totals_json(f));
}

static void do_interrupt(struct fake *f, json_t *id, json_t *request)
{
    (void)request;
    if (turn_interrupt(f, true, id))
        return;
    out_reply(f, id, NULL);
    if (queue_run(f) && turn_busy(f)) { /* a user line stood just before: its turn is undone */
        out_requesting(f);
        turn_interrupt(f, false, NULL);
    }
}

static void do_end_session(struct fake *f, json_t *id, json_t *request)
{
    (void)request;
    out_reply(f, id, NULL);
    fake_exit(f, turn_interrupt(f, false, NULL) ? 1 : 0);
}

/* ---- MCP servers ---- */

void mcp_send(struct fake *f, const char *server, const char *request_id, json_t *message_consume)
{
    out_request(f, request_id,
                json_pack("{s:s,s:s,s:o}", "subtype", "mcp_message", "server_name", server,
                          "message", message_consume));
}

void mcp_connect(struct fake *f, const char *server)
{
    if (f->nclients == (int)ARRAY_SIZE(f->clients))
        return;
    struct mcp *m = &f->clients[f->nclients++];
    *m = (struct mcp){.next_id = 2};
    snprintf(m->server, sizeof(m->server), "%s", server);
    mcp_send(f, server, id_uuid(m->request_id),
             json_pack("{s:s,s:{s:s,s:{},s:{s:s,s:s,s:s,s:s,s:s}},s:s,s:i}", "method", "initialize",
                       "params", "protocolVersion", "2025-11-25", "capabilities", "clientInfo",
                       "name", "claude-code", "title", "Claude Code", "version", FAKE_VERSION,
                       "description", "Anthropic's agentic coding tool", "websiteUrl",
                       "https://claude.com/claude-code", "jsonrpc", "2.0", "id", 0));
}

bool mcp_ready(const struct fake *f)
{
    for (int i = 0; i < f->nclients; i++) {
        if (f->clients[i].step >= 0 && f->clients[i].step < 3)
            return false;
    }
    return true;
}

void tools_forget(struct fake *f)
{
    for (size_t i = 0; i < f->ntools; i++) {
        free(f->tools[i].name);
        json_decref(f->tools[i].def);
    }
    free(f->tools);
    f->tools = NULL;
    f->ntools = 0;
    f->init_stale = true;
}

static void add_tool(struct fake *f, json_t *def)
{
    const char *name = json_string_value(json_object_get(def, "name"));
    size_t at = 0;
    while (at < f->ntools && strcmp(f->tools[at].name, name) < 0)
        at++;
    if (at == f->ntools || strcmp(f->tools[at].name, name) != 0) { /* kept sorted by name */
        f->tools = x_realloc(f->tools, (f->ntools + 1) * sizeof(f->tools[0]));
        memmove(f->tools + at + 1, f->tools + at, (f->ntools - at) * sizeof(f->tools[0]));
        f->tools[at] = (struct tool){.name = x_strdup(name)};
        f->ntools++;
    }
    json_decref(f->tools[at].def);
    f->tools[at].def = json_incref(def);
    f->tools[at].read_only =
        json_get_bool(json_object_get(def, "annotations"), "readOnlyHint", false);
}

static bool tool_valid(const json_t *def)
{
    return json_get_str(def, "name").len &&
           str_eq_c(json_get_str(json_object_get(def, "inputSchema"), "type"), "object");
}

/* One tool without an object schema makes the whole list vanish, in silence. */
static void take_tools(struct fake *f, const json_t *list)
{
    size_t i;
    json_t *def;
    json_array_foreach((json_t *)(uintptr_t)list, i, def)
    {
        if (!tool_valid(def))
            return;
    }
    json_array_foreach((json_t *)(uintptr_t)list, i, def) add_tool(f, def);
    f->init_stale = true;
}

char *tool_visible(struct fake *f, const struct tool *t)
{
    if (f->no_prefix)
        return x_strdup(t->name);
    char *name = x_printf("mcp__client__%s", t->name);
    for (char *p = name; *p; p++) {
        bool plain = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') ||
                     (*p >= '0' && *p <= '9') || *p == '_' || *p == '-';
        *p = plain ? *p : '_';
    }
    return name;
}

const struct tool *tool_find(struct fake *f, const char *visible)
{
    const struct tool *found = NULL;
    for (size_t i = 0; i < f->ntools && !found; i++) {
        char *name = tool_visible(f, &f->tools[i]);
        if (strcmp(name, visible) == 0)
            found = &f->tools[i];
        free(name);
    }
    return found;
}

static void remove_server(struct fake *f, int at)
{
    for (int i = f->nclients; i-- > 0;) {
        if (strcmp(f->clients[i].server, f->servers[at]) == 0)
            f->clients[i] = f->clients[--f->nclients];
    }
    free(f->servers[at]);
    f->servers[at] = f->servers[--f->nservers];
    if (!f->no_prefix)
        tools_forget(f);
    f->init_stale = true;
}

static bool has_server(const struct fake *f, const char *name)
{
    for (int i = 0; i < f->nservers; i++) {
        if (strcmp(f->servers[i], name) == 0)
            return true;
    }
    return false;
}

static void do_set_servers(struct fake *f, json_t *id, json_t *request)
{
    json_t *servers = json_object_get(request, "servers"), *v, *added = json_array(),
           *removed = json_array();
    const char *name;
    size_t k;
    for (int i = f->nservers; i-- > 0;) {
        if (json_object_get(servers, f->servers[i]))
            continue;
        json_array_append_new(removed, json_string(f->servers[i]));
        remove_server(f, i);
    }
    json_object_foreach(servers, name, v)
    {
        if (!has_server(f, name))
            json_array_append_new(added, json_string(name));
    }
    out_reply(f, id, json_pack("{s:O,s:o,s:{}}", "added", added, "removed", removed, "errors"));
    json_array_foreach(added, k, v) add_server(f, json_string_value(v));
    json_decref(added);
}

static void do_mcp_status(struct fake *f, json_t *id, json_t *request)
{
    json_t *list = json_array();
    (void)request;
    for (int i = 0; i < f->nservers; i++)
        json_array_append_new(list, json_pack("{s:s,s:s,s:s,s:[]}", "name", f->servers[i], "status",
                                              mcp_ready(f) ? "connected" : "pending", "scope",
                                              "dynamic", "tools"));
    out_reply(f, id, json_pack("{s:o}", "mcpServers", list));
}

static void mcp_advance(struct fake *f, struct mcp *m, const json_t *answer)
{
    const json_t *result = json_object_get(answer, "result");
    if (m->step != 1 && !json_is_object(result)) {
        m->step = -1;
        f->init_stale = true;
        return;
    }
    switch (++m->step) {
    case 1:
        mcp_send(f, m->server, id_uuid(m->request_id),
                 json_pack("{s:s,s:s}", "method", "notifications/initialized", "jsonrpc", "2.0"));
        break;
    case 2:
        mcp_send(f, m->server, id_uuid(m->request_id),
                 json_pack("{s:s,s:s,s:i}", "method", "tools/list", "jsonrpc", "2.0", "id", 1));
        break;
    default:
        m->request_id[0] = '\0';
        take_tools(f, json_object_get(result, "tools"));
        f->init_stale = true;
    }
}

/* Correlated by the control request's id only; a wrong JSON-RPC id leaves the request pending. */
void control_response(struct fake *f, json_t *line)
{
    json_t *response = json_object_get(line, "response");
    const char *id = json_string_value(json_object_get(response, "request_id"));
    const json_t *answer = json_object_get(json_object_get(response, "response"), "mcp_response");
    struct call *c = id ? call_by_request(f, id) : NULL;
    if (c) {
        call_answer(f, c, response);
        return;
    }
    for (int i = 0; id && i < f->nclients; i++) {
        struct mcp *m = &f->clients[i];
        if (strcmp(m->request_id, id) != 0)
            continue;
        bool wrong_id = answer && m->step != 1 && json_get_int(answer, "id", -1) != m->step / 2;
        if (!wrong_id)
            mcp_advance(f, m, answer);
        return;
    }
}

/* ---- the table ---- */

static const struct {
    const char *subtype;
    control_fn *fn;
} requests[] = {
    {"initialize", do_initialize},
    {"interrupt", do_interrupt},
    {"end_session", do_end_session},
    {"set_model", do_set_model},
    {"set_permission_mode", do_set_permission_mode},
    {"set_max_thinking_tokens", do_set_thinking},
    {"apply_flag_settings", do_apply_settings},
    {"get_settings", do_get_settings},
    {"mcp_set_servers", do_set_servers},
    {"mcp_message", do_success},
    {"mcp_status", do_mcp_status},
    {"get_session_cost", do_get_cost},
    {"get_usage", do_get_usage},
    {"rename_session", do_success},
    {"cancel_async_message", do_cancel_message},
};

void control_request(struct fake *f, json_t *line)
{
    json_t *request = json_object_get(line, "request"), *id = json_object_get(line, "request_id");
    const json_t *subtype = json_object_get(request, "subtype");
    const char *name = json_is_string(subtype) ? json_string_value(subtype) : "undefined";
    f->drop_reply = f->lose_control &&
                    (strcmp(f->lose_control, "*") == 0 || strcmp(f->lose_control, name) == 0);
    if (f->drop_reply)
        x_replace(&f->lose_control, NULL);
    for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
        if (strcmp(requests[i].subtype, name) == 0) {
            requests[i].fn(f, id, request);
            f->drop_reply = false;
            return;
        }
    }
    char *text = x_printf("Unsupported control request subtype: %s", name);
    out_reply_error(f, id, text);
    free(text);
    f->drop_reply = false;
}

void control_environment(struct fake *f, json_t *line)
{
    static const char *const honoured[] = {"CLAUDE_CODE_OAUTH_TOKEN",
                                           "CLAUDE_CODE_SESSION_ACCESS_TOKEN"};
    json_t *variables = json_object_get(line, "variables");
    for (size_t i = 0; i < ARRAY_SIZE(honoured); i++) {
        json_t *v = json_object_get(variables, honoured[i]);
        if (json_is_string(v))
            json_object_set(f->env, honoured[i], v);
    }
    out_reply(f, json_object_get(line, "request_id"), NULL);
}
