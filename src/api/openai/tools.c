/* tools.c - tools and the choice among them. Schemas go on untouched. */
#include "api/openai/parts.h"

#include <ctype.h>

#define TOOLS_MAX 128
#define NAME_MAX_ 64

struct function {
    char tag;
    bool has_strict, strict;
    struct str name, description;
    json_t *parameters;
};

static const struct json_field function_fields[] = {
    {.name = "name",
     .type = JF_STRING,
     .offset = offsetof(struct function, name),
     .required = true,
     .min = 1,
     .max = NAME_MAX_},
    {.name = "description", .type = JF_STRING, .offset = offsetof(struct function, description)},
    {.name = "parameters", .type = JF_OBJECT, .offset = offsetof(struct function, parameters)},
    {.name = "strict",
     .type = JF_BOOL,
     .offset = offsetof(struct function, strict),
     .has_offset = offsetof(struct function, has_strict)},
};

/* The Messages API wants an object's schema; OpenAI's takes none for "no parameters". */
static json_t *input_schema(json_t *parameters)
{
    if (json_object_size(parameters) == 0)
        return json_pack("{s:s, s:{}}", "type", "object", "properties");
    if (json_object_get(parameters, "type"))
        return json_incref(parameters);
    json_t *copy = json_copy(parameters);
    json_object_set_new(copy, "type", json_string("object"));
    return copy;
}

static bool is_name(struct str s)
{
    for (size_t i = 0; i < s.len; i++) {
        if (!isalnum((unsigned char)s.p[i]) && s.p[i] != '_' && s.p[i] != '-')
            return false;
    }
    return true;
}

static json_t *read_function(const json_t *obj, struct err *err)
{
    struct function f = {0};
    if (openai_read(obj, function_fields, ARRAY_SIZE(function_fields), &f, err) != 0)
        return NULL;
    if (!is_name(f.name)) {
        openai_invalid(err, "name", "may hold letters, digits, _ and - only");
        return NULL;
    }
    json_t *tool = json_pack("{s:s%, s:o}", "name", f.name.p, f.name.len, "input_schema",
                             input_schema(f.parameters));
    if (f.description.len)
        json_object_set_new(tool, "description", json_stringn(f.description.p, f.description.len));
    if (f.strict)
        json_object_set_new(tool, "strict", json_true());
    return tool;
}

static json_t *read_tool(const json_t *obj, bool nested, struct err *err)
{
    if (!json_is_object(obj)) {
        openai_invalid(err, "", "must be an object");
        return NULL;
    }
    struct str type = json_get_str(obj, "type");
    if (!str_eq_c(type, "function")) {
        if (type.len)
            openai_unsupported(err, "type",
                               "must be \"function\": tools of other kinds run in "
                               "OpenAI's service only");
        else
            openai_invalid(err, "type", "is required");
        return NULL;
    }
    if (nested) {
        const json_t *function = json_object_get(obj, "function");
        json_t *tool = read_function(function, err);
        if (!tool)
            openai_place(err, "function");
        return tool;
    }
    AUTO(json_unref_p) json_t *flat = json_copy((json_t *)(uintptr_t)obj);
    json_object_del(flat, "type");
    return read_function(flat, err);
}

static json_t *read_tools(const json_t *tools, bool nested, struct err *err)
{
    size_t i;
    const json_t *item;
    json_t *list = json_array();
    if (json_array_size(tools) > TOOLS_MAX) {
        openai_invalid(err, "", "must be at most %d", TOOLS_MAX);
        json_decref(list);
        return NULL;
    }
    json_array_foreach(tools, i, item)
    {
        json_t *tool = read_tool(item, nested, err);
        if (!tool) {
            openai_place(err, "[%zu]", i);
            json_decref(list);
            return NULL;
        }
        json_array_append_new(list, tool);
    }
    return list;
}

static bool has_tool(const json_t *tools, struct str name)
{
    size_t i;
    const json_t *tool;
    json_array_foreach(tools, i, tool)
    {
        if (str_eq(json_get_str(tool, "name"), name))
            return true;
    }
    return false;
}

static json_t *choose_tool(const json_t *tools, struct str name, const char *field, struct err *err)
{
    if (!has_tool(tools, name)) {
        openai_invalid(err, field, "names a function that is not among the tools");
        return NULL;
    }
    return json_pack("{s:s, s:s%}", "type", "tool", "name", name.p, name.len);
}

static json_t *choose_word(struct str word, const char *field, struct err *err)
{
    static const struct {
        const char *theirs, *ours;
    } words[] = {{"auto", "auto"}, {"none", "none"}, {"required", "any"}};
    for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
        if (str_eq_c(word, words[i].theirs))
            return json_pack("{s:s}", "type", words[i].ours);
    }
    openai_invalid(err, field, "must be \"none\", \"auto\", \"required\" or an object");
    return NULL;
}

/* Only the tools of the list stay. */
static json_t *choose_allowed(json_t *tools, const json_t *allowed, struct err *err)
{
    const json_t *names = json_object_get(allowed, "tools"), *item;
    size_t i;
    AUTO(json_unref_p) json_t *keep = json_array();
    json_array_foreach(names, i, item)
    {
        const json_t *f = json_object_get(item, "function");
        struct str name = json_get_str(f ? f : item, "name");
        if (!has_tool(tools, name)) {
            openai_invalid(err, "tool_choice",
                           "allowed_tools names a function that is not among the tools");
            return NULL;
        }
        json_t *tool;
        size_t k;
        json_array_foreach(tools, k, tool)
        {
            if (str_eq(json_get_str(tool, "name"), name) && !has_tool(keep, name))
                json_array_append(keep, tool);
        }
    }
    json_t *choice = choose_word(json_get_str(allowed, "mode"), "tool_choice", err);
    if (choice) {
        json_array_clear(tools);
        json_array_extend(tools, keep);
    }
    return choice;
}

static json_t *read_choice(json_t *tools, const struct openai_tools *t, struct err *err)
{
    if (!t->choice)
        return json_pack("{s:s}", "type", "auto");
    if (json_is_string(t->choice))
        return choose_word(json_str_of(t->choice), "tool_choice", err);
    struct str type = json_get_str(t->choice, "type");
    if (str_eq_c(type, "function")) {
        const json_t *f = t->nested ? json_object_get(t->choice, "function") : t->choice;
        return choose_tool(tools, json_get_str(f, "name"), "tool_choice", err);
    }
    if (str_eq_c(type, "allowed_tools")) {
        const json_t *a = json_object_get(t->choice, "allowed_tools");
        return choose_allowed(tools, a ? a : t->choice, err);
    }
    openai_unsupported(err, "tool_choice",
                       "must be \"none\", \"auto\", \"required\", a function "
                       "or allowed_tools");
    return NULL;
}

static int check_without_tools(const struct openai_tools *t, struct err *err)
{
    if (t->choice && !str_eq_c(json_str_of(t->choice), "none") &&
        !str_eq_c(json_str_of(t->choice), "auto"))
        return openai_invalid(err, "tool_choice", "is only allowed with tools");
    return 0;
}

int openai_put_tools(struct openai_request *r, const struct openai_tools *t, struct err *err)
{
    if (json_array_size(t->tools) == 0)
        return check_without_tools(t, err);
    AUTO(json_unref_p) json_t *tools = read_tools(t->tools, t->nested, err);
    if (!tools)
        return openai_place(err, "tools");
    json_t *choice = read_choice(tools, t, err);
    if (!choice)
        return -1;
    if (t->has_parallel && !t->parallel && !str_eq_c(json_get_str(choice, "type"), "none"))
        json_object_set_new(choice, "disable_parallel_tool_use", json_true());
    json_object_set(r->body, "tools", tools);
    if (t->choice || json_object_size(choice) > 1)
        json_object_set(r->body, "tool_choice", choice);
    json_decref(choice);
    return 0;
}

int openai_put_functions(struct openai_request *r, const json_t *functions, const json_t *call,
                         struct err *err)
{
    size_t i;
    const json_t *item;
    AUTO(json_unref_p) json_t *tools = json_array();
    if (json_array_size(functions) > TOOLS_MAX)
        return openai_invalid(err, "functions", "must be at most %d", TOOLS_MAX);
    json_array_foreach(functions, i, item)
    {
        json_t *tool = read_function(item, err);
        if (!tool)
            return openai_place(err, "functions[%zu]", i);
        json_array_append_new(tools, tool);
    }
    json_t *choice;
    if (json_is_object(call))
        choice = choose_tool(tools, json_get_str(call, "name"), "function_call", err);
    else
        choice = choose_word(call ? json_str_of(call) : STR("auto"), "function_call", err);
    if (!choice)
        return -1;
    if (!str_eq_c(json_get_str(choice, "type"), "none"))
        json_object_set_new(choice, "disable_parallel_tool_use", json_true());
    r->legacy = true;
    json_object_set(r->body, "tools", tools);
    json_object_set_new(r->body, "tool_choice", choice);
    return 0;
}
