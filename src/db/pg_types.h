/* pg_types.h - between db.h's values and PostgreSQL's: parameters, rows, error codes. */
#ifndef CG_DB_PG_TYPES_H
#define CG_DB_PG_TYPES_H

#include "db/result.h"

#include <libpq-fe.h>

#define PG_PARAMS_MAX 65535 /* of the protocol */
#define PG_NUMBER     32    /* bytes: any int64 or double as text */

/* The parameters of one statement in libpq's form; reused from statement to statement. Texts are
 * borrowed from the db_params and end in NUL there. */
struct pg_params {
    const char **values;
    Oid *types;
    char (*numbers)[PG_NUMBER];
    size_t cap;
};
void pg_params_set(struct pg_params *p, const struct db_param *params, size_t count);
void pg_params_release(struct pg_params *p);

/* What the server is told of a parameter's type: the rest it finds out from the statement. Two
 * uses of one statement with different marks need different prepared statements. */
char pg_type_mark(const struct db_param *param);

/* Why this statement cannot be sent to PostgreSQL; false when it can. */
bool pg_refuses(const struct db_stmt *stmt, struct err *err);
/* Does it only read? Then it may be sent again when nobody knows whether it was run. */
bool pg_is_read(const char *sql);

/* Appends the rows of res, and sets the count of changes. -1: the result is too large. */
MUST_USE int pg_result_take(struct db_result *ret, const PGresult *res, struct err *err);

/* An error the server reported. */
int pg_error(const PGresult *res, struct err *err);
/* An error of the connection itself. Never tells a password. */
int pg_conn_error(const PGconn *pq, struct err *err);
/* The same statement may well succeed when tried again; stale: only when prepared anew. */
bool pg_may_repeat(const PGresult *res, bool *ret_stale);

#endif
