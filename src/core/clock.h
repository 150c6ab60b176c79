/* clock.h - the two clocks. Durations come from the monotonic one, stored times from the wall. */
#ifndef CG_CORE_CLOCK_H
#define CG_CORE_CLOCK_H

#include "core/util.h"

#include <stdbool.h>

int64_t clock_mono_us(void); /* microseconds since an arbitrary start; never goes back */
int64_t clock_mono_ms(void);
int64_t clock_wall_ms(void); /* milliseconds since 1970-01-01 UTC */

#define CLOCK_RFC3339_SIZE 32
/* "2026-11-23T10:11:12.345Z"; returns out. */
const char *clock_rfc3339(int64_t wall_ms, char out[CLOCK_RFC3339_SIZE]);
/* Accepts YYYY-MM-DD and YYYY-MM-DDTHH:MM:SS[.fff](Z|+HH:MM). False when it is not one. */
MUST_USE bool clock_parse_rfc3339(const char *text, int64_t *ret_wall_ms);

#endif
