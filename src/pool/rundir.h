/* rundir.h - the directory of one worker: private home, empty working directory, socket.
 * Private to pool/. */
#ifndef CG_POOL_RUNDIR_H
#define CG_POOL_RUNDIR_H

#include "core/err.h"

struct rundir {
    char *path, *home, *work, *socket;
};

/* Makes <base>/<name> with mode 0700 and its parts. */
MUST_USE int rundir_make(struct rundir *d, const char *base, const char *name, struct err *err);
void rundir_remove(struct rundir *d); /* deletes it from the disk and releases d */
/* Creates base if needed and deletes everything in it: what an earlier run left. */
MUST_USE int rundir_clean(const char *base, struct err *err);

#endif
