/* cmd.c - what subcommands share: configuration, database, waiting for an answer. */
#include "cmd/cmd.h"
#include "setup/setup.h"

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

int cmd_open_db(const struct conf *conf, struct loop **ret_loop, struct db **ret_db)
{
    struct err err;
    char *url = setup_database_url(conf);
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
