/* redis.h - private to shared/: the Redis driver's requests.
 *
 * redis.c keeps the connections and sends requests; redis_ops.c turns operations into requests and
 * replies into answers. */
#ifndef CG_SHARED_REDIS_H
#define CG_SHARED_REDIS_H

#include "shared/driver.h"
#include "shared/redis_conn.h"

enum redis_script {
    SCRIPT_TAKE,
    SCRIPT_ADJUST,
    SCRIPT_RENEW,
    SCRIPT_SEED,
    SCRIPT_LEASE,
    SCRIPT_BEAT,
    SCRIPT_COUNT,
    SCRIPT_NONE = SCRIPT_COUNT
};

#define SHA_SIZE 41

struct redis {
    struct shared common;
    struct redis_url url;
    char *prefix;
    int64_t timeout_ms;
    char id[17];                   /* of this server, as the others know it */
    char bus[SHARED_NAME_MAX + 8]; /* the channel of all messages */
    struct redis_conn *conn;       /* commands */
    struct redis_conn *ears;       /* messages: a connection that listens can do nothing else */
    char sha[SCRIPT_COUNT][SHA_SIZE];
    int loading; /* answers awaited before the connection is settled */
    struct list pending;
    struct timer slow, beat;
    int64_t changed_ms, heard_ms; /* monotonic */
    bool hears;
    size_t replicas;
    char why[160];         /* it is away; "" */
    int64_t complained_ms; /* monotonic; of errors in replies */
};

/* The words of one command. Texts are borrowed, numbers are kept here. */
#define ARGS_MAX 96
struct args {
    const char *v[ARGS_MAX];
    size_t len[ARGS_MAX];
    int count;
    char text[4096];
    size_t used;
};
void args_add(struct args *a, struct str word);
void args_addc(struct args *a, const char *word);
void args_addi(struct args *a, int64_t number);
/* prefix, "{name}" and what follows. */
void args_key(struct args *a, const struct redis *r, const char *before, const char *name,
              const char *after);

struct request;
/* reply or err, never both. */
typedef void request_answer_fn(struct request *req, const redisReply *reply, const struct err *err);

struct request {
    uint32_t tag;
    struct node node;
    struct redis *r;
    const char *op; /* for metrics */
    enum redis_script script;
    request_answer_fn *answer;
    void (*done)(void); /* the caller's, of the operation's own type */
    void *ctx;
    char *cmd;
    int cmd_len;
    bool repeated;
    int64_t sent_us;
};
typedef void any_fn(void);

/* Begins a command: script (its name and number of keys are filled in) or SCRIPT_NONE. */
void redis_words(struct args *a, const struct redis *r, enum redis_script script, int keys);
/* Sends it. answer() runs exactly once, now when Redis is away. */
void redis_send(struct redis *r, const char *op, enum redis_script script, const struct args *a,
                request_answer_fn *answer, any_fn *done, void *ctx);

/* redis_ops.c */
extern const struct shared_ops redis_ops;
void redis_close(struct shared *s);
void redis_health(const struct shared *s, struct shared_health *ret_health);

#endif
