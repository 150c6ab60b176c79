/* launch.h - how a claude process is started: argv and environment, built from nothing.
 *
 * The environment of the server never reaches a worker: what is not in the list here does not
 * exist there, so an operator's credentials cannot leak into a process that reads prompts. */
#ifndef CG_CLI_LAUNCH_H
#define CG_CLI_LAUNCH_H

#include "core/err.h"

struct cli_launch {
    const char *bin;         /* path of the program */
    const char *model;       /* the session's default */
    const char *home;        /* private HOME */
    const char *socket_path; /* the relay's unix socket */
    const char *pass_env;    /* comma-separated names handed on from our environment; may be "".
                              * At most 70; none can replace what a worker must have */
};

struct cli_command {
    const char *argv[24];
    const char *envp[96];
    char *owned[72]; /* the strings made for it */
};

void cli_launch_command(const struct cli_launch *l, struct cli_command *ret);
void cli_command_release(struct cli_command *cmd);

/* Finds the program: `configured`, or node_modules/.bin/claude below the working directory, or
 * PATH. NULL + err when there is none that can be executed. Owned by the caller. */
char *cli_find_program(const char *configured, struct err *err);
/* Blocking: runs `bin --version`; "2.1.197". NULL + err. Owned by the caller. */
char *cli_program_version(const char *bin, struct err *err);

#endif
