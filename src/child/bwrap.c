/* bwrap.c - the box: which parts of the host a process sees, in bubblewrap's words.
 *
 * Inside there is a read-only system, an empty home and /tmp in memory, the program, and the
 * relay's socket. No network, no other process, no host name, no capability. Two things that
 * bubblewrap leaves open by itself are closed here:
 *
 *  - /proc is mounted read-only. A server that runs as root and has no sandbox.uids runs its
 * workers as the real user 0; without a capability that user still owns /proc/sys, where
 *    kernel.core_pattern names a program that the host runs as root.
 *  - the root directory and /dev are read-only, and what stays writable has a size: memory written
 *    there belongs to no process and would outlive the rlimits.
 *
 * No --new-session: the child leads a session of its own without a terminal, and one inside would
 * put the program out of reach of kill(-pgid). SIGTERM to the group ends bubblewrap itself, which
 * takes everything inside with it at once: a program in the box gets no time to tidy up. */
#include "child/bwrap.h"

#include "child/run.h"

#include <errno.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#define TMPFS_SIZE     "268435456" /* bytes of /tmp, of /home/w and of /dev/shm each */
#define PROBE_LIMIT_MS 5000
#define ARGS_MAX       128

struct args {
    const char **v;
    size_t n;
};

static void add_list(struct args *a, const char *const *list)
{
    for (; *list; list++) {
        BUG_ON(a->n >= ARGS_MAX);
        a->v[a->n++] = *list;
    }
}

#define ADD(a, ...) add_list((a), (const char *const[]){__VA_ARGS__, NULL})

/* Of /etc only what programs need to find libraries, names, time and certificates; /etc/ssl as a
 * whole would hold private keys. */
static const char *const etc_files[] = {
    "/etc/passwd",        "/etc/group",           "/etc/hosts",
    "/etc/nsswitch.conf", "/etc/localtime",       "/etc/ld.so.cache",
    "/etc/ssl/certs",     "/etc/ssl/openssl.cnf", "/etc/alternatives",
};

static char *find_bwrap(void)
{
    static const char *const places[] = {"/usr/bin/bwrap", "/usr/local/bin/bwrap", "/bin/bwrap"};
    for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
        if (access(places[i], X_OK) == 0)
            return x_strdup(places[i]);
    }
    return NULL;
}

/* /bin, /lib and so on are links into /usr on most systems, directories on some, or missing. */
static void look_at_dir(struct bwrap *b, const char *path)
{
    char target[PATH_MAX];
    struct stat st;
    if (lstat(path, &st) != 0 || (!S_ISLNK(st.st_mode) && !S_ISDIR(st.st_mode)))
        return;
    ssize_t n = S_ISLNK(st.st_mode) ? readlink(path, target, sizeof(target)) : 0;
    if (n < 0)
        return;
    b->dirs[b->dir_count].path = x_strdup(path);
    b->dirs[b->dir_count].target = n ? x_strndup(target, (size_t)n) : NULL;
    b->dir_count++;
}

void bwrap_init(struct bwrap *b)
{
    static const char *const dirs[BWRAP_DIRS] = {"/bin",   "/sbin",  "/lib",
                                                 "/lib32", "/lib64", "/libx32"};
    struct stat st;
    *b = (struct bwrap){.path = find_bwrap()};
    b->setuid = b->path && stat(b->path, &st) == 0 && (st.st_mode & S_ISUID);
    for (size_t i = 0; i < BWRAP_DIRS; i++)
        look_at_dir(b, dirs[i]);
}

void bwrap_release(struct bwrap *b)
{
    free(b->path);
    for (size_t i = 0; i < b->dir_count; i++) {
        free(b->dirs[i].path);
        free(b->dirs[i].target);
    }
    *b = (struct bwrap){0};
}

static void add_system(struct args *a, const struct bwrap *b)
{
    ADD(a, "--ro-bind", "/usr", "/usr");
    for (size_t i = 0; i < b->dir_count; i++) {
        if (b->dirs[i].target)
            ADD(a, "--symlink", b->dirs[i].target, b->dirs[i].path);
        else
            ADD(a, "--ro-bind", b->dirs[i].path, b->dirs[i].path);
    }
    for (size_t i = 0; i < ARRAY_SIZE(etc_files); i++)
        ADD(a, "--ro-bind-try", etc_files[i], etc_files[i]);
    ADD(a, "--proc", "/proc", "--dev", "/dev");
}

static void add_tmpfs(struct args *a, const struct bwrap *b, const char *mode, const char *path)
{
    if (!b->basic)
        ADD(a, "--perms", mode, "--size", TMPFS_SIZE);
    ADD(a, "--tmpfs", path);
}

static void add_job(struct args *a, const struct bwrap *b, const struct sandbox_job *job)
{
    add_tmpfs(a, b, "1777", "/tmp");
    add_tmpfs(a, b, "1777", "/dev/shm");
    if (job->keep_home)
        ADD(a, "--bind", job->home, BWRAP_HOME);
    else
        add_tmpfs(a, b, "0700", BWRAP_HOME);
    if (job->keep_work)
        ADD(a, "--bind", job->work, BWRAP_WORK);
    else
        ADD(a, "--dir", BWRAP_WORK);
    if (job->program)
        ADD(a, "--ro-bind", job->program, BWRAP_PROGRAM);
    ADD(a, "--ro-bind", job->socket, BWRAP_SOCKET);
}

const char **bwrap_argv(const struct bwrap *b, const struct sandbox_job *job,
                        const char *const *argv)
{
    size_t count = 0;
    while (argv[count])
        count++;
    struct args a = {.v = x_calloc(ARGS_MAX + count + 1, sizeof(*a.v))};
    ADD(&a, b->path, "--die-with-parent", "--cap-drop", "ALL", "--unshare-all", "--hostname",
        "worker");
    if (!b->basic)
        ADD(&a, "--unshare-user", "--disable-userns");
    add_system(&a, b);
    add_job(&a, b, job);
    ADD(&a, "--remount-ro", "/proc", "--remount-ro", "/dev", "--remount-ro", "/", "--chdir",
        BWRAP_WORK, "--");
    memcpy(a.v + a.n, argv, count * sizeof(*argv));
    return a.v;
}

static void one_line(struct buf *text)
{
    char *nl = text->len ? memchr(text->data, '\n', text->len) : NULL;
    if (nl)
        *nl = '\0';
}

static int try_once(const struct bwrap *b, const char *program, const struct child_confine *confine,
                    struct err *err)
{
    const char *const test[] = {"/usr/bin/test", "-x", program ? BWRAP_PROGRAM : "/usr/bin/env",
                                NULL};
    const char *const envp[] = {"PATH=/usr/bin:/bin", NULL};
    struct sandbox_job job = {.program = program, .socket = "/dev/null"};
    const char **argv = bwrap_argv(b, &job, test);
    struct spawn_opts o = {.argv = argv, .envp = envp, .cwd = "/", .confine = confine};
    struct buf said;
    buf_init(&said, 4096);
    int rc = run_process(&o, PROBE_LIMIT_MS, NULL, &said, err);
    one_line(&said);
    if (rc != 0 && said.len)
        err_set(err, ERR_IO, "%s", buf_cstr(&said));
    buf_release(&said);
    free(argv);
    return rc;
}

int bwrap_probe(struct bwrap *b, const char *program, const struct child_confine *confine,
                struct err *err)
{
    struct err basic_err;
    if (!b->path)
        return err_set(err, ERR_UNAVAILABLE, "bubblewrap (bwrap) is not installed");
    b->basic = false;
    if (try_once(b, program, confine, err) == 0)
        return 0;
    b->basic = true;
    if (try_once(b, program, confine, &basic_err) == 0)
        return 0;
    return err_prefix(err, "bubblewrap does not work here");
}
