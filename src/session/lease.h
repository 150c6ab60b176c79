/* lease.h - which server of a fleet works on a session right now.
 *
 * A lease is taken for one turn and given back when it has ended, not kept while the session's
 * worker is warm: a server that is killed then holds up only what it was working on, for
 * LEASE_TTL_MS. That a warm worker and a cached conversation are still good is known from the row's
 * version, so nothing rests on a lease that was lost: it only keeps two servers from doing the same
 * work. In a single server, and while Redis is away, there are none. */
#ifndef CG_SESSION_LEASE_H
#define CG_SESSION_LEASE_H

#include "core/list.h"
#include "shared/shared.h"

#define LEASE_TTL_MS 10000

struct leases;
/* me: this server's name; must outlive it. shared NULL: a single server. */
struct leases *leases_new(struct loop *loop, struct shared *shared, const char *me);
void leases_free(struct leases *ls); /* what is asked then is never answered; NULL is fine */

struct lease { /* zeroed at first; embedded in its owner */
    char name[SHARED_NAME_MAX + 1];
    struct node node;
};
/* For the session `id` of `owner`; a stranger's lease on the same id is another one. */
void lease_name(struct lease *l, const char *id, const char *owner);
/* done: mine, or somebody else's; true as well where there are no leases. May run at once. A holder
 * that is about to give it back is waited for. */
typedef void lease_done_fn(void *ctx, bool mine);
void lease_take(struct leases *ls, struct lease *l, lease_done_fn *done, void *ctx);
void lease_give(struct leases *ls, struct lease *l); /* one that is not held is fine */

#endif
