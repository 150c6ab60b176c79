/* shipped.h - prices.json as it is built into the program; private to price/. */
#ifndef CG_PRICE_SHIPPED_H
#define CG_PRICE_SHIPPED_H

#include <stddef.h>

extern const char prices_shipped[];
extern const size_t prices_shipped_len;

#endif
