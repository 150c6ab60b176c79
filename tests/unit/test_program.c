/* test_program.c - what only a claude process itself can show: that the trial of cli/probe.h finds
 * what there is to find, and that a conversation reaches the API the same whether it was written
 * to stdin or read from a transcript. Each test runs with the real program, if it is installed,
 * and with the fake one; the real one needs a second per start. */
#include "program_rig.h"

#include "cli/probe.h"
#include "cli/transcript.h"

#include <signal.h>

/* --- the trial ----------------------------------------------------------------------------- */

static void run_probe(struct program *p, struct cli_probe *probe)
{
    AUTO(buf_release) struct buf out;
    json_t *request = NULL;
    int steps = 0;
    buf_init(&out, MB);
    cli_probe_init(probe);
    while (cli_probe_next(probe, request, &out)) {
        json_decref(request);
        request = program_step(p, &out);
        assert_true(steps++ < 10);
    }
    json_decref(request);
    assert_int_equal(out.len, 0);
    assert_int_equal(p->errors, 0);
}

static void a_process_does_what_it_should(void **state)
{
    const char *bin = program_of(state);
    struct program p;
    struct cli_probe probe;
    program_open(&p);
    program_start(&p, bin, NULL);
    run_probe(&p, &probe);
    assert_string_equal(probe.failure, "");
    assert_true(probe.injection && probe.boundary && probe.literal);
    assert_int_equal(p.trial.calls, 2);
    assert_int_equal(p.results, 3);
    program_close(&p);
}

static void a_process_that_drops_history_is_found(void **state)
{
    const char *bin = program_of(state);
    struct program p;
    struct cli_probe probe;
    setenv("FAKE_NO_INJECTION", "1", 1);
    program_open(&p);
    program_start(&p, bin, NULL);
    unsetenv("FAKE_NO_INJECTION");
    run_probe(&p, &probe);
    assert_false(probe.injection);
    assert_true(probe.boundary);
    assert_string_equal(probe.failure, "the user's history did not reach the API");
    program_close(&p);
}

static void a_process_that_ignores_boundaries_is_found(void **state)
{
    const char *bin = program_of(state);
    struct program p;
    struct cli_probe probe;
    setenv("FAKE_NO_BOUNDARY", "1", 1);
    program_open(&p);
    program_start(&p, bin, NULL);
    unsetenv("FAKE_NO_BOUNDARY");
    run_probe(&p, &probe);
    assert_true(probe.injection && probe.literal);
    assert_false(probe.boundary);
    assert_string_equal(probe.failure, "a boundary did not hide what came before it");
    program_close(&p);
}

/* --- history over stdin and from a transcript ----------------------------------------------- */

/* Conversations with a question each; "real": also with the real program, which needs a start for
 * each. The fake does the same with the others as the real one was seen to do. */
static json_t *conversations(void)
{
    const char *dir = getenv("CG_TEST_DATA"), *slash = strrchr(__FILE__, '/');
    char path[PATH_MAX];
    snprintf(path, sizeof(path), "%.*s/program/conversations.json", PATH_MAX - 64,
             dir && dir[0] ? dir : "");
    if (!dir || !dir[0])
        snprintf(path, sizeof(path), "%.*s/data/program/conversations.json",
                 slash ? (int)(slash - __FILE__) : 1, slash ? __FILE__ : ".");
    json_error_t je;
    json_t *all = json_load_file(path, JSON_ALLOW_NUL, &je);
    if (!all)
        fail_msg("'%s': %s; set CG_TEST_DATA to tests/unit/data", path, je.text);
    return all;
}

static json_t *ask_over_stdin(struct program *p, const json_t *history, const json_t *question)
{
    AUTO(buf_release) struct buf out;
    buf_init(&out, MB);
    cli_put_boundary(&out);
    for (size_t i = 0; i < json_array_size(history); i++) {
        const json_t *m = json_array_get(history, i), *content = json_object_get(m, "content");
        if (str_eq_c(json_get_str(m, "role"), "assistant")) {
            cli_put_assistant(&out, content, MODEL);
            continue;
        }
        cli_put_user(&out, content, false);
        assert_null(program_step(p, &out));
    }
    cli_put_user(&out, question, true);
    return program_step(p, &out);
}

static json_t *ask_with_transcript(const char *bin, const json_t *history, const json_t *question)
{
    struct program p;
    struct err err;
    char id[ID_UUID_SIZE];
    AUTO(buf_release) struct buf out;
    buf_init(&out, MB);
    program_open(&p);
    if (cli_write_transcript(p.home, p.work, id_uuid(id), MODEL, history, question, &err) != 0)
        fail_msg("%s", err.msg);
    program_start(&p, bin, id);
    assert_int_equal(p.results, 0);
    cli_put_user(&out, question, true);
    json_t *request = program_step(&p, &out);
    assert_string_equal(p.session_id, id);
    assert_int_equal(p.errors, 0);
    program_close(&p);
    return request;
}

/* What the API is shown of a conversation, without what the program adds to it. */
static json_t *shown(const json_t *request)
{
    json_t *messages = json_deep_copy(json_object_get(request, "messages")), *m, *block;
    size_t i, k;
    json_array_foreach(messages, i, m)
    {
        json_array_foreach(json_object_get(m, "content"), k, block)
            json_object_del(block, "cache_control");
    }
    json_t *first = json_object_get(json_array_get(messages, 0), "content");
    assert_true(str_starts(json_is_string(first) ? json_str_of(first)
                                                 : json_get_str(json_array_get(first, 0), "text"),
                           "<system-reminder>"));
    if (json_is_string(first))
        json_array_remove(messages, 0);
    else
        json_array_remove(first, 0);
    return messages;
}

/* The messages as asked, neighbours of one role joined, as the program does. */
static json_t *expected(const json_t *history, const json_t *question)
{
    json_t *all = json_deep_copy(history), *joined = json_array(), *m;
    json_array_append_new(
        all, json_pack("{s:s,s:O}", "role", "user", "content", (json_t *)(uintptr_t)question));
    size_t i;
    json_array_foreach(all, i, m)
    {
        json_t *last = json_array_get(joined, json_array_size(joined) - 1);
        if (last && json_equal(json_object_get(last, "role"), json_object_get(m, "role")))
            json_array_extend(json_object_get(last, "content"), json_object_get(m, "content"));
        else
            json_array_append(joined, m);
    }
    json_decref(all);
    return joined;
}

static void assert_same(const json_t *got, const json_t *want, const char *how)
{
    if (json_equal(got, want))
        return;
    AUTO(free_charp) char *g = json_dumps(got, 0);
    AUTO(free_charp) char *w = json_dumps(want, 0);
    fail_msg("%s:\n%s\ninstead of\n%s", how, g, w);
}

static void compare(struct program *p, const char *bin, const json_t *conversation)
{
    const json_t *history = json_object_get(conversation, "history");
    const json_t *question = json_object_get(conversation, "question");
    AUTO(json_unref_p) json_t *one = ask_over_stdin(p, history, question);
    AUTO(json_unref_p) json_t *two = ask_with_transcript(bin, history, question);
    AUTO(json_unref_p) json_t *got_one = shown(one);
    AUTO(json_unref_p) json_t *got_two = shown(two);
    AUTO(json_unref_p) json_t *want = expected(history, question);
    assert_same(got_one, want, "over stdin");
    assert_same(got_two, want, "from a transcript");
}

static void history_comes_the_same_either_way(void **state)
{
    const char *bin = program_of(state);
    struct program p;
    AUTO(json_unref_p) json_t *all = conversations();
    json_t *conversation;
    size_t i;
    program_open(&p);
    program_start(&p, bin, NULL);
    json_array_foreach(all, i, conversation)
    {
        if (bin == fake_bin || json_get_bool(conversation, "real", false))
            compare(&p, bin, conversation);
    }
    program_close(&p);
}

#define WITH(name, bin)                                  \
    {                                                    \
#name " (" #bin ")", name, NULL, NULL, bin##_bin \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH(a_process_does_what_it_should, real),
        WITH(a_process_does_what_it_should, fake),
        WITH(a_process_that_drops_history_is_found, fake),
        WITH(a_process_that_ignores_boundaries_is_found, fake),
        WITH(history_comes_the_same_either_way, real),
        WITH(history_comes_the_same_either_way, fake),
    };
    struct err err;
    id_init();
    signal(SIGPIPE, SIG_IGN);
    find_real();
    find_fake();
    setenv("FAKE_UPSTREAM", "1", 1);
    if (log_open(&(struct log_opts){.level = LOG_ERROR}, &err) != 0)
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    cli_decode_forget();
    metrics_reset();
    log_close();
    return failed;
}
