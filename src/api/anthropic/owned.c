/* owned.c - what a request may not name: things that lie in the operator's account.
 *
 * All keys share one upstream account. Whoever knows the id of a file, a container or a skill there
 * can use it, and the API does not ask which key of this server it belongs to; so no id is passed
 * on. https://docs.anthropic.com/en/docs/build-with-claude/files,
 * .../agents-and-tools/agent-skills. A file is looked for in blocks of every type, also of those
 * that are not known here. Where an id opens nothing it may stand: in a call's input, in a
 * citation, in what a server's tool has told. */
#include "api/anthropic/body.h"

#define SHARED "is not supported by this server, whose users share one upstream account"

static bool is_given(const json_t *obj, const char *name)
{
    const json_t *v = json_object_get(obj, name);
    return v && !json_is_null(v);
}

static bool opens_nothing(struct str type, const char *name)
{
    return (str_ends(type, "tool_use") && strcmp(name, "input") == 0) ||
           (str_eq_c(type, "text") && strcmp(name, "citations") == 0);
}

static int check_files(const json_t *j, bool told, const struct place *at, struct err *err)
{
    struct str type = json_get_str(j, "type");
    const char *name;
    json_t *v;
    size_t i;
    told = told || str_ends(type, "_tool_result");
    if (is_given(j, "file_id") &&
        (!told || str_eq_c(type, "file") || str_eq_c(type, "container_upload")))
        return place_err(at, "file_id", err, SHARED ": send the file itself");
    json_object_foreach((json_t *)(uintptr_t)j, name, v)
    {
        struct place here = {.up = at, .name = name};
        if (!opens_nothing(type, name) && check_files(v, told, &here, err) != 0)
            return -1;
    }
    json_array_foreach(j, i, v)
    {
        struct place here = {.up = at, .index = i};
        if (check_files(v, told, &here, err) != 0)
            return -1;
    }
    return 0;
}

/* Skills of Anthropic's own may be named: everybody has them. */
static int check_container(const json_t *container, struct err *err)
{
    static const struct place at = {.name = "container"}, list = {.up = &at, .name = "skills"};
    const json_t *skill;
    size_t i;
    if (json_is_string(container))
        return place_err(&at, NULL, err, SHARED ": each request has a container of its own");
    if (is_given(container, "id"))
        return place_err(&at, "id", err, SHARED ": each request has a container of its own");
    json_array_foreach(json_object_get(container, "skills"), i, skill)
    {
        struct place here = {.up = &list, .index = i};
        if (!str_eq_c(json_get_str(skill, "type"), "anthropic"))
            return place_err(&here, "type", err,
                             "Input should be 'anthropic': a custom skill " SHARED);
    }
    return 0;
}

int body_check_owned(const json_t *body, struct err *err)
{
    static const char *const parts[] = {"system", "messages"};
    for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
        struct place at = {.name = parts[i]};
        if (check_files(json_object_get(body, parts[i]), false, &at, err) != 0)
            return -1;
    }
    return check_container(json_object_get(body, "container"), err);
}
