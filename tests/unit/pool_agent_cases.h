/* pool_agent_cases.h - turns with a profile: a process of their own, a workspace, rounds of tools.
 * The fake program knows no tool, so it answers each use by itself: that is a round like any. */
#ifndef CG_TESTS_POOL_AGENT_CASES_H
#define CG_TESTS_POOL_AGENT_CASES_H

#include "pool_rig.h"

static const struct cli_profile agent_profile = {
    .name = "agent", .tools = "Bash", .max_turns = 10, .max_command_ms = 1000};

struct agent_probe {
    struct probe probe; /* first: its callbacks take it for that */
    char told[1000];    /* "use:ID result:ID ..." */
    json_t *added;
};

static void agent_tool(void *ctx, const json_t *block)
{
    struct agent_probe *a = ctx;
    size_t at = strlen(a->told);
    bool use = str_eq_c(json_get_str(block, "type"), "tool_use");
    assert_int_equal(a->probe.done, 0);
    snprintf(a->told + at, sizeof(a->told) - at, "%s:%s ", use ? "use" : "result",
             json_get_str(block, use ? "id" : "tool_use_id").p);
}

static void agent_done(void *ctx, const struct turn_result *r)
{
    struct agent_probe *a = ctx;
    a->added = json_deep_copy(r->added);
    probe_done(&a->probe, r);
}

static const struct turn_ops agent_ops = {
    .started = probe_started, .event = probe_event, .tool = agent_tool, .done = agent_done};

static void ask_agent(struct agent_probe *a, const char *key, const char *id, const char *text)
{
    struct err err;
    AUTO(free_charp) char *workspace = x_printf("%s/%s", rig.dir, id);
    assert_true(mkdir(workspace, 0700) == 0 || errno == EEXIST);
    struct turn_request req = {.key_id = key,
                               .model = MODEL,
                               .request_id = "req_test",
                               .profile = &agent_profile,
                               .workspace = workspace,
                               .workspace_id = id};
    *a = (struct agent_probe){.probe = {.tag = PROBE_TAG, .rig = &rig}};
    req.content = text_content(text);
    rig.inside = true;
    a->probe.turn = pool_run(rig.pool, &req, &agent_ops, a, &err);
    rig.inside = false;
    json_decref(req.content);
    if (!a->probe.turn)
        fail_msg("%s", err.msg);
    wait_done(&a->probe);
    if (!a->probe.result.ok)
        fail_msg("%s", a->probe.result.err.msg);
}

static void leave_workspaces(void)
{
    static const char *const ids[] = {"ws-1", "ws-2"};
    for (size_t i = 0; i < ARRAY_SIZE(ids); i++) {
        AUTO(free_charp) char *path = x_printf("%s/%s", rig.dir, ids[i]);
        rmdir(path);
    }
}

static pid_t ask_agent_pid(const char *key, const char *id)
{
    struct agent_probe a;
    ask_agent(&a, key, id, "hello");
    json_decref(a.added);
    wait_settled();
    return last_pid();
}

static void test_a_process_for_each_workspace(void **state)
{
    struct probe p = {.tag = 0};
    (void)state;
    rig.opts.max_workers = 6;
    open_pool();
    ask_and_wait(&p, "A", "chat");
    pid_t chat = last_pid(), one = ask_agent_pid("A", "ws-1"), two = ask_agent_pid("A", "ws-2");
    pid_t other = ask_agent_pid("B", "ws-1");
    assert_true(chat != one && chat != two && one != two && other != one && other != two);
    assert_int_equal(ask_agent_pid("A", "ws-1"), one);
    assert_int_equal(ask_agent_pid("A", "ws-2"), two);
    ask_and_wait(&p, "A", "chat");
    assert_int_equal(last_pid(), chat);
    wait_settled();
    assert_int_equal(pool_drain_workspace(rig.pool, "ws"), 0);
    assert_int_equal(pool_drain_workspace(rig.pool, "ws-2"), 1);
    wait_settled();
    assert_int_equal(ask_agent_pid("A", "ws-1"), one);
    assert_int_not_equal(ask_agent_pid("A", "ws-2"), two);
    leave_workspaces();
}

/* Spares are of no use to such a turn: one has to go. */
static void test_an_agent_gets_a_place(void **state)
{
    struct probe p = {.tag = 0};
    (void)state;
    rig.opts.max_workers = 1;
    open_pool();
    wait_spare(1);
    int64_t from = clock_mono_ms();
    pid_t one = ask_agent_pid("A", "ws-1");
    ask_and_wait(&p, "A", "chat");
    assert_int_not_equal(last_pid(), one);
    ask_agent_pid("A", "ws-2");
    assert_true(clock_mono_ms() - from < 9000);
    leave_workspaces();
}

static void test_rounds_of_tools_are_told_and_kept(void **state)
{
    struct agent_probe a;
    (void)state;
    open_pool();
    ask_agent(&a, "A", "ws-1",
              "fake:{\"text\":\"look\",\"tools\":[{\"id\":\"t1\",\"name\":\"Bash\",\"input\":{}},"
              "{\"id\":\"t2\",\"name\":\"Bash\",\"input\":{}}],\"then\":{\"text\":\"done\"}}");
    assert_string_equal(a.probe.text, "done");
    assert_string_equal(a.told, "use:t1 result:t1 use:t2 result:t2 ");
    assert_int_equal(a.probe.result.upstream_calls, 2);
    assert_int_equal(json_array_size(a.added), 3);
    const char *const roles[] = {"assistant", "user", "assistant"};
    const size_t blocks[] = {3, 2, 1};
    for (size_t i = 0; i < 3; i++) {
        const json_t *m = json_array_get(a.added, i);
        assert_true(str_eq_c(json_get_str(m, "role"), roles[i]));
        assert_int_equal(json_array_size(json_object_get(m, "content")), blocks[i]);
    }
    json_decref(a.added);
    leave_workspaces();
}

#endif
