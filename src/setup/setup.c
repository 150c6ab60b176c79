/* setup.c - see the header. */
#include "setup/setup.h"

char *setup_database_url(const struct conf *conf)
{
    return conf->database.url[0] ? x_strdup(conf->database.url)
                                 : x_printf("sqlite:%s/claudegate.db", conf->data_dir);
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
