/* networks.h - a list of addresses and networks, as in server.trusted_proxies: "10.0.0.0/8, ::1".
 * The word "unix" stands for whoever comes through a unix socket. */
#ifndef CG_CONF_NETWORKS_H
#define CG_CONF_NETWORKS_H

#include "core/str.h"

#include <stdbool.h>

struct networks;

/* What is no list is a bug here: the settings were checked. "" = none. */
struct networks *networks_new(const char *list);
void networks_free(struct networks *n); /* NULL is fine */
bool networks_contain(const struct networks *n, const char *address);

/* NULL, or the rule that it breaks. */
const char *networks_check(struct str list);

#endif
