/* err.h - one error type, no allocation, and the one table that says what a code means outside.
 *
 * A function that can fail returns 0 or -1 and takes `struct err *err` last. The message is
 * complete and printable; on success err is untouched. Text that came from the outside world's
 * inside (paths, SQL, CLI stderr) may stand in msg: err_public_msg() decides what a client sees. */
#ifndef CG_CORE_ERR_H
#define CG_CORE_ERR_H

#include "core/util.h"

#include <stdbool.h>

enum err_code {
    ERR_NONE = 0,
    ERR_INVALID,         /* bad JSON, bad field: client's fault */
    ERR_UNAUTHENTICATED, /* missing, wrong, expired or disabled key */
    ERR_FORBIDDEN,       /* key may not do this */
    ERR_NOT_FOUND,
    ERR_METHOD,       /* path exists, method does not */
    ERR_CONFLICT,     /* already exists */
    ERR_SESSION_BUSY, /* one turn at a time */
    ERR_KEY_REUSED,   /* an Idempotency-Key that belongs to a different request */
    ERR_TOO_LARGE,    /* request body or derived object over its limit */
    ERR_RATE_LIMITED, /* requests per minute */
    ERR_QUOTA,        /* day or budget spent */
    ERR_OVERLOADED,   /* queue full or waited too long */
    ERR_SHUTTING_DOWN,
    ERR_UPSTREAM, /* upstream said 4xx/5xx: see struct err.status */
    ERR_UPSTREAM_UNREACHABLE,
    ERR_WORKER,      /* a claude process crashed or could not start */
    ERR_TIMEOUT,     /* turn timed out */
    ERR_UNAVAILABLE, /* database or shared store away */
    ERR_CLIENT_GONE, /* nobody is left to answer: for logs and usage rows */
    ERR_IO,          /* operating system said no */
    ERR_CONFIG,
    ERR_INTERNAL,
    ERR_CODE_COUNT
};

struct err {
    enum err_code code;
    int status;         /* HTTP status to answer with; 0 = the table's */
    int retry_after_s;  /* advice to the client; 0 = none */
    int should_retry;   /* what upstream's x-should-retry says: 1 yes, -1 no, 0 nothing */
    const char *detail; /* a finer code, a constant: the OpenAI dialect's; NULL = the table's */
    char field[64];     /* the request field at fault, "" if none */
    char msg[400];
    /* What the upstream API itself said, for the dialects that speak its language: */
    char upstream_type[40];        /* its error.type; "" = not upstream's */
    size_t upstream_at;            /* where in msg its own message begins */
    const char *anthropic_details; /* a constant: JSON for error.details there; NULL = none */
    /* Its whole error object, JSON text; NULL = none. Borrowed: good while the callback that tells
     * the error runs. */
    const char *upstream_error;
};

struct err_info {
    const char *name;           /* stable machine-readable code: native "code", metric label, log */
    int status;                 /* HTTP status */
    const char *anthropic_type; /* error.type on the Anthropic dialect */
    int anthropic_status;
    const char *openai_type; /* error.type on the OpenAI dialect */
    const char *openai_code; /* error.code there, NULL = null */
    const char *fixed_msg;   /* shown instead of msg when set: msg may hold internals */
    bool is_fault;           /* our or upstream's fault: logged at error level */
};

const struct err_info *err_info(enum err_code code);

/* Set *err (which may be NULL) and return -1, so that `return err_set(...)` reads well. */
int err_set(struct err *err, enum err_code code, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* Same, naming the request field at fault. msg becomes "field: text". */
int err_field(struct err *err, const char *field, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* Put "context: " in front on the way up; returns -1. */
int err_prefix(struct err *err, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* The HTTP status of the native dialect for this error. */
int err_status(const struct err *err);
/* The text a client may see. */
const char *err_public_msg(const struct err *err);
/* The same as upstream worded it, where upstream_type is set; else err_public_msg(). */
const char *err_upstream_msg(const struct err *err);

#endif
