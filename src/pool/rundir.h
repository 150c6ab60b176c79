/* rundir.h - the directory of one worker: private home, empty working directory, socket.
 * Private to pool/. */
#ifndef CG_POOL_RUNDIR_H
#define CG_POOL_RUNDIR_H

#include "core/err.h"

#include <stdbool.h>

struct rundir {
    char *path, *home, *work, *socket;
};

/* Makes <base>/<name> and its parts, mode 0700. open_path: other users may pass through base and
 * <name> (0711), to what in them is theirs. */
MUST_USE int rundir_make(struct rundir *d, const char *base, const char *name, bool open_path,
                         struct err *err);
void rundir_remove(struct rundir *d); /* deletes it from the disk and releases d */
/* Creates base if needed and deletes everything in it: what an earlier run left. */
MUST_USE int rundir_clean(const char *base, bool open_path, struct err *err);

#endif
