/* user.c - `claudegate user create`. */
#include "auth/auth.h"
#include "cmd/cmd.h"
#include "core/clock.h"
#include "setup/setup.h"

#include <unistd.h>

#define PASSWORD_COST 12
#define PASSWORD_MIN  10

static void usage(FILE *out)
{
    fputs("Usage: claudegate user create --name NAME [--role owner|operator|viewer]\n"
          "                             [--password-stdin] [--json] [--config FILE]\n\n"
          "  --name NAME       login name, unique\n"
          "  --role ROLE       owner (default), operator or viewer\n"
          "  --password-stdin  read the password from the first line of standard input;\n"
          "                    without it one is made and printed once\n"
          "  --json            print one JSON object\n"
          "  --config FILE     the YAML file (default: the variable CLAUDEGATE_CONFIG, or none)\n",
          out);
}

struct options {
    const char *name, *role, *config;
    bool password_stdin, json;
};

static void on_inserted(void *ctx, const struct user *user, const struct err *err)
{
    (void)user;
    setup_answered(ctx, err);
}

/* The first line of stdin, or a new random password. */
static int get_password(const struct options *o, char *out, size_t size)
{
    if (!o->password_stdin) {
        id_alnum(out, 24);
        return 0;
    }
    if (!fgets(out, (int)size, stdin))
        out[0] = '\0';
    out[strcspn(out, "\r\n")] = '\0';
    if (strlen(out) < PASSWORD_MIN || strlen(out) > AUTH_BCRYPT_MAX) {
        fprintf(stderr, "claudegate: the password must be %d to %d bytes long\n", PASSWORD_MIN,
                AUTH_BCRYPT_MAX);
        return -1;
    }
    return 0;
}

static void print_user(const struct options *o, const struct user *u, const char *password)
{
    struct buf b;
    buf_init(&b, 4096);
    if (o->json) {
        buf_printf(&b, "{\"id\":\"%s\",\"name\":", u->id);
        buf_json_str(&b, str_c(u->name));
        buf_printf(&b, ",\"role\":\"%s\"", u->role);
        if (!o->password_stdin)
            buf_printf(&b, ",\"password\":\"%s\"", password);
        buf_adds(&b, "}\n");
    } else {
        buf_printf(&b, "User '%s' (%s) created.\n", u->name, u->role);
        if (!o->password_stdin)
            buf_printf(&b, "Password, shown only now: %s\n", password);
    }
    fputs(buf_cstr(&b), stdout);
    buf_release(&b);
}

static int create(const struct options *o)
{
    char password[128];
    struct conf *conf = cmd_load_conf(o->config);
    struct setup_wait wait = {0};
    struct db *db;
    int rc = -1;
    if (!conf)
        return 1;
    if (get_password(o, password, sizeof(password)) == 0 &&
        cmd_open_db(conf, &wait.loop, &db) == 0) {
        struct user u = {.name = x_strdup(o->name),
                         .role = x_strdup(o->role),
                         .password_hash = auth_bcrypt(password, PASSWORD_COST),
                         .created_at = clock_wall_ms()};
        id_uuid(u.id);
        user_insert(db, &u, on_inserted, &wait);
        rc = setup_wait(&wait);
        if (rc == 0)
            print_user(o, &u, password);
        free(u.name);
        free(u.role);
        free(u.password_hash);
        cmd_close_db(wait.loop, db);
    }
    explicit_bzero(password, sizeof(password));
    conf_free(conf);
    return rc == 0 ? 0 : 1;
}

static int check_options(const struct options *o)
{
    if (!o->name || !o->name[0] || strlen(o->name) > 255) {
        fputs("claudegate: --name: is required and may be 255 bytes long\n", stderr);
        return 2;
    }
    if (strcmp(o->role, "owner") != 0 && strcmp(o->role, "operator") != 0 &&
        strcmp(o->role, "viewer") != 0) {
        fprintf(stderr, "claudegate: --role: must be owner, operator or viewer; got '%s'\n",
                o->role);
        return 2;
    }
    return 0;
}

int cmd_user(int argc, char **argv)
{
    struct options o = {.role = "owner"};
    const struct cmd_option options[] = {{"name", 'n', &o.name, NULL},
                                         {"role", 'r', &o.role, NULL},
                                         {"password-stdin", 'p', NULL, &o.password_stdin},
                                         {"json", 'j', NULL, &o.json},
                                         {"config", 'c', &o.config, NULL},
                                         {0}};
    int rc = cmd_options(argc, argv, options, 1, 1, usage);
    if (rc != CMD_GO_ON)
        return rc;
    if (strcmp(argv[optind], "create") != 0) {
        usage(stderr);
        return 2;
    }
    int bad = check_options(&o);
    return bad ? bad : create(&o);
}
