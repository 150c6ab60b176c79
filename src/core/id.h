/* id.h - random identifiers, from libsodium's generator. Call id_init() once before use. */
#ifndef CG_CORE_ID_H
#define CG_CORE_ID_H

#include "core/util.h"

void id_init(void);

#define ID_UUID_SIZE 37
/* RFC 9562 version 7, lower case: time-ordered, so that rows made together stand together in an
 * index (random ids cost a page write each), with 62 random bits and more. Returns out. */
const char *id_uuid(char out[ID_UUID_SIZE]);

#define ID_REQUEST_SIZE 29
/* "req_" + 24 characters of [0-9A-Za-z], the first 7 of them the time; returns out. */
const char *id_request(char out[ID_REQUEST_SIZE]);

/* n random characters of [0-9A-Za-z] and a NUL: out holds n+1. 62^43 > 2^256. */
void id_alnum(char *out, size_t n);

#endif
