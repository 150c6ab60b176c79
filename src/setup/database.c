/* database.c - a server that starts together with its database waits for it.
 *
 * Without the database a server could say nothing of any key, and what the day has seen; so it does
 * not serve before it has been there once. Blocking: nothing else runs yet, and a signal ends the
 * process. A wrong password looks like a database that is not ready; the reason is told at once. */
#include "core/clock.h"
#include "core/log.h"
#include "setup/setup.h"

#include <unistd.h>

#define PAUSE_MIN_MS 250
#define PAUSE_MAX_MS 2000

struct db *setup_await_database(const struct conf *conf, struct loop *loop, struct err *err)
{
    int64_t until = clock_mono_ms() + conf->database.start_timeout * 1000, pause_ms = PAUSE_MIN_MS;
    for (bool told = false;;) {
        struct err why;
        struct db *db = setup_open_database(conf, loop, &why);
        int64_t left = until - clock_mono_ms();
        if (db || why.code != ERR_UNAVAILABLE || left <= 0) {
            if (!db && err)
                *err = why;
            return db;
        }
        if (!told)
            log_warn("the database cannot be reached, waiting for it", LF_S("error", why.msg),
                     LF_I("seconds", conf->database.start_timeout));
        told = true;
        usleep((useconds_t)(pause_ms < left ? pause_ms : left) * 1000);
        pause_ms = pause_ms * 2 < PAUSE_MAX_MS ? pause_ms * 2 : PAUSE_MAX_MS;
    }
}
