/* key_json.h - the JSON columns limits and permissions of api_keys.
 *
 * {"requestsPerMinute":10,"requestsPerDay":1000,"tokensPerDay":null,"maxConcurrent":4,
 *  "costPerDay":2.5,"costPerMonth":null}
 * {"models":["claude-*"],"maxTokens":4096,"allowStreaming":true,"allowAgent":false,
 *  "allowTools":true,"requireSignature":false}
 * null = unlimited (-1 in the structs). A name that is missing is an error and not "unlimited":
 * what a key may spend must not depend on a typing mistake. Older rows lack some: a missing
 * allowAgent or requireSignature is false, a missing allowTools is true, a missing maxConcurrent,
 * costPerDay or costPerMonth is unlimited. Names not known are ignored. */
#ifndef CG_STORE_KEY_JSON_H
#define CG_STORE_KEY_JSON_H

#include "core/buf.h"
#include "store/store.h"

#define KEY_JSON_MAX (64u << 10)

void key_limits_write(struct buf *out, const struct key_limits *limits);
void key_permissions_write(struct buf *out, const struct key_permissions *permissions);
MUST_USE int key_limits_read(struct str text, struct key_limits *ret_limits, struct err *err);
/* ret_permissions->models is owned by the caller: key_models_free(). */
MUST_USE int key_permissions_read(struct str text, struct key_permissions *ret_permissions,
                                  struct err *err);
void key_models_free(char **models);

/* Money: nano-USD inside, a decimal number of USD outside. */
#define KEY_MONEY_MAX INT64_C(4000000000000000) /* 4 million USD; a double holds it exactly */
void key_money_write(struct buf *out, int64_t nano);
/* "12", "0.5": at most nine digits after the point. False when it is not that. */
MUST_USE bool key_money_parse(struct str text, int64_t *ret_nano);

#endif
