/* params.c - the parameters of the model: effort, temperature, output format, tier, aliases. */
#include "api/openai/parts.h"

#include <ctype.h>

#define MIN_BUDGET 1024 /* the least a thinking budget may be */

/* --- aliases ------------------------------------------------------------------------------ */

static struct str next_alias(struct str *rest, struct str *ret_model)
{
    struct str entry = str_split(rest, ',');
    struct str name = str_trim(str_split(&entry, '='));
    *ret_model = str_trim(entry);
    return name;
}

char *openai_model(const char *aliases, struct str name)
{
    struct str rest = str_c(aliases), model;
    while (rest.len) {
        struct str pattern = next_alias(&rest, &model);
        AUTO(free_charp) char *p = str_dup(pattern);
        if (model.len && str_glob(p, name))
            return str_dup(model);
    }
    return str_dup(name);
}

int openai_put_model(struct openai_request *r, const char *aliases, struct str name,
                     struct err *err)
{
    if (memchr(name.p, '\0', name.len))
        return openai_invalid(err, "model", "must not hold a NUL byte");
    AUTO(free_charp) char *model = openai_model(aliases, name);
    json_object_set_new(r->body, "model", json_string(model));
    return 0;
}

/* --- effort ------------------------------------------------------------------------------- */

static int take_number(struct str *s)
{
    int n = 0;
    size_t digits = 0;
    while (digits < s->len && digits < 3 && isdigit((unsigned char)s->p[digits]))
        n = n * 10 + (s->p[digits++] - '0');
    if (digits == 0 || digits == 3) /* three and more: a date */
        return -1;
    *s = str_n(s->p + digits, s->len - digits);
    return n;
}

/* From version 4.6 on the models decide themselves how long they think, and are told an effort.
 * A name without a version ("opus") is that of the newest. */
static bool has_adaptive_thinking(struct str model)
{
    for (size_t i = 0; i + 1 < model.len; i++) {
        if (model.p[i] != '-' || !isdigit((unsigned char)model.p[i + 1]))
            continue;
        struct str rest = str_n(model.p + i + 1, model.len - i - 1);
        int major = take_number(&rest), minor = 0;
        if (major < 0)
            continue;
        if (rest.len > 1 && (rest.p[0] == '-' || rest.p[0] == '.')) {
            rest = str_n(rest.p + 1, rest.len - 1);
            minor = take_number(&rest);
        }
        return major > 4 || (major == 4 && minor >= 6);
    }
    return true;
}

struct effort {
    const char *name;
    int64_t budget; /* tokens; 0 = no thinking */
    const char *adaptive;
};

static const struct effort efforts[] = {
    {"none", 0, NULL},          {"minimal", 1024, "low"}, {"low", 2048, "low"},
    {"medium", 8192, "medium"}, {"high", 24576, "high"},  {"xhigh", 32768, "max"},
    {"max", 32768, "max"},
};

static const struct effort *find_effort(struct str name)
{
    for (size_t i = 0; i < ARRAY_SIZE(efforts); i++) {
        if (str_eq_c(name, efforts[i].name))
            return &efforts[i];
    }
    return NULL;
}

static int put_budget(struct openai_request *r, int64_t budget, const char *name, struct err *err)
{
    int64_t max = json_get_int(r->body, "max_tokens", 0), most = max - max / 4;
    if (max <= MIN_BUDGET)
        return openai_unsupported(err, name, "needs an answer of more than %d tokens at most",
                                  MIN_BUDGET);
    if (budget > most)
        budget = most;
    if (budget < MIN_BUDGET)
        budget = MIN_BUDGET;
    json_object_set_new(
        r->body, "thinking",
        json_pack("{s:s, s:I}", "type", "enabled", "budget_tokens", (json_int_t)budget));
    return 0;
}

/* Does the assistant's latest message begin with thoughts? */
static bool thought_before(const struct openai_request *r)
{
    for (size_t i = json_array_size(r->messages); i > 0; i--) {
        const json_t *message = json_array_get(r->messages, i - 1);
        if (!str_eq_c(json_get_str(message, "role"), "assistant"))
            continue;
        const json_t *first = json_array_get(json_object_get(message, "content"), 0);
        struct str type = json_get_str(first, "type");
        return str_eq_c(type, "thinking") || str_eq_c(type, "redacted_thinking");
    }
    return false;
}

int openai_put_effort(struct openai_request *r, struct str effort, const char *name,
                      struct err *err)
{
    const struct effort *e = find_effort(effort);
    if (!e)
        return openai_invalid(
            err, name,
            "must be \"none\", \"minimal\", \"low\", \"medium\", \"high\", \"xhigh\" or \"max\"");
    if (e->budget == 0)
        return 0;
    const json_t *temperature = json_object_get(r->body, "temperature");
    if (temperature && json_number_value(temperature) < 1)
        return openai_unsupported(err, "temperature", "must be 1, or absent, with %s", name);
    struct str choice = json_get_str(json_object_get(r->body, "tool_choice"), "type");
    if ((r->answers_tool && !thought_before(r)) || str_eq_c(choice, "any") ||
        str_eq_c(choice, "tool")) {
        /* The thoughts before a call would have to come back with its result, for which chats have
         * no place; and a forced call leaves none. */
        openai_ignore(r, name);
        return 0;
    }
    if (!has_adaptive_thinking(json_get_str(r->body, "model")))
        return put_budget(r, e->budget, name, err);
    json_object_set_new(r->body, "thinking", json_pack("{s:s}", "type", "adaptive"));
    json_t *output = json_object_get(r->body, "output_config");
    if (!output) {
        output = json_object();
        json_object_set_new(r->body, "output_config", output);
    }
    json_object_set_new(output, "effort", json_string(e->adaptive));
    return 0;
}

/* --- the others --------------------------------------------------------------------------- */

int openai_put_temperature(struct openai_request *r, double t, struct err *err)
{
    if (t < 0 || t > 2)
        return openai_invalid(err, "temperature", "must be between 0 and 2");
    if (t > 1)
        return openai_unsupported(err, "temperature", "must be at most 1 with the models here");
    json_object_set_new(r->body, "temperature", json_real(t));
    return 0;
}

int openai_put_tier(struct openai_request *r, struct str tier, struct err *err)
{
    if (tier.len == 0 || str_eq_c(tier, "auto"))
        return 0;
    if (!str_eq_c(tier, "default"))
        return openai_unsupported(err, "service_tier", "must be \"auto\" or \"default\"");
    json_object_set_new(r->body, "service_tier", json_string("standard_only"));
    return 0;
}

void openai_put_user(struct openai_request *r, struct str user)
{
    if (user.len)
        json_object_set_new(r->body, "metadata", json_pack("{s:s%}", "user_id", user.p, user.len));
}

/* --- output format ------------------------------------------------------------------------ */

#define JSON_ONLY \
    "Answer with exactly one JSON object. Write nothing before or after it, and no code fence."

struct format {
    char tag;
    bool strict;
    struct str type, name, description;
    json_t *schema;
};

static const struct json_field format_fields[] = {
    {.name = "type", .type = JF_STRING, .offset = offsetof(struct format, type)},
    {.name = "name", .type = JF_STRING, .offset = offsetof(struct format, name), .required = true},
    {.name = "description", .type = JF_STRING, .offset = offsetof(struct format, description)},
    {.name = "schema", .type = JF_OBJECT, .offset = offsetof(struct format, schema)},
    {.name = "strict", .type = JF_BOOL, .offset = offsetof(struct format, strict)},
};

static bool says_json(const json_t *j)
{
    size_t i;
    const char *key;
    json_t *v;
    if (json_is_string(j))
        return strcasestr(json_string_value(j), "json") != NULL;
    json_object_foreach((json_t *)(uintptr_t)j, key, v)
    {
        if (says_json(v))
            return true;
    }
    json_array_foreach(j, i, v)
    {
        if (says_json(v))
            return true;
    }
    return false;
}

/* The Messages API has no such mode: the model is told. OpenAI asks that the word JSON stands in
 * the conversation, and so do we. */
static int json_object_format(struct openai_request *r, const char *field, struct err *err)
{
    if (!says_json(r->messages) && !says_json(r->system))
        return openai_invalid(err, field,
                              "'json_object' needs the word 'json' somewhere in the messages");
    openai_add_system(r, STR(JSON_ONLY));
    return 0;
}

/* A schema that is only advice, as in OpenAI's API without strict. */
static int advise_schema(struct openai_request *r, const struct format *f)
{
    AUTO(buf_release) struct buf b;
    buf_init(&b, (size_t)64 << 20);
    buf_adds(&b, JSON_ONLY);
    if (f->description.len) {
        buf_adds(&b, " It is: ");
        buf_addstr(&b, f->description);
    }
    if (f->schema) {
        buf_adds(&b, " It must fit this JSON schema:\n");
        json_write(&b, f->schema);
    }
    openai_add_system(r, buf_str(&b));
    return 0;
}

static int schema_format(struct openai_request *r, const json_t *format, const char *field,
                         struct err *err)
{
    struct format f = {0};
    if (!json_is_object(format))
        return openai_invalid(err, field, "must have a json_schema");
    if (openai_read(format, format_fields, ARRAY_SIZE(format_fields), &f, err) != 0)
        return openai_place(err, "%s", field);
    if (!f.strict)
        return advise_schema(r, &f);
    if (!f.schema)
        return openai_invalid(err, field, "must have a schema");
    json_t *schema = json_copy(f.schema);
    json_object_del(schema, "$schema"); /* names the language, which is known */
    json_t *output = json_object_get(r->body, "output_config");
    if (!output) {
        output = json_object();
        json_object_set_new(r->body, "output_config", output);
    }
    json_object_set_new(output, "format",
                        json_pack("{s:s, s:o}", "type", "json_schema", "schema", schema));
    return 0;
}

int openai_put_format(struct openai_request *r, const json_t *format, bool nested, struct err *err)
{
    const char *field = nested ? "response_format" : "text.format";
    struct str type = json_get_str(format, "type");
    if (!json_is_object(format))
        return openai_invalid(err, field, "must be an object");
    if (str_eq_c(type, "text"))
        return 0;
    if (str_eq_c(type, "json_object"))
        return json_object_format(r, field, err);
    if (!str_eq_c(type, "json_schema"))
        return openai_invalid(err, field,
                              "its type must be \"text\", \"json_object\" or "
                              "\"json_schema\"");
    if (nested)
        return schema_format(r, json_object_get(format, "json_schema"),
                             "response_format.json_schema", err);
    return schema_format(r, format, field, err);
}

void openai_finish_body(struct openai_request *r)
{
    if (json_array_size(r->system))
        json_object_set(r->body, "system", r->system);
    json_object_set(r->body, "messages", r->messages);
    if (r->stream)
        json_object_set_new(r->body, "stream", json_true());
}
