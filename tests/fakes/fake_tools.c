/* fake_tools.c - tool_use blocks: tools/call requests to the driver and what the answers become.
 *
 * A call goes out before its block's content_block_stop. Read-only tools run at the same time,
 * any other runs alone, in block order. An unregistered name is answered by the program itself at
 * once. Results are told with one user line each: the program's own at once, the driver's when
 * the message has ended. */
#include "fake.h"

#define REJECTED                                                                                 \
    "The user doesn't want to proceed with this tool use. The tool use was rejected (eg. if it " \
    "was a file edit, the new_string was NOT written to the file). STOP what you are doing and " \
    "wait for the user to tell you how to proceed."

static json_t *error_block(const struct call *c, const char *text)
{
    return json_pack("{s:s,s:s,s:b,s:s}", "type", "tool_result", "content", text, "is_error", 1,
                     "tool_use_id", c->id);
}

static void finish(struct call *c, json_t *block, json_t *shown)
{
    c->state = CALL_DONE;
    c->request_id[0] = '\0';
    c->block = block;
    c->shown = shown;
}

static void finish_error(struct call *c, const char *text, const char *wrapped)
{
    finish(c, error_block(c, wrapped ? wrapped : text), json_sprintf("Error: %s", text));
}

static void tell(struct fake *f, struct call *c)
{
    json_t *content = json_pack("[O]", c->block);
    out_tool_result(f, c->block, c->shown);
    hist_user(f, content);
    json_decref(content);
    c->told = true;
}

static struct mcp *live_client(struct fake *f)
{
    for (int i = 0; i < f->nclients; i++) {
        if (f->clients[i].step == 3)
            return &f->clients[i];
    }
    return NULL;
}

static void send_call(struct fake *f, struct call *c)
{
    struct mcp *m = live_client(f);
    if (!m) {
        finish_error(c, "MCP server is not connected", NULL);
        return;
    }
    c->rpc_id = m->next_id++;
    c->state = CALL_SENT;
    mcp_send(f, m->server, id_uuid(c->request_id),
             json_pack("{s:s,s:{s:s,s:O,s:{s:s,s:I}},s:s,s:I}", "method", "tools/call", "params",
                       "name", c->name, "arguments", c->input, "_meta", "claudecode/toolUseId",
                       c->id, "progressToken", (json_int_t)c->rpc_id, "jsonrpc", "2.0", "id",
                       (json_int_t)c->rpc_id));
}

/* Sends what may run now: calls wait for all before them unless all of these are read-only. */
static void send_ready(struct fake *f)
{
    bool running = false, only_readers = true;
    for (int i = 0; i < f->turn.ncalls; i++) {
        struct call *c = &f->turn.calls[i];
        if (c->state == CALL_WAITING) {
            if (running && !(only_readers && c->read_only))
                return;
            send_call(f, c);
        }
        if (c->state == CALL_SENT) {
            running = true;
            only_readers = only_readers && c->read_only;
        }
    }
}

void call_add(struct fake *f, const char *id, const char *name, json_t *input)
{
    if (f->turn.ncalls == FAKE_MAX_CALLS)
        return;
    struct call *c = &f->turn.calls[f->turn.ncalls++];
    const struct tool *t = tool_find(f, name);
    *c = (struct call){.id = x_strdup(id), .input = json_incref(input)};
    if (!t) {
        char *text = x_printf("No such tool available: %s", name);
        char *shown = x_printf("<tool_use_error>Error: %s</tool_use_error>", text);
        finish_error(c, text, shown);
        tell(f, c);
        free(shown);
        free(text);
        return;
    }
    c->name = x_strdup(t->name);
    c->visible = x_strdup(name);
    c->read_only = t->read_only;
    send_ready(f);
}

struct call *call_by_request(struct fake *f, const char *request_id)
{
    for (int i = 0; i < f->turn.ncalls; i++) {
        if (f->turn.calls[i].state == CALL_SENT &&
            strcmp(f->turn.calls[i].request_id, request_id) == 0)
            return &f->turn.calls[i];
    }
    return NULL;
}

static char *joined_text(const json_t *content)
{
    struct buf b;
    size_t i;
    json_t *part;
    buf_init(&b, FAKE_MAX_BYTES);
    json_array_foreach((json_t *)(uintptr_t)content, i, part)
    {
        if (b.len)
            buf_addc(&b, '\n');
        buf_addstr(&b, json_get_str(part, "text"));
    }
    return buf_take(&b);
}

static json_t *upstream_content(const char *visible, const json_t *content)
{
    json_t *list = json_array(), *part;
    size_t i;
    json_array_foreach((json_t *)(uintptr_t)content, i, part)
    {
        if (str_eq_c(json_get_str(part, "type"), "image"))
            json_array_append_new(list,
                                  json_pack("{s:s,s:{s:s,s:O?,s:O?}}", "type", "image", "source",
                                            "type", "base64", "data", json_object_get(part, "data"),
                                            "media_type", json_object_get(part, "mimeType")));
        else
            json_array_append(list, part);
    }
    if (json_array_size(list))
        return list;
    json_decref(list);
    return json_sprintf("(%s completed with no output)", visible);
}

static void take_result(struct call *c, const json_t *result)
{
    const json_t *content = json_object_get(result, "content");
    if (json_get_bool(result, "isError", false)) {
        char *text = joined_text(content);
        finish_error(c, text, NULL);
        free(text);
        return;
    }
    json_t *made = upstream_content(c->visible, content);
    finish(c,
           json_pack("{s:s,s:s,s:o}", "tool_use_id", c->id, "type", "tool_result", "content", made),
           json_deep_copy(content));
}

void call_answer(struct fake *f, struct call *c, json_t *response)
{
    const json_t *answer = json_object_get(json_object_get(response, "response"), "mcp_response");
    const json_t *error = json_object_get(answer, "error");
    if (str_eq_c(json_get_str(response, "subtype"), "error")) {
        char *text = str_dup(json_get_str(response, "error"));
        finish_error(c, text, NULL);
        free(text);
    } else if (json_get_int(answer, "id", -1) != c->rpc_id) {
        return; /* stays pending for ever, as in the real program */
    } else if (error) {
        char *text =
            x_printf("MCP error %lld: %.*s", (long long)json_get_int(error, "code", 0),
                     (int)json_get_str(error, "message").len, json_get_str(error, "message").p);
        finish_error(c, text, NULL);
        free(text);
    } else {
        take_result(c, json_object_get(answer, "result"));
    }
    send_ready(f);
}

bool calls_pump(struct fake *f)
{
    bool all = true;
    send_ready(f);
    for (int i = 0; i < f->turn.ncalls; i++) {
        struct call *c = &f->turn.calls[i];
        if (c->state == CALL_DONE && !c->told)
            tell(f, c);
        all = all && c->told;
    }
    return all;
}

void calls_cancel(struct fake *f)
{
    char id[ID_UUID_SIZE];
    struct mcp *m = live_client(f);
    for (int i = 0; i < f->turn.ncalls && m; i++) {
        if (f->turn.calls[i].state == CALL_SENT)
            mcp_send(f, m->server, id_uuid(id),
                     json_pack("{s:s,s:s,s:{s:I,s:s}}", "jsonrpc", "2.0", "method",
                               "notifications/cancelled", "params", "requestId",
                               (json_int_t)f->turn.calls[i].rpc_id, "reason",
                               "AbortError: remote-cancel"));
    }
}

void calls_reject(struct fake *f)
{
    for (int i = 0; i < f->turn.ncalls; i++) {
        struct call *c = &f->turn.calls[i];
        if (c->state != CALL_DONE)
            finish(c, error_block(c, REJECTED), json_string("User rejected tool use"));
        if (!c->told)
            tell(f, c);
    }
}

void calls_stream_closed(struct fake *f)
{
    for (int i = 0; i < f->turn.ncalls; i++) {
        if (f->turn.calls[i].state != CALL_DONE)
            finish_error(&f->turn.calls[i],
                         "Tool permission stream closed before response received", NULL);
    }
}

void calls_clear(struct fake *f)
{
    for (int i = 0; i < f->turn.ncalls; i++) {
        struct call *c = &f->turn.calls[i];
        free(c->id);
        free(c->name);
        free(c->visible);
        json_decref(c->input);
        json_decref(c->block);
        json_decref(c->shown);
    }
    f->turn.ncalls = 0;
}
