/* error_body.c - one error in the three shapes clients expect.
 *
 * native     {"success":false,"error":"...","code":"...","requestId":"..."}
 * Anthropic  {"type":"error","error":{"type","message"},"request_id"}
 *            (https://docs.anthropic.com/en/api/errors)
 * OpenAI     {"error":{"message","type","param","code"}} */
#include "http/internal.h"

/* An error relayed from upstream keeps its meaning: its status says which type it is. */
static enum err_code meaning(const struct err *err)
{
    if (err->code != ERR_UPSTREAM)
        return err->code;
    switch (err->status) {
    case 400:
    case 422:
        return ERR_INVALID;
    case 403:
        return ERR_FORBIDDEN;
    case 404:
        return ERR_NOT_FOUND;
    case 413:
        return ERR_TOO_LARGE;
    case 429:
        return ERR_RATE_LIMITED;
    case 503:
    case 529:
        return ERR_OVERLOADED;
    case 504:
        return ERR_TIMEOUT;
    default:
        return ERR_UPSTREAM;
    }
}

int http_error_status(enum http_dialect dialect, const struct err *err)
{
    if (dialect == DIALECT_NATIVE)
        return err_status(err);
    int status = err->status ? err->status : err_info(err->code)->anthropic_status;
    /* 529 is Anthropic's own */
    return dialect == DIALECT_OPENAI && status == 529 ? 503 : status;
}

static void add_member(struct buf *out, const char *lead, const char *value)
{
    buf_adds(out, lead);
    if (value)
        buf_json_str(out, str_c(value));
    else
        buf_adds(out, "null");
}

static void native_body(const char *request_id, const struct err *err, struct buf *out)
{
    add_member(out, "{\"success\":false,\"error\":", err_public_msg(err));
    add_member(out, ",\"code\":", err_info(err->code)->name);
    add_member(out, ",\"requestId\":", request_id);
    buf_adds(out, "}");
}

static void anthropic_body(const char *request_id, const struct err *err, struct buf *out)
{
    const char *type =
        err->upstream_type[0] ? err->upstream_type : err_info(meaning(err))->anthropic_type;
    buf_adds(out, "{\"type\":\"error\",\"error\":");
    if (err->upstream_error) {
        buf_adds(out, err->upstream_error);
    } else {
        add_member(out, "{\"type\":", type);
        add_member(out, ",\"message\":", err_upstream_msg(err));
        if (err->anthropic_details)
            buf_printf(out, ",\"details\":%s", err->anthropic_details);
        buf_addc(out, '}');
    }
    add_member(out, ",\"request_id\":", request_id);
    buf_adds(out, "}");
}

/* The codes that OpenAI's clients ask for, where the table knows none as fine. */
static const char *openai_code(const struct err *err)
{
    const struct err_info *info = err_info(meaning(err));
    struct str said = str_c(err_upstream_msg(err));
    if (err->detail)
        return err->detail;
    if (err->code == ERR_UPSTREAM && meaning(err) == ERR_INVALID &&
        (str_contains(said, "prompt is too long") || str_contains(said, "context window") ||
         str_contains(said, "context limit")))
        return "context_length_exceeded";
    if (meaning(err) == ERR_NOT_FOUND && str_starts(said, "model"))
        return "model_not_found";
    return info->openai_code;
}

static void openai_body(const struct err *err, struct buf *out)
{
    const struct err_info *info = err_info(meaning(err));
    add_member(out, "{\"error\":{\"message\":", err_upstream_msg(err));
    add_member(out, ",\"type\":", info->openai_type);
    add_member(out, ",\"param\":", err->field[0] ? err->field : NULL);
    add_member(out, ",\"code\":", openai_code(err));
    buf_adds(out, "}}");
}

void http_error_body(enum http_dialect dialect, const char *request_id, const struct err *err,
                     struct buf *out)
{
    switch (dialect) {
    case DIALECT_NATIVE:
        native_body(request_id, err, out);
        break;
    case DIALECT_ANTHROPIC:
        anthropic_body(request_id, err, out);
        break;
    case DIALECT_OPENAI:
        openai_body(err, out);
        break;
    case DIALECT_CLIENT:
        BUG_ON(dialect == DIALECT_CLIENT); /* the router has resolved it */
    }
}
