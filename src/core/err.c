/* err.c - formatting of errors and the table that turns a code into everything outward. */
#include "core/err.h"

#include <assert.h>
#include <stdarg.h>

#define INTERNAL_MSG "Internal error. Quote the request id to the operator."
#define WORKER_MSG   "The claude process serving this request failed."

/* name, status, anthropic type + status, openai type + code, fixed message, fault */
static const struct err_info table[] = {
    [ERR_NONE] = {"ok", 200, "ok", 200, "ok", NULL, NULL, false},
    [ERR_INVALID] = {"invalid_request", 400, "invalid_request_error", 400, "invalid_request_error",
                     NULL, NULL, false},
    [ERR_UNAUTHENTICATED] = {"unauthenticated", 401, "authentication_error", 401,
                             "invalid_request_error", "invalid_api_key", NULL, false},
    [ERR_FORBIDDEN] = {"permission_denied", 403, "permission_error", 403, "invalid_request_error",
                       "permission_denied", NULL, false},
    [ERR_NOT_FOUND] = {"not_found", 404, "not_found_error", 404, "invalid_request_error",
                       "not_found", NULL, false},
    [ERR_METHOD] = {"method_not_allowed", 405, "invalid_request_error", 405,
                    "invalid_request_error", "method_not_allowed", NULL, false},
    [ERR_CONFLICT] = {"conflict", 409, "conflict_error", 409, "invalid_request_error", "conflict",
                      NULL, false},
    [ERR_SESSION_BUSY] = {"session_busy", 409, "conflict_error", 409, "invalid_request_error",
                          "session_busy", NULL, false},
    [ERR_KEY_REUSED] = {"idempotency_key_reused", 422, "invalid_request_error", 422,
                        "invalid_request_error", "idempotency_key_reused", NULL, false},
    [ERR_TOO_LARGE] = {"request_too_large", 413, "request_too_large", 413, "invalid_request_error",
                       "request_too_large", NULL, false},
    [ERR_RATE_LIMITED] = {"rate_limited", 429, "rate_limit_error", 429, "requests",
                          "rate_limit_exceeded", NULL, false},
    [ERR_QUOTA] = {"quota_exceeded", 429, "rate_limit_error", 429, "insufficient_quota",
                   "insufficient_quota", NULL, false},
    [ERR_OVERLOADED] = {"overloaded", 503, "overloaded_error", 529, "server_error", "overloaded",
                        NULL, false},
    [ERR_SHUTTING_DOWN] = {"shutting_down", 503, "overloaded_error", 529, "server_error",
                           "overloaded", NULL, false},
    [ERR_UPSTREAM] = {"upstream_error", 502, "api_error", 502, "server_error", NULL, NULL, true},
    [ERR_UPSTREAM_UNREACHABLE] = {"upstream_unreachable", 502, "api_error", 502, "server_error",
                                  NULL, NULL, true},
    [ERR_WORKER] = {"worker_failed", 502, "api_error", 500, "server_error", NULL, WORKER_MSG, true},
    [ERR_TIMEOUT] = {"timeout", 504, "timeout_error", 504, "server_error", "timeout", NULL, true},
    [ERR_UNAVAILABLE] = {"unavailable", 503, "api_error", 503, "server_error", "unavailable",
                         "A store this server depends on is unavailable. Try again shortly.", true},
    [ERR_CLIENT_GONE] = {"client_gone", 499, "api_error", 499, "server_error", NULL, NULL, false},
    [ERR_IO] = {"io_error", 500, "api_error", 500, "server_error", NULL, INTERNAL_MSG, true},
    [ERR_CONFIG] = {"config_error", 500, "api_error", 500, "server_error", NULL, INTERNAL_MSG,
                    true},
    [ERR_INTERNAL] = {"internal_error", 500, "api_error", 500, "server_error", NULL, INTERNAL_MSG,
                      true},
};
static_assert(ARRAY_SIZE(table) == ERR_CODE_COUNT, "every error code needs a row");

const struct err_info *err_info(enum err_code code)
{
    BUG_ON((unsigned)code >= ERR_CODE_COUNT);
    return &table[code];
}

static void PRINTF_LIKE(3, 0)
    set_v(struct err *err, enum err_code code, const char *fmt, va_list ap)
{
    *err = (struct err){.code = code};
    vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
}

int err_set(struct err *err, enum err_code code, const char *fmt, ...)
{
    if (err) {
        va_list ap;
        va_start(ap, fmt);
        set_v(err, code, fmt, ap);
        va_end(ap);
    }
    return -1;
}

int err_field(struct err *err, const char *field, const char *fmt, ...)
{
    if (!err)
        return -1;
    va_list ap;
    va_start(ap, fmt);
    set_v(err, ERR_INVALID, fmt, ap);
    va_end(ap);
    snprintf(err->field, sizeof(err->field), "%s", field);
    return err_prefix(err, "%s", field);
}

int err_prefix(struct err *err, const char *fmt, ...)
{
    if (!err)
        return -1;
    char old[sizeof(err->msg)];
    memcpy(old, err->msg, sizeof(old));
    char prefix[200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(prefix, sizeof(prefix), fmt, ap);
    va_end(ap);
    snprintf(err->msg, sizeof(err->msg), "%s: %s", prefix, old);
    err->upstream_at += strlen(prefix) + 2;
    return -1;
}

int err_status(const struct err *err)
{
    return err->status ? err->status : err_info(err->code)->status;
}

const char *err_public_msg(const struct err *err)
{
    const char *fixed = err_info(err->code)->fixed_msg;
    return fixed ? fixed : err->msg;
}

const char *err_upstream_msg(const struct err *err)
{
    bool said = err->upstream_type[0] && err->upstream_at < strlen(err->msg);
    return said ? err->msg + err->upstream_at : err_public_msg(err);
}
