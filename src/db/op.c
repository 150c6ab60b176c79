/* op.c - see the header. One allocation holds the operation, its statements, their parameters and
 * all their texts. */
#include "db/op.h"

static size_t params_total(const struct db_stmt *stmts, size_t count)
{
    size_t n = 0;
    for (size_t i = 0; i < count; i++)
        n += stmts[i].param_count;
    return n;
}

static size_t text_total(const struct db_stmt *stmts, size_t count)
{
    size_t n = 0;
    for (size_t i = 0; i < count; i++) {
        for (size_t p = 0; p < stmts[i].param_count; p++) {
            const struct db_param *param = &stmts[i].params[p];
            if (param->type == DB_TEXT)
                BUG_ON(__builtin_add_overflow(n, param->s.len + 1, &n));
        }
    }
    return n;
}

struct op *op_new(const struct db_stmt *stmts, size_t count)
{
    size_t params_at = sizeof(struct op) + count * sizeof(struct db_stmt);
    size_t text_at = params_at + params_total(stmts, count) * sizeof(struct db_param);
    size_t size = text_at + text_total(stmts, count);
    struct op *op = x_malloc(size);
    struct db_param *param = (void *)((char *)op + params_at);
    char *text = (char *)op + text_at;
    *op = (struct op){.size = size, .count = count};
    result_init(&op->result);
    for (size_t i = 0; i < count; i++) {
        op->stmts[i] = stmts[i];
        op->stmts[i].params = param;
        for (size_t p = 0; p < stmts[i].param_count; p++, param++) {
            *param = stmts[i].params[p];
            if (param->type != DB_TEXT)
                continue;
            if (param->s.len)
                memcpy(text, param->s.p, param->s.len);
            text[param->s.len] = '\0';
            param->s.p = text;
            text += param->s.len + 1;
        }
    }
    return op;
}

void op_free(struct op *op)
{
    result_release(&op->result);
    free(op->err);
    free(op);
}

void op_fail(struct op *op, const struct err *err)
{
    if (!op->err)
        op->err = x_malloc(sizeof(*op->err));
    *op->err = *err;
}
