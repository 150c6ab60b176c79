/* result.c - a result is one array of cells and one buffer with all its texts: two allocations
 * however many rows there are. Cells keep offsets, because the buffer moves while it grows. */
#include "db/result.h"

struct cell {
    enum { CELL_NULL, CELL_INT, CELL_REAL, CELL_TEXT } type;
    union {
        int64_t i;
        double d;
        struct {
            size_t at, len;
        } text;
    };
};

void result_init(struct db_result *r)
{
    *r = (struct db_result){0};
    buf_init(&r->text, RESULT_MAX_BYTES);
}

void result_release(struct db_result *r)
{
    free(r->cells);
    buf_release(&r->text);
    *r = (struct db_result){0};
}

void result_start(struct db_result *r, size_t cols)
{
    r->cols = cols;
}

static void add_cell(struct db_result *r, struct cell cell)
{
    if (r->cell_count == r->cell_cap) {
        size_t cap = r->cell_cap ? r->cell_cap * 2 : 16;
        if (cap > RESULT_MAX_BYTES / sizeof(cell)) {
            r->text.overflow = true;
            return;
        }
        r->cells = x_realloc(r->cells, cap * sizeof(cell));
        r->cell_cap = cap;
    }
    r->cells[r->cell_count++] = cell;
}

void result_add_null(struct db_result *r)
{
    add_cell(r, (struct cell){.type = CELL_NULL});
}

void result_add_int(struct db_result *r, int64_t v)
{
    add_cell(r, (struct cell){.type = CELL_INT, .i = v});
}

void result_add_real(struct db_result *r, double v)
{
    add_cell(r, (struct cell){.type = CELL_REAL, .d = v});
}

void result_add_text(struct db_result *r, struct str v)
{
    size_t at = r->text.len;
    buf_addstr(&r->text, v);
    buf_addc(&r->text, '\0');
    add_cell(r, (struct cell){.type = CELL_TEXT, .text = {.at = at, .len = v.len}});
}

void result_end_row(struct db_result *r)
{
    r->rows++;
}

bool result_ok(const struct db_result *r)
{
    return buf_ok(&r->text);
}

size_t db_rows(const struct db_result *r)
{
    return r->rows;
}

int64_t db_changes(const struct db_result *r)
{
    return r->changes;
}

static const struct cell *cell_at(const struct db_result *r, size_t row, size_t col)
{
    BUG_ON(row >= r->rows || col >= r->cols);
    return &r->cells[row * r->cols + col];
}

bool db_is_null(const struct db_result *r, size_t row, size_t col)
{
    return cell_at(r, row, col)->type == CELL_NULL;
}

struct str db_text(const struct db_result *r, size_t row, size_t col)
{
    const struct cell *cell = cell_at(r, row, col);
    if (cell->type != CELL_TEXT)
        return STR("");
    return str_n(r->text.data + cell->text.at, cell->text.len);
}

int64_t db_int(const struct db_result *r, size_t row, size_t col)
{
    const struct cell *cell = cell_at(r, row, col);
    return cell->type == CELL_INT ? cell->i : 0;
}

double db_real(const struct db_result *r, size_t row, size_t col)
{
    const struct cell *cell = cell_at(r, row, col);
    if (cell->type == CELL_INT)
        return (double)cell->i;
    return cell->type == CELL_REAL ? cell->d : 0.0;
}
