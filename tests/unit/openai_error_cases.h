/* openai_error_cases.h - errors in OpenAI's words: status, type, param and code. */
#ifndef CG_TESTS_OPENAI_ERROR_CASES_H
#define CG_TESTS_OPENAI_ERROR_CASES_H

#include "openai_rig.h"

#include "http/http.h"

static const struct {
    enum err_code code;
    int status; /* upstream's */
    const char *msg, *field, *detail;
    const char *expected;
} errors[] = {
    {ERR_INVALID, 0, "n: must be 1", "n", "unsupported_value",
     "{'message':'n: must be 1','type':'invalid_request_error','param':'n','code':"
     "'unsupported_value'}"},
    {ERR_INVALID, 0, "x", "", NULL,
     "{'message':'x','type':'invalid_request_error','param':null,'code':null}"},
    {ERR_UNAUTHENTICATED, 0, "x", "", NULL,
     "{'message':'x','type':'invalid_request_error','param':null,'code':'invalid_api_key'}"},
    {ERR_RATE_LIMITED, 0, "x", "", NULL,
     "{'message':'x','type':'requests','param':null,'code':'rate_limit_exceeded'}"},
    {ERR_QUOTA, 0, "x", "", NULL,
     "{'message':'x','type':'insufficient_quota','param':null,'code':'insufficient_quota'}"},
    {ERR_OVERLOADED, 0, "x", "", NULL,
     "{'message':'x','type':'server_error','param':null,'code':'overloaded'}"},
    {ERR_UPSTREAM, 529, "x", "", NULL,
     "{'message':'x','type':'server_error','param':null,'code':'overloaded'}"},
    {ERR_UPSTREAM, 429, "x", "", NULL,
     "{'message':'x','type':'requests','param':null,'code':'rate_limit_exceeded'}"},
    {ERR_UPSTREAM, 400, "prompt is too long: 9 tokens > 8 maximum", "", NULL,
     "{'message':'prompt is too long: 9 tokens > 8 maximum','type':'invalid_request_error','param'"
     ":null,'code':'context_length_exceeded'}"},
    {ERR_UPSTREAM, 404, "model: claude-x", "", NULL,
     "{'message':'model: claude-x','type':'invalid_request_error','param':null,'code':"
     "'model_not_found'}"},
    {ERR_UPSTREAM, 500, "x", "", NULL,
     "{'message':'x','type':'server_error','param':null,'code':null}"},
    {ERR_INTERNAL, 0, "/secret/path", "", NULL,
     "{'message':'Internal error. Quote the request id to the operator.','type':'server_error',"
     "'param':null,'code':null}"},
};

static void test_errors(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(errors); i++) {
        struct err err;
        struct buf out;
        err_set(&err, errors[i].code, "%s", errors[i].msg);
        err.status = errors[i].status;
        err.detail = errors[i].detail;
        snprintf(err.field, sizeof(err.field), "%s", errors[i].field);
        buf_init(&out, 4096);
        http_error_body(DIALECT_OPENAI, "req_1", &err, &out);
        json_t *got = quoted(buf_cstr(&out));
        assert_same(json_object_get(got, "error"), errors[i].expected);
        json_decref(got);
        buf_release(&out);
    }
}

#endif
