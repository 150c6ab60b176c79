/* child.h - one process that talks in lines: start it, feed it, learn how it ended.
 *
 * Life: child_spawn() -> any number of line() -> exactly one ended() -> child_free().
 * A child has ended when its output reached EOF *and* the kernel reported its exit; the two
 * arrive in either order, with a deadline on the EOF (a grandchild may hold the pipe). No
 * callback runs before child_spawn() returned or inside another child_*() call.
 *
 * The child leads a session and process group of its own, dies with us (PR_SET_PDEATHSIG), has
 * only descriptors 0-2, default signal handlers, and exactly the environment given. */
#ifndef CG_CHILD_CHILD_H
#define CG_CHILD_CHILD_H

#include "core/buf.h"
#include "core/err.h"
#include "core/loop.h"

#include <sys/types.h>

struct child;

struct child_exit {
    bool signaled;
    int code;               /* exit status, or the signal's number */
    bool output_cut;        /* the pipe was still held at the deadline */
    struct str stderr_tail; /* last bytes it wrote there; borrowed, until child_free() */
};

struct child_ops {
    /* One line of stdout without its newline; borrowed for the call. */
    void (*line)(void *ctx, struct str line);
    /* A line longer than line_max: nothing more is read; the owner should stop the child. */
    void (*overflow)(void *ctx);
    void (*ended)(void *ctx, const struct child_exit *how);
};

/* What is done to the process between fork and exec (see sandbox.h, which fills it in). */
struct child_confine {
    uid_t uid; /* 0 = stay who we are; else this user and group, and no other groups */
    gid_t gid;
    int cgroup_procs; /* an open cgroup.procs to enter, or -1; borrowed */
    int64_t max_open_files,
        max_file_bytes; /* rlimits; 0 = as inherited; never above the hard one */
    bool no_new_privs;  /* exec gives no rights: set-user-id files mean nothing below it */
};

struct child_opts {
    const char *const *argv; /* NULL-terminated; argv[0] is the path */
    const char *const *envp; /* NULL-terminated, complete */
    const char *cwd;
    const struct child_confine *confine; /* NULL = none; borrowed for the call */
    size_t line_max;                     /* bytes of one stdout line */
    size_t stdin_max;                    /* bytes queued towards its stdin */
    size_t stderr_tail;                  /* bytes of stderr kept */
    int64_t eof_deadline_ms;             /* from exit to EOF */
    const struct child_ops *ops;
    void *ctx;
};

/* NULL + err (ERR_IO) when it cannot be started: no callback will run. */
struct child *child_spawn(struct loop *loop, const struct child_opts *opts, struct err *err);
pid_t child_pid(const struct child *c);
/* False once the kernel knows of its exit, even if the loop has not heard of it yet. */
bool child_alive(const struct child *c);
/* Queues bytes for stdin. -1 when the queue is full; a child that closed its stdin swallows them
 * (its exit tells). */
MUST_USE int child_write(struct child *c, struct str data, struct err *err);
size_t child_write_pending(const struct child *c);
/* To the whole group; nothing after the exit was seen. */
void child_signal(struct child *c, int sig);
/* SIGTERM now, SIGKILL after grace_ms. */
void child_stop(struct child *c, int64_t grace_ms);
struct str child_stderr_tail(const struct child *c);
/* After ended() only; may be called inside ended(), the memory goes on the next loop turn. */
void child_free(struct child *c);

/* Blocking helper for subcommands and start-up checks: runs argv to its end (or kills it after
 * timeout_ms), stdin empty; stdout into out. 0 when it exited with status 0. */
MUST_USE int child_run(const char *const *argv, const char *const *envp, int64_t timeout_ms,
                       struct buf *out, struct err *err);

#endif
