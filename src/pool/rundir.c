/* rundir.c - worker directories, made and removed.
 *
 * What is in them was written by tools in a tenant's name: any number of files, any depth, any
 * permissions. So a directory that is given up is renamed within the base, which frees its name,
 * and a thread removes it. The same at the start with all that an earlier run left. What cannot be
 * removed stays under its new name, is told in the log, and is tried again at the next start: it
 * never keeps the server from starting. */
#include "pool/rundir.h"

#include "core/clock.h"
#include "core/log.h"
#include "core/tree.h"

#include <dirent.h>
#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#define RUNDIRS_TAG  TAG4('R', 'D', 'R', 'S')
#define ASIDE        ".gone-"
#define FREE_WAIT_MS 5000
#define NAMES_MAX    16 /* tried for one directory */

struct rundirs {
    uint32_t tag;
    char *base;
    bool open_path;
    unsigned next_aside;
    struct work *work;
    atomic_uint unfinished; /* removals asked for and not yet run */
    atomic_bool stopping;
};

/* --- removing ---------------------------------------------------------------------------- */

struct removal {
    struct rundirs *all;
    char *path; /* NULL: everything that was set aside */
    int failed;
    struct err err; /* the latest */
};

static bool is_aside(const char *name)
{
    return strncmp(name, ASIDE, strlen(ASIDE)) == 0;
}

static void remove_tree(struct removal *r, const char *path)
{
    if (tree_remove(path, &r->all->stopping, &r->err) != 0)
        r->failed++;
}

static void remove_all_aside(struct removal *r)
{
    DIR *d = opendir(r->all->base);
    for (struct dirent *e; d && !r->all->stopping && (e = readdir(d));) {
        if (!is_aside(e->d_name))
            continue;
        AUTO(free_charp) char *path = x_printf("%s/%s", r->all->base, e->d_name);
        remove_tree(r, path);
    }
    if (d)
        closedir(d);
}

static void run_removal(void *arg)
{
    struct removal *r = arg;
    if (r->path)
        remove_tree(r, r->path);
    else
        remove_all_aside(r);
    r->all->unfinished--;
}

static void removal_done(void *arg)
{
    struct removal *r = arg;
    if (r->failed && !r->all->stopping)
        log_warn("worker directories could not be removed, the next start tries again",
                 LF_I("count", r->failed), LF_S("error", r->err.msg));
    free(r->path);
    free(r);
}

static void submit(struct rundirs *all, struct removal *r)
{
    r->all = all;
    all->unfinished++;
    work_submit(all->work, run_removal, removal_done, r);
}

/* Gives path another name in the base, NULL + errno. An empty directory holds the new name until
 * the rename replaces it: that works on every file system. */
static char *set_aside(struct rundirs *r, const char *path)
{
    for (;;) {
        char *to = x_printf("%s/" ASIDE "%u", r->base, r->next_aside++);
        bool made = mkdir(to, 0700) == 0;
        if (made && rename(path, to) == 0)
            return to;
        int error = errno;
        if (made)
            rmdir(to);
        free(to);
        errno = error;
        if (made || error != EEXIST)
            return NULL;
    }
}

/* A directory is renamed, anything else removed; false: it is in the way. */
static bool clear_name(struct rundirs *r, const char *path)
{
    if (unlink(path) == 0 || errno == ENOENT)
        return true;
    char *aside = set_aside(r, path);
    free(aside);
    return aside != NULL;
}

static void clear_base(struct rundirs *r)
{
    struct removal *all = x_calloc(1, sizeof(*all));
    DIR *d = opendir(r->base);
    for (struct dirent *e; d && (e = readdir(d));) {
        AUTO(free_charp) char *path = x_printf("%s/%s", r->base, e->d_name);
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 || is_aside(e->d_name))
            continue;
        if (!clear_name(r, path)) {
            all->failed++;
            err_set(&all->err, ERR_IO, "cannot rename '%s': %s", path, strerror(errno));
        }
    }
    if (d)
        closedir(d);
    submit(r, all);
}

/* --- making ------------------------------------------------------------------------------ */

static int make_dir(const char *path, bool open_path)
{
    if (mkdir(path, 0700) != 0)
        return -1;
    return open_path ? chmod(path, 0711) : 0;
}

static void release(struct rundir *d)
{
    free(d->path);
    free(d->home);
    free(d->work);
    free(d->socket);
    *d = (struct rundir){0};
}

static char *make_free_name(const struct rundirs *r, const char *name, struct err *err)
{
    for (int i = 0; i < NAMES_MAX; i++) {
        char *path = i ? x_printf("%s/%s-%d", r->base, name, i) : x_printf("%s/%s", r->base, name);
        if (make_dir(path, r->open_path) == 0)
            return path;
        int error = errno;
        if (error != EEXIST) {
            rmdir(path);
            err_set(err, ERR_IO, "cannot create '%s': %s", path, strerror(error));
        }
        free(path);
        if (error != EEXIST)
            return NULL;
    }
    err_set(err, ERR_IO, "cannot create '%s/%s': the name is taken", r->base, name);
    return NULL;
}

int rundir_make(struct rundir *d, const char *name, struct err *err)
{
    d->path = make_free_name(d->all, name, err);
    if (!d->path)
        return -1;
    d->home = x_printf("%s/home", d->path);
    d->work = x_printf("%s/work", d->path);
    d->socket = x_printf("%s/relay.sock", d->path);
    if (make_dir(d->home, false) == 0 && make_dir(d->work, false) == 0)
        return 0;
    err_set(err, ERR_IO, "cannot fill '%s': %s", d->path, strerror(errno));
    rmdir(d->home);
    rmdir(d->path);
    release(d);
    return -1;
}

void rundir_remove(struct rundir *d)
{
    if (!d->path)
        return;
    struct removal *r = x_calloc(1, sizeof(*r));
    r->path = set_aside(d->all, d->path);
    if (!r->path)
        r->path = TAKE_PTR(d->path);
    submit(d->all, r);
    release(d);
}

/* --- life -------------------------------------------------------------------------------- */

struct rundirs *rundirs_new(struct loop *loop, const char *base, bool open_path, struct err *err)
{
    if ((mkdir(base, 0700) != 0 && errno != EEXIST) || (open_path && chmod(base, 0711) != 0)) {
        err_set(err, ERR_IO, "cannot create '%s': %s", base, strerror(errno));
        return NULL;
    }
    struct rundirs *r = x_calloc(1, sizeof(*r));
    r->tag = RUNDIRS_TAG;
    r->base = x_strdup(base);
    r->open_path = open_path;
    r->work = work_new(loop, "rundirs", 1);
    clear_base(r);
    return r;
}

void rundirs_free(struct rundirs *r)
{
    if (!r)
        return;
    int64_t until = clock_mono_ms() + FREE_WAIT_MS;
    while (r->unfinished && clock_mono_ms() < until)
        usleep(500);
    if (r->unfinished)
        log_warn("worker directories are not removed yet, the next start does it",
                 LF_I("count", r->unfinished));
    r->stopping = r->unfinished > 0;
    work_free(r->work);
    free(r->base);
    r->tag = 0;
    free(r);
}
