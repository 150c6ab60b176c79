/* first_start.h - what a new database needs before anybody can use it: an administrator and a key.
 */
#ifndef CG_SETUP_FIRST_START_H
#define CG_SETUP_FIRST_START_H

#include "conf/conf.h"
#include "core/loop.h"
#include "store/store.h"

struct first_start { /* both "" unless this call made them; they cannot be read again */
    char admin_password[32];
    char key[KEY_TEXT_SIZE];
};
/* Makes the user "admin" and the first key when there is no user yet. Of several servers that begin
 * on one database one does. Blocking. -1 after having printed why not. */
MUST_USE int setup_first_start(const struct conf *conf, struct loop *loop, struct db *db,
                               struct first_start *ret_first);

#endif
