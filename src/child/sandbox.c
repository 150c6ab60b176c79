/* sandbox.c - puts together what confines a process: bubblewrap (bwrap.c), a cgroup (cgroup.c), a
 * user (users.c), and what spawn.c does between fork and exec.
 *
 * What works here is found out once, at start, by doing it: a program is run in the box, as the
 * first of the users, and has to see the program that will be run. After that nothing falls back: a
 * process that cannot be confined as sandbox_status() says is not started. */
#include "child/sandbox.h"

#include "child/bwrap.h"
#include "child/cgroup.h"
#include "child/run.h"
#include "child/users.h"
#include "core/log.h"

#include <limits.h>
#include <unistd.h>

#define NO_SLOT        UINT_MAX
#define PROBE_LIMIT_MS 5000

struct sandbox {
    struct sandbox_status status;
    struct bwrap bwrap;
    struct cgroup *cgroup;
    struct users users;
    struct child_confine confine; /* what is the same for all */
};

static void add_part(char *text, size_t size, const char *sep, const char *fmt, ...)
    PRINTF_LIKE(4, 5);

static void add_part(char *text, size_t size, const char *sep, const char *fmt, ...)
{
    size_t len = strlen(text);
    va_list ap;
    len += (size_t)snprintf(text + len, size - len, "%s", len ? sep : "");
    if (len >= size)
        return;
    va_start(ap, fmt);
    vsnprintf(text + len, size - len, fmt, ap);
    va_end(ap);
}

#define REASON(s, ...) add_part((s)->status.reason, sizeof((s)->status.reason), "; ", __VA_ARGS__)
#define SUMMARY(s, ...) \
    add_part((s)->status.summary, sizeof((s)->status.summary), ", ", __VA_ARGS__)

/* --- start ----------------------------------------------------------------------------------- */

static struct child_confine confine_as(const struct sandbox *s, unsigned slot)
{
    struct child_confine c = s->confine;
    if (slot != NO_SLOT)
        c.uid = c.gid = (gid_t)users_id(&s->users, slot);
    return c;
}

static unsigned first_slot(const struct sandbox *s)
{
    return s->status.own_users ? 0 : NO_SLOT;
}

static int check_program(const struct sandbox *s, const char *program, struct err *err)
{
    const char *const argv[] = {"/usr/bin/test", "-x", program, NULL};
    const char *const envp[] = {NULL};
    struct child_confine confine = confine_as(s, 0);
    struct spawn_opts o = {.argv = argv, .envp = envp, .cwd = "/", .confine = &confine};
    char blocked[PATH_MAX];
    struct err why;
    if (run_process(&o, PROBE_LIMIT_MS, NULL, NULL, &why) == 0)
        return 0;
    if (!users_can_reach(confine.uid, program, blocked, sizeof(blocked)))
        return err_set(err, ERR_CONFIG,
                       "sandbox.uids: user %u cannot run '%s': the directory '%s' is closed to it",
                       (unsigned)confine.uid, program, blocked);
    return err_set(err, ERR_CONFIG, "sandbox.uids: user %u cannot run '%s' (%s)",
                   (unsigned)confine.uid, program, why.msg);
}

static int set_up_users(struct sandbox *s, const struct sandbox_opts *o, struct err *err)
{
    if (!o->uids || !o->uids[0])
        return 0;
    if (users_init(&s->users, o->uids, err) != 0)
        return -1;
    if (o->program && check_program(s, o->program, err) != 0)
        return -1;
    s->status.own_users = true;
    return 0;
}

static int set_up_box(struct sandbox *s, const struct sandbox_opts *o, struct err *err)
{
    struct err why;
    if (o->mode == SANDBOX_OFF)
        return 0;
    bwrap_init(&s->bwrap);
    s->confine.no_new_privs = !s->bwrap.setuid; /* else it could not make its namespaces */
    struct child_confine confine = confine_as(s, first_slot(s));
    if (bwrap_probe(&s->bwrap, o->program, &confine, &why) == 0) {
        s->status.filesystem = true;
        if (s->bwrap.basic)
            REASON(s, "this bubblewrap cannot limit the size of /tmp and home in memory, nor "
                      "close user namespaces");
        return 0;
    }
    if (o->mode == SANDBOX_ON)
        return err_set(err, ERR_CONFIG,
                       "sandbox.mode is on, but %s; with auto or off the server starts without it",
                       why.msg);
    s->confine.no_new_privs = true;
    REASON(s, "sandbox.mode is auto and %s: processes see this machine's files and network",
           why.msg);
    return 0;
}

static void set_up_cgroup(struct sandbox *s, const struct sandbox_opts *o)
{
    struct cgroup_limits l = {.memory_bytes = o->memory_mb > 0 ? o->memory_mb << 20 : 0,
                              .cpu_percent = o->cpu_percent,
                              .max_processes = o->max_processes};
    struct err why;
    if (l.memory_bytes <= 0 && l.cpu_percent <= 0 && l.max_processes <= 0)
        return;
    s->cgroup = cgroup_new(o->cgroup_root, &l, &why);
    s->status.cgroup = s->cgroup;
    if (!s->cgroup)
        REASON(s, "no cgroup limits: %s", why.msg);
    else if (cgroup_missing(s->cgroup)[0])
        REASON(s, "no cgroup limit of %s: that controller is not delegated",
               cgroup_missing(s->cgroup));
}

static void sum_up(struct sandbox *s)
{
    if (s->status.filesystem)
        SUMMARY(s, "bubblewrap");
    if (s->status.cgroup)
        SUMMARY(s, "cgroup limits (%s)", cgroup_in_force(s->cgroup));
    if (s->status.own_users)
        SUMMARY(s, "own users");
    if (!s->status.summary[0])
        SUMMARY(s, "off");
}

struct sandbox *sandbox_new(const struct sandbox_opts *opts, struct err *err)
{
    struct sandbox *s = x_calloc(1, sizeof(*s));
    s->confine = (struct child_confine){.cgroup_procs = -1,
                                        .max_open_files = opts->max_open_files,
                                        .max_file_bytes = opts->max_file_mb << 20,
                                        .no_new_privs = true};
    if (set_up_users(s, opts, err) != 0 || set_up_box(s, opts, err) != 0) {
        sandbox_free(s);
        return NULL;
    }
    set_up_cgroup(s, opts);
    sum_up(s);
    return s;
}

void sandbox_free(struct sandbox *s)
{
    if (!s)
        return;
    bwrap_release(&s->bwrap);
    cgroup_free(s->cgroup);
    users_release(&s->users);
    free(s);
}

const struct sandbox_status *sandbox_status(const struct sandbox *s)
{
    return &s->status;
}

/* --- one process ----------------------------------------------------------------------------- */

void sandbox_view(const struct sandbox *s, const struct sandbox_job *job, struct sandbox_view *ret)
{
    if (s->status.filesystem)
        *ret = (struct sandbox_view){BWRAP_PROGRAM, BWRAP_HOME, BWRAP_WORK, BWRAP_SOCKET};
    else
        *ret = (struct sandbox_view){job->program, job->home, job->work, job->socket};
}

static int reach_one(uid_t id, const char *path, struct err *err)
{
    char blocked[PATH_MAX];
    if (users_can_reach(id, path, blocked, sizeof(blocked)))
        return 0;
    return err_set(err, ERR_IO, "user %u of sandbox.uids cannot reach '%s': '%s' is closed to it",
                   (unsigned)id, path, blocked);
}

/* Paths the process itself, or bubblewrap in its name, has to walk. */
static int give_to_user(const struct sandbox *s, const struct sandbox_job *job, uid_t id,
                        struct err *err)
{
    bool home = job->keep_home || !s->status.filesystem;
    bool work = job->keep_work || !s->status.filesystem;
    if (reach_one(id, job->socket, err) != 0 || users_own(id, job->socket, err) != 0)
        return -1;
    if (home && (reach_one(id, job->home, err) != 0 || users_own(id, job->home, err) != 0))
        return -1;
    if (work && (reach_one(id, job->work, err) != 0 || users_own(id, job->work, err) != 0))
        return -1;
    return 0;
}

/* What lies in /usr is visible in every box. */
static int keep_out_of_system(const struct sandbox_job *job, struct err *err)
{
    const char *const paths[] = {job->socket, job->home, job->work};
    for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
        if (strncmp(paths[i], "/usr/", 5) == 0)
            return err_set(err, ERR_CONFIG,
                           "'%s' lies in /usr, which every process in the sandbox can read: set "
                           "data_dir to another place",
                           paths[i]);
    }
    return 0;
}

static const char **copy_argv(const char *const *argv)
{
    size_t count = 0;
    while (argv[count])
        count++;
    const char **copy = x_calloc(count + 1, sizeof(*copy));
    memcpy(copy, argv, count * sizeof(*copy));
    return copy;
}

static int enter(struct sandbox *s, unsigned id, const struct sandbox_job *job, struct sandboxed *p,
                 struct err *err)
{
    unsigned slot;
    if (s->status.filesystem && keep_out_of_system(job, err) != 0)
        return -1;
    if (s->status.own_users) {
        if (users_take(&s->users, &slot, err) != 0)
            return -1;
        p->slot = slot;
        if (give_to_user(s, job, users_id(&s->users, slot), err) != 0)
            return -1;
    }
    p->confine = confine_as(s, p->slot);
    return s->cgroup ? cgroup_make(s->cgroup, id, &p->cgroup, &p->confine.cgroup_procs, err) : 0;
}

int sandbox_enter(struct sandbox *s, unsigned id, const struct sandbox_job *job,
                  const char *const *argv, struct sandboxed *ret, struct err *err)
{
    struct sandbox_view view;
    sandbox_view(s, job, &view);
    BUG_ON(!argv[0] || strcmp(argv[0], view.program) != 0);
    *ret = (struct sandboxed){.sandbox = s, .slot = NO_SLOT, .confine = {.cgroup_procs = -1}};
    if (enter(s, id, job, ret, err) != 0) {
        sandbox_leave(ret);
        return -1;
    }
    ret->argv = s->status.filesystem ? bwrap_argv(&s->bwrap, job, argv) : copy_argv(argv);
    ret->cwd = s->status.filesystem ? "/" : job->work;
    return 0;
}

/* An id whose processes cannot be killed is never given to another. */
static void release_user(struct sandbox *s, unsigned slot)
{
    uid_t id = users_id(&s->users, slot);
    if (users_kill(id))
        users_give_back(&s->users, slot);
    else
        log_warn("processes of a worker's user cannot be killed, not using it again",
                 LF_I("uid", id));
}

void sandbox_leave(struct sandboxed *p)
{
    if (!p->sandbox)
        return;
    close_fd(&p->confine.cgroup_procs);
    if (p->cgroup)
        cgroup_drop_take(p->sandbox->cgroup, TAKE_PTR(p->cgroup));
    if (p->slot != NO_SLOT)
        release_user(p->sandbox, p->slot);
    free(p->argv);
    *p = (struct sandboxed){0};
}
