/* process.c - puts a claude process together, and takes it apart again. */
#include "pool/process.h"

#include "cli/transcript.h"
#include "core/id.h"

#include <errno.h>
#include <sys/stat.h>

#define STDERR_TAIL     4096
#define EOF_DEADLINE_MS 2000

static int write_transcript(const struct process *p, const struct sandbox_view *view,
                            const struct turn *own, char id[ID_UUID_SIZE], struct err *err)
{
    id_uuid(id);
    if (cli_write_transcript(p->dir.home, view->work, id, own->model, own->history, own->content,
                             err) != 0)
        return err_prefix(err, "the transcript cannot be written");
    return 0;
}

/* An agent's tools may have taken the way into its directory from everybody, themselves too. Nobody
 * but us can put something else in its place: what it stands in is ours. */
static int open_workspace(const struct turn *own, struct err *err)
{
    if (own && own->workspace && chmod(own->workspace, 0700) != 0)
        return err_set(err, ERR_WORKER, "the workspace cannot be used: %s", strerror(errno));
    return 0;
}

static int spawn(struct process *p, struct loop *loop, const struct cli_command *cmd,
                 const struct child_ops *ops, void *ctx, struct err *err)
{
    struct child_opts co = {.argv = p->boxed.argv,
                            .envp = cmd->envp,
                            .cwd = p->boxed.cwd,
                            .confine = &p->boxed.confine,
                            .line_max = PROCESS_LINE_MAX,
                            .stdin_max = PROCESS_STDIN_MAX,
                            .stderr_tail = STDERR_TAIL,
                            .eof_deadline_ms = EOF_DEADLINE_MS,
                            .ops = ops,
                            .ctx = ctx};
    p->child = child_spawn(loop, &co, err);
    return p->child ? 0 : -1;
}

static char *describe(const struct turn *own, const struct sandbox_view *view, bool boxed)
{
    if (!own || !own->workspace)
        return x_strdup("");
    return x_printf("You work in the directory %s. Its files stay for the rest of this "
                    "conversation; files in other places, and processes, do not.%s",
                    view->work, boxed ? " There is no network." : "");
}

int process_start(struct process *p, struct loop *loop, const struct pool_opts *opts, unsigned id,
                  const struct turn *own, bool resume, const struct child_ops *ops, void *ctx,
                  struct err *err)
{
    char name[32], session[ID_UUID_SIZE] = "";
    struct cli_command cmd;
    struct sandbox_view view;
    snprintf(name, sizeof(name), "w%u", id);
    if (open_workspace(own, err) != 0)
        return -1;
    if (rundir_make(&p->dir, name, err) != 0)
        return -1;
    p->relay = relay_new(opts->upstream, p->dir.socket, err);
    if (!p->relay)
        return -1;
    struct sandbox_job job = {.program = opts->claude_bin,
                              .home = p->dir.home,
                              .work = own && own->workspace ? own->workspace : p->dir.work,
                              .socket = p->dir.socket,
                              .keep_home = resume,
                              .keep_work = own && own->workspace};
    sandbox_view(opts->sandbox, &job, &view);
    p->system = describe(own, &view, sandbox_status(opts->sandbox)->filesystem);
    if (resume && write_transcript(p, &view, own, session, err) != 0)
        return -1;
    struct cli_launch l = {.bin = view.program,
                           .model = own ? own->model : opts->model,
                           .home = view.home,
                           .socket_path = view.socket,
                           .pass_env = opts->pass_env,
                           .profile = own ? own->profile : NULL,
                           .resume = resume ? session : NULL};
    cli_launch_command(&l, &cmd);
    int rc = sandbox_enter(opts->sandbox, id, &job, cmd.argv, &p->boxed, err);
    if (rc == 0)
        rc = spawn(p, loop, &cmd, ops, ctx, err);
    cli_command_release(&cmd);
    return rc;
}

void process_release(struct process *p)
{
    relay_free(p->relay);
    child_free(p->child);
    sandbox_leave(&p->boxed);
    rundir_remove(&p->dir);
    free(p->system);
    *p = (struct process){0};
}
