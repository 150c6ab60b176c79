/* row.h - small helpers the files of store/ share. */
#ifndef CG_STORE_ROW_H
#define CG_STORE_ROW_H

#include "db/db.h"
#include "store/store.h"

/* Copies a column into a fixed array; what does not fit is cut (the schema bounds ids). */
static inline void row_fixed(char *out, size_t size, const struct db_result *r, size_t row,
                             size_t col)
{
    snprintf(out, size, "%s", db_text(r, row, col).p);
}
#define ROW_FIXED(array, r, row, col) row_fixed((array), sizeof(array), (r), (row), (col))

/* NULL for SQL NULL; owned by the caller. */
static inline char *row_text(const struct db_result *r, size_t row, size_t col)
{
    return db_is_null(r, row, col) ? NULL : str_dup(db_text(r, row, col));
}

/* "" and 0 stand for SQL NULL in the structs of store.h. */
static inline struct db_param text_or_null(const char *s)
{
    return s && *s ? DBP_S(s) : DBP_NULL;
}
static inline struct db_param time_or_null(int64_t t)
{
    return t ? DBP_I(t) : DBP_NULL;
}

/* calls.c: done gets the number of rows written; NULL is fine. */
void write_counted(struct db *db, const char *sql, const struct db_param *params, size_t count,
                   count_done_fn *done, void *ctx);
/* The statement's columns: sealed_with, how many. */
void read_seal_counts(struct db *db, const char *sql, seal_counts_fn *done, void *ctx);

#endif
