/* users.h - a range of user ids of which each process gets one for itself. Private to child/. */
#ifndef CG_CHILD_USERS_H
#define CG_CHILD_USERS_H

#include "core/err.h"

#include <sys/types.h>

#define USERS_MAX 65536 /* of a larger range the first so many are used */

struct users {
    uid_t first;
    unsigned count, in_use;
    unsigned cursor; /* the next slot to look at: an id rests as long as possible before reuse */
    bool *taken;
};

/* "first-last". -1 + ERR_CONFIG naming the setting, also when we may not change users. */
MUST_USE int users_init(struct users *u, const char *range, struct err *err);
void users_release(struct users *u);
uid_t users_id(const struct users *u, unsigned slot);
/* ERR_UNAVAILABLE when all are in use. */
MUST_USE int users_take(struct users *u, unsigned *ret_slot, struct err *err);
void users_give_back(struct users *u, unsigned slot);

/* Is every directory above path open to this user? False: ret_blocked is the first that is not.
 * Goes by mode bits: it explains what the kernel will refuse, it does not decide. */
bool users_can_reach(uid_t id, const char *path, char *ret_blocked, size_t size);
/* Makes path and, in a directory, everything in it the user's. Follows no links. */
MUST_USE int users_own(uid_t id, const char *path, struct err *err);
/* SIGKILL to every process of this user. False when that could not be done. */
MUST_USE bool users_kill(uid_t id);

#endif
