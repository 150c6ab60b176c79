/* launch.c - argv and environment of a worker, and finding the program itself. */
#include "cli/launch.h"

#include "child/child.h"
#include "cli/protocol.h"
#include "core/buf.h"

#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

#define WORKER_PATH        "PATH=/usr/local/bin:/usr/bin:/bin"
#define DEFAULT_COMMAND_MS 120000

static const char *const fixed_env[] = {
    WORKER_PATH,
    "LANG=C.UTF-8",
    "ANTHROPIC_BASE_URL=http://relay.invalid",
    "ANTHROPIC_API_KEY=held-by-the-relay",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1",
    "DISABLE_AUTOUPDATER=1",
    "CLAUDE_AGENT_SDK_MCP_NO_PREFIX=1",
    "CLAUDE_CODE_DISABLE_ATTACHMENTS=1", /* "@path" is never expanded, whatever the content */
    "ENABLE_TOOL_SEARCH=false",
    "CLAUDE_CODE_DISABLE_LEGACY_MODEL_REMAP=1",
    "CLAUDE_CODE_MAX_RETRIES=0", /* the relay retries */
    "CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK=1",
    "DISABLE_COMPACT=1",
    "CLAUDE_CODE_BLOCKING_LIMIT_OVERRIDE=10000000",
};

static const char *const fixed_argv[] = {
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
    "--no-session-persistence", /* --resume reads its transcript all the same */
    "--permission-mode",
    "dontAsk", /* what is not allowed by name is refused */
};

static bool has_name(const struct cli_command *cmd, struct str name)
{
    for (size_t i = 0; cmd->envp[i]; i++) {
        struct str pair = str_c(cmd->envp[i]);
        if (str_eq(str_split(&pair, '='), name))
            return true;
    }
    return false;
}

/* "NAME=value" of our own environment; NULL when it is not set or there already. */
static char *passed_pair(const struct cli_command *cmd, struct str name)
{
    char *key = str_dup(name);
    const char *value = name.len && !has_name(cmd, name) ? getenv(key) : NULL;
    char *pair = value ? x_printf("%s=%s", key, value) : NULL;
    free(key);
    return pair;
}

bool cli_tools_ok(const char *tools)
{
    bool letter = false;
    for (const char *p = tools; *p; p++) {
        bool now = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z');
        if (!now && (*p != ',' || !letter))
            return false;
        letter = now;
    }
    return letter || tools[0] == '\0';
}

/* Returns how many of ret->owned are used. */
static size_t put_argv(const struct cli_launch *l, struct cli_command *ret)
{
    const struct cli_profile *profile = l->profile;
    const char *tools = profile ? profile->tools : "";
    size_t a = 0, o = 0;
    BUG_ON(!cli_tools_ok(tools));
    ret->argv[a++] = l->bin;
    for (size_t i = 0; i < ARRAY_SIZE(fixed_argv); i++)
        ret->argv[a++] = fixed_argv[i];
    ret->argv[a++] = "--tools";
    ret->argv[a++] = tools;
    if (tools[0]) {
        ret->argv[a++] = "--allowedTools";
        ret->argv[a++] = tools;
    }
    if (profile && profile->max_turns > 0) {
        ret->argv[a++] = "--max-turns";
        ret->argv[a++] = ret->owned[o++] = x_printf("%" PRId64, profile->max_turns);
    }
    if (l->resume)
        ret->argv[a++] = ret->owned[o++] = x_printf("--resume=%s", l->resume);
    ret->argv[a++] = "--model";
    ret->argv[a++] = l->model;
    BUG_ON(a >= ARRAY_SIZE(ret->argv));
    return o;
}

/* Nothing goes on behind the back of a turn, and a command that never ends is the model's to hear
 * of, before the silence ends the turn. */
static size_t put_tool_env(const struct cli_profile *profile, struct cli_command *ret, size_t e,
                           size_t *o)
{
    int64_t max = profile->max_command_ms;
    ret->envp[e++] = "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS=1";
    if (max == 0)
        return e;
    ret->envp[e++] = ret->owned[(*o)++] = x_printf("BASH_MAX_TIMEOUT_MS=%" PRId64, max);
    max = max < DEFAULT_COMMAND_MS ? max : DEFAULT_COMMAND_MS;
    ret->envp[e++] = ret->owned[(*o)++] = x_printf("BASH_DEFAULT_TIMEOUT_MS=%" PRId64, max);
    return e;
}

void cli_launch_command(const struct cli_launch *l, struct cli_command *ret)
{
    *ret = (struct cli_command){0};
    size_t e = 0, o = put_argv(l, ret);
    for (size_t i = 0; i < ARRAY_SIZE(fixed_env); i++)
        ret->envp[e++] = fixed_env[i];
    ret->envp[e++] = ret->owned[o++] = x_printf("HOME=%s", l->home);
    ret->envp[e++] = ret->owned[o++] = x_printf("ANTHROPIC_UNIX_SOCKET=%s", l->socket_path);
    if (l->profile && l->profile->tools[0])
        e = put_tool_env(l->profile, ret, e, &o);
    struct str names = str_c(l->pass_env);
    while (names.len && o < ARRAY_SIZE(ret->owned)) {
        char *pair = passed_pair(ret, str_trim(str_split(&names, ',')));
        if (pair)
            ret->envp[e++] = ret->owned[o++] = pair;
    }
    BUG_ON(e >= ARRAY_SIZE(ret->envp));
}

void cli_command_release(struct cli_command *cmd)
{
    for (size_t i = 0; i < ARRAY_SIZE(cmd->owned); i++)
        free(cmd->owned[i]);
    *cmd = (struct cli_command){0};
}

static bool is_program(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0;
}

static char *find_on_path(const char *name)
{
    struct str path = str_c(getenv("PATH"));
    while (path.len) {
        struct str dir = str_split(&path, ':');
        char *full = x_printf("%.*s/%s", (int)dir.len, dir.p, name);
        if (dir.len && is_program(full))
            return full;
        free(full);
    }
    return NULL;
}

char *cli_find_program(const char *configured, struct err *err)
{
    if (configured && configured[0]) {
        char *full =
            strchr(configured, '/') ? realpath(configured, NULL) : find_on_path(configured);
        if (full && is_program(full))
            return full;
        free(full);
        err_set(err, ERR_CONFIG, "claude.bin: '%s' is not an executable file", configured);
        return NULL;
    }
    char *local = realpath("node_modules/.bin/claude", NULL);
    if (local && is_program(local))
        return local;
    free(local);
    char *found = find_on_path("claude");
    if (!found)
        err_set(err, ERR_CONFIG,
                "the claude program was not found in node_modules/.bin or on PATH; install "
                "@anthropic-ai/claude-code " CLI_VERSION_PINNED " or set CLAUDEGATE_CLAUDE_BIN");
    return found;
}

char *cli_program_version(const char *bin, struct err *err)
{
    const char *const argv[] = {bin, "--version", NULL};
    const char *const envp[] = {WORKER_PATH, "HOME=/nonexistent", "DISABLE_AUTOUPDATER=1", NULL};
    struct buf out;
    buf_init(&out, 4096);
    char *version = NULL;
    if (child_run(argv, envp, 20000, &out, err) == 0) {
        struct str text = buf_str(&out);
        struct str first = str_split(&text, ' ');
        struct str word = str_split(&first, '\n');
        if (word.len)
            version = str_dup(word);
        else
            err_set(err, ERR_CONFIG, "'%s --version' said nothing", bin);
    }
    buf_release(&out);
    return version;
}
