/* setup.h - what the start of the server and the subcommands share: where the database is, and
 * waiting for a store's answer where no loop runs yet. */
#ifndef CG_SETUP_SETUP_H
#define CG_SETUP_SETUP_H

#include "conf/conf.h"
#include "core/loop.h"
#include "db/db.h"
#include "shared/shared.h"
#include "vault/vault.h"

/* Where the database is: "sqlite:<data_dir>/claudegate.db" unless database.url says otherwise. The
 * URL is owned by the caller: setup_free_database(). */
struct db_opts setup_database(const struct conf *conf);
void setup_free_database(struct db_opts *opts); /* it holds a password: wiped */
/* Opens that. NULL + err on failure. */
struct db *setup_open_database(const struct conf *conf, struct loop *loop, struct err *err);
/* The same, but one that cannot be reached is tried again for database.start_timeout. Blocking. */
struct db *setup_await_database(const struct conf *conf, struct loop *loop, struct err *err);

/* What this server shares with others: Redis, or the memory of this process. Waits a moment for
 * Redis to answer; one that is away is no error. */
struct shared *setup_open_shared(const struct conf *conf, struct loop *loop, struct err *err);

/* The master keys of the settings, read from their file if they stand in one; without any, a vault
 * that seals nothing. NULL + err: unreadable, or not keys. */
struct vault *setup_open_vault(const struct conf *conf, struct err *err);

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
