/* breaker.h - a circuit breaker: after failures in a row, a pause that doubles. Private to pool/.
 */
#ifndef CG_POOL_BREAKER_H
#define CG_POOL_BREAKER_H

#include "core/util.h"

#include <stdbool.h>

struct breaker {      /* zeroed = closed */
    int64_t failures; /* in a row */
    int64_t open_until_ms;
};

void breaker_failed(struct breaker *b, int64_t now_ms);
void breaker_succeeded(struct breaker *b);
/* Milliseconds until something may be tried, 0 = now. From the first failure on. */
int64_t breaker_pause_ms(const struct breaker *b, int64_t now_ms);
/* Whether one more may be tried. Open after `after` failures; when the pause is over it lets one
 * through (half-open) and pauses again until that one's outcome is told. */
bool breaker_admits(struct breaker *b, int64_t after, int64_t now_ms);

#endif
