/* settings.h - private to conf: the rows, and what the loader shares between its files. */
#ifndef CG_CONF_SETTINGS_H
#define CG_CONF_SETTINGS_H

#include "conf/conf.h"

enum setting_kind {
    SET_STRING,    /* char * */
    SET_CHOICE,    /* char *, one of .choices */
    SET_INDEX,     /* an enum: the index in .choices */
    SET_BOOL,      /* bool */
    SET_INT,       /* int64_t */
    SET_SECONDS,   /* int64_t; "90" or "5m" */
    SET_MILLIS,    /* int64_t; "90" or "5m" */
    SET_BYTES,     /* int64_t; "90" or "32MiB" */
    SET_MEBIBYTES, /* int64_t; "90" or "1GiB" */
    SET_TARGETS    /* struct conf_targets *; a list of mappings, read by yaml.c and targets.c */
};

/* NULL, or the rule that `value` breaks. */
typedef const char *setting_check_fn(struct str value);

struct setting {
    const char *name; /* "section.name", or "name" at the top level */
    const char *env;  /* the variable that wins over the mechanical one; NULL = none */
    enum setting_kind kind;
    bool secret;
    bool may_be_empty;          /* texts only */
    size_t offset;              /* in struct conf, or in what the row is of (target_rows) */
    int64_t min, max;           /* numbers, in the row's unit */
    const char *def;            /* as it would stand in the file */
    const char *const *choices; /* NULL-terminated */
    setting_check_fn *check;    /* texts only */
    const char *help;           /* one sentence */
};

extern const struct setting settings[];
extern const size_t settings_count;

/* Index of the row of that name, or -1. */
int setting_find(struct str name);
bool setting_is_section(struct str name);
/* Length of the section part of the name; 0 at the top level. */
size_t setting_section_len(const struct setting *s);
const char *setting_leaf(const struct setting *s);
bool setting_is_text(const struct setting *s);
/* Where the value of a text stands. Here and below `base` is what the row's offset counts from: a
 * struct conf, for target_rows a struct conf_target. */
char **setting_text(const struct setting *s, void *base);

#define SETTING_ENV_SIZE 80
/* CLAUDEGATE_<SECTION>_<NAME>; returns out. */
const char *setting_env_name(const struct setting *s, char out[SETTING_ENV_SIZE]);

/* Append "(nearest: a, b)" of the settings, or of their variables. */
void setting_suggest(struct buf *out, struct str wrong);
void setting_suggest_env(struct buf *out, struct str wrong);

/* value.c: what a value must be, in words ("must be ..."). */
void setting_rule(const struct setting *s, struct buf *out);
/* The row's kind in a word or two, with its range, for the reference. */
void setting_describe_type(const struct setting *s, struct buf *out);
/* Reads text. On failure `rule` gained the broken rule, *base is untouched. */
MUST_USE int setting_parse(const struct setting *s, struct str text, void *base, struct buf *rule);
/* Appends the value as YAML; not for secrets. */
void setting_write(const struct setting *s, const void *base, struct buf *out);
/* Zeroes what is secret, frees what is owned. */
void setting_release(const struct setting *s, void *base);
void setting_wipe(char **slot); /* zeroes and frees a text; NULL is fine */

/* check.c: rules of single texts. */
setting_check_fn check_listen, check_database_url, check_redis_url, check_redis_prefix,
    check_timezone, check_base_url, check_token, check_model_patterns, check_aliases,
    check_pass_env, check_uids, check_tools, check_networks, check_proxy, check_target_name,
    check_variable;
/* Does the list of variables' names (claude.pass_env) hold this one? */
bool pass_env_has(const char *list, const char *name);

/* conf.c: one load. */
enum origin_kind { ORIGIN_DEFAULT, ORIGIN_FILE, ORIGIN_ENV };

struct conf_origin {
    enum origin_kind kind;
    int file_line; /* where the file set it, 0 = it did not */
    bool broken;   /* an error was reported: cross checks leave it alone */
    char *where;   /* owned: "file:12" or the variable's name; NULL for a default */
    char *also;    /* owned: a second variable that changed a part (PORT); NULL = none */
};

#define LOAD_MAX_ERRORS 100

struct loader {
    struct conf *conf;
    const char *path;
    const char *variable; /* whose text is being read as YAML; NULL = the file's */
    char *const *env;
    struct buf *errors;
    int error_count;
};

/* One line "where: name: rule"; past LOAD_MAX_ERRORS they are only counted. */
void loader_error(struct loader *l, const char *where, const char *name, const char *fmt, ...)
    PRINTF_LIKE(4, 5);
void loader_error_at(struct loader *l, int line, const char *name, const char *fmt, ...)
    PRINTF_LIKE(4, 5);
/* A value from line `line` of the file. */
void loader_set_from_file(struct loader *l, int index, struct str text, int line);
/* The same for a list, which the walk itself reads. */
void loader_note_file(struct loader *l, int index, int line);

/* NULL when unset or empty. */
const char *loader_env(const struct loader *l, const char *name);

/* yaml.c: walks the text, reports every error to l. */
void loader_read_yaml(struct loader *l, struct str text);
/* The text of l->variable is the list of row `index`, in YAML's flow form or JSON. */
void loader_read_yaml_list(struct loader *l, int index, struct str text);

/* targets.c: the rows of one of upstream.targets. */
extern const struct setting target_rows[];
#define TARGET_ROWS 9
/* Adds one with all defaults; NULL: no more than CONF_MAX_TARGETS. */
struct conf_target *targets_add(struct conf_targets **list);
/* Index of the row of that name, or -1. */
int target_row_find(struct str name);
/* The rules of the latest one as a whole, reported at its line; finds its credential. False: one
 * was broken. */
bool targets_check_latest(struct loader *l, struct conf_targets *list, int line);
void targets_write(struct conf_targets *list, struct buf *out); /* NULL is fine */
void targets_release(struct conf_targets **list);

#endif
