/* group.h - running a group of operations on the SQLite thread. */
#ifndef CG_DB_GROUP_H
#define CG_DB_GROUP_H

#include "db/op.h"
#include "db/sqlite_conn.h"

/* Runs ops in order; each has its result or its error afterwards, and what it wrote is
 * committed. An op that already has an error is left alone. Ops belong to the loop until their
 * group starts and again when it is done. */
void group_run(struct sqlite_conn *conn, struct op **ops, size_t count);

#endif
