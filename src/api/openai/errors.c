/* errors.c - field errors with the codes OpenAI's clients look at. */
#include "api/openai/parts.h"

#include <stdarg.h>

static const char *detail_of(const struct err *err)
{
    struct str msg = str_c(err->msg);
    if (str_contains(msg, "unknown field"))
        return "unknown_parameter";
    if (str_contains(msg, "is required"))
        return "missing_required_parameter";
    if (str_contains(msg, "must be a ") || str_contains(msg, "must be an ") ||
        str_contains(msg, "must be true or false"))
        return "invalid_type";
    return "invalid_value";
}

int openai_read(const json_t *obj, const struct json_field *fields, size_t count, void *out,
                struct err *err)
{
    int rc = json_read_fields(obj, fields, count, out, err);
    if (rc != 0)
        err->detail = detail_of(err);
    return rc;
}

static int PRINTF_LIKE(4, 0)
    field_error(struct err *err, const char *field, const char *detail, const char *fmt, va_list ap)
{
    char text[sizeof(err->msg)];
    vsnprintf(text, sizeof(text), fmt, ap);
    if (field[0])
        err_field(err, field, "%s", text);
    else /* openai_place() says where */
        err_set(err, ERR_INVALID, "%s", text);
    err->detail = detail;
    return -1;
}

int openai_invalid(struct err *err, const char *field, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    field_error(err, field, "invalid_value", fmt, ap);
    va_end(ap);
    return -1;
}

int openai_unsupported(struct err *err, const char *field, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    field_error(err, field, "unsupported_value", fmt, ap);
    va_end(ap);
    return -1;
}

static void put_in_front(char *text, size_t size, const char *place, const char *sep)
{
    char old[sizeof(((struct err *)0)->msg)];
    snprintf(old, sizeof(old), "%s", text);
    snprintf(text, size, "%s%s%s", place, sep, old);
}

int openai_place(struct err *err, const char *fmt, ...)
{
    char place[64];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(place, sizeof(place), fmt, ap);
    va_end(ap);
    bool deeper = err->field[0] && err->field[0] != '[';
    put_in_front(err->msg, sizeof(err->msg), place, err->field[0] ? (deeper ? "." : "") : ": ");
    put_in_front(err->field, sizeof(err->field), place, deeper ? "." : "");
    return -1;
}

void openai_rename_field(struct err *err, bool responses, const char *max_tokens_name)
{
    const struct {
        const char *theirs, *chat, *responses;
    } names[] = {{"max_tokens", max_tokens_name, max_tokens_name},
                 {"stop_sequences", "stop", "stop"},
                 {"system", "messages", "instructions"},
                 {"messages", "messages", "input"},
                 {"metadata", "user", "user"},
                 {"thinking", "reasoning_effort", "reasoning.effort"},
                 {"output_config.effort", "reasoning_effort", "reasoning.effort"},
                 {"output_config", "response_format", "text.format"},
                 {"output_format", "response_format", "text.format"},
                 {"tools", "tools", "tools"}};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        if (!str_starts(str_c(err->field), names[i].theirs))
            continue;
        snprintf(err->field, sizeof(err->field), "%s",
                 responses ? names[i].responses : names[i].chat);
        return;
    }
}
