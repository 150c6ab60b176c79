/* rundir.h - the directories of the workers: private home, empty working directory, socket.
 * Private to pool/. */
#ifndef CG_POOL_RUNDIR_H
#define CG_POOL_RUNDIR_H

#include "core/err.h"
#include "core/loop.h"

struct rundirs; /* the directory that holds them, and the thread that empties what is given up */

/* Creates base if needed and begins to remove everything in it: what an earlier run left. Only a
 * base that cannot be made is an error. open_path: other users may pass through base and the
 * directories of workers (0711), to what in them is theirs. */
MUST_USE struct rundirs *rundirs_new(struct loop *loop, const char *base, bool open_path,
                                     struct err *err);
/* Waits some seconds for what is being removed; the next start finds the rest. */
void rundirs_free(struct rundirs *r);

struct rundir {
    struct rundirs *all; /* set by the owner before rundir_make(); the rest is zero */
    char *path, *home, *work, *socket;
};

/* Makes <base>/<name> and its parts, mode 0700 but for open_path; nothing of it was there before:
 * where the name is taken by what could not be moved away, a similar one is used. */
MUST_USE int rundir_make(struct rundir *d, const char *name, struct err *err);
void rundir_remove(struct rundir *d); /* frees the name and d at once, the disk soon */

#endif
