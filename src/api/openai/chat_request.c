/* chat_request.c - the fields of a chat request around its messages.
 *
 * What cannot be honoured is refused by name. Only hints that OpenAI's service may disregard, too,
 * are ignored, and the answer's header x-claudegate-ignored-params names them. */
#include "api/openai/chat_request.h"

#define STOP_MAX   4
#define TOKENS_MAX 1000000

struct body {
    char tag; /* so that no has_ flag stands at offset 0 */
    bool has_max_tokens, has_max_completion, has_temperature, has_top_p, has_n, has_seed,
        has_parallel, has_store;
    bool stream, logprobs, parallel, store;
    struct str model, user, safety_identifier, effort, tier, verbosity, cache_key, cache_retention;
    json_t *messages, *tools, *tool_choice, *functions, *function_call, *format, *stop, *logit_bias,
        *metadata, *modalities, *stream_options, *prediction, *audio, *web_search, *cache_options,
        *moderation;
    int64_t max_tokens, max_completion, n, seed, top_logprobs;
    double temperature, top_p, presence, frequency;
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
#define ROW_TOKENS(n_, m_, h_)                                               \
    {                                                                        \
        .name = (n_), .type = JF_INT, .offset = offsetof(struct body, m_),   \
        .has_offset = offsetof(struct body, h_), .min = 1, .max = TOKENS_MAX \
    }

static const struct json_field fields[] = {
    {.name = "messages",
     .type = JF_ARRAY,
     .offset = offsetof(struct body, messages),
     .required = true},
    {.name = "model",
     .type = JF_STRING,
     .offset = offsetof(struct body, model),
     .required = true,
     .min = 1,
     .max = 100},
    ROW("user", JF_STRING, user),
    ROW("safety_identifier", JF_STRING, safety_identifier),
    ROW("reasoning_effort", JF_STRING, effort),
    ROW("service_tier", JF_STRING, tier),
    ROW("verbosity", JF_STRING, verbosity),
    ROW("prompt_cache_key", JF_STRING, cache_key),
    ROW("prompt_cache_retention", JF_STRING, cache_retention),
    ROW("prompt_cache_options", JF_OBJECT, cache_options),
    ROW("moderation", JF_OBJECT, moderation),
    ROW("tools", JF_ARRAY, tools),
    ROW("tool_choice", JF_ANY, tool_choice),
    ROW("functions", JF_ARRAY, functions),
    ROW("function_call", JF_ANY, function_call),
    ROW("response_format", JF_OBJECT, format),
    ROW("stop", JF_ANY, stop),
    ROW("logit_bias", JF_OBJECT, logit_bias),
    ROW("metadata", JF_OBJECT, metadata),
    ROW("modalities", JF_ARRAY, modalities),
    ROW("stream_options", JF_OBJECT, stream_options),
    ROW("prediction", JF_OBJECT, prediction),
    ROW("audio", JF_OBJECT, audio),
    ROW("web_search_options", JF_OBJECT, web_search),
    ROW("stream", JF_BOOL, stream),
    ROW("logprobs", JF_BOOL, logprobs),
    ROW_HAS("store", JF_BOOL, store, has_store),
    ROW_HAS("parallel_tool_calls", JF_BOOL, parallel, has_parallel),
    ROW_TOKENS("max_tokens", max_tokens, has_max_tokens),
    ROW_TOKENS("max_completion_tokens", max_completion, has_max_completion),
    ROW_HAS("n", JF_INT, n, has_n),
    ROW_HAS("seed", JF_INT, seed, has_seed),
    ROW("top_logprobs", JF_INT, top_logprobs),
    ROW_HAS("temperature", JF_REAL, temperature, has_temperature),
    {.name = "top_p",
     .type = JF_REAL,
     .offset = offsetof(struct body, top_p),
     .has_offset = offsetof(struct body, has_top_p),
     .min = 0,
     .max = 1},
    ROW("presence_penalty", JF_REAL, presence),
    ROW("frequency_penalty", JF_REAL, frequency),
};

static bool only_text(const json_t *modalities)
{
    return !modalities || (json_array_size(modalities) == 1 &&
                           str_eq_c(json_str_of(json_array_get(modalities, 0)), "text"));
}

/* What a Claude model has no counterpart of. Values that ask for nothing are fine. */
static int check_unsupported(const struct body *b, struct err *err)
{
    const struct {
        const char *name;
        bool asked;
    } rows[] = {{"logprobs", b->logprobs},
                {"top_logprobs", b->top_logprobs != 0},
                {"logit_bias", json_object_size(b->logit_bias) > 0},
                {"presence_penalty", b->presence < 0 || b->presence > 0},
                {"frequency_penalty", b->frequency < 0 || b->frequency > 0},
                {"prediction", b->prediction != NULL},
                {"audio", b->audio != NULL},
                {"modalities", !only_text(b->modalities)},
                {"web_search_options", b->web_search != NULL},
                {"moderation", b->moderation != NULL},
                {"store", b->store},
                {"verbosity", b->verbosity.len && !str_eq_c(b->verbosity, "medium")}};
    if (b->has_n && b->n != 1)
        return openai_unsupported(err, "n", "must be 1");
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        if (rows[i].asked)
            return openai_unsupported(err, rows[i].name, "is not supported by the models here");
    }
    return 0;
}

static void note_ignored(const struct body *b, struct openai_request *r)
{
    if (b->has_seed)
        openai_ignore(r, "seed");
    if (json_object_size(b->metadata))
        openai_ignore(r, "metadata");
    if (b->cache_key.len)
        openai_ignore(r, "prompt_cache_key");
    if (b->cache_retention.len)
        openai_ignore(r, "prompt_cache_retention");
    if (json_object_size(b->cache_options))
        openai_ignore(r, "prompt_cache_options");
}

static int put_stop(struct openai_request *r, const json_t *stop, struct err *err)
{
    AUTO(json_unref_p) json_t *list = json_array();
    size_t i;
    json_t *item;
    if (json_is_string(stop))
        json_array_append(list, (json_t *)(uintptr_t)stop);
    else if (json_is_array(stop))
        json_array_extend(list, (json_t *)(uintptr_t)stop);
    else if (stop && !json_is_null(stop))
        return openai_invalid(err, "stop", "must be a string or an array of strings");
    if (json_array_size(list) > STOP_MAX)
        return openai_invalid(err, "stop", "must be at most %d", STOP_MAX);
    json_array_foreach(list, i, item)
    {
        if (!json_is_string(item))
            return openai_invalid(err, "stop", "must be a string or an array of strings");
        if (openai_is_blank(json_str_of(item)))
            return openai_unsupported(err, "stop",
                                      "must not be only white space with the models "
                                      "here");
    }
    if (json_array_size(list))
        json_object_set(r->body, "stop_sequences", list);
    return 0;
}

struct stream_options {
    char tag;
    bool include_usage, obfuscation, has_obfuscation;
};

static const struct json_field stream_fields[] = {
    {.name = "include_usage",
     .type = JF_BOOL,
     .offset = offsetof(struct stream_options, include_usage)},
    {.name = "include_obfuscation",
     .type = JF_BOOL,
     .offset = offsetof(struct stream_options, obfuscation),
     .has_offset = offsetof(struct stream_options, has_obfuscation)},
};

static int put_stream(struct openai_request *r, const struct body *b, struct err *err)
{
    struct stream_options o = {0};
    r->stream = b->stream;
    if (!b->stream_options)
        return 0;
    if (!b->stream)
        return openai_invalid(err, "stream_options", "is only allowed when 'stream' is true");
    if (openai_read(b->stream_options, stream_fields, ARRAY_SIZE(stream_fields), &o, err) != 0)
        return openai_place(err, "stream_options");
    r->include_usage = o.include_usage;
    if (o.has_obfuscation && o.obfuscation)
        openai_ignore(r, "stream_options.include_obfuscation");
    return 0;
}

static int put_limit(struct openai_request *r, const struct body *b, const struct openai_env *env,
                     struct err *err)
{
    int64_t max = env->max_tokens;
    if (b->has_max_tokens && b->has_max_completion)
        return openai_invalid(err, "max_tokens", "must not stand beside max_completion_tokens");
    if (b->has_max_tokens || b->has_max_completion)
        max = b->has_max_tokens ? b->max_tokens : b->max_completion;
    json_object_set_new(r->body, "max_tokens", json_integer(max));
    return 0;
}

static int put_sampling(struct openai_request *r, const struct body *b, struct err *err)
{
    if (b->has_temperature && openai_put_temperature(r, b->temperature, err) != 0)
        return -1;
    if (b->has_top_p)
        json_object_set_new(r->body, "top_p", json_real(b->top_p));
    return put_stop(r, b->stop, err);
}

static int put_callables(struct openai_request *r, const struct body *b, struct err *err)
{
    struct openai_tools t = {.tools = b->tools,
                             .choice = json_is_null(b->tool_choice) ? NULL : b->tool_choice,
                             .has_parallel = b->has_parallel,
                             .parallel = b->parallel,
                             .nested = true};
    json_t *call = json_is_null(b->function_call) ? NULL : b->function_call;
    if (b->functions && b->tools)
        return openai_invalid(err, "functions", "must not stand beside tools");
    if (b->functions)
        return openai_put_functions(r, b->functions, call, err);
    if (call)
        return openai_invalid(err, "function_call", "is only allowed with functions");
    return openai_put_tools(r, &t, err);
}

const char *openai_chat_max_tokens_name(const json_t *body)
{
    return json_is_integer(json_object_get(body, "max_completion_tokens")) ? "max_completion_tokens"
                                                                           : "max_tokens";
}

int openai_chat_translate(const json_t *body, const struct openai_env *env,
                          struct openai_request *r, struct err *err)
{
    struct body b = {0};
    if (openai_read(body, fields, ARRAY_SIZE(fields), &b, err) != 0 ||
        openai_put_model(r, env->aliases, b.model, err) != 0)
        return -1;
    if (check_unsupported(&b, err) != 0 || put_limit(r, &b, env, err) != 0 ||
        put_stream(r, &b, err) != 0 || openai_chat_messages(b.messages, r, err) != 0 ||
        put_callables(r, &b, err) != 0 || put_sampling(r, &b, err) != 0 ||
        (b.format && openai_put_format(r, b.format, true, err) != 0) ||
        (b.effort.len && openai_put_effort(r, b.effort, "reasoning_effort", err) != 0) ||
        openai_put_tier(r, b.tier, err) != 0)
        return -1;
    openai_put_user(r, b.safety_identifier.len ? b.safety_identifier : b.user);
    note_ignored(&b, r);
    openai_finish_body(r);
    return 0;
}
