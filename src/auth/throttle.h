/* throttle.h - addresses that try keys: after auth.max_failures refused ones in a minute an address
 * has to wait.
 *
 * A place is an IPv4 address or the first 64 bits of an IPv6 one, because whoever has one address
 * there has them all. Counted here, and together with other servers where Redis is shared (while
 * that is away each server counts for itself). It forgets evenly: max_failures per minute. */
#ifndef CG_AUTH_THROTTLE_H
#define CG_AUTH_THROTTLE_H

#include "core/loop.h"
#include "shared/shared.h"

struct throttle;
struct throttle *throttle_new(struct shared *shared, int64_t max_failures); /* 0: never waits */
void throttle_free(struct throttle *t); /* before the shared store is closed; NULL is fine */

/* How long this address has to wait before a key of it is looked at; 0 = not. */
int64_t throttle_wait_ms(struct throttle *t, const char *address);
void throttle_failed(struct throttle *t, const char *address);

/* "192.0.2.7" or "2001:db8:0:1::/64"; what is no address stays as it is. Returns out. */
#define THROTTLE_PLACE_SIZE 56
const char *throttle_place(const char *address, char out[THROTTLE_PLACE_SIZE]);

#endif
