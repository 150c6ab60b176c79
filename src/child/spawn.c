/* spawn.c - starts a process.
 *
 * fork() rather than posix_spawn(): PR_SET_PDEATHSIG, the cgroup and the user have to be set
 * between fork and exec. Between the two only async-signal-safe calls are made. Whatever fails
 * there is reported as a step and an errno through a close-on-exec pipe, so the caller knows at
 * once and by name. The caller waits for it, but not for ever: a child that was stopped there, or
 * that hangs on a file system, must not stop the server.
 *
 * The order matters: the cgroup is entered first (with our rights, and so that everything later is
 * counted there), limits come before the user (only we may be allowed to set them) but after the
 * descriptors are in place, and PR_SET_PDEATHSIG comes after the user, because a change of
 * credentials clears it. */
#include "child/spawn.h"

#include "core/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define REPORT_FD    3 /* where the child finds the errno pipe */
#define EXEC_WAIT_MS 3000
#define REAP_WAIT_MS 200 /* for a child that was killed before its exec */

enum { IN, OUT, ERRP, REPORT, PIPE_COUNT };

/* What the child was at when it failed. */
enum step { STEP_SESSION, STEP_CGROUP, STEP_PIPES, STEP_LIMITS, STEP_USER, STEP_DIR, STEP_EXEC };

static const char *const step_words[] = {[STEP_SESSION] = "cannot set it apart: ",
                                         [STEP_CGROUP] = "cannot enter its cgroup: ",
                                         [STEP_PIPES] = "cannot connect its pipes: ",
                                         [STEP_LIMITS] = "cannot set its limits: ",
                                         [STEP_USER] = "cannot become its user: ",
                                         [STEP_DIR] = "",
                                         [STEP_EXEC] = ""};

struct report {
    int step, error;
};

void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void close_pipes(int pipes[PIPE_COUNT][2])
{
    for (int i = 0; i < PIPE_COUNT; i++) {
        close_fd(&pipes[i][0]);
        close_fd(&pipes[i][1]);
    }
}

static int open_pipes(int pipes[PIPE_COUNT][2], struct err *err)
{
    for (int i = 0; i < PIPE_COUNT; i++)
        pipes[i][0] = pipes[i][1] = -1;
    for (int i = 0; i < PIPE_COUNT; i++) {
        if (pipe2(pipes[i], O_CLOEXEC) != 0) {
            int e = errno;
            close_pipes(pipes);
            return err_set(err, ERR_IO, "cannot make a pipe: %s", strerror(e));
        }
    }
    return 0;
}

/* By system call: the C library's sigaction() refuses the two signals it uses itself, and whoever
 * started us may have left them ignored. */
static void reset_signals(void)
{
    static const struct { /* the kernel's struct sigaction, all zero: SIG_DFL */
        void *handler;
        unsigned long flags;
        void *restorer;
        uint64_t mask;
    } dfl;
    sigset_t none;
    for (int sig = 1; sig < NSIG; sig++)
        syscall(SYS_rt_sigaction, sig, &dfl, NULL, sizeof(dfl.mask));
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* dup2 that also works when the descriptor already has the wanted number (and then must lose
 * its close-on-exec flag). */
static bool place_fd(int fd, int want, bool cloexec)
{
    if (fd != want)
        return dup3(fd, want, cloexec ? O_CLOEXEC : 0) == want;
    return fcntl(fd, F_SETFD, cloexec ? FD_CLOEXEC : 0) == 0;
}

/* The pipe ends may themselves stand on 0..3 when the parent had those closed: move them up. */
static bool lift(int *fd)
{
    int high = fcntl(*fd, F_DUPFD_CLOEXEC, REPORT_FD + 1);
    if (high >= 0)
        *fd = high;
    return high >= 0;
}

static noreturn void fail(int fd, enum step step)
{
    struct report r = {(int)step, errno};
    if (write(fd, &r, sizeof(r)) < 0)
        _exit(126);
    _exit(127);
}

/* The descriptors 0-2 and the report pipe in their places, and no others. */
static bool place_fds(int pipes[PIPE_COUNT][2], int *report)
{
    int in = pipes[IN][0], out = pipes[OUT][1], errfd = pipes[ERRP][1];
    return lift(&in) && lift(&out) && lift(&errfd) && lift(report) && place_fd(in, 0, false) &&
           place_fd(out, 1, false) && place_fd(errfd, 2, false) &&
           place_fd(*report, REPORT_FD, true) && close_range(REPORT_FD + 1, ~0U, 0) == 0;
}

static bool enter_cgroup(const struct child_confine *c)
{
    return !c || c->cgroup_procs < 0 || write(c->cgroup_procs, "0", 1) == 1;
}

/* As asked, but never above what we may have ourselves. */
static bool set_limit(int resource, int64_t wanted)
{
    struct rlimit have, rl = {(rlim_t)wanted, (rlim_t)wanted};
    if (wanted <= 0)
        return true;
    if (getrlimit(resource, &have) != 0)
        return false;
    if (have.rlim_max < rl.rlim_max)
        rl = (struct rlimit){have.rlim_max, have.rlim_max};
    return setrlimit(resource, &rl) == 0;
}

static bool set_limits(const struct child_confine *c)
{
    struct rlimit no_core = {0, 0};
    return setrlimit(RLIMIT_CORE, &no_core) == 0 &&
           (!c || (set_limit(RLIMIT_NOFILE, c->max_open_files) &&
                   set_limit(RLIMIT_FSIZE, c->max_file_bytes)));
}

/* By system call: the C library's functions of these names take locks, to tell other threads. */
static bool change_user(const struct child_confine *c)
{
    if (c && c->uid != 0 &&
        (syscall(SYS_setgroups, 0, NULL) != 0 ||
         syscall(SYS_setresgid, c->gid, c->gid, c->gid) != 0 ||
         syscall(SYS_setresuid, c->uid, c->uid, c->uid) != 0))
        return false;
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); /* a port below 1024 is ours alone */
    return !c || !c->no_new_privs || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0;
}

static noreturn void run_child(int pipes[PIPE_COUNT][2], const struct spawn_opts *o, pid_t parent)
{
    int report = pipes[REPORT][1];
    reset_signals();
    if (setsid() < 0)
        fail(report, STEP_SESSION);
    if (!enter_cgroup(o->confine)) /* before the descriptors: its file is one that goes */
        fail(report, STEP_CGROUP);
    if (!place_fds(pipes, &report))
        fail(report, STEP_PIPES);
    if (!set_limits(o->confine))
        fail(REPORT_FD, STEP_LIMITS);
    if (!change_user(o->confine))
        fail(REPORT_FD, STEP_USER);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0)
        fail(REPORT_FD, STEP_SESSION);
    if (getppid() != parent) /* it died before prctl */
        _exit(126);
    if (o->cwd && chdir(o->cwd) != 0)
        fail(REPORT_FD, STEP_DIR);
    execve(o->argv[0], (char *const *)(uintptr_t)o->argv, (char *const *)(uintptr_t)o->envp);
    fail(REPORT_FD, STEP_EXEC);
}

static bool readable_in_time(int fd)
{
    int64_t end = clock_mono_ms() + EXEC_WAIT_MS, left;
    while ((left = end - clock_mono_ms()) > 0) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int n = poll(&p, 1, (int)left);
        if (n > 0)
            return true;
        if (n < 0 && errno != EINTR)
            return false;
    }
    return false;
}

/* error 0 when exec succeeded: the pipe closed without a word. */
static struct report read_report(int fd)
{
    struct report r = {STEP_EXEC, 0};
    ssize_t n;
    if (!readable_in_time(fd))
        return (struct report){STEP_EXEC, ETIMEDOUT};
    do {
        n = read(fd, &r, sizeof(r));
    } while (n < 0 && errno == EINTR);
    return n == (ssize_t)sizeof(r) ? r : (struct report){STEP_EXEC, 0};
}

/* It has ended or is about to. One that the kernel does not let go stays behind as a zombie. */
static void reap_failed(pid_t pid)
{
    kill(pid, SIGKILL);
    for (int64_t end = clock_mono_ms() + REAP_WAIT_MS;
         waitpid(pid, NULL, WNOHANG) == 0 && clock_mono_ms() < end;)
        poll(NULL, 0, 1);
}

static int pidfd_for(pid_t pid)
{
    return (int)syscall(SYS_pidfd_open, pid, 0);
}

static int spawn_failed(const struct spawn_opts *o, struct report r, struct err *err)
{
    bool at_dir = r.step == STEP_DIR || (r.step == STEP_EXEC && o->cwd);
    BUG_ON(r.step < 0 || r.step >= (int)ARRAY_SIZE(step_words));
    return err_set(err, ERR_IO, "cannot start '%s'%s%s%s: %s%s", o->argv[0], at_dir ? " in '" : "",
                   at_dir ? o->cwd : "", at_dir ? "'" : "", step_words[r.step], strerror(r.error));
}

static pid_t fork_child(int pipes[PIPE_COUNT][2], const struct spawn_opts *o, struct report *r)
{
    pid_t parent = getpid();
    sigset_t all, old;
    sigfillset(&all); /* no handler of ours may run in the child: its loop's pipes are ours */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    pid_t pid = fork();
    if (pid == 0)
        run_child(pipes, o, parent);
    *r = (struct report){STEP_SESSION, pid < 0 ? errno : 0};
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return pid;
}

int spawn_process(const struct spawn_opts *o, struct spawned *ret, struct err *err)
{
    int pipes[PIPE_COUNT][2], pidfd = -1;
    struct report r;
    if (open_pipes(pipes, err) != 0)
        return -1;
    pid_t pid = fork_child(pipes, o, &r);
    close_fd(&pipes[IN][0]);
    close_fd(&pipes[OUT][1]);
    close_fd(&pipes[ERRP][1]);
    close_fd(&pipes[REPORT][1]);
    if (!r.error)
        r = read_report(pipes[REPORT][0]);
    if (!r.error && (pidfd = pidfd_for(pid)) < 0) {
        r = (struct report){STEP_SESSION, errno};
        kill(-pid, SIGKILL);
    }
    if (r.error) {
        if (pid > 0)
            reap_failed(pid);
        close_pipes(pipes);
        return spawn_failed(o, r, err);
    }
    close_fd(&pipes[REPORT][0]);
    *ret = (struct spawned){pid, pidfd, pipes[IN][1], pipes[OUT][0], pipes[ERRP][0]};
    fcntl(ret->in, F_SETFL, O_NONBLOCK);
    fcntl(ret->out, F_SETFL, O_NONBLOCK);
    fcntl(ret->errfd, F_SETFL, O_NONBLOCK);
    return 0;
}
