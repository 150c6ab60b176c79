/* fake_fault.c - a fault that waits. A step's `later` (or FAKE_LATER at the start) arms it; it
 * strikes once, when the next line of its kind comes in, before that line is looked at. */
#include "fake.h"

#include <unistd.h>

static const char *const kinds[] = {"initialize",
                                    "set_max_thinking_tokens",
                                    "set_model",
                                    "interrupt",
                                    "apply_flag_settings",
                                    "boundary",
                                    "assistant",
                                    "history",
                                    "question",
                                    "clear"};

static const char *const actions[] = {"exit", "hang", "delay", "mute"};

static const struct json_field later_fields[] = {
    {.name = "at", .type = JF_STRING, .offset = offsetof(struct later, at), .required = true},
    {.name = "do", .type = JF_STRING, .offset = offsetof(struct later, action), .required = true},
    {.name = "ms", .type = JF_INT, .offset = offsetof(struct later, ms), .min = 0, .max = 1e6},
    {.name = "code", .type = JF_INT, .offset = offsetof(struct later, code), .min = 0, .max = 255},
    {.name = "signal", .type = JF_INT, .offset = offsetof(struct later, signal), .max = 64},
};

int later_read(const json_t *src, struct later *ret, struct err *err)
{
    bool known = false;
    *ret = (struct later){0};
    if (json_read_fields(src, later_fields, ARRAY_SIZE(later_fields), ret, err) != 0)
        return -1;
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
        known = known || str_eq_c(ret->at, kinds[i]);
    if (!known)
        return err_field(err, "later", "no such line: '%.*s'", (int)ret->at.len, ret->at.p);
    for (size_t i = 0; i < ARRAY_SIZE(actions); i++) {
        if (str_eq_c(ret->action, actions[i]))
            return 0;
    }
    return err_field(err, "later", "do must be exit, hang, delay or mute");
}

void fault_arm(struct fake *f, json_t *src)
{
    json_decref(f->later_src);
    f->later_src = json_incref(src);
    BUG_ON(later_read(f->later_src, &f->later, NULL) != 0); /* was checked with its step */
}

static struct str first_text(const json_t *content)
{
    return json_is_string(content) ? json_str_of(content)
                                   : json_get_str(json_array_get(content, 0), "text");
}

static struct str kind_of(const json_t *line)
{
    struct str type = json_get_str(line, "type");
    if (str_eq_c(type, "control_request"))
        return json_get_str(json_object_get(line, "request"), "subtype");
    if (str_eq_c(type, "system"))
        return STR("boundary");
    if (!str_eq_c(type, "user"))
        return type;
    if (str_starts(first_text(json_object_get(json_object_get(line, "message"), "content")), "/"))
        return STR("clear");
    return json_get_bool(line, "shouldQuery", true) ? STR("question") : STR("history");
}

bool fault_strikes(struct fake *f, const json_t *line)
{
    struct later l = f->later;
    if (!f->later_src || !str_eq(l.at, kind_of(line)))
        return false;
    f->later = (struct later){0};
    out_flush(f, true);
    f->hung = f->hung || str_eq_c(l.action, "hang");
    if (str_eq_c(l.action, "exit"))
        fake_leave(f, l.signal, l.code);
    if (str_eq_c(l.action, "delay"))
        fake_nap(f, l.ms);
    if (str_eq_c(l.action, "mute")) {
        free(f->lose_control);
        f->lose_control = str_dup(l.at);
    }
    return f->hung;
}
