/* bwrap.h - the command line of bubblewrap. Private to child/. */
#ifndef CG_CHILD_BWRAP_H
#define CG_CHILD_BWRAP_H

#include "child/sandbox.h"

/* What a process sees instead of the host's paths. */
#define BWRAP_PROGRAM "/cc/claude"
#define BWRAP_HOME    "/home/w"
#define BWRAP_WORK    "/work"
#define BWRAP_SOCKET  "/run/relay.sock"

#define BWRAP_DIRS 6 /* of the root directory, beside /usr */

struct bwrap {
    char *path; /* of bubblewrap; NULL = there is none */
    bool setuid;
    bool basic; /* an older one: without limits of size and without closing user namespaces */
    struct {
        char *path, *target; /* target: it is a symbolic link; NULL = a directory */
    } dirs[BWRAP_DIRS];
    size_t dir_count;
};

void bwrap_init(struct bwrap *b); /* finds it, and looks at the system's directories */
void bwrap_release(struct bwrap *b);
/* bwrap's own argv followed by argv; strings are borrowed from b, job and argv. Owned: free(). */
const char **bwrap_argv(const struct bwrap *b, const struct sandbox_job *job,
                        const char *const *argv);
/* Runs a small program in the box, which must see `program` (may be NULL) as executable. Drops to
 * the basic form when only that works. -1: err says why neither does. */
MUST_USE int bwrap_probe(struct bwrap *b, const char *program, const struct child_confine *confine,
                         struct err *err);

#endif
