/* migrate.c - `claudegate migrate`: which steps of the schema the database has, and applying those
 * it lacks. `serve` and every subcommand that opens the database do that themselves; this is for
 * those who want it to happen by itself, with a role of its own, before new servers start. */
#include "cmd/cmd.h"
#include "core/clock.h"
#include "setup/setup.h"

#include <getopt.h>

static void usage(FILE *out)
{
    fputs("Usage: claudegate migrate status|up [--config FILE]\n\n"
          "  status  lists the steps of the schema, applied or pending;\n"
          "          exits with 1 when one is pending\n"
          "  up      applies what is pending\n",
          out);
}

struct listing {
    int pending;
};

static void print_one(void *ctx, int version, const char *name, int64_t applied_at)
{
    struct listing *l = ctx;
    char when[CLOCK_RFC3339_SIZE];
    l->pending += applied_at == 0;
    printf("%04d_%-20s  %s%s\n", version, name, applied_at ? "applied " : "pending",
           applied_at ? clock_rfc3339(applied_at, when) : "");
}

static int migrate(const struct conf *conf, bool apply)
{
    struct listing l = {0};
    struct err err;
    struct db_opts opts = setup_database(conf);
    int failed = db_migrations(&opts, apply, print_one, &l, &err);
    setup_free_database(&opts);
    if (failed)
        fprintf(stderr, "claudegate: %s\n", err.msg);
    return failed || l.pending ? 1 : 0;
}

int cmd_migrate(int argc, char **argv)
{
    const char *config = NULL;
    const struct cmd_option options[] = {{"config", 'c', &config, NULL}, {0}};
    int rc = cmd_options(argc, argv, options, 1, 1, usage);
    if (rc != CMD_GO_ON)
        return rc;
    bool up = strcmp(argv[optind], "up") == 0;
    if (!up && strcmp(argv[optind], "status") != 0) {
        usage(stderr);
        return 2;
    }
    struct conf *conf = cmd_load_conf(config);
    if (!conf)
        return 1;
    rc = migrate(conf, up);
    conf_free(conf);
    return rc;
}
