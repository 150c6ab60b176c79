/* listen_unix.c - "unix:PATH": a listening socket with a name in the file system.
 *
 * Only its owner may connect: the mode is set on the socket before bind(2) gives it a name, so that
 * there is no moment at which the name is open to others (a umask can only take bits away).
 *
 * A server that was killed leaves its name behind. Whether somebody still listens there is asked
 * by connecting. Two servers that start together would both hear "nobody" and the second would
 * take away the first one's new name, so the directory is locked from before the question until
 * the new socket listens.
 *
 * sun_path has 108 bytes. A longer path is reached through the directory's descriptor, as
 * /proc/self/fd/N/name; its bytes after the last slash must still fit.
 *
 * The name is removed while our socket is still open: then its inode number cannot belong to
 * anything else, and a name that another server has put there meanwhile is left alone. */
#include "http/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define LOCK_TRIES    100
#define LOCK_PAUSE_US 10000

static int cannot(struct err *err, const char *path, const char *why)
{
    return err_set(err, ERR_IO, "cannot listen on 'unix:%s': %s", path, why);
}

static int new_socket(void)
{
    return socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

static int open_directory(struct unix_name *u, const char *path, struct err *err)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    AUTO(free_charp) char *dir = slash ? x_strndup(path, (size_t)(name - path)) : x_strdup(".");
    u->name = x_strdup(name);
    if (!name[0])
        return err_set(err, ERR_CONFIG, "cannot listen on 'unix:%s': names no file", path);
    u->dir = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (u->dir < 0)
        return err_set(err, ERR_IO, "cannot listen on 'unix:%s': cannot open '%s': %s", path, dir,
                       strerror(errno));
    return 0;
}

/* Others hold it for the moment in which they start. */
static int lock_directory(const struct unix_name *u, const char *path, struct err *err)
{
    for (int i = 0; i < LOCK_TRIES; i++) {
        if (flock(u->dir, LOCK_EX | LOCK_NB) == 0)
            return 0;
        if (errno != EWOULDBLOCK && errno != EINTR)
            return cannot(err, path, strerror(errno));
        usleep(LOCK_PAUSE_US);
    }
    return err_set(err, ERR_CONFIG, "cannot listen on 'unix:%s': its directory stays locked", path);
}

static int make_address(const struct unix_name *u, const char *path, struct sockaddr_un *ret,
                        struct err *err)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    size_t size = sizeof(a.sun_path);
    int n = snprintf(a.sun_path, size, "%s", path);
    if (n < 0 || (size_t)n >= size)
        n = snprintf(a.sun_path, size, "/proc/self/fd/%d/%s", u->dir, u->name);
    if (n < 0 || (size_t)n >= size)
        return err_set(err, ERR_CONFIG, "cannot listen on 'unix:%s': file name too long", path);
    *ret = a;
    return 0;
}

/* Takes the name away if nobody listens there any more. */
static int remove_stale(const struct unix_name *u, const char *path, const struct sockaddr_un *a,
                        struct err *err)
{
    struct stat st;
    if (fstatat(u->dir, u->name, &st, AT_SYMLINK_NOFOLLOW) == 0 && !S_ISSOCK(st.st_mode))
        return err_set(err, ERR_CONFIG,
                       "cannot listen on 'unix:%s': there is a file that is not a socket", path);
    int fd = new_socket();
    if (fd < 0)
        return cannot(err, path, strerror(errno));
    int e = connect(fd, (const struct sockaddr *)a, sizeof(*a)) == 0 ? 0 : errno;
    close(fd);
    if (e == 0 || e == EAGAIN) /* EAGAIN: alive, with a full queue */
        return err_set(err, ERR_CONFIG, "cannot listen on 'unix:%s': another process does", path);
    if (e != ECONNREFUSED && e != ENOENT)
        return cannot(err, path, strerror(e));
    if (unlinkat(u->dir, u->name, 0) != 0 && errno != ENOENT)
        return cannot(err, path, strerror(errno));
    return 0;
}

static int bind_name(struct unix_name *u, const char *path, int fd, struct err *err)
{
    struct sockaddr_un a;
    struct stat st;
    if (make_address(u, path, &a, err) != 0)
        return -1;
    if (fchmod(fd, 0600) != 0)
        return cannot(err, path, strerror(errno));
    int rc = bind(fd, (struct sockaddr *)&a, sizeof(a));
    if (rc != 0 && errno == EADDRINUSE) {
        if (remove_stale(u, path, &a, err) != 0)
            return -1;
        rc = bind(fd, (struct sockaddr *)&a, sizeof(a));
    }
    if (rc != 0 || fstatat(u->dir, u->name, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return cannot(err, path, strerror(errno));
    u->dev = st.st_dev;
    u->ino = st.st_ino;
    if (listen(fd, SOMAXCONN) != 0)
        return cannot(err, path, strerror(errno));
    return 0;
}

int unix_listen(const char *path, struct unix_name *ret_name, struct err *err)
{
    struct unix_name u = {.dir = -1};
    int fd = -1;
    bool bound = false;
    if (open_directory(&u, path, err) == 0 && lock_directory(&u, path, err) == 0) {
        fd = new_socket();
        if (fd < 0)
            cannot(err, path, strerror(errno));
        bound = fd >= 0 && bind_name(&u, path, fd, err) == 0;
        flock(u.dir, LOCK_UN);
    }
    if (bound) {
        *ret_name = u;
        return fd;
    }
    unix_unlisten(&u);
    if (fd >= 0)
        close(fd);
    return -1;
}

void unix_unlisten(struct unix_name *u)
{
    struct stat st;
    bool ours = u->ino && fstatat(u->dir, u->name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
                st.st_dev == u->dev && st.st_ino == u->ino;
    if (ours)
        unlinkat(u->dir, u->name, 0);
    if (u->dir >= 0)
        close(u->dir);
    free(u->name);
    *u = (struct unix_name){.dir = -1};
}
