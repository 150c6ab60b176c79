/* log.h - structured log lines: JSON to combined.log and error.log, a simple form to the console.
 *
 * Lines are buffered and written at the end of the loop's turn (or at once when no loop is set),
 * with one write(2) per file; warnings and errors are written at once. log_reopen() opens the
 * files anew (after rotation). Call from the loop's thread only. The layer that handles an error
 * logs it, once. Never pass a key, a token or prompt text. */
#ifndef CG_CORE_LOG_H
#define CG_CORE_LOG_H

#include "core/err.h"
#include "core/loop.h"
#include "core/str.h"

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

struct log_field {
    const char *key; /* NULL ends the list */
    enum { LOG_F_STR, LOG_F_INT, LOG_F_REAL, LOG_F_BOOL } type;
    struct str s;
    int64_t i;
    double d;
};

#define LF_S(k, v)   ((struct log_field){.key = (k), .type = LOG_F_STR, .s = str_c(v)})
#define LF_STR(k, v) ((struct log_field){.key = (k), .type = LOG_F_STR, .s = (v)})
#define LF_I(k, v)   ((struct log_field){.key = (k), .type = LOG_F_INT, .i = (int64_t)(v)})
#define LF_D(k, v)   ((struct log_field){.key = (k), .type = LOG_F_REAL, .d = (v)})
#define LF_B(k, v)   ((struct log_field){.key = (k), .type = LOG_F_BOOL, .i = (v)})
#define LF_END       ((struct log_field){.key = NULL})

/* log_info("worker ended", LF_S("worker", id), LF_I("exit", status)); */
#define log_debug(...) log_write(LOG_DEBUG, __VA_ARGS__, LF_END)
#define log_info(...)  log_write(LOG_INFO, __VA_ARGS__, LF_END)
#define log_warn(...)  log_write(LOG_WARN, __VA_ARGS__, LF_END)
#define log_error(...) log_write(LOG_ERROR, __VA_ARGS__, LF_END)

void log_write(enum log_level level, const char *msg, ...);
bool log_enabled(enum log_level level);

struct log_opts {
    enum log_level level;
    const char *dir; /* NULL: no files */
    bool console;    /* to stderr */
};
/* Before log_open() lines of level info and above go to stderr. */
MUST_USE int log_open(const struct log_opts *opts, struct err *err);
void log_set_loop(struct loop *loop); /* from now on buffered; NULL: no longer */
MUST_USE int log_reopen(struct err *err);
void log_flush(void);
void log_close(void);
MUST_USE bool log_level_parse(const char *name, enum log_level *ret_level);

#endif
