/* config.c - `claudegate config check|show|reference`. */
#include "cmd/cmd.h"

#include <getopt.h>

#define OUTPUT_MAX ((size_t)4 << 20)

static void usage(FILE *out)
{
    fputs("Usage: claudegate config check|show|reference [--config FILE]\n\n"
          "  check      read file and environment, report every error\n"
          "  show       print the settings in force and where each comes from; no secrets\n"
          "  reference  print all settings as a Markdown table\n\n"
          "  --config FILE  the YAML file (default: the variable CLAUDEGATE_CONFIG, or none)\n",
          out);
}

static int show(const char *path, bool print)
{
    struct conf *conf = cmd_load_conf(path);
    if (!conf)
        return 1;
    if (print) {
        struct buf b;
        buf_init(&b, OUTPUT_MAX);
        conf_show(conf, &b);
        fputs(buf_cstr(&b), stdout);
        buf_release(&b);
    } else {
        puts("The configuration is valid.");
    }
    conf_free(conf);
    return 0;
}

static int reference(void)
{
    struct buf b;
    buf_init(&b, OUTPUT_MAX);
    conf_write_reference(&b);
    fputs(buf_cstr(&b), stdout);
    buf_release(&b);
    return 0;
}

int cmd_config(int argc, char **argv)
{
    static const struct option options[] = {
        {"config", required_argument, NULL, 'c'}, {"help", no_argument, NULL, 'h'}, {0}};
    const char *path = NULL;
    int c;
    while ((c = getopt_long(argc, argv, "c:h", options, NULL)) != -1) {
        if (c == 'h') {
            usage(stdout);
            return 0;
        }
        if (c != 'c') {
            usage(stderr);
            return 2;
        }
        path = optarg;
    }
    const char *what = optind + 1 == argc ? argv[optind] : "";
    if (strcmp(what, "check") == 0)
        return show(path, false);
    if (strcmp(what, "show") == 0)
        return show(path, true);
    if (strcmp(what, "reference") == 0)
        return reference();
    usage(stderr);
    return 2;
}
