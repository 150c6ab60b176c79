/* users.c - user ids for processes.
 *
 * An id is nobody's account: it exists only as a number, so that processes of different tenants can
 * neither read each other's files nor signal or trace each other. It goes back to the list when its
 * process has ended and nothing else of it is left running. */
#include "child/users.h"

#include "core/str.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define OWN_DEPTH   64     /* directories within directories */
#define OWN_ENTRIES 200000 /* files given to a user at a time */
#define KILL_TRIES  50

static bool parse_range(const char *range, uint64_t *ret_first, uint64_t *ret_last)
{
    struct str rest = str_c(range), from = str_split(&rest, '-');
    return str_to_u64(str_trim(from), ret_first) && str_to_u64(str_trim(rest), ret_last) &&
           *ret_first > 0 && *ret_last >= *ret_first && *ret_last < UINT32_MAX;
}

int users_init(struct users *u, const char *range, struct err *err)
{
    uint64_t first, last;
    if (!parse_range(range, &first, &last))
        return err_set(err, ERR_CONFIG,
                       "sandbox.uids: '%s' must be two user ids, none of them 0, like "
                       "200000-200999",
                       range);
    if (geteuid() != 0)
        return err_set(err, ERR_CONFIG,
                       "sandbox.uids: only root may start processes as other users; start the "
                       "server as root or leave the setting empty");
    uint64_t count = last - first + 1;
    u->first = (uid_t)first;
    u->count = count > USERS_MAX ? USERS_MAX : (unsigned)count;
    u->taken = x_calloc(u->count, sizeof(*u->taken));
    return 0;
}

void users_release(struct users *u)
{
    free(u->taken);
    *u = (struct users){0};
}

uid_t users_id(const struct users *u, unsigned slot)
{
    BUG_ON(slot >= u->count);
    return u->first + slot;
}

int users_take(struct users *u, unsigned *ret_slot, struct err *err)
{
    if (u->in_use == u->count)
        return err_set(err, ERR_UNAVAILABLE,
                       "all %u user ids of sandbox.uids are in use; give it a larger range",
                       u->count);
    while (u->taken[u->cursor])
        u->cursor = (u->cursor + 1) % u->count;
    *ret_slot = u->cursor;
    u->taken[u->cursor] = true;
    u->cursor = (u->cursor + 1) % u->count;
    u->in_use++;
    return 0;
}

void users_give_back(struct users *u, unsigned slot)
{
    BUG_ON(slot >= u->count || !u->taken[slot]);
    u->taken[slot] = false;
    u->in_use--;
}

static bool may_enter(uid_t id, const struct stat *st)
{
    mode_t bit = st->st_uid == id ? S_IXUSR : st->st_gid == id ? S_IXGRP : S_IXOTH;
    return st->st_mode & bit;
}

bool users_can_reach(uid_t id, const char *path, char *ret_blocked, size_t size)
{
    char dir[PATH_MAX];
    struct stat st;
    for (const char *p = strchr(path, '/'); p; p = strchr(p + 1, '/')) {
        size_t len = p == path ? 1 : (size_t)(p - path);
        if (len >= sizeof(dir))
            return true;
        memcpy(dir, path, len);
        dir[len] = '\0';
        if (stat(dir, &st) == 0 && !may_enter(id, &st)) {
            snprintf(ret_blocked, size, "%s", dir);
            return false;
        }
    }
    return true;
}

struct owning {
    uid_t id;
    size_t left; /* entries */
};

static bool own_dir(struct owning *o, int fd, int depth);

/* A file with a second name could be somebody else's, linked in here. */
static bool own_entry(struct owning *o, int dir, const char *name, int depth)
{
    struct stat st;
    if (o->left-- == 0)
        return errno = E2BIG, false;
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return false;
    if (!S_ISDIR(st.st_mode))
        return st.st_uid == o->id || st.st_nlink > 1 ||
               fchownat(dir, name, o->id, o->id, AT_SYMLINK_NOFOLLOW) == 0;
    if (depth == OWN_DEPTH)
        return errno = ELOOP, false;
    int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return fd >= 0 && own_dir(o, fd, depth + 1);
}

/* Consumes fd. */
static bool own_dir(struct owning *o, int fd, int depth)
{
    bool ok = fchown(fd, o->id, o->id) == 0;
    DIR *d = fdopendir(fd);
    if (!d) {
        close(fd);
        return false;
    }
    for (struct dirent *e; ok && (e = readdir(d));) {
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            ok = own_entry(o, fd, e->d_name, depth);
    }
    int saved = errno;
    closedir(d);
    errno = saved;
    return ok;
}

int users_own(uid_t id, const char *path, struct err *err)
{
    struct owning o = {id, OWN_ENTRIES};
    if (own_entry(&o, AT_FDCWD, path, 0))
        return 0;
    return err_set(err, ERR_IO, "cannot give '%s' to user %u: %s", path, (unsigned)id,
                   strerror(errno));
}

static noreturn void kill_as(uid_t id)
{
    if (syscall(SYS_setresuid, id, id, id) != 0 || kill(1, 0) == 0) /* still more than that user */
        _exit(1);
    _exit(kill(-1, SIGKILL) == 0 || errno == ESRCH ? 0 : 1);
}

/* From a process that is this user: kill(-1) then reaches exactly what is its, and cannot miss what
 * is forked meanwhile. The others may be quicker and kill the killer; then again. */
bool users_kill(uid_t id)
{
    for (int i = 0; i < KILL_TRIES; i++) {
        int status = 0;
        sigset_t all, old;
        sigfillset(&all); /* no handler of ours may run there */
        pthread_sigmask(SIG_SETMASK, &all, &old);
        pid_t pid = fork();
        if (pid == 0)
            kill_as(id);
        pthread_sigmask(SIG_SETMASK, &old, NULL);
        while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
            ;
        if (pid < 0 || WIFEXITED(status))
            return pid > 0 && WEXITSTATUS(status) == 0;
    }
    return false;
}
