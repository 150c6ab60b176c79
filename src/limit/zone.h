/* zone.h - days and months of a time zone, for limits that end at its midnight.
 *
 * The C library knows time zones only through the variable TZ, which belongs to the whole process.
 * So it is asked once: zone_new() sets TZ for a moment, writes down when the zone's offset from UTC
 * changes between 2020 and 2100, and puts TZ back. Afterwards all is arithmetic on that table.
 * Before other threads are started: they may read the environment. */
#ifndef CG_LIMIT_ZONE_H
#define CG_LIMIT_ZONE_H

#include "core/err.h"

struct zone;

/* A name of the time zone database, or "UTC". NULL + ERR_CONFIG when it is not one. */
struct zone *zone_new(const char *name, struct err *err);
void zone_free(struct zone *z); /* NULL is fine */

/* The day that `at` (wall ms) is in: its start, its end, and the end of the next. A day starts at
 * the first moment that has its date: 00:00, or later where clocks are put forward then. It lasts
 * 23 to 25 hours where they are changed. */
void zone_days(const struct zone *z, int64_t at, int64_t ret_bounds[3]);
void zone_months(const struct zone *z, int64_t at, int64_t ret_bounds[3]);

#endif
