/* redis_url.h - where a Redis is, taken apart: for the check of the setting, and for whoever
 * connects.
 *
 *   redis://[[user]:password@]host[:port][/database]
 *   unix:/path/of.sock[?db=database], unix://[user]:password@/path/of.sock[?db=database]
 *
 * User and password are percent-decoded. */
#ifndef CG_CONF_REDIS_URL_H
#define CG_CONF_REDIS_URL_H

#include "core/str.h"

struct redis_url {
    char *host; /* NULL: a unix socket */
    int port;
    char *path;            /* of the socket */
    char *user, *password; /* NULL = none */
    int db;
};

/* NULL and a filled *ret_url (owned: redis_url_release()), or the rule the text breaks. The rule
 * never repeats the text, which may hold a password. */
const char *redis_url_parse(struct str text, struct redis_url *ret_url);
void redis_url_release(struct redis_url *url); /* wipes the password; accepts a zeroed one */

#endif
