/* vault.c - the master keys: from the settings, or from the file they name.
 *
 * What is read from the file is wiped at once; the vault has its own copy. */
#include "setup/setup.h"

#include "core/log.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX 65536

/* Into text, which has room for FILE_MAX bytes and a NUL. A pipe comes in pieces. */
static int read_keys(int fd, char *text)
{
    size_t len = 0;
    ssize_t n;
    while ((n = read(fd, text + len, FILE_MAX - len)) != 0) {
        if (n > 0)
            len += (size_t)n;
        else if (errno != EINTR)
            return -1;
    }
    text[len] = '\0';
    errno = EFBIG;
    return len < FILE_MAX && strlen(text) == len ? 0 : -1;
}

static void warn_if_open(int fd, const char *path)
{
    struct stat st;
    if (fstat(fd, &st) == 0 && (st.st_mode & S_IROTH))
        log_warn("the file of the master keys can be read by every user of this machine",
                 LF_S("path", path));
}

static struct vault *open_file(const char *path, struct err *err)
{
    struct vault *v = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    char *text = x_calloc(1, FILE_MAX + 1);
    if (fd < 0 || read_keys(fd, text) != 0) {
        err_set(err, ERR_CONFIG, "vault.master_key_file: cannot read '%s': %s", path,
                strerror(errno));
    } else {
        warn_if_open(fd, path);
        v = vault_new(text, err);
        if (!v)
            err_prefix(err, "vault.master_key_file '%s'", path);
        else if (!vault_has_key(v))
            err_set(err, ERR_CONFIG, "vault.master_key_file: there is no key in '%s'", path);
    }
    if (v && !vault_has_key(v)) { /* it was meant to encrypt: do not go on in the clear */
        vault_free(v);
        v = NULL;
    }
    sodium_memzero(text, FILE_MAX + 1);
    free(text);
    if (fd >= 0)
        close(fd);
    return v;
}

struct vault *setup_open_vault(const struct conf *conf, struct err *err)
{
    if (conf->vault.master_key_file[0])
        return open_file(conf->vault.master_key_file, err);
    struct vault *v = vault_new(conf->vault.master_key, err);
    if (!v)
        err_prefix(err, "vault.master_key");
    return v;
}
