/* main.c - arguments: finds the subcommand and hands over. */
#include "cmd/cmd.h"
#include "core/id.h"

#include <signal.h>

static int cmd_version(int argc, char **argv)
{
    if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        puts("Usage: claudegate version");
        return 0;
    }
    if (argc > 1) {
        fputs("Usage: claudegate version\n", stderr);
        return 2;
    }
    puts("claudegate " CG_VERSION);
    return 0;
}

static const struct {
    const char *name;
    cmd_fn *run;
    const char *what;
} commands[] = {
    {"serve", cmd_serve, "run the server"},
    {"key", cmd_key, "create, list or revoke API keys"},
    {"user", cmd_user, "create users"},
    {"workers", cmd_workers, "show the running server's workers, or retire them"},
    {"config", cmd_config, "check or show the configuration"},
    {"migrate", cmd_migrate, "show or apply the steps of the database's schema"},
    {"vault", cmd_vault, "show or change the master keys that seal the database"},
    {"doctor", cmd_doctor, "say what is missing on this machine"},
    {"version", cmd_version, "print the version"},
};

static void usage(FILE *out)
{
    fputs("Usage: claudegate COMMAND [OPTIONS]\n\n"
          "Turns the claude command line program into a multi-tenant HTTP API.\n\nCommands:\n",
          out);
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
        fprintf(out, "  %-8s  %s\n", commands[i].name, commands[i].what);
    fputs("\nclaudegate COMMAND --help says more of each.\n", out);
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    id_init();
    if (argc < 2) {
        usage(stderr);
        return 2;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        usage(stdout);
        return 0;
    }
    if (strcmp(argv[1], "--version") == 0)
        return cmd_version(1, argv);
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    }
    fprintf(stderr, "claudegate: '%s' is not a command. See claudegate --help.\n", argv[1]);
    return 2;
}
