/* worker.h - one claude process and the turn it works on. Private to pool/.
 *
 * Life: worker_start() -> started() -> ready() -> [worker_run() -> released()]* -> exactly one
 * ended(). A worker that was started for a turn has it from the start and begins it by itself: no
 * ready(), after started() comes released(). One that fails its trial ends by itself. ended() may
 * come at any time; a turn it had is handed back through it. The worker is freed by worker_free()
 * inside or after ended(). */
#ifndef CG_POOL_WORKER_H
#define CG_POOL_WORKER_H

#include "pool/turn.h"

enum worker_state {
    WORKER_STARTING,   /* spawned, being initialised */
    WORKER_PROBING,    /* being tried out */
    WORKER_IDLE,       /* can take a turn */
    WORKER_PREPARING,  /* model and history on their way in */
    WORKER_RUNNING,    /* the question is in */
    WORKER_CANCELLING, /* interrupt sent, result awaited */
    WORKER_CLEARING,   /* forgetting, between turns */
    WORKER_ENDING,     /* told to stop, or found dead */
    WORKER_STATE_COUNT
};
const char *worker_state_name(enum worker_state s);

struct worker;

struct worker_ops {
    void (*started)(void *ctx, struct worker *w); /* initialised, and the trial is passed */
    void (*ready)(void *ctx, struct worker *w);   /* after that: a spare */
    /* The turn is concluded; the worker is idle again or ending. */
    void (*released)(void *ctx, struct worker *w, struct turn *t, const struct turn_result *r);
    void (*cleared)(void *ctx, struct worker *w); /* idle again after worker_clear() */
    /* The process is gone. t: the turn it had, not concluded, or NULL. */
    void (*ended)(void *ctx, struct worker *w, struct turn *t, const struct err *why);
};

struct worker { /* the pool reads these; only worker.c writes them, but for the marked ones */
    uint32_t tag;
    struct node node;       /* pool: the list of its group */
    struct list *on;        /* pool: which one */
    char *class_id;         /* pool: "" = a spare */
    char *key_id;           /* pool: whose turn it had last */
    int64_t idle_since_ms;  /* pool */
    int64_t class_since_ms; /* pool: since when it belongs to its class */
    bool draining;          /* pool: no further turn */
    const char *end_reason; /* why it was told to end; metric label */
    unsigned id;
    enum worker_state state;
    bool served;   /* it has got as far as started() */
    bool probed;   /* its trial had begun */
    bool for_turn; /* started for a turn of its own */
    char *model;   /* the CLI's current one */
    char *holds;   /* which conversation it holds exactly, "" = none */
    bool dirty;    /* earlier turns are in its history */
    bool resumes;  /* it was started on the transcript of its turn */
    bool unsafe;   /* the probe saw it treat text as a command or a file mention */
    const struct cli_profile *profile;
    int64_t turns, turns_since_clear, started_ms, state_since_ms;
    struct child_usage usage; /* at the last worker_sample() */
    int64_t own_processes;    /* its own, and the sandbox's: the fewest since it was ready */
    struct worker_private *priv;
};

struct worker_spec {
    struct rundirs *dirs;
    bool probe;       /* try it out before it is ready */
    struct turn *own; /* started for this turn; NULL = a spare */
    bool resume;      /* own's history is given as a transcript */
};
struct worker *worker_start(struct loop *loop, const struct pool_opts *opts, unsigned id,
                            const struct worker_spec *spec, const struct worker_ops *ops, void *ctx,
                            struct err *err);
void worker_run(struct worker *w, struct turn *t);     /* state IDLE only */
void worker_cancel(struct worker *w);                  /* its turn is marked cancelled already */
void worker_clear(struct worker *w);                   /* state IDLE only */
void worker_end(struct worker *w, const char *reason); /* any state; ended() follows */
void worker_free(struct worker *w);
int worker_pid(const struct worker *w);
bool worker_alive(const struct worker *w); /* asks the kernel */
/* Memory and CPU, into usage. fresh: whatever it takes, nothing that started meanwhile is missed.
 */
void worker_sample(struct worker *w, bool fresh);
bool worker_left_processes(const struct worker *w);     /* its tools did, says the last sample */
const struct turn *worker_turn(const struct worker *w); /* NULL = none */
struct str worker_stderr(const struct worker *w);       /* borrowed until the loop's next turn */

#endif
