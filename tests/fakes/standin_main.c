/* standin_main.c - the stand-in for the Messages API as a process of its own, for tests.
 *
 * Prints {"url":"http://127.0.0.1:PORT"} when it is ready and ends when its standard input ends,
 * so that a test that dies takes it along. */
#include "core/id.h"
#include "core/str.h"
#include "upstream/standin.h"

#include <errno.h>
#include <event2/event.h>
#include <getopt.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

static const char usage[] =
    "usage: standin [--listen HOST:PORT] [--word-delay-ms N] [--demo]\n"
    "  --listen         loopback address (default 127.0.0.1:0, any port)\n"
    "  --word-delay-ms  pause between the words of unscripted answers (default 0)\n"
    "  --demo           without /_standin/: as claudegate itself runs it\n";

static void on_stdin(evutil_socket_t fd, short what, void *ctx)
{
    char ignored[512];
    (void)what;
    ssize_t n = read(fd, ignored, sizeof(ignored));
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        loop_stop(ctx);
}

static int parse_args(int argc, char **argv, struct standin_opts *opts)
{
    static const struct option options[] = {{"listen", required_argument, NULL, 'l'},
                                            {"word-delay-ms", required_argument, NULL, 'w'},
                                            {"demo", no_argument, NULL, 'd'},
                                            {0}};
    uint64_t ms;
    int opt;
    while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (opt == 'l') {
            opts->listen = optarg;
        } else if (opt == 'd') {
            opts->scriptable = false;
        } else if (opt == 'w' && str_to_u64(str_c(optarg), &ms) && ms <= 60000) {
            opts->word_delay_ms = (int)ms;
        } else {
            return -1;
        }
    }
    return optind == argc ? 0 : -1;
}

/* A file or /dev/null never ends as far as epoll is concerned: the process would stay for ever. */
static bool stdin_can_end(void)
{
    struct stat st;
    return fstat(STDIN_FILENO, &st) == 0 &&
           (S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode) || isatty(STDIN_FILENO));
}

static int serve(struct loop *loop, const struct standin_opts *opts)
{
    struct err err = {0};
    struct standin *s = standin_new(loop, opts, &err);
    if (!s) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    struct event *ev =
        event_new(loop_base(loop), STDIN_FILENO, EV_READ | EV_PERSIST, on_stdin, loop);
    BUG_ON(!ev || event_add(ev, NULL) != 0);
    printf("{\"url\":\"%s\"}\n", standin_url(s));
    fflush(stdout);
    loop_run(loop);
    event_free(ev);
    standin_free(s);
    return 0;
}

int main(int argc, char **argv)
{
    struct standin_opts opts = {.listen = "127.0.0.1:0", .scriptable = true};
    if (parse_args(argc, argv, &opts) != 0) {
        fputs(usage, stderr);
        return 2;
    }
    if (!stdin_can_end()) {
        fputs("standin: standard input must be a pipe, a socket or a terminal\n", stderr);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    id_init();
    struct loop *loop = loop_new();
    int rc = serve(loop, &opts);
    loop_free(loop);
    libevent_global_shutdown();
    return rc;
}
