/* conf.h - the settings: one table of rows, read from YAML and from the environment.
 *
 * Precedence: environment over file over default. A row holds name ("pool.max_workers"),
 * environment variable, type, range, default, secret?, and one sentence; the parser, `config
 * check`, `config show`, the environment override and the reference page read the same rows. All
 * errors of a file are reported at once, each as "file:line: name: rule"; those of the environment
 * as "environment: CLAUDEGATE_X: rule". Unknown keys are refused, unknown CLAUDEGATE_* variables
 * too (CLAUDEGATE_CONFIG, which names the file, is the caller's). An empty variable counts as
 * unset. Every setting also has the variable CLAUDEGATE_<SECTION>_<NAME>; a variable named below
 * wins over it. Strings are owned by the struct, never NULL. Secrets are never printed. */
#ifndef CG_CONF_CONF_H
#define CG_CONF_CONF_H

#include "core/buf.h"
#include "core/err.h"

enum conf_demo { DEMO_OFF, DEMO_AUTO };
enum conf_isolation { CONF_ISOLATE_KEY, CONF_ISOLATE_REQUEST, CONF_ISOLATE_SHARED };
enum conf_history { CONF_HISTORY_AUTO, CONF_HISTORY_INJECT, CONF_HISTORY_RESUME };
enum conf_away { CONF_AWAY_CLOSED, CONF_AWAY_OPEN, CONF_AWAY_SHARE };
enum conf_disk_full { CONF_DISK_FULL_REFUSE, CONF_DISK_FULL_SERVE };
enum conf_sandbox { CONF_SANDBOX_AUTO, CONF_SANDBOX_ON, CONF_SANDBOX_OFF };

struct conf_origin; /* private */

/* One of upstream.targets: a credential and where it belongs. Of the six texts that can hold or
 * name a credential at most one is set; `credential` is what it came to. */
struct conf_target {
    char *name;
    char *base_url;                       /* "" = upstream.base_url */
    char *api_key, *auth_token;           /* secret */
    char *api_key_file, *auth_token_file; /* it stands in this file, alone */
    char *api_key_env, *auth_token_env;   /* or in this variable */
    int64_t weight;                       /* 1; 0 = only when no weighted one can be used */
    char *credential;                     /* "" = none; secret */
    bool bearer;                          /* it is a token, not a key */
};
#define CONF_MAX_TARGETS 16

struct conf_targets {
    size_t count;
    struct conf_target items[CONF_MAX_TARGETS];
};

struct conf {
    struct {
        char *listen;             /* CLAUDEGATE_LISTEN, 127.0.0.1:3001; PORT replaces its port */
        int64_t max_body_bytes;   /* CLAUDEGATE_SERVER_MAX_BODY_BYTES, 33554432 */
        int64_t max_header_bytes; /* 32768 */
        int64_t idle_timeout;     /* seconds, 75 */
        int64_t read_timeout;     /* seconds, 60 */
        int64_t max_connections;  /* 10000 */
        int64_t drain_timeout;    /* seconds, 30: running turns at SIGTERM */
        int64_t keepalive_ms;     /* 10000: silence in a stream after which a comment is sent */
        bool hsts;                /* false */
        char *trusted_proxies;    /* "": whose X-Forwarded-For counts; see networks.h */
    } server;
    char *data_dir; /* CLAUDEGATE_DATA_DIR, "data" */
    struct {
        char *level;  /* LOG_LEVEL or CLAUDEGATE_LOG_LEVEL: debug info warn error; info */
        char *dir;    /* "" = <data_dir>/logs; "none" = no files */
        bool console; /* true */
    } log;
    struct {
        char *url; /* DATABASE_URL, "" = sqlite in data_dir; sqlite:PATH, postgres://... secret */
        int64_t pool_size;          /* 4: connections to PostgreSQL at most */
        int64_t connect_timeout_ms; /* 5000 */
        int64_t query_timeout_ms;   /* 30000 */
        int64_t start_timeout;      /* seconds, 30: how long serve waits for it at its start */
    } database;
    struct {
        char *url;          /* REDIS_URL, "" = in-process. secret */
        int64_t timeout_ms; /* 1000 */
        char *prefix;       /* "claudegate:" */
    } redis;
    struct {
        char *timezone;                    /* UTC: whose midnight ends a day */
        enum conf_away when_redis_is_away; /* closed | open | share; share */
    } limits;
    struct {
        enum conf_disk_full when_disk_is_full; /* refuse | serve; refuse */
    } usage;
    struct {
        char *file; /* "" = the shipped prices alone; JSON */
    } pricing;
    struct {
        char *base_url;                /* ANTHROPIC_BASE_URL, https://api.anthropic.com */
        char *api_key;                 /* ANTHROPIC_API_KEY; secret */
        char *auth_token;              /* ANTHROPIC_AUTH_TOKEN: Authorization: Bearer; secret */
        struct conf_targets *targets;  /* several credentials instead of that one; NULL = [] */
        char *proxy;                   /* "" = https_proxy, no_proxy ...; secret */
        char *http_version;            /* "1.1" | "2"; 1.1 */
        char *ca_file;                 /* "" = the system's certificates */
        enum conf_demo demo;           /* CLAUDEGATE_UPSTREAM_DEMO: off | auto; off */
        int64_t connect_timeout_ms;    /* 10000 */
        int64_t first_byte_timeout_ms; /* 120000: request sent to response headers */
        int64_t idle_timeout_ms;       /* 120000: silence inside a response */
        int64_t max_retries; /* 2: before the first byte, on 429/5xx/529 and connect errors */
    } upstream;
    struct {
        char *bin;      /* CLAUDEGATE_CLAUDE_BIN, "" = search node_modules/.bin/claude and PATH */
        char *model;    /* claude-sonnet-4-5: when a request names none */
        char *pass_env; /* "": comma-separated names of variables handed on to the processes */
        enum conf_history history; /* auto | inject | resume; auto */
    } claude;
    struct {
        char *aliases; /* "": for OpenAI clients, "gpt-4o*=claude-sonnet-4-5, ..." */
    } models;
    struct {
        enum conf_sandbox mode; /* auto | on | off; auto */
        int64_t memory_mb;      /* 2048: of one worker's process tree; 0 = no limit */
        int64_t cpu_percent;    /* 0 = no limit; 100 = one core */
        int64_t max_processes;  /* 256: processes and threads; 0 = no limit */
        int64_t max_open_files; /* 1024 */
        int64_t max_file_mb;    /* 1024 */
        char *uids;             /* "": "first-last", a user of its own for each worker */
    } sandbox;
    struct {
        int64_t max_workers;           /* 8 */
        int64_t min_spare;             /* 1 */
        int64_t start_concurrency;     /* 0 = number of cores */
        int64_t max_requests;          /* 300 per worker */
        int64_t max_rss_mb;            /* 450 */
        int64_t max_age;               /* seconds, 21600 */
        int64_t idle_timeout;          /* seconds, 900: a claimed, idle worker ends */
        int64_t start_timeout_ms;      /* 60000 */
        int64_t prepare_timeout_ms;    /* 10000: reset and history */
        int64_t silence_timeout_ms;    /* 240000: no output inside a turn; < the CLI's own 300 s */
        int64_t turn_timeout_ms;       /* 900000 */
        int64_t interrupt_timeout_ms;  /* 2000: interrupt to result, then kill */
        enum conf_isolation isolation; /* key | request | shared; key */
        int64_t queue_max;             /* 1000 */
        int64_t queue_max_per_key;     /* 200; 0 = no limit of its own */
        int64_t queue_timeout_ms;      /* 60000 */
    } pool;
    struct {
        bool enabled;         /* false */
        char *tools;          /* "Bash,Read,Write,Edit,Glob,Grep": built-in tools of the program */
        int64_t max_turns;    /* 50: rounds of tools per question; 0 = no limit */
        bool require_sandbox; /* true */
    } agent;
    struct {
        char *master_key;      /* CLAUDEGATE_MASTER_KEY, ""; secret; see vault/vault.h */
        char *master_key_file; /* "": the keys stand in this file, one per line */
    } vault;
    struct {
        int64_t ttl;          /* seconds after last use, 3600 */
        int64_t max_bytes;    /* of one stored conversation, 8388608 */
        int64_t max_messages; /* 1000; 0 = no limit */
    } session;
    struct {
        int64_t ttl;       /* seconds, 3600: how long an answer is kept */
        int64_t max_bytes; /* 67108864: of all kept answers; in Redis: of each server */
    } cache;
    struct {
        int64_t ttl;       /* seconds, 86400: how long an answer is kept for its Idempotency-Key */
        int64_t max_bytes; /* 8388608: of one such answer */
    } idempotency;
    struct {
        int64_t grace;           /* seconds, 30: a turn goes on without its client */
        int64_t max_bytes;       /* 8388608: held of one stream */
        int64_t max_total_bytes; /* 268435456: of all of them */
    } resume;
    struct {
        int64_t max_failures;     /* 20 per minute and address; 0 = no limit */
        int64_t signature_window; /* seconds, 300 */
    } auth;
    struct {
        int64_t requests_per_minute; /* 10: defaults of a new key */
        int64_t requests_per_day;    /* 1000 */
        int64_t tokens_per_day;      /* 100000 */
        int64_t max_tokens;          /* 4096 */
        char *models;                /* "claude-*", comma-separated patterns */
    } keys;
    struct {
        char *token; /* CLAUDEGATE_METRICS_TOKEN, "" = only direct loopback peers; secret */
    } metrics;
    /* Private: where each setting came from; NULL in a hand-built one. */
    struct conf_origin *origins;
};

/* Reads `path` (NULL: none) and env (NULL: environ). On failure -1 and `ret_errors` (initialised by
 * the caller) gained every error, one per line; on success *ret_conf is a new struct. */
MUST_USE int conf_load(const char *path, char *const *env, struct conf **ret_conf,
                       struct buf *ret_errors);
void conf_free(struct conf *conf); /* NULL is fine; zeroes secrets first */
/* Where calls can go: target i of upstream.targets or, when that list is empty, i = 0 alone: the
 * one that upstream.base_url and its credential make, with the name "default". A view that borrows
 * from conf; its base_url is never empty. */
size_t conf_target_count(const struct conf *conf);
struct conf_target conf_target_at(const struct conf *conf, size_t i);
/* Effective settings as YAML with where each came from; secrets as "(set)" or "(not set)". */
void conf_show(const struct conf *conf, struct buf *out);
/* The rows as a Markdown table: name, variable, type, default, meaning. docs/configuration.md is
 * this output, and a test compares them. */
void conf_write_reference(struct buf *out);

#endif
