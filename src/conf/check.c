/* check.c - rules of single texts: addresses, URLs, credentials.
 *
 * URLs are taken apart by libcurl, the same parser that later connects: two parsers that disagree
 * about where the host is would let a credential out. */
#include "conf/networks.h"
#include "conf/redis_url.h"
#include "conf/settings.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <curl/curl.h>
#include <libpq-fe.h>

#define PASS_ENV_MAX 20
#define LISTEN_RULE                                                                              \
    "must be IPv4:port, [IPv6]:port, localhost:port or :port (all addresses), port 0 to 65535, " \
    "or unix:/path of a socket whose file name is at most 80 bytes long"
#define SOCKET_NAME_MAX 80

static bool is_ip(int family, struct str host)
{
    char text[INET6_ADDRSTRLEN];
    struct in6_addr addr;
    if (host.len >= sizeof(text))
        return false;
    memcpy(text, host.p, host.len);
    text[host.len] = '\0';
    return inet_pton(family, text, &addr) == 1;
}

static bool is_bracketed_ipv6(struct str host)
{
    return host.len > 2 && host.p[0] == '[' && host.p[host.len - 1] == ']' &&
           is_ip(AF_INET6, str_n(host.p + 1, host.len - 2));
}

static bool is_socket_path(struct str path)
{
    const char *slash = path.len ? memrchr(path.p, '/', path.len) : NULL;
    size_t name = slash ? (size_t)(path.p + path.len - slash) - 1 : 0;
    return str_starts(path, "/") && name >= 1 && name <= SOCKET_NAME_MAX;
}

const char *check_listen(struct str value)
{
    if (str_starts(value, "unix:"))
        return is_socket_path(str_n(value.p + 5, value.len - 5)) ? NULL : LISTEN_RULE;
    uint64_t port;
    const char *colon = memrchr(value.p, ':', value.len);
    if (!colon)
        return LISTEN_RULE;
    struct str host = str_n(value.p, (size_t)(colon - value.p));
    struct str tail = str_n(colon + 1, value.len - host.len - 1);
    if (!str_to_u64(tail, &port) || port > 65535)
        return LISTEN_RULE;
    bool ok = host.len == 0 || str_eq_c(host, "localhost") || is_ip(AF_INET, host) ||
              is_bracketed_ipv6(host);
    return ok ? NULL : LISTEN_RULE;
}

#define POSTGRES_RULE                                                                    \
    "must have the form postgres://user:password@host:port/database?option=value, with " \
    "special characters written as %XX"

/* A password whose @ or / is not escaped ends up as part of the host, the port or the database's
 * name, and from there in messages. */
static bool is_misread(const PQconninfoOption *o)
{
    const char *name = o->keyword, *value = o->val ? o->val : "";
    if (strcmp(name, "port") == 0)
        return value[strspn(value, "0123456789,")] != '\0';
    return (strcmp(name, "host") == 0 || strcmp(name, "dbname") == 0) && strchr(value, '@');
}

/* libpq takes it apart, which later connects. What it says of an error may hold the password. */
static const char *check_postgres_url(struct str value)
{
    AUTO(free_charp) char *text = str_dup(value);
    char *why = NULL;
    PQconninfoOption *info = PQconninfoParse(text, &why);
    bool good = info != NULL;
    for (const PQconninfoOption *o = info; o && o->keyword; o++)
        good = good && !is_misread(o);
    PQfreemem(why);
    PQconninfoFree(info);
    return good ? NULL : POSTGRES_RULE;
}

const char *check_database_url(struct str value)
{
    if (str_starts(value, "postgres://") || str_starts(value, "postgresql://"))
        return check_postgres_url(value);
    bool ok = str_starts(value, "sqlite:") && value.len > strlen("sqlite:");
    /* "sqlite://name" would silently be a file in the root directory. */
    if (!ok || (str_starts(value, "sqlite://") && !str_starts(value, "sqlite:///")))
        return "must be empty, sqlite:PATH or postgres://...";
    return NULL;
}

const char *check_redis_url(struct str value)
{
    struct redis_url url = {0};
    const char *broken = redis_url_parse(value, &url);
    redis_url_release(&url);
    return broken;
}

#define PREFIX_MAX 64

/* Braces would move the hash tag, by which a cluster finds the place of a key. */
const char *check_redis_prefix(struct str value)
{
    if (value.len > PREFIX_MAX || check_token(value) || str_contains(value, "{") ||
        str_contains(value, "}"))
        return "must be at most 64 visible ASCII characters without spaces and braces";
    return NULL;
}

#define ZONE_DIR "/usr/share/zoneinfo"

static bool is_zone_name(struct str name)
{
    for (size_t i = 0; i < name.len; i++) {
        if (!isalnum((unsigned char)name.p[i]) && !strchr("_+-/", name.p[i]))
            return false;
    }
    return name.len > 0 && name.len <= 64 && name.p[0] != '/';
}

const char *check_timezone(struct str value)
{
    char magic[4] = "";
    if (str_eq_c(value, "UTC"))
        return NULL;
    if (is_zone_name(value)) {
        AUTO(free_charp) char *path = x_printf(ZONE_DIR "/%.*s", (int)value.len, value.p);
        FILE *f = fopen(path, "rbe");
        size_t n = f ? fread(magic, 1, sizeof(magic), f) : 0;
        if (f)
            fclose(f);
        if (n == sizeof(magic) && memcmp(magic, "TZif", sizeof(magic)) == 0)
            return NULL;
    }
    return "must be UTC or a time zone of " ZONE_DIR ", such as Europe/Berlin or Asia/Shanghai";
}

const char *check_networks(struct str value)
{
    return networks_check(value);
}

const char *check_token(struct str value)
{
    for (size_t i = 0; i < value.len; i++) {
        if (value.p[i] <= 0x20 || value.p[i] >= 0x7F)
            return "must be visible ASCII characters without spaces";
    }
    return NULL;
}

const char *check_model_patterns(struct str value)
{
    while (value.len) {
        struct str one = str_trim(str_split(&value, ','));
        if (one.len == 0 || check_token(one))
            return "must be model names or patterns with *, separated by commas";
    }
    return NULL;
}

static bool is_variable_name(struct str name)
{
    for (size_t i = 0; i < name.len; i++) {
        char c = name.p[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
        if (!letter && (i == 0 || c < '0' || c > '9'))
            return false;
    }
    return name.len > 0;
}

/* A process that reads prompts must hold no credential, nor may what keeps it harmless be
 * replaced. CLAUDE covers CLAUDE_CODE_* and CLAUDEGATE_*. */
static bool may_be_passed(struct str name)
{
    return !str_starts(name, "ANTHROPIC_") && !str_starts(name, "CLAUDE") &&
           !str_eq_c(name, "DATABASE_URL") && !str_eq_c(name, "REDIS_URL") &&
           !str_eq_c(name, "HOME") && !str_eq_c(name, "PATH");
}

const char *check_aliases(struct str value)
{
    while (value.len) {
        struct str model = str_split(&value, ','), name = str_trim(str_split(&model, '='));
        model = str_trim(model);
        if (name.len == 0 || model.len == 0 || check_token(name) || check_token(model) ||
            memchr(model.p, '*', model.len) || memchr(model.p, '=', model.len))
            return "must be name=model, separated by commas; only name may have *";
    }
    return NULL;
}

const char *check_pass_env(struct str value)
{
    for (int n = 1; value.len; n++) {
        struct str name = str_trim(str_split(&value, ','));
        if (n > PASS_ENV_MAX || !is_variable_name(name))
            return "must be at most 20 names of variables, separated by commas";
        if (!may_be_passed(name))
            return "must not name HOME, PATH, DATABASE_URL, REDIS_URL, ANTHROPIC_* or CLAUDE*: the "
                   "processes get their own, and never a credential";
    }
    return NULL;
}

const char *check_uids(struct str value)
{
    uint64_t first, last;
    struct str rest = value, from = str_split(&rest, '-');
    if (!str_to_u64(from, &first) || !str_to_u64(rest, &last) || first == 0 || last < first ||
        last >= UINT32_MAX)
        return "must be two user ids, none of them 0, like 200000-200999";
    return NULL;
}

/* Names only: no rules like Bash(rm:*), nothing that could be an option. */
const char *check_tools(struct str value)
{
    bool more = true;
    while (more) {
        more = value.len && memchr(value.p, ',', value.len);
        struct str name = str_split(&value, ',');
        for (size_t i = 0; i < name.len; i++) {
            if (!isalpha((unsigned char)name.p[i]))
                name.len = 0;
        }
        if (name.len == 0)
            return "must be names of letters, separated by commas";
    }
    return NULL;
}

bool pass_env_has(const char *list, const char *name)
{
    struct str rest = str_c(list);
    while (rest.len) {
        if (str_eq_c(str_trim(str_split(&rest, ',')), name))
            return true;
    }
    return false;
}

/* Those that begin with CLAUDEGATE_ are the settings' own. */
const char *check_variable(struct str value)
{
    if (is_variable_name(value) && !str_starts(value, "CLAUDEGATE_"))
        return NULL;
    return "must be the name of a variable that does not begin with CLAUDEGATE_";
}

#define TARGET_NAME_MAX 32

/* It stands in log lines, on the metrics page and in messages. */
const char *check_target_name(struct str value)
{
    bool good = value.len <= TARGET_NAME_MAX;
    for (size_t i = 0; good && i < value.len; i++)
        good = isalnum((unsigned char)value.p[i]) || strchr("._-", value.p[i]);
    return good ? NULL : "must be 1 to 32 letters, digits, '.', '_' and '-'";
}

static void free_url(CURLU **url)
{
    curl_url_cleanup(*url);
}

static bool is_loopback(const char *host)
{
    return strcmp(host, "localhost") == 0 || strcmp(host, "[::1]") == 0 ||
           (strncmp(host, "127.", 4) == 0 && is_ip(AF_INET, str_c(host)));
}

static bool has_part(CURLU *url, CURLUPart part)
{
    char *text = NULL;
    CURLUcode rc = curl_url_get(url, part, &text, 0);
    curl_free(text);
    return rc == CURLUE_OK;
}

static const char *check_scheme_and_host(const char *scheme, const char *host)
{
    if (strcmp(scheme, "https") == 0)
        return NULL;
    if (strcmp(scheme, "http") != 0)
        return "must be an http:// or https:// URL";
    if (is_loopback(host))
        return NULL;
    return "plain http is allowed to this machine only (127.0.0.0/8, [::1], localhost): prompts "
           "and the credential would travel in the clear; use https";
}

const char *check_base_url(struct str value)
{
    AUTO(free_url) CURLU *url = curl_url();
    AUTO(free_charp) char *text = str_dup(value);
    char *scheme = NULL, *host = NULL;
    const char *broken = "must be an http:// or https:// URL";
    BUG_ON(!url);
    if (curl_url_set(url, CURLUPART_URL, text, 0) != CURLUE_OK)
        return broken;
    if (curl_url_get(url, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK &&
        curl_url_get(url, CURLUPART_HOST, &host, 0) == CURLUE_OK)
        broken = check_scheme_and_host(scheme, host);
    curl_free(scheme);
    curl_free(host);
    if (broken)
        return broken;
    if (has_part(url, CURLUPART_USER) || has_part(url, CURLUPART_PASSWORD))
        return "must not contain a user name or password";
    if (has_part(url, CURLUPART_QUERY) || has_part(url, CURLUPART_FRAGMENT))
        return "must not contain a query or a fragment";
    return NULL;
}

#define PROXY_RULE                                                                           \
    "must have the form http://host:port, https://, socks5:// or socks5h://, with "          \
    "user:password@ before the host if the proxy wants them, special characters written as " \
    "%XX, and no path"

static bool is_proxy_scheme(const char *scheme)
{
    static const char *const names[] = {"http", "https", "socks5", "socks5h"};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        if (strcmp(scheme, names[i]) == 0)
            return true;
    }
    return false;
}

/* The port must be said: libcurl's own idea of it, 1080, is nobody's. */
const char *check_proxy(struct str value)
{
    AUTO(free_url) CURLU *url = curl_url();
    AUTO(free_charp) char *text = str_dup(value);
    char *scheme = NULL, *path = NULL;
    BUG_ON(!url);
    bool good = !check_token(value) && str_contains(value, "://") &&
                curl_url_set(url, CURLUPART_URL, text, CURLU_NON_SUPPORT_SCHEME) == CURLUE_OK &&
                curl_url_get(url, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK &&
                is_proxy_scheme(scheme) && has_part(url, CURLUPART_HOST) &&
                has_part(url, CURLUPART_PORT) && !has_part(url, CURLUPART_QUERY) &&
                !has_part(url, CURLUPART_FRAGMENT) &&
                curl_url_get(url, CURLUPART_PATH, &path, 0) == CURLUE_OK && strcmp(path, "/") == 0;
    curl_free(scheme);
    curl_free(path);
    return good ? NULL : PROXY_RULE;
}
