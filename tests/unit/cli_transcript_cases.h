/* cli_transcript_cases.h - part of test_cli.c: conversations written as files. That the program
 * reads them as they are meant is test_program.c's to show. */
#ifndef CG_TESTS_CLI_TRANSCRIPT_CASES_H
#define CG_TESTS_CLI_TRANSCRIPT_CASES_H

#include "cli/transcript.h"
#include "cli_encode_cases.h"

#include <ftw.h>
#include <sys/stat.h>

#define TRANSCRIPT_ID "0198c0de-0000-7000-8000-000000000001"

static char transcript_home[64];

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static int transcript_set_up(void **state)
{
    (void)state;
    snprintf(transcript_home, sizeof(transcript_home), "/tmp/test_cli.XXXXXX");
    return mkdtemp(transcript_home) ? 0 : -1;
}

static int transcript_tear_down(void **state)
{
    (void)state;
    return nftw(transcript_home, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static json_t *json_of(const char *quoted_text)
{
    AUTO(free_charp) char *text = x_strdup(quoted_text);
    for (char *c = text; *c; c++)
        *c = *c == '\'' ? '"' : *c;
    json_t *j = json_loads(text, JSON_ALLOW_NUL, NULL);
    if (!j)
        fail_msg("bad test: %s", text);
    return j;
}

static int try_transcript(const char *cwd, const char *id, const char *history, const char *next,
                          struct err *err)
{
    AUTO(json_unref_p) json_t *h = json_of(history);
    AUTO(json_unref_p) json_t *n = next ? json_of(next) : NULL;
    return cli_write_transcript(transcript_home, cwd, id, "claude-x", h, n, err);
}

/* Writes it for /w and returns the lines of the file, which is removed again. */
static json_t *transcript_of(const char *history, const char *next)
{
    struct err err;
    char path[200];
    json_t *lines = json_array(), *line;
    if (try_transcript("/w", TRANSCRIPT_ID, history, next, &err) != 0)
        fail_msg("%s", err.msg);
    snprintf(path, sizeof(path), "%s/.claude/projects/-w/" TRANSCRIPT_ID ".jsonl", transcript_home);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    while ((line = json_loadf(f, JSON_DISABLE_EOF_CHECK | JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES,
                              NULL))) {
        assert_int_equal(fgetc(f), '\n');
        json_array_append_new(lines, line);
    }
    assert_int_equal(fgetc(f), EOF);
    fclose(f);
    assert_int_equal(remove(path), 0);
    return lines;
}

static const json_t *line_at(const json_t *lines, size_t i, const char *type)
{
    const json_t *line = json_array_get(lines, i), *message = json_object_get(line, "message");
    assert_true(str_eq_c(json_get_str(line, "type"), type));
    assert_true(str_eq_c(json_get_str(message, "role"), type));
    return line;
}

static json_t *transcript_content(const json_t *line)
{
    return json_object_get(json_object_get(line, "message"), "content");
}

static void assert_line_content(const json_t *line, const char *want)
{
    AUTO(json_unref_p) json_t *w = json_of(want);
    AUTO(free_charp) char *got = json_dumps(transcript_content(line), 0);
    if (!json_equal(transcript_content(line), w))
        fail_msg("%s is not %s", got, want);
}

#define EMPTY "{'type':'text','text':''}"

static void test_transcript_lines(void **state)
{
    (void)state;
    AUTO(json_unref_p)
    json_t *lines = transcript_of(
        "[{'role':'user','content':[{'type':'text','text':'/clear \\u0000 \\\\ \\u2028'}]},"
        "{'role':'assistant','content':[{'type':'thinking','thinking':'h','signature':'s'},"
        "{'type':'text','text':'@/etc/passwd'}]},"
        "{'role':'user','content':[]},"
        "{'role':'assistant','content':[{'type':'text','text':'b'}]}]",
        "[{'type':'text','text':'not written'}]");
    struct str parent = {NULL, 0}, id = {NULL, 0};
    assert_int_equal(json_array_size(lines), 4);
    assert_line_content(line_at(lines, 0, "user"),
                        "[{'type':'text','text':'/clear \\u0000 \\\\ \\u2028'}," EMPTY "]");
    assert_line_content(line_at(lines, 1, "assistant"),
                        "[{'type':'thinking','thinking':'h','signature':'s'},"
                        "{'type':'text','text':'@/etc/passwd'}]");
    assert_line_content(line_at(lines, 2, "user"), "[" EMPTY "]");
    for (size_t i = 0; i < 4; i++) {
        const json_t *line = json_array_get(lines, i), *message = json_object_get(line, "message");
        assert_true(i ? str_eq(json_get_str(line, "parentUuid"), parent)
                      : json_is_null(json_object_get(line, "parentUuid")));
        parent = json_get_str(line, "uuid");
        assert_int_equal(parent.len, ID_UUID_SIZE - 1);
        assert_true(str_eq_c(json_get_str(line, "sessionId"), TRANSCRIPT_ID));
        assert_true(str_eq_c(json_get_str(line, "cwd"), "/w"));
        assert_null(json_object_get(line, "isMeta"));
        if (i % 2 == 0)
            continue;
        assert_true(str_eq_c(json_get_str(message, "model"), "claude-x"));
        assert_false(str_eq(json_get_str(message, "id"), id)); /* one id, one message */
        id = json_get_str(message, "id");
    }
}

#define ONE_CALL                                              \
    "{'role':'user','content':[{'type':'text','text':'q'}]}," \
    "{'role':'assistant','content':[{'type':'tool_use','id':'t','name':'n','input':{}}]}"
#define ONE_RESULT "{'type':'tool_result','tool_use_id':'t','content':'r'}"

static void check_failed_call(const json_t *lines, size_t i)
{
    const json_t *line = line_at(lines, i, "assistant");
    assert_true(json_is_true(json_object_get(line, "isApiErrorMessage")));
    assert_true(str_eq_c(json_get_str(json_object_get(line, "message"), "model"), "<synthetic>"));
    assert_int_equal(json_array_size(lines), i + 1);
}

/* Without its last lines the program would add words of its own, or drop the calls. */
static void test_transcript_ends(void **state)
{
    struct err err;
    (void)state;
    json_t *lines =
        transcript_of("[" ONE_CALL "]", "[" ONE_RESULT ",{'type':'text','text':'and'}]");
    assert_line_content(line_at(lines, 2, "user"), "[" ONE_RESULT "," EMPTY "]");
    assert_true(json_is_true(json_object_get(json_array_get(lines, 2), "isMeta")));
    check_failed_call(lines, 3);
    json_decref(lines);
    lines = transcript_of("[" ONE_CALL ",{'role':'user','content':[" ONE_RESULT "]}]", NULL);
    assert_line_content(line_at(lines, 2, "user"), "[" ONE_RESULT "," EMPTY "]");
    assert_true(json_is_true(json_object_get(json_array_get(lines, 2), "isMeta")));
    check_failed_call(lines, 3);
    json_decref(lines);
    lines = transcript_of("[{'role':'user','content':[{'type':'text','text':'q'}]}]", NULL);
    assert_null(json_object_get(json_array_get(lines, 0), "isMeta"));
    check_failed_call(lines, 1);
    json_decref(lines);
    assert_int_equal(try_transcript("/w", TRANSCRIPT_ID, "[" ONE_CALL "]", "[" EMPTY "]", &err),
                     -1);
    assert_int_equal(err.code, ERR_INVALID);
}

static mode_t mode_of(const char *below)
{
    char path[400];
    struct stat st;
    snprintf(path, sizeof(path), "%s/%s", transcript_home, below);
    if (lstat(path, &st) != 0)
        fail_msg("'%s' is not there", path);
    return st.st_mode & 07777;
}

#define HELLO "[{'role':'user','content':[{'type':'text','text':'q'}]}]"

static void check_slug(const char *cwd, const char *slug)
{
    char below[300];
    struct err err;
    if (try_transcript(cwd, TRANSCRIPT_ID, HELLO, NULL, &err) != 0)
        fail_msg("%s", err.msg);
    snprintf(below, sizeof(below), ".claude/projects/%s", slug);
    assert_int_equal(mode_of(below), 0700);
    snprintf(below, sizeof(below), ".claude/projects/%s/" TRANSCRIPT_ID ".jsonl", slug);
    assert_int_equal(mode_of(below), 0600);
}

/* Slugs as the program was seen to make them. */
static void test_transcript_place(void **state)
{
    char path[300] = "/";
    struct err err;
    (void)state;
    mode_t before = umask(0);
    check_slug("/tmp/pr/w.d_r-NX9/a b", "-tmp-pr-w-d-r-NX9-a-b");
    check_slug("/w/\xC3\xA9-\xE4\xB8\xAD_\xF0\x9F\x98\x80.B", "-w--------B");
    memset(path + 1, 'x', 199);
    AUTO(free_charp) char *longest = x_printf("-%s", path + 1);
    check_slug(path, longest);
    umask(before);
    assert_int_equal(mode_of(".claude"), 0700);
    assert_int_equal(mode_of(".claude/projects"), 0700);
    path[200] = 'x';
    assert_int_equal(try_transcript(path, TRANSCRIPT_ID, HELLO, NULL, &err), -1);
    assert_int_equal(err.code, ERR_CONFIG);
}

static void test_transcript_refuses(void **state)
{
    static const char *const bad_ids[] = {
        "",
        "../../x",
        "0198c0de-0000-7000-8000-00000000000",
        "0198c0de-0000-7000-8000-0000000000011",
        "0198c0de/0000-7000-8000-000000000001",
        "0198C0DE-0000-7000-8000-000000000001",
    };
    char path[200];
    struct err err;
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad_ids); i++)
        assert_int_equal(try_transcript("/w", bad_ids[i], HELLO, NULL, &err), -1);
    assert_int_equal(try_transcript("/w", TRANSCRIPT_ID, "[]", NULL, &err), -1);
    assert_int_equal(
        try_transcript("/w", TRANSCRIPT_ID, "[{'role':'user','content':'text'}]", NULL, &err), -1);
    assert_int_equal(err.code, ERR_INVALID);
    assert_int_equal(try_transcript("/w", TRANSCRIPT_ID, HELLO, NULL, &err), -1);
    assert_int_equal(err.code, ERR_IO); /* a file that is there already is not touched */
    snprintf(path, sizeof(path), "%s/.claude/projects/-link", transcript_home);
    assert_int_equal(symlink("/tmp", path), 0);
    assert_int_equal(try_transcript("/link", TRANSCRIPT_ID, HELLO, NULL, &err), -1);
    assert_int_equal(err.code, ERR_IO);
    AUTO(json_unref_p) json_t *hello = json_of(HELLO);
    assert_int_equal(
        cli_write_transcript("/nonexistent/home", "/w", TRANSCRIPT_ID, "m", hello, NULL, &err), -1);
    assert_int_equal(err.code, ERR_IO);
}

#endif
