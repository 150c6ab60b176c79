/* metrics.h - Prometheus registry: counters, gauges and histograms with labels.
 *
 * A metric is a static row next to the code that counts it; the first use registers it. Loop
 * thread only. Exposition: Prometheus text format 0.0.4
 * (https://prometheus.io/docs/instrumenting/exposition_formats/). */
#ifndef CG_METRICS_METRICS_H
#define CG_METRICS_METRICS_H

#include "core/buf.h"

enum metric_type { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM };

#define METRIC_MAX_LABELS 4

struct metric_series; /* private */

struct metric {
    const char *name; /* claudegate_..., with the base unit as suffix: _seconds, _bytes, _total */
    const char *help; /* one sentence */
    enum metric_type type;
    const char *labels[METRIC_MAX_LABELS + 1]; /* names, NULL-terminated */
    const double *buckets; /* histogram: ascending upper bounds without +Inf; NULL = the default,
                              5 ms to 300 s; must outlive the metric */
    size_t bucket_count;
    /* private: */
    struct metric_series *series;
    struct metric *next;
    bool registered;
};

#define METRIC_MAX_SERIES  10000 /* label sets of one metric */
#define METRIC_MAX_VALUE   128   /* bytes of a label value; longer ones are cut */
#define METRIC_MAX_BUCKETS 64

/* Exactly as many const char * label values as the metric has labels follow; NULL counts as "".
 * Past METRIC_MAX_SERIES label sets, new sets are folded into one with values "other". Invalid
 * UTF-8 in a value becomes '?'. A known label set costs one hash and no allocation. */
void metric_add(struct metric *m, double v, ...); /* counter (v >= 0), gauge */
/* Gauge. On a counter only in a collector, for a count that someone else (the kernel) keeps. */
void metric_set(struct metric *m, double v, ...);
void metric_observe(struct metric *m, double v, ...); /* histogram */

/* Makes a metric visible with its HELP/TYPE lines (and value 0 when it has no labels). Names are
 * checked: a bad or a repeated one is a bug and stops the program. */
void metric_register(struct metric *m);

/* fn is called at the start of every exposition, to set gauges that are read off live objects.
 * A collector must not add or remove collectors. Removing one that is not there is fine. */
typedef void metrics_collect_fn(void *ctx);
void metrics_add_collector(metrics_collect_fn *fn, void *ctx);
void metrics_remove_collector(metrics_collect_fn *fn, void *ctx);

/* Process and host: CPU, memory, descriptors, disk of `data_dir`, network. Registers a collector.
 * What the system does not tell has no series. */
void metrics_register_system(const char *data_dir);

void metrics_write(struct buf *out);
void metrics_reset(void); /* frees everything; for the end of the process and for tests */

#endif
