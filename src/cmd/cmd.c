/* cmd.c - what subcommands share: configuration, database, waiting for an answer. */
#include "cmd/cmd.h"

#include <errno.h>
#include <sys/stat.h>

#define ERRORS_MAX ((size_t)1 << 20)

struct conf *cmd_load_conf(const char *path)
{
    struct buf errors;
    struct conf *conf = NULL;
    const char *from_env = getenv("CLAUDEGATE_CONFIG");
    if (!path && from_env && from_env[0])
        path = from_env;
    buf_init(&errors, ERRORS_MAX);
    if (conf_load(path, NULL, &conf, &errors) != 0)
        fputs(buf_cstr(&errors), stderr);
    buf_release(&errors);
    return conf;
}

char *cmd_database_url(const struct conf *conf)
{
    return conf->database.url[0] ? x_strdup(conf->database.url)
                                 : x_printf("sqlite:%s/claudegate.db", conf->data_dir);
}

int cmd_open_db(const struct conf *conf, struct loop **ret_loop, struct db **ret_db)
{
    struct err err;
    char *url = cmd_database_url(conf);
    struct loop *loop = loop_new();
    struct db *db = NULL;
    if (mkdir(conf->data_dir, 0700) != 0 && errno != EEXIST)
        err_set(&err, ERR_IO, "cannot create '%s': %s", conf->data_dir, strerror(errno));
    else
        db = db_open(loop, url, &err);
    free(url);
    if (!db) {
        fprintf(stderr, "claudegate: %s\n", err.msg);
        loop_free(loop);
        return -1;
    }
    *ret_loop = loop;
    *ret_db = db;
    return 0;
}

void cmd_close_db(struct loop *loop, struct db *db)
{
    db_close(db);
    loop_free(loop);
}

void cmd_answered(struct cmd_wait *w, const struct err *err)
{
    w->answered = true;
    w->failed = err != NULL;
    if (err)
        w->err = *err;
    loop_stop(w->loop);
}

int cmd_wait_run(struct cmd_wait *w)
{
    while (!w->answered)
        loop_run(w->loop);
    if (!w->failed)
        return 0;
    fprintf(stderr, "claudegate: %s\n", w->err.msg);
    return -1;
}

bool cmd_parse_limit(const char *option, const char *text, int64_t *ret_value)
{
    uint64_t v;
    if (strcmp(text, "unlimited") == 0) {
        *ret_value = -1;
        return true;
    }
    if (!str_to_u64(str_c(text), &v) || v > INT32_MAX) {
        fprintf(stderr,
                "claudegate: --%s: must be a whole number from 0 to %d, or 'unlimited'; got '%s'\n",
                option, INT32_MAX, text);
        return false;
    }
    *ret_value = (int64_t)v;
    return true;
}
