/* spawn.c - starts a process.
 *
 * fork() rather than posix_spawn(): PR_SET_PDEATHSIG has to be set between fork and exec. Between
 * the two only async-signal-safe calls are made. A failing exec is reported as an errno through
 * a close-on-exec pipe, so the caller knows at once and by name. */
#include "child/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define REPORT_FD 3 /* where the child finds the errno pipe */

enum { IN, OUT, ERRP, REPORT, PIPE_COUNT };

static void close_fd(int *fd)
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

static noreturn void fail(int report)
{
    int e = errno;
    if (write(report, &e, sizeof(e)) < 0)
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

static noreturn void run_child(int pipes[PIPE_COUNT][2], const char *const *argv,
                               const char *const *envp, const char *cwd, pid_t parent)
{
    int report = pipes[REPORT][1];
    struct rlimit no_core = {0, 0};
    reset_signals();
    if (setsid() < 0 || prctl(PR_SET_PDEATHSIG, SIGKILL) != 0)
        fail(report);
    if (getppid() != parent) /* it died before prctl */
        _exit(126);
    if (!place_fds(pipes, &report))
        fail(report);
    if (setrlimit(RLIMIT_CORE, &no_core) != 0 || (cwd && chdir(cwd) != 0))
        fail(REPORT_FD);
    execve(argv[0], (char *const *)(uintptr_t)argv, (char *const *)(uintptr_t)envp);
    fail(REPORT_FD);
}

/* 0 when exec succeeded: the pipe closed without a word. */
static int read_report(int fd)
{
    int e = 0;
    ssize_t n;
    do {
        n = read(fd, &e, sizeof(e));
    } while (n < 0 && errno == EINTR);
    return n == (ssize_t)sizeof(e) ? e : 0;
}

static int pidfd_for(pid_t pid)
{
    return (int)syscall(SYS_pidfd_open, pid, 0);
}

int spawn_process(const char *const *argv, const char *const *envp, const char *cwd,
                  struct spawned *ret, struct err *err)
{
    int pipes[PIPE_COUNT][2];
    if (open_pipes(pipes, err) != 0)
        return -1;
    pid_t parent = getpid();
    sigset_t all, old;
    sigfillset(&all); /* no handler of ours may run in the child: its loop's pipes are ours */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    pid_t pid = fork();
    if (pid == 0)
        run_child(pipes, argv, envp, cwd, parent);
    int e = pid < 0 ? errno : 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    close_fd(&pipes[IN][0]);
    close_fd(&pipes[OUT][1]);
    close_fd(&pipes[ERRP][1]);
    close_fd(&pipes[REPORT][1]);
    if (!e)
        e = read_report(pipes[REPORT][0]);
    int pidfd = e ? -1 : pidfd_for(pid);
    if (!e && pidfd < 0) {
        e = errno;
        kill(-pid, SIGKILL);
    }
    if (e) {
        if (pid > 0)
            waitpid(pid, NULL, 0);
        close_pipes(pipes);
        return err_set(err, ERR_IO, "cannot start '%s'%s%s%s: %s", argv[0], cwd ? " in '" : "",
                       cwd ? cwd : "", cwd ? "'" : "", strerror(e));
    }
    close_fd(&pipes[REPORT][0]);
    *ret = (struct spawned){pid, pidfd, pipes[IN][1], pipes[OUT][0], pipes[ERRP][0]};
    fcntl(ret->in, F_SETFL, O_NONBLOCK);
    fcntl(ret->out, F_SETFL, O_NONBLOCK);
    fcntl(ret->errfd, F_SETFL, O_NONBLOCK);
    return 0;
}
