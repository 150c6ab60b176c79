/* cli_launch_cases.h - part of test_cli.c: argv and environment of a worker, finding the program.
 */
#ifndef CG_TESTS_CLI_LAUNCH_CASES_H
#define CG_TESTS_CLI_LAUNCH_CASES_H

#include "cli/launch.h"
#include "core/buf.h"

#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct cli_launch plain_launch = {.bin = "/opt/claude",
                                               .model = "claude-sonnet-4-5",
                                               .home = "/run/w1/home",
                                               .socket_path = "/run/w1/relay.sock",
                                               .pass_env = ""};

static const char *const plain_argv[] = {
    "/opt/claude",
    "-p",
    "--input-format",
    "stream-json",
    "--output-format",
    "stream-json",
    "--verbose",
    "--include-partial-messages",
    "--strict-mcp-config",
    "--setting-sources",
    "",
    "--no-session-persistence",
    "--permission-mode",
    "dontAsk",
    "--tools",
    "",
    "--model",
    "claude-sonnet-4-5",
};

static const char *const plain_env[] = {
    "PATH=/usr/local/bin:/usr/bin:/bin",
    "LANG=C.UTF-8",
    "ANTHROPIC_BASE_URL=http://relay.invalid",
    "ANTHROPIC_API_KEY=held-by-the-relay",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1",
    "DISABLE_AUTOUPDATER=1",
    "CLAUDE_AGENT_SDK_MCP_NO_PREFIX=1",
    "CLAUDE_CODE_DISABLE_ATTACHMENTS=1",
    "ENABLE_TOOL_SEARCH=false",
    "CLAUDE_CODE_DISABLE_LEGACY_MODEL_REMAP=1",
    "CLAUDE_CODE_MAX_RETRIES=0",
    "CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK=1",
    "DISABLE_COMPACT=1",
    "CLAUDE_CODE_BLOCKING_LIMIT_OVERRIDE=10000000",
    "HOME=/run/w1/home",
    "ANTHROPIC_UNIX_SOCKET=/run/w1/relay.sock",
};

static void test_launch_is_exact(void **state)
{
    struct cli_command cmd;
    (void)state;
    setenv("ANTHROPIC_AUTH_TOKEN", "secret", 1);
    setenv("NODE_OPTIONS", "--inspect", 1);
    cli_launch_command(&plain_launch, &cmd);
    for (size_t i = 0; i < ARRAY_SIZE(plain_argv); i++)
        assert_string_equal(cmd.argv[i], plain_argv[i]);
    assert_null(cmd.argv[ARRAY_SIZE(plain_argv)]);
    for (size_t i = 0; i < ARRAY_SIZE(plain_env); i++)
        assert_string_equal(cmd.envp[i], plain_env[i]);
    assert_null(cmd.envp[ARRAY_SIZE(plain_env)]);
    cli_command_release(&cmd);
    cli_command_release(&cmd);
    unsetenv("ANTHROPIC_AUTH_TOKEN");
    unsetenv("NODE_OPTIONS");
}

/* argv behind "dontAsk", joined by spaces, for this profile and session. */
static void check_profile(const struct cli_profile *profile, const char *resume, const char *want)
{
    struct cli_launch l = plain_launch;
    struct cli_command cmd;
    AUTO(buf_release) struct buf got;
    size_t i = 0;
    buf_init(&got, 1000);
    l.profile = profile;
    l.resume = resume;
    cli_launch_command(&l, &cmd);
    for (; strcmp(cmd.argv[i], "dontAsk") != 0; i++)
        assert_string_equal(cmd.argv[i], plain_argv[i]);
    while (cmd.argv[++i])
        buf_printf(&got, " %s", cmd.argv[i][0] ? cmd.argv[i] : "''");
    assert_string_equal(buf_cstr(&got), want);
    cli_command_release(&cmd);
}

static void test_launch_profiles(void **state)
{
    const struct cli_profile chat = {.name = "chat", .tools = ""};
    const struct cli_profile agent = {.name = "agent", .tools = "Bash,Read", .max_turns = 30};
    const struct cli_profile free_agent = {.name = "agent", .tools = "Bash"};
    (void)state;
    check_profile(NULL, NULL, " --tools '' --model claude-sonnet-4-5");
    check_profile(&chat, NULL, " --tools '' --model claude-sonnet-4-5");
    check_profile(&free_agent, NULL, " --tools Bash --allowedTools Bash --model claude-sonnet-4-5");
    check_profile(&agent, NULL,
                  " --tools Bash,Read --allowedTools Bash,Read --max-turns 30"
                  " --model claude-sonnet-4-5");
    check_profile(NULL, "0198c0de-0000-7000-8000-000000000001",
                  " --tools '' --resume=0198c0de-0000-7000-8000-000000000001"
                  " --model claude-sonnet-4-5");
    check_profile(&agent, "0198c0de-0000-7000-8000-000000000001",
                  " --tools Bash,Read --allowedTools Bash,Read --max-turns 30"
                  " --resume=0198c0de-0000-7000-8000-000000000001 --model claude-sonnet-4-5");
}

/* The values of envp that have this name, joined by '|'. */
static void values_of(const struct cli_command *cmd, const char *name, char out[256])
{
    size_t n = strlen(name), at = 0;
    out[0] = '\0';
    for (size_t i = 0; cmd->envp[i]; i++) {
        if (strncmp(cmd->envp[i], name, n) == 0 && cmd->envp[i][n] == '=')
            at += (size_t)snprintf(out + at, 256 - at, "%s%s", at ? "|" : "", cmd->envp[i] + n + 1);
    }
}

/* Only where there are tools, and in nobody else's hand. */
static void test_launch_tool_env(void **state)
{
    const struct cli_profile agent = {.name = "agent", .tools = "Bash", .max_command_ms = 216000};
    const struct cli_profile hasty = {.name = "agent", .tools = "Bash", .max_command_ms = 5000};
    static const struct {
        const char *name, *agent, *hasty;
    } rows[] = {{"CLAUDE_CODE_DISABLE_BACKGROUND_TASKS", "1", "1"},
                {"BASH_MAX_TIMEOUT_MS", "216000", "5000"},
                {"BASH_DEFAULT_TIMEOUT_MS", "120000", "5000"}};
    (void)state;
    setenv("BASH_MAX_TIMEOUT_MS", "1", 1);
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct cli_launch l = plain_launch;
        struct cli_command cmd;
        char got[256];
        l.pass_env = "BASH_MAX_TIMEOUT_MS";
        l.profile = &agent;
        cli_launch_command(&l, &cmd);
        values_of(&cmd, rows[i].name, got);
        assert_string_equal(got, rows[i].agent);
        cli_command_release(&cmd);
        l.profile = &hasty;
        cli_launch_command(&l, &cmd);
        values_of(&cmd, rows[i].name, got);
        assert_string_equal(got, rows[i].hasty);
        cli_command_release(&cmd);
    }
    unsetenv("BASH_MAX_TIMEOUT_MS");
}

static void test_tool_names(void **state)
{
    static const char *const good[] = {"", "Bash", "Bash,Read,Write,Edit,Glob,Grep", "a,B"};
    static const char *const bad[] = {
        ",",      "Bash,",   ",Bash",   "Bash,,Read", "Bash, Read", "Bash Read", "Bash(rm:*)",
        "mcp__x", "--model", "Bash,-p", "T1",         "B\xC3\xA9",  "*",         "Bash\n"};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(good); i++)
        assert_true(cli_tools_ok(good[i]));
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_false(cli_tools_ok(bad[i]));
}

static void check_passed(const char *list, const char *name, const char *values)
{
    struct cli_launch l = plain_launch;
    struct cli_command cmd;
    char got[256];
    l.pass_env = list;
    cli_launch_command(&l, &cmd);
    values_of(&cmd, name, got);
    assert_string_equal(got, values);
    cli_command_release(&cmd);
}

static void test_pass_env(void **state)
{
    (void)state;
    setenv("CG_TEST_A", "a=b c", 1);
    setenv("CG_TEST_EMPTY", "", 1);
    unsetenv("CG_TEST_UNSET");
    check_passed("CG_TEST_A", "CG_TEST_A", "a=b c");
    check_passed(" ,, CG_TEST_UNSET ,\tCG_TEST_A , ", "CG_TEST_A", "a=b c");
    check_passed("CG_TEST_A", "CG_TEST_EMPTY", "");
    check_passed("CG_TEST", "CG_TEST_A", ""); /* names, not beginnings of names */
    check_passed("CG_TEST_A=x", "CG_TEST_A", "");
    check_passed("CG_TEST_A,CG_TEST_A", "CG_TEST_A", "a=b c");
    unsetenv("CG_TEST_A");
    unsetenv("CG_TEST_EMPTY");
}

/* What the worker must have cannot be replaced: two values for one name, and who wins? */
static void test_pass_env_cannot_replace(void **state)
{
    (void)state;
    setenv("ANTHROPIC_API_KEY", "the-real-one", 1);
    setenv("HOME", "/root-of-the-operator", 1);
    check_passed("ANTHROPIC_API_KEY,HOME,PATH", "ANTHROPIC_API_KEY", "held-by-the-relay");
    check_passed("ANTHROPIC_API_KEY,HOME,PATH", "HOME", "/run/w1/home");
    check_passed("ANTHROPIC_API_KEY,HOME,PATH", "PATH", "/usr/local/bin:/usr/bin:/bin");
    unsetenv("ANTHROPIC_API_KEY");
}

/* As many as there are: none is left out in silence, nothing is overrun. */
static void test_pass_env_many(void **state)
{
    struct cli_launch l = plain_launch;
    struct cli_command cmd;
    struct buf list;
    char name[32], got[256];
    (void)state;
    buf_init(&list, 10000);
    for (int i = 0; i < 40; i++) {
        snprintf(name, sizeof(name), "CG_MANY_%d", i);
        setenv(name, "v", 1);
        buf_printf(&list, "%s%s", i ? "," : "", name);
    }
    l.pass_env = buf_cstr(&list);
    cli_launch_command(&l, &cmd);
    for (int i = 0; i < 40; i++) {
        snprintf(name, sizeof(name), "CG_MANY_%d", i);
        values_of(&cmd, name, got);
        assert_string_equal(got, "v");
        unsetenv(name);
    }
    cli_command_release(&cmd);
    for (int i = 0; i < 1000; i++) { /* far too many: bounded, in the longest command as well */
        snprintf(name, sizeof(name), "CG_MORE_%d", i);
        setenv(name, "v", 1);
        buf_printf(&list, ",%s", name);
    }
    assert_true(buf_ok(&list) || list.len > 9000);
    l.pass_env = buf_cstr(&list);
    l.profile = &(struct cli_profile){.name = "agent", .tools = "Bash", .max_turns = 1};
    l.resume = "0198c0de-0000-7000-8000-000000000001";
    cli_launch_command(&l, &cmd);
    values_of(&cmd, "CG_MORE_27", got);
    assert_string_equal(got, "v"); /* 70 names are promised */
    cli_command_release(&cmd);
    for (int i = 0; i < 1000; i++) {
        snprintf(name, sizeof(name), "CG_MORE_%d", i);
        unsetenv(name);
    }
    buf_release(&list);
}

/* --- finding the program ------------------------------------------------------------------ */

static char program_dir[64], old_dir[PATH_MAX];
static char *old_path;

static void write_program(const char *name, const char *script, mode_t mode)
{
    char path[160];
    snprintf(path, sizeof(path), "%s/%s", program_dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(script, f);
    fclose(f);
    assert_int_equal(chmod(path, mode), 0);
}

static int program_set_up(void **state)
{
    (void)state;
    snprintf(program_dir, sizeof(program_dir), "/tmp/test_cli.XXXXXX");
    assert_non_null(mkdtemp(program_dir));
    assert_non_null(getcwd(old_dir, sizeof(old_dir)));
    assert_int_equal(chdir(program_dir), 0);
    old_path = x_strdup(getenv("PATH") ? getenv("PATH") : "/usr/bin:/bin");
    assert_int_equal(mkdir("a", 0700) | mkdir("b", 0700) | mkdir("a/claude", 0700), 0);
    write_program("b/claude", "#!/bin/sh\necho '2.1.197 (Claude Code)'\n", 0755);
    write_program("plain", "no program\n", 0644);
    return 0;
}

static int program_tear_down(void **state)
{
    static const char *const files[] = {"b/claude", "plain", "node_modules/.bin/claude", "p"};
    static const char *const dirs[] = {"a/claude", "a", "b", "node_modules/.bin", "node_modules"};
    (void)state;
    setenv("PATH", old_path, 1);
    free(old_path);
    for (size_t i = 0; i < ARRAY_SIZE(files); i++)
        unlink(files[i]);
    for (size_t i = 0; i < ARRAY_SIZE(dirs); i++)
        rmdir(dirs[i]);
    assert_int_equal(chdir(old_dir), 0);
    assert_int_equal(rmdir(program_dir), 0);
    return 0;
}

static void check_found(const char *configured, const char *expected)
{
    struct err err = {.code = ERR_NONE};
    char path[160];
    char *found = cli_find_program(configured, &err);
    if (!expected) {
        assert_null(found);
        assert_int_equal(err.code, ERR_CONFIG);
        return;
    }
    if (!found)
        fail_msg("%s", err.msg);
    snprintf(path, sizeof(path), "%s/%s", program_dir, expected);
    assert_string_equal(found, path);
    free(found);
}

static void test_find_program(void **state)
{
    char path[400];
    (void)state;
    snprintf(path, sizeof(path), "%s/a::%s/b", program_dir, program_dir);
    setenv("PATH", path, 1); /* a/claude is a directory */
    check_found(NULL, "b/claude");
    check_found("", "b/claude");
    check_found("claude", "b/claude");
    check_found("./b/../b/claude", "b/claude");
    check_found("plain", NULL);
    check_found("./plain", NULL);
    check_found("./a", NULL);
    check_found("./missing", NULL);
    assert_int_equal(mkdir("node_modules", 0700) | mkdir("node_modules/.bin", 0700), 0);
    write_program("node_modules/.bin/claude", "#!/bin/sh\n", 0755);
    check_found(NULL, "node_modules/.bin/claude");
    check_found("claude", "b/claude");
    assert_int_equal(chmod("node_modules/.bin/claude", 0644), 0);
    check_found(NULL, "b/claude");
    setenv("PATH", "/nonexistent", 1);
    check_found(NULL, NULL);
    unsetenv("PATH");
    check_found("claude", NULL);
}

static void test_program_version(void **state)
{
    struct err err;
    char path[160];
    (void)state;
    snprintf(path, sizeof(path), "%s/b/claude", program_dir);
    char *version = cli_program_version(path, &err);
    if (!version)
        fail_msg("%s", err.msg);
    assert_string_equal(version, "2.1.197");
    free(version);
    snprintf(path, sizeof(path), "%s/p", program_dir);
    write_program("p", "#!/bin/sh\nprintf 9.9.9\n", 0755);
    version = cli_program_version(path, &err);
    assert_string_equal(version, "9.9.9");
    free(version);
    write_program("p", "#!/bin/sh\nenv | grep -c ANTHROPIC; exit 3\n", 0755);
    assert_null(cli_program_version(path, &err));
    assert_non_null(strstr(err.msg, "exit status 3"));
    write_program("p", "#!/bin/sh\nexit 0\n", 0755);
    assert_null(cli_program_version(path, &err)); /* says nothing: that is no version */
    assert_null(cli_program_version("/no/such/program", &err));
}

#endif
