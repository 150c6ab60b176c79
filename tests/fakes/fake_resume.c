/* fake_resume.c - --resume: a conversation read back from the transcript in HOME, with what the
 * real program does to it on the way (src/cli/transcript.c lists it).
 *
 * Only the chain of parentUuid that ends in the file's last message counts. */
#include "fake.h"

#include <stdio.h>

#define CONTINUE    "Continue from where you left off."
#define NO_RESPONSE "No response requested."

struct transcript {
    json_t *lines;   /* array, in the order of the conversation */
    json_t *results; /* ids of the calls that have one */
};

/* ---- the file ---- */

/* Every UTF-16 unit but letters and digits becomes a dash. */
static char *slug_of(const char *dir)
{
    struct buf b;
    buf_init(&b, 4096);
    for (const char *p = dir; *p; p++) {
        unsigned c = (unsigned char)*p;
        if (strchr("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", (int)c))
            buf_addc(&b, *p);
        else if (c < 0x80 || c >= 0xC0)
            buf_adds(&b, c >= 0xF0 ? "--" : "-");
    }
    return buf_take(&b);
}

static noreturn void not_found(struct fake *f, const char *id)
{
    size_t from = out_begin(f);
    out_adds(f, "{\"type\":\"result\",\"subtype\":\"error_during_execution\",\"duration_ms\":0,"
                "\"duration_api_ms\":0,\"is_error\":true,\"num_turns\":0,\"stop_reason\":null,"
                "\"session_id\":\"");
    out_adds(f, f->session_id);
    out_adds(f, "\",\"total_cost_usd\":0,\"usage\":{\"input_tokens\":0,\"output_tokens\":0},"
                "\"modelUsage\":{},\"permission_denials\":[],\"uuid\":\"");
    out_uuid(f);
    out_adds(f, "\",\"errors\":[\"No conversation found with session ID: ");
    out_adds(f, id);
    out_adds(f, "\"]}");
    out_end(f, from);
    fake_die(f, "No conversation found with session ID: %s", id);
}

/* The messages in the file by uuid; *ret_last is the last one's. */
static json_t *read_file(FILE *file, char ret_last[ID_UUID_SIZE])
{
    json_t *all = json_object();
    char *line = NULL;
    size_t size = 0;
    ssize_t n;
    while ((n = getline(&line, &size, file)) > 0) {
        json_t *j = json_loadb(line, (size_t)n, JSON_ALLOW_NUL, NULL);
        struct str uuid = json_get_str(j, "uuid");
        if (uuid.len == ID_UUID_SIZE - 1 && json_is_object(json_object_get(j, "message"))) {
            snprintf(ret_last, ID_UUID_SIZE, "%s", uuid.p);
            json_object_set(all, uuid.p, j);
        }
        json_decref(j);
    }
    free(line);
    return all;
}

static json_t *chain(json_t *all, const char *last)
{
    json_t *lines = json_array();
    json_t *j = json_object_get(all, last);
    while (j && json_array_size(lines) < json_object_size(all)) {
        json_array_insert(lines, 0, j);
        const char *parent = json_string_value(json_object_get(j, "parentUuid"));
        j = parent ? json_object_get(all, parent) : NULL;
    }
    return lines;
}

static json_t *open_transcript(struct fake *f, const char *id)
{
    const char *home = getenv("HOME");
    char last[ID_UUID_SIZE] = "";
    char *slug = slug_of(f->cwd);
    char *path = x_printf("%s/.claude/projects/%s/%s.jsonl", home ? home : "", slug, id);
    FILE *file = fopen(path, "re");
    free(path);
    free(slug);
    json_t *all = file ? read_file(file, last) : NULL;
    json_t *lines = all ? chain(all, last) : json_array();
    json_decref(all);
    if (file)
        fclose(file);
    return lines;
}

/* ---- what the program makes of it ---- */

static json_t *content_of(const json_t *line)
{
    return json_object_get(json_object_get(line, "message"), "content");
}

static bool is_assistant(const json_t *line)
{
    return str_eq_c(json_get_str(line, "type"), "assistant");
}

static bool is_failed_call(const json_t *line)
{
    return json_get_bool(line, "isApiErrorMessage", false);
}

static bool has_result(const json_t *line)
{
    size_t i;
    json_t *block;
    json_array_foreach(content_of(line), i, block)
    {
        if (str_eq_c(json_get_str(block, "type"), "tool_result"))
            return true;
    }
    return false;
}

static json_t *result_ids(const json_t *lines)
{
    json_t *ids = json_object(), *line, *block;
    size_t i, k;
    json_array_foreach(lines, i, line)
    {
        json_array_foreach(content_of(line), k, block)
        {
            json_t *id = json_object_get(block, "tool_use_id");
            if (json_is_string(id))
                json_object_set(ids, json_string_value(id), json_true());
        }
    }
    return ids;
}

static bool is_blank(struct str text)
{
    for (size_t i = 0; i < text.len; i++) {
        if (!strchr(" \t\r\n", text.p[i]))
            return false;
    }
    return true;
}

/* An assistant's message of white space or thinking alone, or with a call that has no result. */
static bool is_dropped(const json_t *line, const json_t *results)
{
    bool substance = false;
    size_t i;
    json_t *block;
    json_array_foreach(content_of(line), i, block)
    {
        struct str type = json_get_str(block, "type");
        const char *id = json_string_value(json_object_get(block, "id"));
        if (str_eq_c(type, "tool_use") && !(id && json_object_get(results, id)))
            return true;
        if (str_eq_c(type, "text"))
            substance = substance || !is_blank(json_get_str(block, "text"));
        else
            substance = substance || !str_eq_c(type, "thinking");
    }
    return !substance;
}

static void say_no_response(struct fake *f)
{
    json_t *content = json_pack("[{s:s,s:s}]", "type", "text", "text", NO_RESPONSE);
    hist_assistant(f, "msg_no_response", content);
    json_decref(content);
}

/* Like an interrupted turn, if the user had the last word. */
static void mend_end(struct fake *f, const json_t *kept)
{
    size_t n = json_array_size(kept), i = n;
    while (i > 0 && is_failed_call(json_array_get(kept, i - 1)))
        i--;
    const json_t *last = json_array_get(kept, i - 1);
    if (i == 0 || is_assistant(last))
        return;
    bool interrupted = has_result(last) && !json_get_bool(last, "isMeta", false);
    if (interrupted)
        hist_note(f, CONTINUE);
    if (interrupted || i == n)
        say_no_response(f);
}

void resume_load(struct fake *f, const char *id)
{
    json_t *lines = open_transcript(f, id), *results = result_ids(lines), *kept = json_array();
    json_t *line;
    size_t i;
    if (json_array_size(lines) == 0)
        not_found(f, id);
    json_array_foreach(lines, i, line)
    {
        const json_t *message = json_object_get(line, "message");
        if (is_assistant(line) && !is_failed_call(line) && is_dropped(line, results))
            continue;
        json_array_append(kept, line);
        if (is_failed_call(line))
            continue;
        if (is_assistant(line))
            hist_assistant(f, json_string_value(json_object_get(message, "id")), content_of(line));
        else
            hist_user(f, content_of(line));
    }
    mend_end(f, kept);
    snprintf(f->session_id, sizeof(f->session_id), "%s", id);
    json_decref(kept);
    json_decref(results);
    json_decref(lines);
}
