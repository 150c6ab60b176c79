/* upstream_tls.h - the relay against a TLS server whose certificate nobody vouches for. */
#ifndef CG_TESTS_UPSTREAM_TLS_H
#define CG_TESTS_UPSTREAM_TLS_H

#include "upstream_rig.h"

#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

extern char **environ;

/* Runs a program to its end; false when it cannot be started or fails. */
static bool run_program(const char *const *argv)
{
    pid_t pid;
    int status;
    posix_spawn_file_actions_t fa;
    posix_spawn_file_actions_init(&fa);
    posix_spawn_file_actions_addopen(&fa, 2, "/dev/null", O_WRONLY, 0);
    int rc = posix_spawnp(&pid, argv[0], &fa, NULL, (char *const *)(uintptr_t)argv, environ);
    posix_spawn_file_actions_destroy(&fa);
    return rc == 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) &&
           WEXITSTATUS(status) == 0;
}

struct tls_server {
    pid_t pid;
    int in, out; /* its stdin: what it answers; its stdout: what it got */
    int port;
};

static void tls_server_start(struct tls_server *s, const char *key, const char *cert)
{
    const char *argv[] = {"openssl", "s_server", "-accept",  "127.0.0.1:0", "-key", key,
                          "-cert",   cert,       "-naccept", "4",           NULL};
    int in[2], out[2];
    char text[1024] = "";
    const char *line = NULL;
    size_t n = 0;
    assert_int_equal(pipe2(in, O_CLOEXEC), 0);
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    posix_spawn_file_actions_t fa;
    posix_spawn_file_actions_init(&fa);
    posix_spawn_file_actions_adddup2(&fa, in[0], 0);
    posix_spawn_file_actions_adddup2(&fa, out[1], 1);
    posix_spawn_file_actions_addopen(&fa, 2, "/dev/null", O_WRONLY, 0);
    assert_int_equal(
        posix_spawnp(&s->pid, argv[0], &fa, NULL, (char *const *)(uintptr_t)argv, environ), 0);
    posix_spawn_file_actions_destroy(&fa);
    close(in[0]);
    close(out[1]);
    s->in = in[1];
    s->out = out[0];
    while (n < sizeof(text) - 1 && !(line && strchr(line, '\n')) &&
           read(s->out, text + n, 1) == 1) {
        n++;
        line = strstr(text, "ACCEPT "); /* "ACCEPT 127.0.0.1:41234" */
    }
    const char *colon = line ? strchr(line, ':') : NULL;
    assert_non_null(colon);
    s->port = (int)strtol(colon + 1, NULL, 10);
}

static void tls_server_stop(struct tls_server *s)
{
    kill(s->pid, SIGKILL);
    waitpid(s->pid, NULL, 0);
    close(s->in);
    close(s->out);
}

static void a_certificate_must_be_trusted(void **state)
{
    (void)state;
    struct rig rig;
    struct tls_server server;
    rig_prepare(&rig, NULL, 0);
    AUTO(free_charp) char *key = x_printf("%s/key.pem", rig.dir);
    AUTO(free_charp) char *cert = x_printf("%s/cert.pem", rig.dir);
    const char *make[] = {"openssl",  "req",
                          "-x509",    "-newkey",
                          "rsa:2048", "-nodes",
                          "-keyout",  key,
                          "-out",     cert,
                          "-days",    "2",
                          "-subj",    "/CN=localhost",
                          "-addext",  "subjectAltName=IP:127.0.0.1",
                          NULL};
    if (!run_program(make)) {
        print_message("no openssl program, skipping\n");
        struct upstream_opts none = quick_opts(rig.fake.url);
        rig_open_with(&rig, &none);
        rig_close(&rig);
        skip();
    }
    tls_server_start(&server, key, cert);
    AUTO(free_charp) char *url = x_printf("https://127.0.0.1:%d", server.port);
    for (int trusted = 0; trusted < 2; trusted++) {
        struct upstream_opts opts = quick_opts(url);
        opts.ca_file = trusted ? cert : NULL;
        opts.max_retries = 1;
        rig_open_with(&rig, &opts);
        relay_begin_turn(rig.relay, &rig.turn);
        cli_send(&rig.cli, "/v1/messages", "", ask);
        if (trusted) { /* the same server, believed: only then does it get a request */
            AUTO(buf_release) struct buf b, got;
            plain(&b, 200, "connection: close\r\n", "{\"usage\":{\"output_tokens\":3}}");
            buf_init(&got, MB);
            run_for(&rig, 300);
            assert_int_equal(write(server.in, b.data, b.len), b.len);
            assert_true(run_until(&rig, cli_has_response, 5000));
            assert_status(&rig, 200);
            assert_true(buf_reserve(&got, 65536));
            ssize_t n = read(server.out, got.data, 65536);
            assert_true(n > 0);
            buf_grow_len(&got, (size_t)n);
            /* s_server prints what it got: one request, from the trusting client */
            assert_non_null(strstr(got.data, "x-api-key: sk-operator"));
            assert_null(strstr(strstr(got.data, "x-api-key") + 1, "x-api-key"));
        } else {
            assert_true(run_until(&rig, cli_has_response, 5000));
            assert_status(&rig, 502);
            assert_body(&rig,
                        ERROR_JSON("api_error", "the upstream API's TLS certificate was refused"));
            relay_end_turn(rig.relay);
            assert_int_equal(rig.turn.failure, RELAY_UNREACHABLE);
            assert_int_equal(rig.turn.retries, 0);
            cli_close(&rig.cli);
            relay_free(rig.relay);
            upstream_free(rig.up);
        }
    }
    tls_server_stop(&server);
    unlink(key);
    unlink(cert);
    rig_close(&rig);
}

#endif
