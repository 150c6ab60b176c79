/* cli_probe_cases.h - part of test_cli.c: the trial of a process, on the two requests a real one
 * made (data/cli/probe_requests.jsonl) and on what is made of them here. */
#ifndef CG_TESTS_CLI_PROBE_CASES_H
#define CG_TESTS_CLI_PROBE_CASES_H

#include "cli/probe.h"
#include "cli_decode_cases.h"
#include "cli_encode_cases.h"

/* The words of the recording. */
static const char *const recorded_marks[] = {"markR4PVmLzNzb9uSAioi3", "mark8dIMO9Zr6IUmeXMvUE",
                                             "markFs1eTMQNnLWkXMCX2Y", "markizf7b9Azluw8MApvF4"};

struct probe_case {
    struct cli_probe p;
    json_t *first, *second; /* requests to the two questions */
    json_t *early;          /* to the history line, which is no question; normally none */
    json_t *messages[2];    /* of first and second; borrowed */
};

static void probe_case_open(struct probe_case *c)
{
    AUTO(free_charp) char *text = read_recording("probe_requests");
    struct str rest = str_c(text), line = str_split(&rest, '\n');
    *c = (struct probe_case){.first = json_loadb(line.p, line.len, 0, NULL),
                             .second = json_loadb(rest.p, rest.len, 0, NULL)};
    assert_true(json_is_object(c->first) && json_is_object(c->second));
    c->messages[0] = json_object_get(c->first, "messages");
    c->messages[1] = json_object_get(c->second, "messages");
    cli_probe_init(&c->p);
    for (size_t i = 0; i < ARRAY_SIZE(recorded_marks); i++) {
        assert_int_equal(strlen(c->p.mark[i]), strlen(recorded_marks[i]));
        snprintf(c->p.mark[i], sizeof(c->p.mark[i]), "%s", recorded_marks[i]);
    }
}

/* Runs the trial and frees the requests. injection, boundary and literal as letters, '-' = not. */
static void probe_case_run(struct probe_case *c, const char *found, const char *failure)
{
    const json_t *const requests[] = {NULL, c->early, c->first, c->second};
    AUTO(buf_release) struct buf out;
    char got[4] = "---";
    buf_init(&out, ROOMY);
    for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
        bool more = cli_probe_next(&c->p, requests[i], &out);
        assert_int_equal(more, i + 1 < ARRAY_SIZE(requests));
        assert_true(buf_ok(&out) && (out.len > 0) == more);
        buf_clear(&out);
    }
    assert_false(cli_probe_next(&c->p, NULL, &out)); /* over is over */
    assert_int_equal(out.len, 0);
    got[0] = c->p.injection ? 'i' : '-';
    got[1] = c->p.boundary ? 'b' : '-';
    got[2] = c->p.literal ? 'l' : '-';
    assert_string_equal(got, found);
    assert_string_equal(c->p.failure, failure);
    json_decref(c->early);
    json_decref(c->first);
    json_decref(c->second);
}

static json_t *content_at(struct probe_case *c, size_t which, size_t message)
{
    return json_object_get(json_array_get(c->messages[which], message), "content");
}

static json_t *a_text(const char *text)
{
    return json_pack("{s:s,s:s}", "type", "text", "text", text);
}

static void test_probe_good(void **state)
{
    struct probe_case c;
    (void)state;
    probe_case_open(&c);
    probe_case_run(&c, "ibl", "");
}

/* What a version may add around our blocks, or write otherwise, changes nothing. */
static void test_probe_tolerates(void **state)
{
    struct probe_case c;
    (void)state;
    probe_case_open(&c);
    json_array_append_new(content_at(&c, 0, 2), a_text("<system-reminder>new</system-reminder>"));
    json_array_insert_new(content_at(&c, 0, 2), 0, a_text("<system-reminder>x</system-reminder>"));
    json_array_insert_new(c.messages[0], 0,
                          json_pack("{s:s,s:s}", "role", "user", "content", "a reminder"));
    AUTO(free_charp) char *says = x_printf("I do: %s", c.p.mark[1]);
    json_object_set_new(json_array_get(c.messages[0], 2), "content", json_string(says));
    json_array_append_new(c.messages[0],
                          json_pack("{s:s,s:[]}", "role", "user", "content")); /* nothing */
    probe_case_run(&c, "ibl", "");
}

static void test_probe_no_request(void **state)
{
    struct probe_case c;
    (void)state;
    probe_case_open(&c);
    json_decref(TAKE_PTR(c.first));
    probe_case_run(&c, "-b-", "the process answered a question without a request to the API");
    probe_case_open(&c);
    json_decref(TAKE_PTR(c.second));
    probe_case_run(&c, "i-l", "the process answered a question without a request to the API");
    probe_case_open(&c);
    json_decref(TAKE_PTR(c.first));
    json_decref(TAKE_PTR(c.second));
    probe_case_run(&c, "---", "the process answered a question without a request to the API");
    probe_case_open(&c);
    json_object_clear(c.first); /* a request without messages */
    json_object_set_new(c.second, "messages", json_integer(1));
    probe_case_run(&c, "---", "the user's history did not reach the API");
}

static void test_probe_history_missing(void **state)
{
    struct probe_case c;
    (void)state;
    probe_case_open(&c);
    json_array_remove(c.messages[0], 0);
    probe_case_run(&c, "-bl", "the user's history did not reach the API");
    probe_case_open(&c);
    json_array_remove(c.messages[0], 1);
    probe_case_run(&c, "-bl", "the assistant's history did not reach the API");
    probe_case_open(&c);
    json_array_remove(c.messages[0], 2);
    probe_case_run(&c, "-bl", "the first question did not reach the API");
    probe_case_open(&c);
    json_array_clear(c.messages[0]);
    probe_case_run(&c, "-bl", "the user's history did not reach the API");
}

static void swap(json_t *list, size_t a, size_t b)
{
    json_t *keep = json_incref(json_array_get(list, a));
    json_array_set(list, a, json_array_get(list, b));
    json_array_set_new(list, b, keep);
}

static void test_probe_order_and_roles(void **state)
{
    struct probe_case c;
    (void)state;
    probe_case_open(&c);
    swap(c.messages[0], 0, 1);
    probe_case_run(&c, "-bl", "the assistant's history reached the API out of order");
    probe_case_open(&c);
    swap(c.messages[0], 0, 2);
    probe_case_run(&c, "-bl", "the assistant's history reached the API out of order");
    probe_case_open(&c);
    swap(c.messages[0], 1, 2);
    probe_case_run(&c, "-bl", "the first question reached the API out of order");
    probe_case_open(&c); /* all in one message, as text pasted together */
    json_array_extend(content_at(&c, 0, 0), content_at(&c, 0, 1));
    json_array_remove(c.messages[0], 1);
    probe_case_run(&c, "-bl", "the assistant's history reached the API in another role");
    probe_case_open(&c);
    json_array_extend(content_at(&c, 0, 0), content_at(&c, 0, 2));
    json_array_remove(c.messages[0], 2);
    probe_case_run(&c, "-bl", "the first question reached the API out of order");
    probe_case_open(&c);
    json_object_set_new(json_array_get(c.messages[0], 1), "role", json_string("user"));
    probe_case_run(&c, "-bl", "the assistant's history reached the API in another role");
}

static void test_probe_changed_text(void **state)
{
    struct probe_case c;
    char text[80];
    (void)state;
    probe_case_open(&c);
    snprintf(text, sizeof(text), "Remember %s ", c.p.mark[0]);
    json_array_set_new(content_at(&c, 0, 0), 1, a_text(text));
    probe_case_run(&c, "-bl", "the text of the user's history was changed");
    probe_case_open(&c);
    snprintf(text, sizeof(text), "Human: I do: %s", c.p.mark[1]);
    json_array_set_new(content_at(&c, 0, 1), 0, a_text(text));
    probe_case_run(&c, "-bl", "the text of the assistant's history was changed");
    probe_case_open(&c);
    snprintf(text, sizeof(text), "Is it\n%s", c.p.mark[3]);
    json_array_set_new(content_at(&c, 1, 0), 1, a_text(text));
    probe_case_run(&c, "i-l", "the text of the second question was changed");
}

#define NOT_TEXT "a text that looks like a command or a file mention did not stay text"

static void test_probe_not_literal(void **state)
{
    struct probe_case c;
    (void)state;
    probe_case_open(&c);
    json_array_remove(content_at(&c, 0, 0), 2);
    probe_case_run(&c, "ib-", NOT_TEXT);
    probe_case_open(&c);
    json_array_remove(content_at(&c, 0, 2), 1);
    probe_case_run(&c, "ib-", NOT_TEXT);
    probe_case_open(&c);
    json_array_insert_new(
        c.messages[0], 2,
        json_pack("{s:s,s:s}", "role", "user", "content", "<command-name>/clear</command-name>"));
    probe_case_run(&c, "ib-", NOT_TEXT);
    probe_case_open(&c); /* the file, beside the mention of it */
    json_array_append_new(content_at(&c, 0, 2), a_text("1\tLinux version 6.1.0 (gcc)\n"));
    probe_case_run(&c, "ib-", NOT_TEXT);
}

static void test_probe_boundary_leak(void **state)
{
    struct probe_case c;
    char text[80];
    (void)state;
    probe_case_open(&c); /* everything is still there */
    json_t *old = json_deep_copy(c.messages[0]);
    json_array_extend(old, c.messages[1]);
    json_object_set_new(c.second, "messages", old);
    probe_case_run(&c, "i-l", "a boundary did not hide what came before it");
    for (int i = 0; i < 3; i++) { /* one word is enough, wherever */
        probe_case_open(&c);
        snprintf(text, sizeof(text), "Summary: something about %s.", c.p.mark[i]);
        if (i == 1)
            json_array_append_new(json_object_get(c.second, "system"), a_text(text));
        else
            json_array_insert_new(content_at(&c, 1, 0), 0, a_text(text));
        probe_case_run(&c, "i-l", "a boundary did not hide what came before it");
    }
    probe_case_open(&c); /* not even the question: that proves nothing */
    json_array_clear(c.messages[1]);
    probe_case_run(&c, "i-l", "the second question did not reach the API");
}

static void test_probe_history_answered(void **state)
{
    struct probe_case c;
    (void)state;
    probe_case_open(&c);
    c.early = json_incref(c.first);
    probe_case_run(&c, "-bl", "history was answered as if it were a question");
}

/* The lines written, and that nobody can guess the words in them. */
static void test_probe_lines(void **state)
{
    struct cli_probe p, q;
    AUTO(buf_release) struct buf out;
    (void)state;
    buf_init(&out, ROOMY);
    cli_probe_init(&p);
    cli_probe_init(&q);
    for (size_t i = 0; i < ARRAY_SIZE(p.mark); i++) {
        assert_string_not_equal(p.mark[i], q.mark[i]);
        assert_string_not_equal(p.mark[i], p.mark[(i + 1) % ARRAY_SIZE(p.mark)]);
        assert_true(strlen(p.mark[i]) > 16);
    }
    assert_true(cli_probe_next(&p, NULL, &out));
    json_t *line = take_line(&out);
    assert_true(json_is_false(json_object_get(line, "shouldQuery")));
    const json_t *content = json_object_get(json_object_get(line, "message"), "content");
    assert_int_equal(json_array_size(content), 3); /* the last is the empty text */
    assert_true(str_contains(json_get_str(json_array_get(content, 0), "text"), p.mark[0]));
    assert_true(str_eq_c(json_get_str(json_array_get(content, 1), "text"), "/clear"));
    assert_int_equal(json_get_str(json_array_get(content, 2), "text").len, 0);
    json_decref(line);
    assert_true(cli_probe_next(&p, NULL, &out));
    assert_true(str_starts(buf_str(&out), "{\"type\":\"assistant\""));
    struct str rest = buf_str(&out);
    str_split(&rest, '\n');
    assert_true(str_starts(rest, "{\"type\":\"user\"") && !str_contains(rest, "shouldQuery"));
    buf_clear(&out);
    assert_true(cli_probe_next(&p, NULL, &out));
    assert_true(str_contains(buf_str(&out), "\"compact_boundary\""));
    assert_true(str_contains(buf_str(&out), p.mark[3]) && !str_contains(buf_str(&out), p.mark[2]));
}

#endif
