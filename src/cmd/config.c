/* config.c - `claudegate config check|show|reference`. */
#include "cmd/cmd.h"

#include <unistd.h>

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
    const char *path = NULL;
    const struct cmd_option options[] = {{"config", 'c', &path, NULL}, {0}};
    int rc = cmd_options(argc, argv, options, 1, 1, usage);
    if (rc != CMD_GO_ON)
        return rc;
    const char *what = argv[optind];
    if (strcmp(what, "check") == 0)
        return show(path, false);
    if (strcmp(what, "show") == 0)
        return show(path, true);
    if (strcmp(what, "reference") == 0)
        return reference();
    usage(stderr);
    return 2;
}
