/* setup.h - what the start of the server and the subcommands share: where the database is, and
 * waiting for a store's answer where no loop runs yet. */
#ifndef CG_SETUP_SETUP_H
#define CG_SETUP_SETUP_H

#include "conf/conf.h"
#include "core/loop.h"

/* "sqlite:<data_dir>/claudegate.db" unless database.url says otherwise; owned by the caller. */
char *setup_database_url(const struct conf *conf);

/* A store callback's answer, waited for: pass its address as ctx, call setup_answered() from the
 * callback, and setup_wait() after having submitted. */
struct setup_wait {
    struct loop *loop;
    bool answered, failed;
    struct err err;
};
void setup_answered(struct setup_wait *w, const struct err *err);
/* Runs the loop until the answer is there. -1 after having printed the error to stderr. */
MUST_USE int setup_wait(struct setup_wait *w);

#endif
