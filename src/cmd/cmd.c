/* cmd.c - what subcommands share: options, configuration, database. */
#include "cmd/cmd.h"
#include "setup/setup.h"

#include <errno.h>
#include <getopt.h>
#include <sys/stat.h>

#define ERRORS_MAX  ((size_t)1 << 20)
#define OPTIONS_MAX 32
#define VALUE_BASE  256 /* above every letter */

/* What getopt_long() wants, made from our rows: the value of an option is its row's number. */
struct getopt_tables {
    struct option longs[OPTIONS_MAX + 2];
    char shorts[OPTIONS_MAX * 2 + 2];
};

static void fill_tables(const struct cmd_option *options, struct getopt_tables *t)
{
    size_t n = 0, k = 0;
    for (const struct cmd_option *o = options; o->name; o++) {
        BUG_ON(n == OPTIONS_MAX);
        t->longs[n] = (struct option){o->name, o->text ? required_argument : no_argument, NULL,
                                      VALUE_BASE + (int)n};
        n++;
        if (o->letter)
            t->shorts[k++] = o->letter;
        if (o->letter && o->text)
            t->shorts[k++] = ':';
    }
    t->longs[n] = (struct option){"help", no_argument, NULL, 'h'};
    t->shorts[k] = 'h';
}

static const struct cmd_option *find_option(const struct cmd_option *options, int c)
{
    if (c >= VALUE_BASE)
        return &options[c - VALUE_BASE];
    while (options->name && options->letter != c)
        options++;
    return options->name ? options : NULL;
}

int cmd_options(int argc, char **argv, const struct cmd_option *options, int min, int max,
                cmd_usage_fn *usage)
{
    struct getopt_tables t = {0};
    int c;
    fill_tables(options, &t);
    while ((c = getopt_long(argc, argv, t.shorts, t.longs, NULL)) != -1) {
        const struct cmd_option *o = find_option(options, c);
        if (!o) {
            usage(c == 'h' ? stdout : stderr);
            return c == 'h' ? 0 : 2;
        }
        if (o->text)
            *o->text = optarg;
        else
            *o->flag = true;
    }
    if (argc - optind >= min && argc - optind <= max)
        return CMD_GO_ON;
    usage(stderr);
    return 2;
}

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
    struct loop *loop = loop_new();
    struct db *db = NULL;
    if (mkdir(conf->data_dir, 0700) != 0 && errno != EEXIST)
        err_set(&err, ERR_IO, "cannot create '%s': %s", conf->data_dir, strerror(errno));
    else
        db = setup_open_database(conf, loop, &err);
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
