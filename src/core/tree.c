/* tree.c - removes a directory tree whose owner may have meant to make that hard.
 *
 * Everything goes through descriptors of directories, so that a name that becomes a link meanwhile
 * leads nowhere. Directories without permissions get them. A tree too deep for as many descriptors
 * is flattened: what lies DEPTH_MAX below is moved to the top and removed from there. */
#include "core/tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEPTH_MAX  24
#define BARREN_MAX 3 /* passes that moved nothing and left something: somebody writes into it */

struct removal {
    const atomic_bool *stop;
    int top;
    unsigned moved;
    int error; /* the first errno */
};

static void note(struct removal *r, int error)
{
    if (!r->error && error != ENOENT)
        r->error = error;
}

/* A readable descriptor of the directory, whatever its mode was; -1 + errno. */
static int open_dir(int parent, const char *name)
{
    char link[48];
    int path = openat(parent, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (path < 0)
        return -1;
    snprintf(link, sizeof(link), "/proc/self/fd/%d", path);
    int fd = chmod(link, 0700) == 0 ? openat(path, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    int error = errno;
    close(path);
    errno = error;
    return fd;
}

static int move_up(struct removal *r, int parent, const char *name)
{
    char to[32];
    for (;;) {
        snprintf(to, sizeof(to), ".deep-%u", r->moved++);
        if (renameat2(parent, name, r->top, to, RENAME_NOREPLACE) == 0)
            return 0;
        if (errno != EEXIST)
            return -1;
    }
}

static void empty_dir(struct removal *r, int fd, int depth);

static void remove_entry(struct removal *r, int parent, const char *name, int depth)
{
    if (unlinkat(parent, name, 0) == 0)
        return;
    if (errno != EISDIR && errno != EPERM) {
        note(r, errno);
        return;
    }
    int fd = open_dir(parent, name);
    if (fd < 0) {
        note(r, errno);
        return;
    }
    bool deep = depth >= DEPTH_MAX;
    if (deep)
        close(fd);
    else
        empty_dir(r, fd, depth + 1);
    if ((deep ? move_up(r, parent, name) : unlinkat(parent, name, AT_REMOVEDIR)) != 0)
        note(r, errno);
}

/* Takes fd over. */
static void empty_dir(struct removal *r, int fd, int depth)
{
    DIR *d = fdopendir(fd);
    if (!d) {
        note(r, errno);
        close(fd);
        return;
    }
    for (struct dirent *e; (e = readdir(d));) {
        if (atomic_load(r->stop)) {
            note(r, EINTR);
            break;
        }
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            remove_entry(r, fd, e->d_name, depth);
    }
    closedir(d);
}

static void one_pass(struct removal *r)
{
    int fd = openat(r->top, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    r->error = 0;
    if (fd >= 0)
        empty_dir(r, fd, 0);
    else
        note(r, errno);
}

int tree_remove(const char *path, const atomic_bool *stop, struct err *err)
{
    struct removal r = {.stop = stop, .top = open_dir(AT_FDCWD, path)};
    int error = r.top < 0 ? errno : ENOTEMPTY, barren = 0;
    while (r.top >= 0 && error && !r.error && barren < BARREN_MAX) {
        unsigned moved = r.moved;
        one_pass(&r);
        error = rmdir(path) == 0 ? 0 : r.error ? r.error : errno;
        barren = r.moved > moved ? 0 : barren + 1;
    }
    if (r.top >= 0)
        close(r.top);
    if (error && error != ENOENT)
        return err_set(err, ERR_IO, "cannot remove '%s': %s", path, strerror(error));
    return 0;
}
