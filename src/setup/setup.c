/* setup.c - see the header. */
#include "setup/setup.h"

#include <sodium.h>

struct db_opts setup_database(const struct conf *conf)
{
    return (struct db_opts){.url = conf->database.url[0]
                                       ? x_strdup(conf->database.url)
                                       : x_printf("sqlite:%s/claudegate.db", conf->data_dir),
                            .pool_size = (int)conf->database.pool_size,
                            .connect_timeout_ms = conf->database.connect_timeout_ms,
                            .query_timeout_ms = conf->database.query_timeout_ms};
}

void setup_free_database(struct db_opts *opts)
{
    char *url = (char *)opts->url;
    sodium_memzero(url, strlen(url));
    free(url);
    opts->url = NULL;
}

struct db *setup_open_database(const struct conf *conf, struct loop *loop, struct err *err)
{
    struct db_opts opts = setup_database(conf);
    struct db *db = db_open_with(loop, &opts, err);
    setup_free_database(&opts);
    return db;
}

void setup_answered(struct setup_wait *w, const struct err *err)
{
    w->answered = true;
    w->failed = err != NULL;
    if (err)
        w->err = *err;
    loop_stop(w->loop);
}

int setup_wait(struct setup_wait *w)
{
    while (!w->answered)
        loop_run(w->loop);
    if (!w->failed)
        return 0;
    fprintf(stderr, "claudegate: %s\n", w->err.msg);
    return -1;
}
