/* serve.c - `claudegate serve`. */
#include "app.h"
#include "cmd/cmd.h"

#include <getopt.h>

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
    static const struct option options[] = {{"config", required_argument, NULL, 'c'},
                                            {"bootstrap", no_argument, NULL, 'b'},
                                            {"demo", no_argument, NULL, 'd'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    struct app_opts o = {0};
    const char *path = NULL;
    int c;
    while ((c = getopt_long(argc, argv, "c:bdh", options, NULL)) != -1) {
        switch (c) {
        case 'c':
            path = optarg;
            break;
        case 'b':
            o.bootstrap = true;
            break;
        case 'd':
            o.demo = true;
            break;
        case 'h':
            usage(stdout);
            return 0;
        default:
            usage(stderr);
            return 2;
        }
    }
    if (optind != argc) {
        usage(stderr);
        return 2;
    }
    struct conf *conf = cmd_load_conf(path);
    if (!conf)
        return 1;
    o.conf = conf;
    int status = app_run(&o);
    conf_free(conf);
    return status;
}
