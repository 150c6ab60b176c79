/* registry.h - private to metrics: the series of a metric, shared by registry, exposition and
 * system. */
#ifndef CG_METRICS_REGISTRY_H
#define CG_METRICS_REGISTRY_H

#include "metrics/metrics.h"

/* One label set and its value. */
struct series {
    char *labels; /* a="x",b="y", escaped for the exposition; "" without labels */
    char *key;    /* the values, each ended by a NUL */
    size_t key_len;
    uint64_t hash;
    double value;      /* counter, gauge; histogram: the sum */
    uint64_t *buckets; /* histogram: counts per bucket, not cumulated, +Inf last; else NULL */
};

/* All series of one metric: `items` in order of appearance, and an open-addressing index of
 * position + 1 by hash (0 = free), at most half full. */
struct metric_series {
    struct series **items;
    size_t count, cap;
    uint32_t *index;
    size_t index_size;    /* a power of two */
    struct series *other; /* where what is past the cap is counted; NULL = not yet */
};

/* The list of registered metrics, in order of registration. */
struct metric *metrics_first(void);
void metrics_run_collectors(void);

size_t metric_label_count(const struct metric *m);

/* exposition.c: appends v as Prometheus reads it: whole numbers without exponent, others as short
 * as they read back exactly. */
void metrics_write_number(struct buf *out, double v);
/* A label value between the quotes. */
void metrics_write_escaped(struct buf *out, const char *value);

/* system.c: where proc and sys are mounted; NULL = "/". For tests. */
void metrics_system_set_root(const char *root);
void metrics_system_release(void);

#endif
