/* responses_request.c - the fields around the input, and what the answer repeats of them. */
#include "api/openai/responses_request.h"

#include <ctype.h>

#define TOKENS_MAX 1000000
#define WANTED_MAX 100

struct body {
    char tag;
    bool has_temperature, has_top_p, has_max, has_parallel, has_store, has_tools_max;
    bool stream, parallel, store, background;
    struct str model, previous, user, safety_identifier, tier, truncation, cache_key,
        cache_retention, instructions;
    json_t *input, *tools, *tool_choice, *text, *reasoning, *include, *metadata, *stream_options,
        *prompt, *conversation, *cache_options, *moderation, *access_programs, *context_management,
        *image;
    int64_t max_tokens, max_tool_calls, top_logprobs;
    double temperature, top_p;
};

#define ROW(n_, t_, m_)                                                 \
    {                                                                   \
        .name = (n_), .type = (t_), .offset = offsetof(struct body, m_) \
    }
#define ROW_HAS(n_, t_, m_, h_)                                          \
    {                                                                    \
        .name = (n_), .type = (t_), .offset = offsetof(struct body, m_), \
        .has_offset = offsetof(struct body, h_)                          \
    }

static const struct json_field fields[] = {
    {.name = "model",
     .type = JF_STRING,
     .offset = offsetof(struct body, model),
     .required = true,
     .min = 1,
     .max = 100},
    {.name = "input", .type = JF_ANY, .offset = offsetof(struct body, input), .required = true},
    ROW("instructions", JF_STRING, instructions),
    ROW("previous_response_id", JF_STRING, previous),
    ROW("user", JF_STRING, user),
    ROW("safety_identifier", JF_STRING, safety_identifier),
    ROW("service_tier", JF_STRING, tier),
    ROW("truncation", JF_STRING, truncation),
    ROW("prompt_cache_key", JF_STRING, cache_key),
    ROW("prompt_cache_retention", JF_STRING, cache_retention),
    ROW("prompt_cache_options", JF_OBJECT, cache_options),
    ROW("moderation", JF_OBJECT, moderation),
    ROW("access_programs", JF_OBJECT, access_programs),
    ROW("context_management", JF_ARRAY, context_management),
    ROW("image", JF_OBJECT, image),
    ROW("tools", JF_ARRAY, tools),
    ROW("tool_choice", JF_ANY, tool_choice),
    ROW("text", JF_OBJECT, text),
    ROW("reasoning", JF_OBJECT, reasoning),
    ROW("include", JF_ARRAY, include),
    ROW("metadata", JF_OBJECT, metadata),
    ROW("stream_options", JF_OBJECT, stream_options),
    ROW("prompt", JF_OBJECT, prompt),
    ROW("conversation", JF_ANY, conversation),
    ROW("stream", JF_BOOL, stream),
    ROW("background", JF_BOOL, background),
    ROW_HAS("store", JF_BOOL, store, has_store),
    ROW_HAS("parallel_tool_calls", JF_BOOL, parallel, has_parallel),
    {.name = "max_output_tokens",
     .type = JF_INT,
     .offset = offsetof(struct body, max_tokens),
     .has_offset = offsetof(struct body, has_max),
     .min = 1,
     .max = TOKENS_MAX},
    ROW_HAS("max_tool_calls", JF_INT, max_tool_calls, has_tools_max),
    ROW("top_logprobs", JF_INT, top_logprobs),
    ROW_HAS("temperature", JF_REAL, temperature, has_temperature),
    {.name = "top_p",
     .type = JF_REAL,
     .offset = offsetof(struct body, top_p),
     .has_offset = offsetof(struct body, has_top_p),
     .min = 0,
     .max = 1},
};

void responses_request_init(struct responses_request *r)
{
    *r = (struct responses_request){.store = true, .wanted = json_array(), .stored = json_object()};
    openai_request_init(&r->base);
}

void responses_request_release(struct responses_request *r)
{
    openai_request_release(&r->base);
    json_decref(TAKE_PTR(r->echo));
    json_decref(TAKE_PTR(r->wanted));
    json_decref(TAKE_PTR(r->stored));
    json_decref(TAKE_PTR(r->kept));
}

/* --- ids ---------------------------------------------------------------------------------- */

bool responses_id_to_uuid(struct str id, char uuid[37])
{
    size_t n = 0;
    if (id.len != RESPONSE_ID_SIZE - 3 || !str_starts(id, "resp_"))
        return false;
    for (size_t i = 5; i < id.len; i++) {
        char c = id.p[i];
        if (!isdigit((unsigned char)c) && (c < 'a' || c > 'f'))
            return false;
        if (n == 8 || n == 13 || n == 18 || n == 23)
            uuid[n++] = '-';
        uuid[n++] = c;
    }
    uuid[n] = '\0';
    return true;
}

void responses_uuid_to_id(const char *uuid, char id[RESPONSE_ID_SIZE])
{
    size_t n = (size_t)snprintf(id, RESPONSE_ID_SIZE, "resp_");
    for (; *uuid && n < RESPONSE_ID_SIZE - 1; uuid++) {
        if (*uuid != '-')
            id[n++] = *uuid;
    }
    id[n] = '\0';
}

bool responses_item_owner(struct str item_id, char id[RESPONSE_ID_SIZE], size_t *ret_index)
{
    char uuid[37];
    uint64_t index;
    struct str rest = item_id;
    (void)str_split(&rest, '_');
    struct str hex = str_split(&rest, '_');
    if (hex.len != RESPONSE_ID_SIZE - 8 || !str_to_u64(rest, &index))
        return false;
    snprintf(id, RESPONSE_ID_SIZE, "resp_%.*s", (int)hex.len, hex.p);
    *ret_index = (size_t)index;
    return responses_id_to_uuid(str_c(id), uuid);
}

/* --- reading ------------------------------------------------------------------------------ */

static int check_unsupported(const struct body *b, struct err *err)
{
    if (b->background)
        return openai_unsupported(err, "background", "must be false");
    if (b->truncation.len && !str_eq_c(b->truncation, "disabled"))
        return openai_unsupported(err, "truncation", "must be \"disabled\"");
    if (b->top_logprobs)
        return openai_unsupported(err, "top_logprobs", "is not supported by the models here");
    if (b->prompt)
        return openai_unsupported(err, "prompt", "templates are not kept here");
    if (b->conversation && !json_is_null(b->conversation))
        return openai_unsupported(err, "conversation", "use previous_response_id");
    if (b->moderation)
        return openai_unsupported(err, "moderation", "is not supported by the models here");
    if (b->access_programs)
        return openai_unsupported(err, "access_programs", "is not supported by the models here");
    if (json_array_size(b->context_management))
        return openai_unsupported(err, "context_management", "must be empty");
    if (b->input && !json_is_string(b->input) && !json_is_array(b->input)) {
        openai_invalid(err, "input", "must be a string or an array of items");
        err->detail = "invalid_type";
        return -1;
    }
    return 0;
}

static int read_include(struct responses_request *r, const json_t *include, struct err *err)
{
    size_t i;
    const json_t *item;
    json_array_foreach(include, i, item)
    {
        struct str name = json_str_of(item);
        if (str_eq_c(name, "reasoning.encrypted_content"))
            r->encrypted = true;
        else if (str_eq_c(name, "message.output_text.logprobs"))
            return openai_unsupported(err, "include", "the models here give no logprobs");
        else if (name.len == 0)
            return openai_invalid(err, "include", "must hold names");
        else /* of tools that do not run here, or what the client has itself */
            openai_ignore(&r->base, "include");
    }
    return 0;
}

static void note_ignored(const struct body *b, struct openai_request *r)
{
    if (b->cache_key.len)
        openai_ignore(r, "prompt_cache_key");
    if (b->cache_retention.len)
        openai_ignore(r, "prompt_cache_retention");
    if (json_object_size(b->cache_options))
        openai_ignore(r, "prompt_cache_options");
    if (json_object_size(b->image))
        openai_ignore(r, "image"); /* how OpenAI's service packs images */
    if (b->has_tools_max)
        openai_ignore(r, "max_tool_calls"); /* is about tools that run in OpenAI's service */
    if (json_is_true(json_object_get(b->stream_options, "include_obfuscation")))
        openai_ignore(r, "stream_options.include_obfuscation");
}

static void want(struct responses_request *r, struct str id)
{
    size_t i;
    const json_t *have;
    json_array_foreach(r->wanted, i, have)
    {
        if (str_eq(json_str_of(have), id))
            return;
    }
    json_array_append_new(r->wanted, json_stringn(id.p, id.len));
}

static int find_wanted(struct responses_request *r, const json_t *input, struct err *err)
{
    size_t i, index;
    const json_t *item;
    char id[RESPONSE_ID_SIZE];
    if (r->previous.len)
        want(r, r->previous);
    json_array_foreach(input, i, item)
    {
        if (str_eq_c(json_get_str(item, "type"), "item_reference") &&
            responses_item_owner(json_get_str(item, "id"), id, &index))
            want(r, str_c(id));
    }
    if (json_array_size(r->wanted) > WANTED_MAX)
        return openai_unsupported(err, "input", "refers to more than %d responses", WANTED_MAX);
    return 0;
}

int responses_read(const json_t *body, struct responses_request *r, struct err *err)
{
    struct body b = {0};
    if (openai_read(body, fields, ARRAY_SIZE(fields), &b, err) != 0 ||
        check_unsupported(&b, err) != 0 || read_include(r, b.include, err) != 0)
        return -1;
    r->previous = b.previous;
    r->store = b.has_store ? b.store : true;
    r->base.stream = b.stream;
    note_ignored(&b, &r->base);
    return find_wanted(r, b.input, err);
}

/* --- translating -------------------------------------------------------------------------- */

struct text {
    struct str verbosity;
    json_t *format;
};

static const struct json_field text_fields[] = {
    {.name = "format", .type = JF_OBJECT, .offset = offsetof(struct text, format)},
    {.name = "verbosity", .type = JF_STRING, .offset = offsetof(struct text, verbosity)},
};

static int put_text(struct openai_request *r, const json_t *text, struct err *err)
{
    struct text t = {0};
    if (!text)
        return 0;
    if (openai_read(text, text_fields, ARRAY_SIZE(text_fields), &t, err) != 0)
        return openai_place(err, "text");
    if (t.verbosity.len && !str_eq_c(t.verbosity, "medium"))
        return openai_unsupported(err, "text.verbosity", "must be \"medium\"");
    return t.format ? openai_put_format(r, t.format, false, err) : 0;
}

struct reasoning {
    struct str effort, summary, generate_summary;
};

static const struct json_field reasoning_fields[] = {
    {.name = "effort", .type = JF_STRING, .offset = offsetof(struct reasoning, effort)},
    {.name = "summary", .type = JF_STRING, .offset = offsetof(struct reasoning, summary)},
    {.name = "generate_summary",
     .type = JF_STRING,
     .offset = offsetof(struct reasoning, generate_summary)},
};

static int put_reasoning(struct responses_request *r, const json_t *reasoning, struct err *err)
{
    struct reasoning g = {0};
    if (!reasoning)
        return 0;
    if (openai_read(reasoning, reasoning_fields, ARRAY_SIZE(reasoning_fields), &g, err) != 0)
        return openai_place(err, "reasoning");
    r->summary = g.summary.len || g.generate_summary.len;
    return g.effort.len ? openai_put_effort(&r->base, g.effort, "reasoning.effort", err) : 0;
}

static void take_systems(struct openai_request *r, const json_t *content)
{
    size_t i;
    const json_t *block;
    json_array_foreach(content, i, block) openai_add_system(r, json_get_str(block, "text"));
}

/* The conversation so far; its last calls wait for their results. */
static void take_history(struct openai_request *r, const json_t *before)
{
    size_t i, k;
    const json_t *message;
    json_t *block;
    json_array_foreach(before, i, message)
    {
        struct str role = json_get_str(message, "role");
        bool assistant = str_eq_c(role, "assistant");
        json_object_clear(r->pending);
        if (str_eq_c(role, "system")) {
            take_systems(r, json_object_get(message, "content"));
            continue;
        }
        json_array_foreach(json_object_get(message, "content"), k, block)
        {
            struct str id = json_get_str(block, "id");
            openai_add_block(r, assistant ? "assistant" : "user", json_incref(block));
            if (assistant && str_eq_c(json_get_str(block, "type"), "tool_use"))
                json_object_setn_new(r->pending, id.p, id.len, json_true());
        }
    }
}

static int put_items(struct responses_request *q, const struct body *b, struct err *err)
{
    if (json_is_array(b->input))
        return responses_items(b->input, q, err);
    if (openai_is_blank(json_str_of(b->input)))
        return openai_invalid(err, "input", "must not be empty");
    if (openai_check_answered(&q->base, err) != 0)
        return openai_place(err, "input");
    openai_add_text(&q->base, "user", json_str_of(b->input));
    return 0;
}

/* The system texts behind the instructions, and the messages. */
static json_t *to_keep(const struct openai_request *r, size_t instructions)
{
    json_t *kept = json_array(), *said = json_array();
    for (size_t i = instructions; i < json_array_size(r->system); i++)
        json_array_append(said, json_array_get(r->system, i));
    if (json_array_size(said))
        json_array_append_new(kept, json_pack("{s:s, s:O}", "role", "system", "content", said));
    json_decref(said);
    json_array_extend(kept, r->messages);
    return kept;
}

static int put_input(struct responses_request *q, const struct body *b, struct err *err)
{
    struct openai_request *r = &q->base;
    openai_add_system(r, b->instructions);
    size_t instructions = json_array_size(r->system);
    if (q->previous.len)
        take_history(r, json_object_getn(q->stored, q->previous.p, q->previous.len));
    if (put_items(q, b, err) != 0)
        return -1;
    if (openai_check_answered(r, err) != 0)
        return openai_place(err, "input");
    size_t n = json_array_size(r->messages);
    const json_t *last = n ? json_array_get(r->messages, n - 1) : NULL;
    if (!last || !str_eq_c(json_get_str(last, "role"), "user"))
        return openai_unsupported(err, "input", "must end with what the user, or a tool, says");
    q->kept = to_keep(r, instructions);
    return 0;
}

static json_t *or_null(const json_t *body, const char *name)
{
    json_t *j = json_object_get(body, name);
    return j ? json_incref(j) : json_null();
}

static json_t *or_else(const json_t *body, const char *name, json_t *fallback_take)
{
    json_t *j = json_object_get(body, name);
    if (!j || json_is_null(j))
        return fallback_take;
    json_decref(fallback_take);
    return json_incref(j);
}

/* All that a Response object says about its request. */
static json_t *make_echo(const json_t *body, const struct responses_request *r)
{
    const json_t *text = json_object_get(body, "text");
    const json_t *reasoning = json_object_get(body, "reasoning");
    json_t *format = json_object_get(text, "format");
    format = format ? json_incref(format) : json_pack("{s:s}", "type", "text");
    return json_pack(
        "{s:o, s:o, s:n, s:o, s:o, s:n, s:{s:o, s:n}, s:o, s:s, s:b, s:o, s:{s:o, s:s}, s:o, s:o,"
        " s:i, s:o, s:s, s:o, s:o, s:b}",
        "instructions", or_null(body, "instructions"), "max_output_tokens",
        or_null(body, "max_output_tokens"), "max_tool_calls", "parallel_tool_calls",
        or_else(body, "parallel_tool_calls", json_true()), "previous_response_id",
        or_null(body, "previous_response_id"), "prompt_cache_key", "reasoning", "effort",
        or_null(reasoning, "effort"), "summary", "safety_identifier",
        or_null(body, "safety_identifier"), "service_tier", "default", "store", r->store,
        "temperature", or_else(body, "temperature", json_real(1.0)), "text", "format", format,
        "verbosity", "medium", "tool_choice", or_else(body, "tool_choice", json_string("auto")),
        "tools", or_else(body, "tools", json_array()), "top_logprobs", 0, "top_p",
        or_else(body, "top_p", json_real(1.0)), "truncation", "disabled", "user",
        or_null(body, "user"), "metadata", or_else(body, "metadata", json_object()), "background",
        0);
}

static int put_params(struct responses_request *r, const struct body *b, struct err *err)
{
    struct openai_tools t = {.tools = b->tools,
                             .choice = json_is_null(b->tool_choice) ? NULL : b->tool_choice,
                             .has_parallel = b->has_parallel,
                             .parallel = b->parallel};
    if (openai_put_tools(&r->base, &t, err) != 0 ||
        (b->has_temperature && openai_put_temperature(&r->base, b->temperature, err) != 0))
        return -1;
    if (b->has_top_p)
        json_object_set_new(r->base.body, "top_p", json_real(b->top_p));
    if (put_text(&r->base, b->text, err) != 0 || put_reasoning(r, b->reasoning, err) != 0)
        return -1;
    openai_put_user(&r->base, b->safety_identifier.len ? b->safety_identifier : b->user);
    return openai_put_tier(&r->base, b->tier, err);
}

int responses_translate(const json_t *body, const struct openai_env *env,
                        struct responses_request *r, struct err *err)
{
    struct body b = {0};
    if (openai_read(body, fields, ARRAY_SIZE(fields), &b, err) != 0 ||
        openai_put_model(&r->base, env->aliases, b.model, err) != 0)
        return -1;
    json_object_set_new(r->base.body, "max_tokens",
                        json_integer(b.has_max ? b.max_tokens : env->max_tokens));
    if (put_input(r, &b, err) != 0 || put_params(r, &b, err) != 0)
        return -1;
    openai_finish_body(&r->base);
    r->echo = make_echo(body, r);
    BUG_ON(!r->echo);
    return 0;
}
