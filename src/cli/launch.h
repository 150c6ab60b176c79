/* launch.h - how a claude process is started: argv and environment, built from nothing.
 *
 * The environment of the server never reaches a worker: what is not in the list here does not
 * exist there, so an operator's credentials cannot leak into a process that reads prompts. */
#ifndef CG_CLI_LAUNCH_H
#define CG_CLI_LAUNCH_H

#include "core/err.h"

/* What only argv can choose. */
struct cli_profile {
    const char *name;
    const char *tools;      /* built-in tools, comma-separated, allowed without asking; "" = none.
                             * Must pass cli_tools_ok() */
    int64_t max_turns;      /* rounds of tools per question; 0 = no limit */
    int64_t max_command_ms; /* of one shell command; 0 = the program's own limits */
};
/* Names of letters only, with a comma between two of them: no rules like Bash(rm:*), no options. */
MUST_USE bool cli_tools_ok(const char *tools);

struct cli_launch {
    const char *bin;                   /* path of the program */
    const char *model;                 /* the session's default */
    const char *home;                  /* private HOME */
    const char *socket_path;           /* the relay's unix socket */
    const struct cli_profile *profile; /* NULL = no built-in tools */
    const char *resume;   /* session id of a written transcript (transcript.h), or NULL */
    const char *pass_env; /* comma-separated names handed on from our environment; may be "".
                           * At most 70; none can replace what a worker must have */
};

struct cli_command {
    const char *argv[24];
    const char *envp[96];
    char *owned[76]; /* the strings made for it */
};

void cli_launch_command(const struct cli_launch *l, struct cli_command *ret);
void cli_command_release(struct cli_command *cmd);

/* Finds the program: `configured`, or node_modules/.bin/claude below the working directory, or
 * PATH. NULL + err when there is none that can be executed. Owned by the caller. */
char *cli_find_program(const char *configured, struct err *err);
/* Blocking: runs `bin --version`; "2.1.197". NULL + err. Owned by the caller. */
char *cli_program_version(const char *bin, struct err *err);

#endif
