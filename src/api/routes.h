/* routes.h - every route of the server: a table for the network, and one for the local socket of
 * operators (api/control). Authorisation is a column of both. */
#ifndef CG_API_ROUTES_H
#define CG_API_ROUTES_H

#include "http/http.h"

extern const struct http_route api_routes[];
extern const size_t api_route_count;

extern const struct http_route control_routes[];
extern const size_t control_route_count;

#endif
