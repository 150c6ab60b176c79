/* result.h - rows of one statement, filled by the driver, read through db.h's accessors. */
#ifndef CG_DB_RESULT_H
#define CG_DB_RESULT_H

#include "core/buf.h"
#include "db/db.h"

#define RESULT_MAX_BYTES (256u << 20)

struct cell;

struct db_result {
    size_t rows, cols;
    int64_t changes;
    struct cell *cells; /* rows * cols, row by row */
    size_t cell_count, cell_cap;
    struct buf text; /* every text of the result, each followed by a NUL */
};

void result_init(struct db_result *r);
void result_release(struct db_result *r); /* accepts a zeroed result */
/* Starts a row; exactly cols result_add_* calls follow. */
void result_start(struct db_result *r, size_t cols);
void result_add_null(struct db_result *r);
void result_add_int(struct db_result *r, int64_t v);
void result_add_real(struct db_result *r, double v);
void result_add_text(struct db_result *r, struct str v);
void result_end_row(struct db_result *r);
/* False once the result has outgrown RESULT_MAX_BYTES: it is incomplete then. */
bool result_ok(const struct db_result *r);

#endif
