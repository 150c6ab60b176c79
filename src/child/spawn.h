/* spawn.h - fork and exec with nothing inherited but what is named. Private to child/. */
#ifndef CG_CHILD_SPAWN_H
#define CG_CHILD_SPAWN_H

#include "core/err.h"

#include <sys/types.h>

struct spawned {
    pid_t pid;
    int pidfd;
    int in, out, errfd; /* our ends: write, read, read; non-blocking, close-on-exec */
};

MUST_USE int spawn_process(const char *const *argv, const char *const *envp, const char *cwd,
                           struct spawned *ret, struct err *err);

#endif
