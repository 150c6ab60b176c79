/* redis_url.c - libcurl takes the URL apart; a socket's is given a host first, because libcurl
 * knows none without. */
#include "conf/redis_url.h"

#include <curl/curl.h>

#define SOCKET_HOST  "socket"
#define DEFAULT_PORT 6379
#define DB_MAX       1000000
#define PATH_BYTES   107 /* of a unix socket's path */
#define RULE                                                              \
    "must be redis://[[user]:password@]host[:port][/database] or "        \
    "unix:/path/of.sock[?db=database]; characters like @ and / within a " \
    "password are written as %40 and %2F"
#define NO_TLS                                                              \
    "TLS to Redis (rediss://) is not available: the hiredis of Debian 12 "  \
    "cannot do it; use a private network, a unix socket, or a tunnel such " \
    "as stunnel on this machine"

static void free_curl_url(CURLU **url)
{
    curl_url_cleanup(*url);
}

static void wipe(char **text)
{
    if (*text)
        explicit_bzero(*text, strlen(*text));
    free(*text);
    *text = NULL;
}

void redis_url_release(struct redis_url *url)
{
    wipe(&url->user);
    wipe(&url->password);
    free(url->host);
    free(url->path);
    *url = (struct redis_url){0};
}

/* A copy of one part, decoded; NULL when there is none. */
static char *part(CURLU *url, CURLUPart what)
{
    char *text = NULL, *copy = NULL;
    if (curl_url_get(url, what, &text, CURLU_URLDECODE) == CURLUE_OK) {
        copy = x_strdup(text);
        explicit_bzero(text, strlen(text));
    }
    curl_free(text);
    return copy;
}

static bool read_db(struct str text, int *ret_db)
{
    uint64_t n;
    if (!str_to_u64(text, &n) || n > DB_MAX)
        return false;
    *ret_db = (int)n;
    return true;
}

/* The path of a TCP address: empty, "/" or "/database". */
static bool read_db_path(const char *path, int *ret_db)
{
    return !path || strcmp(path, "/") == 0 || read_db(str_n(path + 1, strlen(path + 1)), ret_db);
}

static bool read_db_query(const char *query, int *ret_db)
{
    struct str text = str_c(query);
    return !query || (str_starts(text, "db=") && read_db(str_n(text.p + 3, text.len - 3), ret_db));
}

static void drop_brackets(char *host)
{
    size_t n = strlen(host);
    if (n > 2 && host[0] == '[' && host[n - 1] == ']') {
        memmove(host, host + 1, n - 2);
        host[n - 2] = '\0';
    }
}

static bool read_address(CURLU *url, bool is_socket, struct redis_url *u)
{
    AUTO(free_charp) char *port = part(url, CURLUPART_PORT);
    AUTO(free_charp) char *path = part(url, CURLUPART_PATH);
    AUTO(free_charp) char *query = part(url, CURLUPART_QUERY);
    AUTO(free_charp) char *host = part(url, CURLUPART_HOST);
    uint64_t number = DEFAULT_PORT;
    if (!host || !host[0])
        return false;
    if (is_socket) {
        size_t len = path ? strlen(path) : 0;
        bool ok = len > 1 && len <= PATH_BYTES && !port && read_db_query(query, &u->db);
        u->path = TAKE_PTR(path);
        return ok;
    }
    if ((port && (!str_to_u64(str_c(port), &number) || number == 0 || number > 65535)) || query ||
        !read_db_path(path, &u->db))
        return false;
    u->port = (int)number;
    drop_brackets(host);
    u->host = TAKE_PTR(host);
    return true;
}

static bool take_apart(const char *text, bool is_socket, struct redis_url *u)
{
    AUTO(free_curl_url) CURLU *url = curl_url();
    BUG_ON(!url);
    if (curl_url_set(url, CURLUPART_URL, text, CURLU_NON_SUPPORT_SCHEME) != CURLUE_OK)
        return false;
    AUTO(free_charp) char *fragment = part(url, CURLUPART_FRAGMENT);
    u->user = part(url, CURLUPART_USER);
    u->password = part(url, CURLUPART_PASSWORD);
    if (u->user && !u->user[0])
        wipe(&u->user);
    bool has_password = u->password && u->password[0];
    return !fragment && (has_password || (!u->password && !u->user)) &&
           read_address(url, is_socket, u);
}

/* "unix:/p", "unix:///p" and "unix://:pw@/p" as URLs of one and the same made-up host. */
static char *with_host(struct str text)
{
    struct str rest = str_n(text.p + strlen("unix:"), text.len - strlen("unix:"));
    struct str who = {"", 0};
    if (str_starts(rest, "//")) {
        rest = str_n(rest.p + 2, rest.len - 2);
        const char *slash = rest.len ? memchr(rest.p, '/', rest.len) : NULL;
        who = str_n(rest.p, slash ? (size_t)(slash - rest.p) : rest.len);
        rest = str_n(rest.p + who.len, rest.len - who.len);
    }
    if (!str_starts(rest, "/") || (who.len && who.p[who.len - 1] != '@'))
        return NULL;
    return x_printf("redis://%.*s" SOCKET_HOST "%.*s", (int)who.len, who.p, (int)rest.len, rest.p);
}

const char *redis_url_parse(struct str text, struct redis_url *ret_url)
{
    struct redis_url u = {0};
    bool is_socket = str_starts(text, "unix:");
    char *url = NULL;
    if (str_starts(text, "rediss:"))
        return NO_TLS;
    if (is_socket)
        url = with_host(text);
    else if (str_starts(text, "redis://") && !str_starts(text, "redis:///")) /* curl skips these */
        url = str_dup(text);
    bool ok = url && take_apart(url, is_socket, &u);
    wipe(&url);
    if (!ok) {
        redis_url_release(&u);
        return RULE;
    }
    *ret_url = u;
    return NULL;
}
