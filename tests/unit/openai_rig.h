/* openai_rig.h - bodies in tables: 'single' quotes stand for double ones. */
#ifndef CG_TESTS_OPENAI_RIG_H
#define CG_TESTS_OPENAI_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "core/json.h"

static json_t *quoted(const char *text)
{
    struct err err;
    char *copy = x_strdup(text);
    for (char *c = copy; *c; c++) {
        if (*c == '\'')
            *c = '"';
    }
    json_t *j = json_parse(str_c(copy), &err);
    if (!j)
        fail_msg("%s: %s", copy, err.msg);
    free(copy);
    return j;
}

static void assert_same(const json_t *got, const char *expected)
{
    json_t *want = quoted(expected);
    if (!json_equal(got, want)) {
        char *text = json_dumps(got, JSON_ENCODE_ANY);
        fail_msg("got  %s\nwant %s", text ? text : "NULL", expected);
    }
    json_decref(want);
}

#endif
