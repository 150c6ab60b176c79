/* routes.h - every route of the server, in one table. Authorisation is a column of it. */
#ifndef CG_API_ROUTES_H
#define CG_API_ROUTES_H

#include "http/http.h"

extern const struct http_route api_routes[];
extern const size_t api_route_count;

#endif
