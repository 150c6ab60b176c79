/* parts.h - what the two OpenAI APIs share when they write a Messages request: field errors, what a
 * conversation is put together from, tools, and the parameters of the model. Pure functions.
 *
 * Errors are ERR_INVALID with err.field in OpenAI's way ("messages[2].content[0].image_url") and
 * err.detail their code ("unknown_parameter", "missing_required_parameter", "invalid_type",
 * "invalid_value", "unsupported_value"). */
#ifndef CG_API_OPENAI_PARTS_H
#define CG_API_OPENAI_PARTS_H

#include "core/json.h"

#define OPENAI_IGNORED_MAX 24

/* What there is to know beside the body. */
struct openai_env {
    const char *aliases; /* setting models.aliases; "" = none */
    int64_t max_tokens;  /* of an answer when the client does not say; > 0 */
};

/* A request on its way to become one of the Messages API. */
struct openai_request {
    json_t *body; /* the Messages request */
    json_t *system, *messages;
    json_t *pending;                         /* tool calls that have no result yet: id -> true */
    const char *ignored[OPENAI_IGNORED_MAX]; /* constants */
    size_t ignored_count;
    size_t argument_marks; /* json_marks() of all calls' arguments, which are JSON within strings */
    int64_t legacy_calls;  /* so many ids were made for calls of the old kind, which have none */
    bool stream, include_usage;
    bool legacy;       /* `functions`: the answer has function_call */
    bool answers_tool; /* the last message answers a tool */
};
void openai_request_init(struct openai_request *r);
void openai_request_release(struct openai_request *r);

/* --- errors ------------------------------------------------------------------------------- */
/* json_read_fields() with err.detail. */
MUST_USE int openai_read(const json_t *obj, const struct json_field *fields, size_t count,
                         void *out, struct err *err);
int openai_invalid(struct err *err, const char *field, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* What the model behind cannot do: refused, never dropped. */
int openai_unsupported(struct err *err, const char *field, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* Puts the place in front of err.field and of the message: "messages[2]" + "content". */
int openai_place(struct err *err, const char *fmt, ...) PRINTF_LIKE(2, 3);
void openai_ignore(struct openai_request *r, const char *name);
/* An error of messages_parse(): its field as the client knows it. */
void openai_rename_field(struct err *err, bool responses, const char *max_tokens_name);

/* --- the conversation --------------------------------------------------------------------- */
/* Takes block over. Neighbours of one role become one message. */
void openai_add_block(struct openai_request *r, const char *role, json_t *block_take);
void openai_add_system(struct openai_request *r, struct str text);
void openai_add_text(struct openai_request *r, const char *role, struct str text);
/* What the assistant called. arguments: JSON text. id "" = of the old kind. */
MUST_USE int openai_add_call(struct openai_request *r, struct str id, struct str name,
                             struct str arguments, struct err *err);
/* content: array of blocks, taken over. */
MUST_USE int openai_add_result(struct openai_request *r, struct str id, json_t *content_take,
                               struct err *err);
/* Before a message that is no result: every call must have one. */
MUST_USE int openai_check_answered(const struct openai_request *r, struct err *err);
/* data: or https. field: what the client calls it. NULL + err. */
json_t *openai_image_block(struct str url, const char *field, struct err *err);
/* data: with a PDF or plain text, or https. title may be "". */
json_t *openai_file_block(struct str data, struct str url, struct str title, struct err *err);

bool openai_is_blank(struct str s);

/* --- tools -------------------------------------------------------------------------------- */
struct openai_tools {
    json_t *tools, *choice; /* as the client gave them; NULL = absent */
    bool has_parallel, parallel;
    bool nested; /* chat: {"type","function":{...}}; responses: flat */
};
MUST_USE int openai_put_tools(struct openai_request *r, const struct openai_tools *t,
                              struct err *err);
/* functions and function_call, from before there were tools. */
MUST_USE int openai_put_functions(struct openai_request *r, const json_t *functions,
                                  const json_t *call, struct err *err);

/* --- parameters --------------------------------------------------------------------------- */
/* The model behind an alias, or the name itself; owned. "gpt-4o*=claude-x, o3=claude-y". */
char *openai_model(const char *aliases, struct str name);
/* The same, as the request's model. Names with a NUL byte are refused. */
MUST_USE int openai_put_model(struct openai_request *r, const char *aliases, struct str name,
                              struct err *err);

/* After the messages and the model: needs both. name: the client's field. */
MUST_USE int openai_put_effort(struct openai_request *r, struct str effort, const char *name,
                               struct err *err);
/* 0..1 as the models know it; above is refused. */
MUST_USE int openai_put_temperature(struct openai_request *r, double t, struct err *err);
/* {"type":"text"|"json_object"|"json_schema",...}: of the chat API nested in "json_schema". */
MUST_USE int openai_put_format(struct openai_request *r, const json_t *format, bool nested,
                               struct err *err);
MUST_USE int openai_put_tier(struct openai_request *r, struct str tier, struct err *err);
void openai_put_user(struct openai_request *r, struct str user);

/* The whole body, from the parts. */
void openai_finish_body(struct openai_request *r);

#endif
