/* sandbox.h - what a process may see and use: bubblewrap for files and network, rlimits, cgroup v2
 * for memory, CPU and number of processes, and a user of its own.
 *
 * Each part is used where this machine allows it; sandbox_status() says in plain words what is in
 * force. Inside bubblewrap a process has no network, a read-only system, an empty home and /tmp in
 * memory, and of the host only what struct sandbox_job names. Loop thread only. */
#ifndef CG_CHILD_SANDBOX_H
#define CG_CHILD_SANDBOX_H

#include "child/child.h"

enum sandbox_mode {
    SANDBOX_AUTO, /* bubblewrap where it works */
    SANDBOX_ON,   /* refuse to start without it */
    SANDBOX_OFF   /* never bubblewrap; rlimits, cgroup and users still */
};

struct sandbox_opts {
    enum sandbox_mode mode;
    int64_t memory_mb, cpu_percent, max_processes; /* of one process tree, by cgroup; 0 = none */
    int64_t max_open_files, max_file_mb;           /* rlimits; 0 = as inherited */
    const char *uids;    /* "first-last": one user id per process; "" = run as our own user */
    const char *program; /* what will be run: tried out with the first user's eyes; may be NULL */
    const char *cgroup_root; /* NULL: ours, found in /proc/self/cgroup; tests name another */
};

struct sandbox_status {
    bool filesystem; /* bubblewrap is in force */
    bool cgroup;
    bool own_users;
    char summary[160]; /* "bubblewrap, cgroup limits (memory, processes), own users"; "off" when
                          nothing is */
    char reason[300];  /* why not more; "" = everything that was asked is in force */
};

struct sandbox;
/* Blocking (start-up only, before other threads have work): tries everything once. NULL +
 * ERR_CONFIG when mode is ON and bubblewrap does not work, or uids are named and cannot be used.
 * May move this process into a cgroup "server" below its own. Nothing of opts is kept. */
struct sandbox *sandbox_new(const struct sandbox_opts *opts, struct err *err);
void sandbox_free(struct sandbox *s); /* after every sandbox_leave() */
const struct sandbox_status *sandbox_status(const struct sandbox *s);

/* The host's paths for one process. All absolute, none in /usr (every box shows that).
 *
 * With own users the caller sees to it that the user can walk to them: each directory above home,
 * work and socket needs x for others (the one that is only this worker's too; its parts may then be
 * 0700, they are given to the user). */
struct sandbox_job {
    const char *program;       /* absolute */
    const char *home, *work;   /* directories of its own */
    const char *socket;        /* the unix socket it may talk to */
    bool keep_home, keep_work; /* bind the host's directory, writable; else an empty one in
                                  memory (work: read-only and empty) */
};

/* The same as the process will see them: for its argv and environment. Borrowed from s and job. */
struct sandbox_view {
    const char *program, *home, *work, *socket;
};
void sandbox_view(const struct sandbox *s, const struct sandbox_job *job, struct sandbox_view *ret);

/* A process about to be spawned: argv, cwd and confine go into struct child_opts. */
struct sandboxed {
    const char **argv; /* NULL-terminated; the strings of the caller's argv are borrowed */
    const char *cwd;   /* the host's, for chdir before exec */
    struct child_confine confine;
    char *cgroup;  /* its directory, or NULL */
    unsigned slot; /* of the user ids */
    struct sandbox *sandbox;
};
/* `id` names it in the cgroup tree, unlike every other that has not left; argv[0] must be the
 * view's program. Gives socket, home and work, with all they hold, to the process's user when it
 * has one of its own. ERR_UNAVAILABLE when all user ids are in use: have more ids than processes.
 */
MUST_USE int sandbox_enter(struct sandbox *s, unsigned id, const struct sandbox_job *job,
                           const char *const *argv, struct sandboxed *ret, struct err *err);
/* After the process has ended (or was never spawned): kills what its cgroup and its user still
 * have, removes the cgroup, frees. A zeroed struct, or one that sandbox_enter() refused, is fine.
 */
void sandbox_leave(struct sandboxed *p);

/* In bubblewrap the process that is spawned is bubblewrap's; ours runs below it. Its exit status is
 * handed on, a signal that ended it becomes the exit status 128 + signal. Signals to the group
 * reach it, but SIGTERM to the group also ends bubblewrap, and with it everything inside at once.
 */

/* --- what a process and everything below it uses (from /proc) ------------------------------ */
struct child_usage {
    int64_t rss_kb; /* resident memory, summed over the tree */
    int64_t cpu_ms; /* user + system time of what lives, and of the children it has waited for */
    int64_t processes;
};
/* False when it is gone. A few reads per process: for samples, not for each request. */
bool child_usage(const struct child *c, struct child_usage *ret);
/* The same; child_usage() may miss a process that is younger than half a second, this does not. It
 * may have to look at every process of the machine. */
bool child_usage_fresh(const struct child *c, struct child_usage *ret);

#endif
