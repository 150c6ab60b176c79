/* serve.c - `claudegate serve`. */
#include "app.h"
#include "cmd/cmd.h"

static void usage(FILE *out)
{
    fputs(
        "Usage: claudegate serve [--config FILE] [--bootstrap] [--demo]\n\n"
        "  --config FILE  the YAML file (default: the variable CLAUDEGATE_CONFIG, or none)\n"
        "  --bootstrap    when there is no user yet: make the first administrator and API key,\n"
        "                 and print them once\n"
        "  --demo         without an Anthropic credential: answer from a built-in demo upstream\n\n"
        "SIGTERM finishes running turns and exits 0; SIGHUP reopens the log files.\n",
        out);
}

int cmd_serve(int argc, char **argv)
{
    struct app_opts o = {0};
    const char *path = NULL;
    const struct cmd_option options[] = {{"config", 'c', &path, NULL},
                                         {"bootstrap", 'b', NULL, &o.bootstrap},
                                         {"demo", 'd', NULL, &o.demo},
                                         {0}};
    int rc = cmd_options(argc, argv, options, 0, 0, usage);
    if (rc != CMD_GO_ON)
        return rc;
    struct conf *conf = cmd_load_conf(path);
    if (!conf)
        return 1;
    o.conf = conf;
    int status = app_run(&o);
    conf_free(conf);
    return status;
}
