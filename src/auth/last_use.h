/* last_use.h - when keys were used last: gathered, and written to the database many at once.
 * Private to auth/. */
#ifndef CG_AUTH_LAST_USE_H
#define CG_AUTH_LAST_USE_H

#include "core/loop.h"
#include "store/store.h"

struct last_use;
struct last_use *last_use_new(struct loop *loop, struct db *db);
void last_use_free(struct last_use *u); /* writes what it has */
/* Now; written within delay_ms. */
void last_use_note(struct last_use *u, const char *key_id, int64_t delay_ms);

#endif
