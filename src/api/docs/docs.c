/* docs.c - both forms of each file are in the program, so that a reader costs no work: these
 * routes need no key. Browsers ask each time whether their copy is still good (ETag), so nobody
 * sees an old page after an update. */
#include "api/docs/docs.h"

#include "core/str.h"

#define CODINGS_MAX ((size_t)8 << 10)

/* The page itself needs no more than this; the styles that the viewer writes into its elements are
 * why styles, alone, may be inline. */
#define POLICY                                                                        \
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "       \
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; " \
    "frame-ancestors 'none'"

static const struct docs_file *find(const char *path)
{
    for (size_t i = 0; i < docs_file_count; i++) {
        if (strcmp(docs_files[i].path, path) == 0)
            return &docs_files[i];
    }
    return NULL;
}

/* Of "q=0.5", "q=0", "": is it a weight of nothing? */
static bool is_refused(struct str weight)
{
    weight = str_trim(weight);
    if (weight.len < 3 || !str_ieq_c(str_n(weight.p, 2), "q="))
        return false;
    for (size_t i = 2; i < weight.len; i++) {
        if (weight.p[i] != '0' && weight.p[i] != '.')
            return false;
    }
    return true;
}

/* RFC 9110, 12.5.3. Who says nothing gets the plain form. */
static bool accepts_gzip(const struct http_req *req)
{
    AUTO(buf_release) struct buf codings;
    buf_init(&codings, CODINGS_MAX);
    if (!http_req_header_all(req, "accept-encoding", &codings))
        return false;
    for (struct str rest = buf_str(&codings); rest.len;) {
        struct str weight = str_split(&rest, ',');
        if (str_ieq_c(str_trim(str_split(&weight, ';')), "gzip"))
            return !is_refused(weight);
    }
    return false;
}

void docs_file(struct http_req *req, void *ctx)
{
    const struct docs_file *file = find(http_req_route(req));
    (void)ctx;
    BUG_ON(!file);
    bool gzip = accepts_gzip(req);
    const struct docs_content *content = gzip ? &file->gzip : &file->plain;
    const char *have = http_req_header(req, "if-none-match");
    http_set_header(req, "ETag", content->etag);
    http_set_header(req, "Vary", "Accept-Encoding");
    http_set_header(req, "Cache-Control", "no-cache");
    http_set_header(req, "Content-Security-Policy", POLICY);
    http_set_header(req, "Referrer-Policy", "no-referrer");
    if (have && str_contains(str_c(have), content->etag)) {
        http_reply(req, 304, NULL, STR(""));
        return;
    }
    if (gzip)
        http_set_header(req, "Content-Encoding", "gzip");
    http_reply(req, 200, file->type, str_n((const char *)content->data, content->len));
}
