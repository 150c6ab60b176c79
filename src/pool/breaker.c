/* breaker.c - see the header. The pause grows from half a second to half a minute. */
#include "pool/breaker.h"

#define PAUSE_MIN_MS 500
#define PAUSE_MAX_MS 30000

static int64_t pause_for(int64_t failures)
{
    int64_t pause = PAUSE_MIN_MS;
    for (int64_t i = 1; i < failures && pause < PAUSE_MAX_MS; i++)
        pause *= 2;
    return pause < PAUSE_MAX_MS ? pause : PAUSE_MAX_MS;
}

void breaker_failed(struct breaker *b, int64_t now_ms)
{
    b->failures++;
    b->open_until_ms = now_ms + pause_for(b->failures);
}

void breaker_succeeded(struct breaker *b)
{
    *b = (struct breaker){0};
}

int64_t breaker_pause_ms(const struct breaker *b, int64_t now_ms)
{
    return b->open_until_ms > now_ms ? b->open_until_ms - now_ms : 0;
}

void breaker_tried(struct breaker *b, int64_t now_ms)
{
    b->open_until_ms = now_ms + pause_for(b->failures);
}
