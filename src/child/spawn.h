/* spawn.h - fork and exec with nothing inherited but what is named. Private to child/. */
#ifndef CG_CHILD_SPAWN_H
#define CG_CHILD_SPAWN_H

#include "child/child.h"

struct spawn_opts {
    const char *const *argv, *const *envp; /* NULL-terminated */
    const char *cwd;                       /* NULL = ours */
    const struct child_confine *confine;   /* NULL = none */
};

struct spawned {
    pid_t pid;
    int pidfd;
    int in, out, errfd; /* our ends: write, read, read; non-blocking, close-on-exec */
};

MUST_USE int spawn_process(const struct spawn_opts *o, struct spawned *ret, struct err *err);

void close_fd(int *fd); /* and makes it -1; fine with one that is */

#endif
