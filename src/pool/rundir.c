/* rundir.c - worker directories, made and removed. Removal never follows links. */
#include "pool/rundir.h"

#include <errno.h>
#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    if (ftw->level > 0 && remove(path) != 0 && errno != ENOENT)
        return -1;
    return 0;
}

static int empty_dir(const char *path)
{
    return nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

static int make_dir(const char *path, bool open_path, struct err *err)
{
    if ((mkdir(path, 0700) != 0 && errno != EEXIST) || (open_path && chmod(path, 0711) != 0))
        return err_set(err, ERR_IO, "cannot create '%s': %s", path, strerror(errno));
    return 0;
}

int rundir_clean(const char *base, bool open_path, struct err *err)
{
    if (make_dir(base, open_path, err) != 0)
        return -1;
    if (empty_dir(base) != 0)
        return err_set(err, ERR_IO, "cannot empty '%s': %s", base, strerror(errno));
    return 0;
}

static void release(struct rundir *d)
{
    free(d->path);
    free(d->home);
    free(d->work);
    free(d->socket);
    *d = (struct rundir){0};
}

int rundir_make(struct rundir *d, const char *base, const char *name, bool open_path,
                struct err *err)
{
    d->path = x_printf("%s/%s", base, name);
    d->home = x_printf("%s/home", d->path);
    d->work = x_printf("%s/work", d->path);
    d->socket = x_printf("%s/relay.sock", d->path);
    if (make_dir(d->path, open_path, err) == 0 && make_dir(d->home, false, err) == 0 &&
        make_dir(d->work, false, err) == 0)
        return 0;
    release(d);
    return -1;
}

void rundir_remove(struct rundir *d)
{
    if (!d->path)
        return;
    if (empty_dir(d->path) == 0)
        rmdir(d->path);
    release(d);
}
