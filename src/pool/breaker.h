/* breaker.h - a circuit breaker: after failures in a row, a pause that doubles. Private to pool/.
 */
#ifndef CG_POOL_BREAKER_H
#define CG_POOL_BREAKER_H

#include "core/util.h"

struct breaker {      /* zeroed = closed */
    int64_t failures; /* in a row */
    int64_t open_until_ms;
};

void breaker_failed(struct breaker *b, int64_t now_ms);
void breaker_succeeded(struct breaker *b);
/* Milliseconds until something may be tried, 0 = now. From the first failure on. */
int64_t breaker_pause_ms(const struct breaker *b, int64_t now_ms);
/* One more is tried (half-open): pauses again until its outcome is told, or for as long as a
 * failure would. */
void breaker_tried(struct breaker *b, int64_t now_ms);

#endif
