/* settings.c - the rows, and what can be asked about their names.
 *
 * A new setting is a member of struct conf and one row here; parser, environment, `config show`,
 * and the reference follow. Ranges keep a slip of the finger from becoming an outage: they are
 * wide, but end where a value can only be a mistake. */
#include "conf/settings.h"

#include <ctype.h>

#define MIB           ((int64_t)1 << 20)
#define GIB           ((int64_t)1 << 30)
#define DAY           ((int64_t)86400)
#define HOUR_MS       ((int64_t)3600000)
#define UNLIMITED     ((int64_t)-1)
#define MANY          ((int64_t)1000000000000)
#define AT(member)    .offset = offsetof(struct conf, member)
#define RANGE(lo, hi) .min = (lo), .max = (hi)

static const char *const log_levels[] = {"debug", "info", "warn", "error", NULL};
static const char *const http_versions[] = {"1.1", "2", NULL};
static const char *const demo_modes[] = {[DEMO_OFF] = "off", [DEMO_AUTO] = "auto", NULL};
static const char *const isolations[] = {[CONF_ISOLATE_KEY] = "key",
                                         [CONF_ISOLATE_REQUEST] = "request",
                                         [CONF_ISOLATE_SHARED] = "shared",
                                         NULL};
static const char *const histories[] = {[CONF_HISTORY_AUTO] = "auto",
                                        [CONF_HISTORY_INJECT] = "inject",
                                        [CONF_HISTORY_RESUME] = "resume",
                                        NULL};
static const char *const away_policies[] = {
    [CONF_AWAY_CLOSED] = "closed", [CONF_AWAY_OPEN] = "open", [CONF_AWAY_SHARE] = "share", NULL};
static const char *const disk_full_policies[] = {
    [CONF_DISK_FULL_REFUSE] = "refuse", [CONF_DISK_FULL_SERVE] = "serve", NULL};
static const char *const sandbox_modes[] = {
    [CONF_SANDBOX_AUTO] = "auto", [CONF_SANDBOX_ON] = "on", [CONF_SANDBOX_OFF] = "off", NULL};

/* clang-format off */
const struct setting settings[] = {
    {.name = "server.listen", .env = "CLAUDEGATE_LISTEN", .kind = SET_STRING, AT(server.listen),
     .def = "127.0.0.1:3001", .check = check_listen,
     .help = "Address to serve on: IPv4:port, [IPv6]:port, localhost:port, :port (all addresses) "
             "or unix:/path of a socket; the variable PORT replaces its port."},
    {.name = "server.max_body_bytes", .kind = SET_BYTES, AT(server.max_body_bytes),
     RANGE(1024, GIB), .def = "33554432", .help = "Largest request body; above it, 413."},
    {.name = "server.max_header_bytes", .kind = SET_BYTES, AT(server.max_header_bytes),
     RANGE(1024, MIB), .def = "32768", .help = "Largest request line and headers together."},
    {.name = "server.idle_timeout", .kind = SET_SECONDS, AT(server.idle_timeout), RANGE(1, DAY),
     .def = "75", .help = "How long a kept-alive connection may stay without a request."},
    {.name = "server.read_timeout", .kind = SET_SECONDS, AT(server.read_timeout), RANGE(1, DAY),
     .def = "60", .help = "How long a client may take to send its whole request."},
    {.name = "server.max_connections", .kind = SET_INT, AT(server.max_connections),
     RANGE(1, 1000000), .def = "10000", .help = "Connections open at once; more are refused."},
    {.name = "server.drain_timeout", .kind = SET_SECONDS, AT(server.drain_timeout),
     RANGE(0, DAY), .def = "30", .help = "How long running turns may still take after SIGTERM."},
    {.name = "server.keepalive_ms", .kind = SET_MILLIS, AT(server.keepalive_ms),
     RANGE(100, HOUR_MS), .def = "10000",
     .help = "A stream that was silent for so long gets a comment; one that still waits for a "
             "process is told its position."},
    {.name = "server.hsts", .kind = SET_BOOL, AT(server.hsts), .def = "false",
     .help = "Send Strict-Transport-Security; only when every client comes through TLS."},
    {.name = "server.trusted_proxies", .kind = SET_STRING, AT(server.trusted_proxies), .def = "",
     .may_be_empty = true, .check = check_networks,
     .help = "Proxies in front of the server whose X-Forwarded-For is believed: addresses and "
             "networks, separated by commas, or the word unix for those on a unix socket."},

    {.name = "data_dir", .env = "CLAUDEGATE_DATA_DIR", .kind = SET_STRING, AT(data_dir),
     .def = "data", .help = "Directory of the database, the journal, sockets and logs."},

    {.name = "log.level", .env = "LOG_LEVEL", .kind = SET_CHOICE, AT(log.level), .def = "info",
     .choices = log_levels, .help = "Least severe level that is logged."},
    {.name = "log.dir", .kind = SET_STRING, AT(log.dir), .def = "", .may_be_empty = true,
     .help = "Directory of combined.log and error.log: empty is logs in data_dir, none is no "
             "files."},
    {.name = "log.console", .kind = SET_BOOL, AT(log.console), .def = "true",
     .help = "Also log to standard error, in a simple form."},

    {.name = "database.url", .env = "DATABASE_URL", .kind = SET_STRING, .secret = true,
     AT(database.url), .def = "", .may_be_empty = true, .check = check_database_url,
     .help = "Empty is an SQLite file in data_dir; otherwise sqlite:PATH, or "
             "postgres://user:password@host:port/database with libpq's options, such as "
             "?sslmode=verify-full."},
    {.name = "database.pool_size", .kind = SET_INT, AT(database.pool_size), RANGE(1, 100),
     .def = "4", .help = "Connections to PostgreSQL at most; they are opened when needed."},
    {.name = "database.connect_timeout_ms", .kind = SET_MILLIS, AT(database.connect_timeout_ms),
     RANGE(100, 600000), .def = "5000",
     .help = "Limit for a connection to PostgreSQL, and for how long a statement waits while there "
             "is none."},
    {.name = "database.query_timeout_ms", .kind = SET_MILLIS, AT(database.query_timeout_ms),
     RANGE(100, HOUR_MS), .def = "30000", .help = "Limit of one statement on PostgreSQL."},
    {.name = "database.start_timeout", .kind = SET_SECONDS, AT(database.start_timeout),
     RANGE(0, DAY), .def = "30",
     .help = "How long serve waits at its start for a database that cannot be reached."},
    {.name = "redis.url", .env = "REDIS_URL", .kind = SET_STRING, .secret = true, AT(redis.url),
     .def = "", .may_be_empty = true, .check = check_redis_url,
     .help = "redis://[[user]:password@]host[:port][/database] or unix:/path: several servers share "
             "limits through it; empty keeps them in the process."},
    {.name = "redis.timeout_ms", .kind = SET_MILLIS, AT(redis.timeout_ms), RANGE(10, 60000),
     .def = "1000", .help = "A Redis that has not answered by then counts as away."},
    {.name = "redis.prefix", .kind = SET_STRING, AT(redis.prefix), .def = "claudegate:",
     .check = check_redis_prefix, .help = "What the names of all keys and channels begin with."},

    {.name = "limits.timezone", .kind = SET_STRING, AT(limits.timezone), .def = "UTC",
     .check = check_timezone,
     .help = "Days and months of limits end at midnight of this time zone: UTC, or a name such as "
             "Europe/Berlin."},
    {.name = "limits.when_redis_is_away", .kind = SET_INDEX, AT(limits.when_redis_is_away),
     .def = "share", .choices = away_policies,
     .help = "Until it is back: closed refuses requests with 503, open does not limit them, share "
             "lets each server give its part of every limit (the limit divided by the number of "
             "servers last known)."},

    {.name = "usage.when_disk_is_full", .kind = SET_INDEX, AT(usage.when_disk_is_full),
     .def = "refuse", .choices = disk_full_policies,
     .help = "While the usage journal cannot be written: refuse answers new requests with 503, "
             "serve goes on and keeps what was used in memory until there is room."},
    {.name = "pricing.file", .kind = SET_STRING, AT(pricing.file), .def = "",
     .may_be_empty = true,
     .help = "JSON file with prices of models that replace and add to the shipped ones; "
             "docs/operations.md shows its form."},

    {.name = "upstream.base_url", .env = "ANTHROPIC_BASE_URL", .kind = SET_STRING,
     AT(upstream.base_url), .def = "https://api.anthropic.com", .check = check_base_url,
     .help = "Where the Anthropic API is; plain http only on this machine."},
    {.name = "upstream.api_key", .env = "ANTHROPIC_API_KEY", .kind = SET_STRING, .secret = true,
     AT(upstream.api_key), .def = "", .may_be_empty = true, .check = check_token,
     .help = "API key that is sent upstream as x-api-key."},
    {.name = "upstream.auth_token", .env = "ANTHROPIC_AUTH_TOKEN", .kind = SET_STRING,
     .secret = true, AT(upstream.auth_token), .def = "", .may_be_empty = true,
     .check = check_token,
     .help = "Token that is sent upstream as Authorization: Bearer, instead of api_key."},
    {.name = "upstream.targets", .kind = SET_TARGETS, AT(upstream.targets), .def = "[]",
     .help = "Several credentials instead of that one, each with a name and, as needed, a base_url "
             "and a weight; in the variable, as JSON. See operations.md."},
    {.name = "upstream.proxy", .kind = SET_STRING, .secret = true, AT(upstream.proxy), .def = "",
     .may_be_empty = true, .check = check_proxy,
     .help = "Proxy on the way there: http://, https://, socks5:// or socks5h:// with "
             "user:password@, if it wants them, host and port; empty uses https_proxy, all_proxy "
             "and no_proxy."},
    {.name = "upstream.http_version", .kind = SET_CHOICE, AT(upstream.http_version), .def = "1.1",
     .choices = http_versions,
     .help = "Version of HTTP; 2 is spoken over TLS where the other side knows it, one request at a "
             "time on a connection."},
    {.name = "upstream.ca_file", .kind = SET_STRING, AT(upstream.ca_file), .def = "",
     .may_be_empty = true,
     .help = "File with the certificates (PEM) that are trusted there, such as a company's own; "
             "empty trusts the system's."},
    {.name = "upstream.demo", .kind = SET_INDEX, AT(upstream.demo), .def = "off",
     .choices = demo_modes,
     .help = "With auto, a server without a credential answers from a built-in stand-in."},
    {.name = "upstream.connect_timeout_ms", .kind = SET_MILLIS, AT(upstream.connect_timeout_ms),
     RANGE(10, HOUR_MS), .def = "10000", .help = "Limit for name lookup, connection and TLS."},
    {.name = "upstream.first_byte_timeout_ms", .kind = SET_MILLIS,
     AT(upstream.first_byte_timeout_ms), RANGE(10, HOUR_MS), .def = "120000",
     .help = "Limit from request sent to response headers."},
    {.name = "upstream.idle_timeout_ms", .kind = SET_MILLIS, AT(upstream.idle_timeout_ms),
     RANGE(10, HOUR_MS), .def = "120000", .help = "Limit of silence inside a response."},
    {.name = "upstream.max_retries", .kind = SET_INT, AT(upstream.max_retries), RANGE(0, 10),
     .def = "2", .help = "Retries after 429, 5xx, 529 and connection errors, before the first byte."},

    {.name = "claude.bin", .env = "CLAUDEGATE_CLAUDE_BIN", .kind = SET_STRING, AT(claude.bin),
     .def = "", .may_be_empty = true,
     .help = "The claude program; empty searches node_modules/.bin and PATH."},
    {.name = "claude.model", .kind = SET_STRING, AT(claude.model), .def = "claude-sonnet-4-5",
     .check = check_token, .help = "Model of requests that name none."},
    {.name = "claude.pass_env", .kind = SET_STRING, AT(claude.pass_env), .def = "",
     .may_be_empty = true, .check = check_pass_env,
     .help = "Variables of this process that the claude processes get too, separated by commas; "
             "all others they never see."},
    {.name = "claude.history", .kind = SET_INDEX, AT(claude.history), .def = "auto",
     .choices = histories,
     .help = "How a process gets a conversation's history: inject writes it to its input, resume "
             "starts a new process on a transcript, auto tries each new process and injects while "
             "that works."},

    {.name = "models.aliases", .kind = SET_STRING, AT(models.aliases), .def = "",
     .may_be_empty = true, .check = check_aliases,
     .help = "Other names of models for OpenAI clients: name=model, separated by commas; name may "
             "have *."},

    {.name = "sandbox.mode", .kind = SET_INDEX, AT(sandbox.mode), .def = "auto",
     .choices = sandbox_modes,
     .help = "Whether each claude process runs in bubblewrap, without network and with a private "
             "file system: auto where it works, on or not at all, off."},
    {.name = "sandbox.memory_mb", .kind = SET_MEBIBYTES, AT(sandbox.memory_mb),
     RANGE(0, 1048576), .def = "2048",
     .help = "Memory of one worker and all it starts, where a cgroup v2 is delegated; 0 is no "
             "limit."},
    {.name = "sandbox.cpu_percent", .kind = SET_INT, AT(sandbox.cpu_percent), RANGE(0, 100000),
     .def = "0", .help = "CPU of one worker, 100 is one core, where a cgroup v2 is delegated; 0 is "
                         "no limit."},
    {.name = "sandbox.max_processes", .kind = SET_INT, AT(sandbox.max_processes),
     RANGE(0, 1000000), .def = "256",
     .help = "Processes and threads of one worker, where a cgroup v2 is delegated; 0 is no "
             "limit."},
    {.name = "sandbox.max_open_files", .kind = SET_INT, AT(sandbox.max_open_files),
     RANGE(0, 1000000), .def = "1024", .help = "Open files of one process; 0 is as inherited."},
    {.name = "sandbox.max_file_mb", .kind = SET_MEBIBYTES, AT(sandbox.max_file_mb),
     RANGE(0, 1048576), .def = "1024", .help = "Largest file a worker may write; 0 is as "
                                               "inherited."},
    {.name = "sandbox.uids", .kind = SET_STRING, AT(sandbox.uids), .def = "",
     .may_be_empty = true, .check = check_uids,
     .help = "Range of user ids, first-last: each worker runs as one of its own; needs root. Empty "
             "is the server's own user."},

    {.name = "pool.max_workers", .kind = SET_INT, AT(pool.max_workers), RANGE(1, 10000),
     .def = "8", .help = "Processes at most; each takes about 120 MiB."},
    {.name = "pool.min_spare", .kind = SET_INT, AT(pool.min_spare), RANGE(0, 10000), .def = "1",
     .help = "Started processes kept ready for a key that has none; at most max_workers."},
    {.name = "pool.start_concurrency", .kind = SET_INT, AT(pool.start_concurrency),
     RANGE(0, 1000), .def = "0", .help = "Processes starting at once; 0 is the number of cores."},
    {.name = "pool.max_requests", .kind = SET_INT, AT(pool.max_requests), RANGE(1, 1000000),
     .def = "300", .help = "A process is replaced after this many requests."},
    {.name = "pool.max_rss_mb", .kind = SET_MEBIBYTES, AT(pool.max_rss_mb),
     RANGE(1, 1048576), .def = "450", .help = "A process is replaced above this resident memory."},
    {.name = "pool.max_age", .kind = SET_SECONDS, AT(pool.max_age), RANGE(1, 365 * DAY),
     .def = "21600", .help = "A process is replaced at this age."},
    {.name = "pool.idle_timeout", .kind = SET_SECONDS, AT(pool.idle_timeout),
     RANGE(1, 365 * DAY), .def = "900",
     .help = "A process that belongs to a key ends after this time without a request."},
    {.name = "pool.start_timeout_ms", .kind = SET_MILLIS, AT(pool.start_timeout_ms),
     RANGE(10, HOUR_MS), .def = "60000", .help = "Limit for a process to start."},
    {.name = "pool.prepare_timeout_ms", .kind = SET_MILLIS, AT(pool.prepare_timeout_ms),
     RANGE(10, HOUR_MS), .def = "10000", .help = "Limit for reset and history before a turn."},
    {.name = "pool.silence_timeout_ms", .kind = SET_MILLIS, AT(pool.silence_timeout_ms),
     RANGE(10, 299000), .def = "240000",
     .help = "Limit of silence inside a turn; less than turn_timeout_ms and than the 300 s "
             "after which claude itself gives up."},
    {.name = "pool.turn_timeout_ms", .kind = SET_MILLIS, AT(pool.turn_timeout_ms),
     RANGE(20, 24 * HOUR_MS), .def = "900000", .help = "Limit of a whole turn."},
    {.name = "pool.interrupt_timeout_ms", .kind = SET_MILLIS, AT(pool.interrupt_timeout_ms),
     RANGE(10, HOUR_MS), .def = "2000",
     .help = "An interrupted turn that has not ended by then is killed."},
    {.name = "pool.isolation", .kind = SET_INDEX, AT(pool.isolation), .def = "key",
     .choices = isolations,
     .help = "Whose requests may share a process, one after the other: those of one API key, "
             "nobody's (it ends after each request), or everybody's."},
    {.name = "pool.queue_max", .kind = SET_INT, AT(pool.queue_max), RANGE(0, 1000000),
     .def = "1000", .help = "Requests that may wait for a process; more are refused."},
    {.name = "pool.queue_max_per_key", .kind = SET_INT, AT(pool.queue_max_per_key),
     RANGE(0, 1000000), .def = "200",
     .help = "Of them, with the same API key; 0 is no limit of its own."},
    {.name = "pool.queue_timeout_ms", .kind = SET_MILLIS, AT(pool.queue_timeout_ms),
     RANGE(10, HOUR_MS), .def = "60000", .help = "How long a request may wait for a process."},

    {.name = "agent.enabled", .kind = SET_BOOL, AT(agent.enabled), .def = "false",
     .help = "Allow agent turns to keys that have the permission: the program's own tools work in "
             "a directory of the session; not together with sandbox.uids."},
    {.name = "agent.tools", .kind = SET_STRING, AT(agent.tools),
     .def = "Bash,Read,Write,Edit,Glob,Grep", .check = check_tools,
     .help = "Tools of an agent turn, separated by commas; each may be used without asking."},
    {.name = "agent.max_turns", .kind = SET_INT, AT(agent.max_turns), RANGE(0, 1000),
     .def = "50", .help = "Rounds of tools in one agent turn; 0 is no limit."},
    {.name = "agent.require_sandbox", .kind = SET_BOOL, AT(agent.require_sandbox),
     .def = "true", .help = "Refuse to start with agent.enabled where bubblewrap is not in force; "
                            "with false, agents may then do whatever this server's user may."},

    {.name = "vault.master_key", .env = "CLAUDEGATE_MASTER_KEY", .kind = SET_STRING,
     .secret = true, AT(vault.master_key), .def = "", .may_be_empty = true,
     .help = "Encrypts conversations and signing secrets in the database: 64 hex digits or base64 "
             "of 32 bytes, as from openssl rand -hex 32; several are separated by commas, the "
             "first one seals, all of them open."},
    {.name = "vault.master_key_file", .kind = SET_STRING, AT(vault.master_key_file), .def = "",
     .may_be_empty = true,
     .help = "File with the master keys instead, one per line; # begins a comment."},

    {.name = "session.ttl", .kind = SET_SECONDS, AT(session.ttl), RANGE(1, 3650 * DAY),
     .def = "3600", .help = "A session is forgotten this long after its last use."},
    {.name = "session.max_bytes", .kind = SET_BYTES, AT(session.max_bytes), RANGE(1024, GIB),
     .def = "8388608", .help = "Largest stored conversation; above it, 413."},
    {.name = "session.max_messages", .kind = SET_INT, AT(session.max_messages),
     RANGE(0, 1000000), .def = "1000",
     .help = "Messages of a stored conversation; a session that has so many takes no further turn "
             "(413). 0 is no limit."},

    {.name = "cache.ttl", .kind = SET_SECONDS, AT(cache.ttl), RANGE(1, 365 * DAY), .def = "3600",
     .help = "How long an answer is kept for keys with the response cache; docs/operations.md."},
    {.name = "cache.max_bytes", .kind = SET_BYTES, AT(cache.max_bytes),
     RANGE(2 * MIB, 1024 * GIB), .def = "67108864",
     .help = "Memory for kept answers, the oldest go first; with Redis they are there instead, and "
             "each server keeps at most so much there."},
    {.name = "idempotency.ttl", .kind = SET_SECONDS, AT(idempotency.ttl), RANGE(1, 365 * DAY),
     .def = "86400",
     .help = "How long the answer to a request with an Idempotency-Key is kept for its repetition."},
    {.name = "idempotency.max_bytes", .kind = SET_BYTES, AT(idempotency.max_bytes),
     RANGE(1024, GIB / 8), .def = "8388608",
     .help = "Largest answer that is kept; a request that repeats a larger one gets 409."},
    {.name = "resume.grace", .kind = SET_SECONDS, AT(resume.grace), RANGE(0, 3600), .def = "30",
     .help = "How long a turn goes on after its client has left, when the request can be resumed or "
             "has an Idempotency-Key; and how long its stream is held after its end."},
    {.name = "resume.max_bytes", .kind = SET_BYTES, AT(resume.max_bytes), RANGE(1024, GIB / 8),
     .def = "8388608",
     .help = "What is held of one resumable stream; the oldest events of a longer one go first."},
    {.name = "resume.max_total_bytes", .kind = SET_BYTES, AT(resume.max_total_bytes),
     RANGE(16384, 64 * GIB), .def = "268435456",
     .help = "What is held of all such streams and answers together; finished ones go first, the "
             "oldest before the others."},

    {.name = "auth.max_failures", .kind = SET_INT, AT(auth.max_failures), RANGE(0, 1000000),
     .def = "20",
     .help = "Wrong keys and signatures per minute and client address (IPv6: /64); more get 429, "
             "while keys already known from there go on working; 0 is no limit."},
    {.name = "auth.signature_window", .kind = SET_SECONDS, AT(auth.signature_window),
     RANGE(1, 3600), .def = "300",
     .help = "How far the time of a signed request may be away from the server's."},

    {.name = "keys.requests_per_minute", .kind = SET_INT, AT(keys.requests_per_minute),
     RANGE(UNLIMITED, MANY), .def = "10",
     .help = "Requests per minute of a new key; -1 is unlimited."},
    {.name = "keys.requests_per_day", .kind = SET_INT, AT(keys.requests_per_day),
     RANGE(UNLIMITED, MANY), .def = "1000",
     .help = "Requests per day (of limits.timezone) of a new key; -1 is unlimited."},
    {.name = "keys.tokens_per_day", .kind = SET_INT, AT(keys.tokens_per_day),
     RANGE(UNLIMITED, MANY), .def = "100000",
     .help = "Tokens per day (of limits.timezone) of a new key; -1 is unlimited."},
    {.name = "keys.max_tokens", .kind = SET_INT, AT(keys.max_tokens), RANGE(UNLIMITED, MANY),
     .def = "4096", .help = "Tokens one answer to a new key may have; -1 is unlimited."},
    {.name = "keys.models", .kind = SET_STRING, AT(keys.models), .def = "claude-*",
     .check = check_model_patterns,
     .help = "Models a new key may use: patterns with *, separated by commas."},

    {.name = "metrics.token", .env = "CLAUDEGATE_METRICS_TOKEN", .kind = SET_STRING,
     .secret = true, AT(metrics.token), .def = "", .may_be_empty = true, .check = check_token,
     .help = "Bearer token that opens /metrics; empty serves direct loopback peers only."},
};
/* clang-format on */
const size_t settings_count = ARRAY_SIZE(settings);

int setting_find(struct str name)
{
    for (size_t i = 0; i < settings_count; i++) {
        if (str_eq_c(name, settings[i].name))
            return (int)i;
    }
    return -1;
}

size_t setting_section_len(const struct setting *s)
{
    const char *dot = strchr(s->name, '.');
    return dot ? (size_t)(dot - s->name) : 0;
}

bool setting_is_section(struct str name)
{
    for (size_t i = 0; i < settings_count && name.len; i++) {
        if (str_eq(name, str_n(settings[i].name, setting_section_len(&settings[i]))))
            return true;
    }
    return false;
}

const char *setting_leaf(const struct setting *s)
{
    size_t n = setting_section_len(s);
    return n ? s->name + n + 1 : s->name;
}

bool setting_is_text(const struct setting *s)
{
    return s->kind == SET_STRING || s->kind == SET_CHOICE;
}

char **setting_text(const struct setting *s, void *base)
{
    BUG_ON(!setting_is_text(s));
    return (char **)(void *)((char *)base + s->offset);
}

const char *setting_env_name(const struct setting *s, char out[SETTING_ENV_SIZE])
{
    int n = snprintf(out, SETTING_ENV_SIZE, "CLAUDEGATE_%s", s->name);
    BUG_ON(n >= SETTING_ENV_SIZE);
    for (char *p = out; *p; p++)
        *p = *p == '.' ? '_' : (char)toupper((unsigned char)*p);
    return out;
}

#define WORD_MAX 64 /* of a wrong name: longer ones are compared by their beginning */

/* Levenshtein distance, letters folded: https://en.wikipedia.org/wiki/Levenshtein_distance */
static size_t distance(struct str a, struct str b)
{
    size_t row[WORD_MAX + 1];
    a.len = a.len < WORD_MAX ? a.len : WORD_MAX;
    b.len = b.len < WORD_MAX ? b.len : WORD_MAX;
    for (size_t j = 0; j <= b.len; j++)
        row[j] = j;
    for (size_t i = 1; i <= a.len; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= b.len; j++) {
            bool same = tolower((unsigned char)a.p[i - 1]) == tolower((unsigned char)b.p[j - 1]);
            size_t best = diagonal + (same ? 0 : 1);
            diagonal = row[j];
            best = row[j] + 1 < best ? row[j] + 1 : best;
            row[j] = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
        }
    }
    return row[b.len];
}

/* A right name under the wrong section is as near as one slip. */
static size_t distance_of_setting(const struct setting *s, struct str wrong)
{
    size_t d = distance(wrong, str_c(s->name));
    struct str leaf = wrong;
    const char *dot = wrong.len ? memrchr(wrong.p, '.', wrong.len) : NULL;
    if (dot)
        leaf = str_n(dot + 1, (size_t)(wrong.p + wrong.len - dot - 1));
    return d > 1 && str_ieq_c(leaf, setting_leaf(s)) ? 1 : d;
}

#define SUGGEST_MAX 3

struct near {
    char name[SETTING_ENV_SIZE];
    size_t distance;
};

/* Keeps the best SUGGEST_MAX names, nearest first, each once. */
static void near_offer(struct near best[SUGGEST_MAX], struct str name, size_t d)
{
    size_t at = 0;
    for (size_t i = 0; i < SUGGEST_MAX; i++) {
        if (str_eq_c(name, best[i].name))
            return;
    }
    while (at < SUGGEST_MAX && best[at].name[0] && best[at].distance <= d)
        at++;
    if (at == SUGGEST_MAX)
        return;
    memmove(&best[at + 1], &best[at], (SUGGEST_MAX - 1 - at) * sizeof(best[0]));
    snprintf(best[at].name, sizeof(best[at].name), "%.*s", (int)name.len, name.p);
    best[at].distance = d;
}

/* The nearest, and what is nearly as near. */
static void near_write(const struct near best[SUGGEST_MAX], struct buf *out)
{
    buf_printf(out, "(nearest: %s", best[0].name);
    for (size_t i = 1; i < SUGGEST_MAX; i++) {
        if (best[i].name[0] && best[i].distance <= best[0].distance + 1)
            buf_printf(out, ", %s", best[i].name);
    }
    buf_addc(out, ')');
}

void setting_suggest(struct buf *out, struct str wrong)
{
    struct near best[SUGGEST_MAX] = {0};
    bool nested = wrong.len && memchr(wrong.p, '.', wrong.len);
    for (size_t i = 0; i < settings_count; i++) {
        const struct setting *s = &settings[i];
        struct str section = str_n(s->name, setting_section_len(s));
        near_offer(best, str_c(s->name), distance_of_setting(s, wrong));
        if (section.len && !nested)
            near_offer(best, section, distance(wrong, section));
    }
    near_write(best, out);
}

#define ENV_PREFIX "CLAUDEGATE_"

static struct str without_prefix(struct str name)
{
    size_t n = str_starts(name, ENV_PREFIX) ? strlen(ENV_PREFIX) : 0;
    return str_n(name.p + n, name.len - n);
}

/* By what follows the prefix, which all have in common. */
static void near_offer_env(struct near best[SUGGEST_MAX], const char *name, struct str wrong)
{
    near_offer(best, str_c(name), distance(without_prefix(wrong), without_prefix(str_c(name))));
}

void setting_suggest_env(struct buf *out, struct str wrong)
{
    struct near best[SUGGEST_MAX] = {0};
    char name[SETTING_ENV_SIZE];
    near_offer_env(best, "CLAUDEGATE_CONFIG", wrong);
    near_offer_env(best, "PORT", wrong);
    for (size_t i = 0; i < settings_count; i++) {
        const struct setting *s = &settings[i];
        setting_env_name(s, name);
        if (str_ieq_c(without_prefix(wrong), setting_leaf(s)))
            near_offer(best, str_c(name), 1);
        near_offer_env(best, name, wrong);
        if (s->env)
            near_offer_env(best, s->env, wrong);
    }
    near_write(best, out);
}
