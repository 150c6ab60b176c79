/* pg_types.c - see the header.
 *
 * Values travel as text, both ways. An integer is declared int8 and a real float8, so that
 * expressions have the types they have on SQLite; a text is declared as nothing, so that it fits
 * a UUID, a JSON or a text column alike. What comes back is read by its column's type: truth
 * values are 0 and 1, and a numeric (the sum of bigints) is an integer when it has no fraction. */
#include "db/pg_types.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>

/* pg_type.oid of what is built in; these numbers never change. */
enum {
    OID_BOOL = 16,
    OID_INT8 = 20,
    OID_INT2 = 21,
    OID_INT4 = 23,
    OID_OID = 26,
    OID_FLOAT4 = 700,
    OID_FLOAT8 = 701,
    OID_NUMERIC = 1700
};

/* --- parameters --------------------------------------------------------------------------- */

static void grow(struct pg_params *p, size_t count)
{
    if (count <= p->cap)
        return;
    p->values = x_realloc(p->values, count * sizeof(*p->values));
    p->types = x_realloc(p->types, count * sizeof(*p->types));
    p->numbers = x_realloc(p->numbers, count * sizeof(*p->numbers));
    p->cap = count;
}

/* SQLite stores a NaN as NULL; so do we. */
static bool is_null(const struct db_param *param)
{
    return param->type == DB_NULL || (param->type == DB_REAL && isnan(param->d));
}

char pg_type_mark(const struct db_param *param)
{
    return param->type == DB_INT ? 'i' : param->type == DB_REAL ? 'd' : '-';
}

static Oid type_of(const struct db_param *param)
{
    return param->type == DB_INT ? OID_INT8 : param->type == DB_REAL ? OID_FLOAT8 : 0;
}

static const char *value_of(const struct db_param *param, char number[PG_NUMBER])
{
    if (is_null(param))
        return NULL;
    if (param->type == DB_TEXT)
        return param->s.p;
    if (param->type == DB_INT)
        snprintf(number, PG_NUMBER, "%lld", (long long)param->i);
    else
        snprintf(number, PG_NUMBER, "%.17g", param->d);
    return number;
}

void pg_params_set(struct pg_params *p, const struct db_param *params, size_t count)
{
    grow(p, count);
    for (size_t i = 0; i < count; i++) {
        p->types[i] = type_of(&params[i]);
        p->values[i] = value_of(&params[i], p->numbers[i]);
    }
}

void pg_params_release(struct pg_params *p)
{
    free(p->values);
    free(p->types);
    free(p->numbers);
    *p = (struct pg_params){0};
}

/* --- statements --------------------------------------------------------------------------- */

static struct str first_word(const char *sql)
{
    sql += strspn(sql, " \t\r\n;");
    size_t len = 0;
    while (isalpha((unsigned char)sql[len]))
        len++;
    return str_n(sql, len);
}

bool pg_is_read(const char *sql)
{
    return str_ieq_c(first_word(sql), "select");
}

static bool ends_transactions(const char *sql)
{
    static const char *const words[] = {"begin", "start",     "commit",  "end",     "rollback",
                                        "abort", "savepoint", "release", "prepare", "copy"};
    struct str word = first_word(sql);
    for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
        if (str_ieq_c(word, words[i]))
            return true;
    }
    return word.len == 0;
}

bool pg_refuses(const struct db_stmt *stmt, struct err *err)
{
    if (ends_transactions(stmt->sql)) {
        err_set(err, ERR_INTERNAL, "database: transactions are the driver's: %.100s", stmt->sql);
        return true;
    }
    if (stmt->param_count > PG_PARAMS_MAX) {
        err_set(err, ERR_INTERNAL, "database: %zu parameters are too many", stmt->param_count);
        return true;
    }
    for (size_t i = 0; i < stmt->param_count; i++) {
        const struct db_param *p = &stmt->params[i];
        if (p->type == DB_TEXT && p->s.len && memchr(p->s.p, '\0', p->s.len)) {
            err_set(err, ERR_INTERNAL, "database: PostgreSQL stores no NUL in a text, $%zu has one",
                    i + 1);
            return true;
        }
    }
    return false;
}

/* --- rows --------------------------------------------------------------------------------- */

static bool add_int(struct db_result *ret, const char *text)
{
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (*end || end == text || errno)
        return false;
    result_add_int(ret, v);
    return true;
}

static void add_cell(struct db_result *ret, Oid type, const char *text, size_t len)
{
    switch (type) {
    case OID_BOOL:
        result_add_int(ret, text[0] == 't');
        return;
    case OID_INT8:
    case OID_INT2:
    case OID_INT4:
    case OID_OID:
    case OID_NUMERIC:
        if (!add_int(ret, text))
            result_add_real(ret, strtod(text, NULL));
        return;
    case OID_FLOAT4:
    case OID_FLOAT8:
        result_add_real(ret, strtod(text, NULL));
        return;
    default:
        result_add_text(ret, str_n(text, len));
    }
}

static void take_row(struct db_result *ret, const PGresult *res, int row)
{
    int cols = PQnfields(res);
    result_start(ret, (size_t)cols);
    for (int c = 0; c < cols; c++) {
        if (PQgetisnull(res, row, c))
            result_add_null(ret);
        else
            add_cell(ret, PQftype(res, c), PQgetvalue(res, row, c),
                     (size_t)PQgetlength(res, row, c));
    }
    result_end_row(ret);
}

/* "INSERT 0 3", "UPDATE 3"; SELECT has a count too, but nothing was written. */
static int64_t changes_of(PGresult *res)
{
    uint64_t n;
    const char *status = PQcmdStatus(res);
    if (strncmp(status, "INSERT", 6) != 0 && strncmp(status, "UPDATE", 6) != 0 &&
        strncmp(status, "DELETE", 6) != 0)
        return 0;
    return str_to_u64(str_c(PQcmdTuples(res)), &n) ? (int64_t)n : 0;
}

int pg_result_take(struct db_result *ret, const PGresult *res, struct err *err)
{
    for (int row = 0; row < PQntuples(res) && result_ok(ret); row++)
        take_row(ret, res, row);
    if (PQresultStatus(res) != PGRES_SINGLE_TUPLE)
        ret->changes = changes_of((PGresult *)res);
    if (result_ok(ret))
        return 0;
    return err_set(err, ERR_TOO_LARGE, "database: a result is larger than %u MiB",
                   RESULT_MAX_BYTES >> 20);
}

/* --- errors ------------------------------------------------------------------------------- */

static const char *state_of(const PGresult *res)
{
    const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
    return state ? state : "";
}

/* https://www.postgresql.org/docs/15/errcodes-appendix.html */
static enum err_code code_of(const char *state)
{
    static const char *const away[] = {
        "08",             /* connection */
        "40",             /* rolled back: deadlock, serialisation; after the repeats */
        "53",             /* out of disk, memory, connections */
        "57",             /* cancelled, time-out, shutting down */
        "58",             /* I/O */
        "XX001",          /* corrupted */
        "XX002", "55P03", /* lock not available */
        "25006",          /* read only: the primary has moved */
    };
    if (strcmp(state, "23505") == 0 || strcmp(state, "23P01") == 0)
        return ERR_CONFLICT;
    if (strcmp(state, "08P01") == 0) /* the statement does not fit its parameters */
        return ERR_INTERNAL;
    for (size_t i = 0; i < ARRAY_SIZE(away); i++) {
        if (strncmp(state, away[i], strlen(away[i])) == 0)
            return ERR_UNAVAILABLE;
    }
    return *state ? ERR_INTERNAL : ERR_UNAVAILABLE;
}

#define TEXT_SIZE 300

/* libpq's messages have several lines: one per host, which are joined, and explanations behind
 * tabs, which are left out. */
static const char *one_line(const char *text, char out[TEXT_SIZE])
{
    struct str rest = str_c(text);
    size_t n = 0;
    out[0] = '\0';
    while (rest.len && n + 1 < TEXT_SIZE) {
        struct str line = str_split(&rest, '\n');
        if (line.len == 0 || line.p[0] == '\t')
            continue;
        int added =
            snprintf(out + n, TEXT_SIZE - n, "%s%.*s", n ? "; " : "", (int)line.len, line.p);
        n += (size_t)added;
    }
    return out;
}

int pg_error(const PGresult *res, struct err *err)
{
    const char *state = state_of(res);
    const char *text = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);
    char line[TEXT_SIZE];
    one_line(text ? text : PQresultErrorMessage(res), line);
    if (!*state) /* libpq's own: the connection broke */
        return err_set(err, ERR_UNAVAILABLE, "database: %s", line);
    return err_set(err, code_of(state), "database: %s (SQLSTATE %s)", line, state);
}

int pg_conn_error(const PGconn *pq, struct err *err)
{
    char line[TEXT_SIZE];
    one_line(PQerrorMessage(pq), line);
    return err_set(err, ERR_UNAVAILABLE, "database: %s",
                   *line ? line : "the connection was closed");
}

bool pg_may_repeat(const PGresult *res, bool *ret_stale)
{
    const char *state = state_of(res);
    /* The prepared statement has gone, or a table it names was altered. */
    *ret_stale = strcmp(state, "26000") == 0 || strcmp(state, "0A000") == 0;
    return *ret_stale || strcmp(state, "40001") == 0 || strcmp(state, "40P01") == 0;
}
