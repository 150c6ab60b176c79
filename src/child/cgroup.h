/* cgroup.h - cgroup v2: one group per process tree, with its limits. Private to child/.
 *
 * The tree, below our own cgroup when we are alone in it and may write to it:
 *
 *   <root>/server                  we ourselves: controllers need a group without processes above
 *   <root>/worker-<our pid>-<id>   one process tree each */
#ifndef CG_CHILD_CGROUP_H
#define CG_CHILD_CGROUP_H

#include "core/err.h"

struct cgroup_limits {
    int64_t memory_bytes, cpu_percent, max_processes; /* 0 = none */
};

struct cgroup;

/* root NULL: ours. NULL + err with a plain reason when no limit that was asked can be set. */
struct cgroup *cgroup_new(const char *root, const struct cgroup_limits *limits, struct err *err);
/* Removes what is left, and undoes what cgroup_new() did to our own cgroup, unless another server
 * shares it. */
void cgroup_free(struct cgroup *g);
/* "memory, processes": what is limited, and what was asked for but is not ("" = nothing). */
const char *cgroup_in_force(const struct cgroup *g);
const char *cgroup_missing(const struct cgroup *g);

/* Makes the group of one process and opens its cgroup.procs, where "0" is written to enter. */
MUST_USE int cgroup_make(struct cgroup *g, unsigned id, char **ret_dir, int *ret_procs,
                         struct err *err);
/* Kills what is in it and removes it; takes dir. What will not go at once is tried again later. */
void cgroup_drop_take(struct cgroup *g, char *dir);

/* Our directory in the hierarchy, from the texts of /proc/self/cgroup and /proc/self/mountinfo.
 * NULL when there is none. */
char *cgroup_locate(const char *self_cgroup, const char *mountinfo);
/* Kills what is in dir and removes it: true when it is gone. Waits a few milliseconds at most. */
MUST_USE bool cgroup_destroy(const char *dir);

#endif
