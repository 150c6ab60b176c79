/* encode.c - lines for the CLI's stdin. Built from constants of ours and JSON values, never from
 * client text spliced into a format string. */
#include "cli/protocol.h"

#include "core/id.h"

static void put_control(struct buf *b, const char *request_id, const char *request)
{
    buf_adds(b, "{\"type\":\"control_request\",\"request_id\":");
    buf_json_str(b, str_c(request_id));
    buf_printf(b, ",\"request\":%s}\n", request);
}

/* A system prompt of our own, mostly an empty one: the CLI then sends only its identity line, and
 * the relay appends the request's system text. Without it the CLI would add its coding-agent
 * prompt. The title keeps it from asking the model for one. */
void cli_put_initialize(struct buf *b, const char *request_id, const char *system)
{
    buf_adds(b, "{\"type\":\"control_request\",\"request_id\":");
    buf_json_str(b, str_c(request_id));
    buf_adds(b, ",\"request\":{\"subtype\":\"initialize\",\"systemPrompt\":");
    buf_json_str(b, str_c(system));
    buf_adds(b, ",\"title\":\"claudegate\"}}\n");
}

void cli_put_set_model(struct buf *b, const char *request_id, const char *model)
{
    buf_adds(b, "{\"type\":\"control_request\",\"request_id\":");
    buf_json_str(b, str_c(request_id));
    buf_adds(b, ",\"request\":{\"subtype\":\"set_model\",\"model\":");
    buf_json_str(b, str_c(model));
    buf_adds(b, "}}\n");
}

void cli_put_thinking_budget(struct buf *b, const char *request_id, int64_t tokens)
{
    char r[96];
    snprintf(r, sizeof(r), "{\"subtype\":\"set_max_thinking_tokens\",\"max_thinking_tokens\":%lld}",
             (long long)tokens);
    put_control(b, request_id, r);
}

void cli_put_interrupt(struct buf *b, const char *request_id)
{
    put_control(b, request_id, "{\"subtype\":\"interrupt\"}");
}

void cli_put_control_error(struct buf *b, struct str request_id, const char *why)
{
    buf_adds(b,
             "{\"type\":\"control_response\",\"response\":{\"subtype\":\"error\",\"request_id\":");
    buf_json_str(b, request_id);
    buf_adds(b, ",\"error\":");
    buf_json_str(b, str_c(why));
    buf_adds(b, "}}\n");
}

static void put_blocks(struct buf *b, const json_t *content)
{
    BUG_ON(!json_is_array(content));
    for (size_t i = 0; i < json_array_size(content); i++) {
        json_write(b, json_array_get(content, i));
        buf_addc(b, ',');
    }
}

void cli_put_user(struct buf *b, const json_t *content, bool query)
{
    buf_adds(b, "{\"type\":\"user\",\"message\":{\"role\":\"user\",\"content\":[");
    put_blocks(b, content);
    buf_adds(b,
             "{\"type\":\"text\",\"text\":\"\"}]},\"parent_tool_use_id\":null,\"session_id\":\"\"");
    if (!query)
        buf_adds(b, ",\"shouldQuery\":false");
    buf_adds(b, "}\n");
}

/* The message id must be unique: the CLI merges messages that share one. */
void cli_put_assistant(struct buf *b, const json_t *content, const char *model)
{
    char id[ID_UUID_SIZE], uuid[ID_UUID_SIZE];
    buf_printf(b,
               "{\"type\":\"assistant\",\"message\":{\"id\":\"msg_h_%s\",\"type\":\"message\","
               "\"role\":\"assistant\",\"model\":",
               id_uuid(id));
    buf_json_str(b, str_c(model));
    buf_adds(b, ",\"content\":");
    json_write(b, content);
    buf_printf(b,
               ",\"stop_reason\":null,\"stop_sequence\":null,\"usage\":{\"input_tokens\":0,"
               "\"output_tokens\":0}},\"uuid\":\"%s\",\"parent_tool_use_id\":null,"
               "\"session_id\":\"\"}\n",
               id_uuid(uuid));
}

void cli_put_clear(struct buf *b)
{
    buf_adds(b, "{\"type\":\"user\",\"message\":{\"role\":\"user\",\"content\":\"/clear\"},"
                "\"parent_tool_use_id\":null,\"session_id\":\"\"}\n");
}

void cli_put_boundary(struct buf *b)
{
    char uuid[ID_UUID_SIZE];
    buf_printf(b,
               "{\"type\":\"system\",\"subtype\":\"compact_boundary\",\"compact_metadata\":"
               "{\"trigger\":\"manual\",\"pre_tokens\":0},\"uuid\":\"%s\",\"session_id\":\"\"}\n",
               id_uuid(uuid));
}
