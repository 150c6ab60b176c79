/* app.h - the running server: builds every module once and is the only file that knows all. */
#ifndef CG_APP_H
#define CG_APP_H

#include "conf/conf.h"

struct app_opts {
    const struct conf *conf;
    bool bootstrap; /* first start: make the first administrator and key, print them once */
    bool demo;      /* without a credential: the built-in demo upstream */
};

/* Serves until SIGTERM or SIGINT; the exit status. Says on stderr why it could not. */
int app_run(const struct app_opts *opts);

#endif
