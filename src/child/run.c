/* run.c - one process from start to end, for subcommands and checks at start-up, where nothing else
 * has to go on meanwhile. What it leaves behind in its group is killed with it. */
#include "child/run.h"

#include "core/clock.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#define DRAIN_TURNS 64 /* chunks read at a time: more than a pipe of the usual size holds */

/* Takes what can be read now; out NULL: nobody wants it. */
static void take_output(int *fd, struct buf *out)
{
    char chunk[4096];
    for (int i = 0; i < DRAIN_TURNS && *fd >= 0; i++) {
        ssize_t n = read(*fd, chunk, sizeof(chunk));
        if (n > 0 && out)
            buf_add(out, chunk, (size_t)n);
        else if (n == 0)
            close_fd(fd);
        else if (n < 0 && errno != EINTR)
            return;
    }
}

/* Until the process has ended, whoever else holds its pipes; false at the deadline. */
static bool run_to_end(struct spawned *sp, int64_t deadline_ms, struct buf *out, struct buf *errout)
{
    for (;;) {
        struct pollfd p[] = {{.fd = sp->pidfd, .events = POLLIN},
                             {.fd = sp->out, .events = POLLIN},
                             {.fd = sp->errfd, .events = POLLIN}};
        int64_t left = deadline_ms - clock_mono_ms();
        if (left <= 0 || (poll(p, ARRAY_SIZE(p), (int)left) < 0 && errno != EINTR))
            return false;
        take_output(&sp->out, out);
        take_output(&sp->errfd, errout);
        if (p[0].revents)
            return true;
    }
}

int run_process(const struct spawn_opts *o, int64_t timeout_ms, struct buf *out, struct buf *errout,
                struct err *err)
{
    struct spawned sp;
    int status = 0;
    if (spawn_process(o, &sp, err) != 0)
        return -1;
    close(sp.in);
    bool ended = run_to_end(&sp, clock_mono_ms() + timeout_ms, out, errout);
    kill(-sp.pid, SIGKILL); /* it, or what it left behind */
    close_fd(&sp.out);
    close_fd(&sp.errfd);
    while (waitpid(sp.pid, &status, 0) < 0 && errno == EINTR)
        ;
    close(sp.pidfd);
    if (!ended)
        return err_set(err, ERR_IO, "'%s' did not finish within %lld ms", o->argv[0],
                       (long long)timeout_ms);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return err_set(err, ERR_IO, "'%s' failed (%s %d)", o->argv[0],
                       WIFEXITED(status) ? "exit status" : "signal",
                       WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
    return 0;
}

int child_run(const char *const *argv, const char *const *envp, int64_t timeout_ms, struct buf *out,
              struct err *err)
{
    struct spawn_opts o = {.argv = argv, .envp = envp};
    return run_process(&o, timeout_ms, out, NULL, err);
}
