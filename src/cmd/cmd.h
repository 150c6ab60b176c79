/* cmd.h - the subcommands of the program. Each takes its own argv and returns the exit status:
 * 0 done, 1 failed, 2 wrong usage. Results go to stdout, complaints to stderr. */
#ifndef CG_CMD_CMD_H
#define CG_CMD_CMD_H

#include "conf/conf.h"
#include "core/loop.h"
#include "db/db.h"

typedef int cmd_fn(int argc, char **argv);
cmd_fn cmd_serve, cmd_key, cmd_user, cmd_workers, cmd_config, cmd_migrate, cmd_vault, cmd_doctor;

/* One option of a subcommand: it takes a text, or it is a flag. The last row has no name. */
struct cmd_option {
    const char *name;
    char letter;       /* short form; 0 = none */
    const char **text; /* set to the option's argument */
    bool *flag;        /* set to true */
};
/* Reads the options (and --help, -h); argv[optind] on are then the operands, `min` to `max` of
 * them. CMD_GO_ON, or the exit status after having printed the usage. */
#define CMD_GO_ON (-1)
typedef void cmd_usage_fn(FILE *out);
MUST_USE int cmd_options(int argc, char **argv, const struct cmd_option *options, int min, int max,
                         cmd_usage_fn *usage);

/* Reads the configuration: file named on the command line, or by CLAUDEGATE_CONFIG, or none. NULL
 * after having printed every error. */
struct conf *cmd_load_conf(const char *path);
/* Opens the database for a subcommand. -1 after having printed why not. */
MUST_USE int cmd_open_db(const struct conf *conf, struct loop **ret_loop, struct db **ret_db);
void cmd_close_db(struct loop *loop, struct db *db);

/* "unlimited" or a whole number from 0 up. False after having said what is wrong. */
MUST_USE bool cmd_parse_limit(const char *option, const char *text, int64_t *ret_value);

#endif
