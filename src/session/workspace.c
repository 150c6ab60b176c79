/* workspace.c - makes and takes away the directories of agent sessions.
 *
 * Whether a workspace may go is asked when the sweep has deleted expired sessions: there must be no
 * row with its name and no session of it in memory. A new session is in memory until its first turn
 * is committed, and one that is being opened has a row, so neither can be missed. The sweep asks
 * for one name after the other; removing is a thread's work, because a workspace may hold a million
 * files. What cannot be removed is tried again at the next sweep. */
#include "session/workspace.h"

#include "core/log.h"
#include "core/tree.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <sys/stat.h>

#define WORKSPACES_TAG TAG4('W', 'S', 'P', 'S')
#define SWEEP_MAX      65536 /* names looked at in one sweep */

struct workspaces {
    uint32_t tag;
    struct db *db;
    struct sessions *sessions;
    char *dir;
    void (*removing)(void *ctx, const char *id);
    void *ctx;
    struct work *work;
    atomic_bool stopping;
    bool sweeping;
    char (*ids)[ID_UUID_SIZE]; /* of the sweep at work */
    size_t count, next;
};

int workspace_make(struct workspaces *ws, const char *session_id, char **ret_path, struct err *err)
{
    char *path = x_printf("%s/%s", ws->dir, session_id);
    bool made = (mkdir(ws->dir, 0700) == 0 || errno == EEXIST) &&
                (mkdir(path, 0700) == 0 || errno == EEXIST);
    if (made) {
        *ret_path = path;
        return 0;
    }
    err_set(err, ERR_IO, "cannot make the workspace '%s': %s", path, strerror(errno));
    free(path);
    return -1;
}

/* --- removing ---------------------------------------------------------------------------- */

struct removal {
    struct workspaces *ws;
    char *path;
    struct err err;
};

static void remove_it(void *arg)
{
    struct removal *r = arg;
    if (tree_remove(r->path, &r->ws->stopping, &r->err) == 0)
        r->err.code = ERR_NONE;
}

static void removed(void *arg)
{
    struct removal *r = arg;
    if (r->err.code == ERR_NONE)
        log_info("workspace removed", LF_S("path", r->path));
    else if (!r->ws->stopping)
        log_warn("a workspace could not be removed, trying again later", LF_S("error", r->err.msg));
    free(r->path);
    free(r);
}

static void take_away(struct workspaces *ws, const char *id)
{
    struct removal *r = x_calloc(1, sizeof(*r));
    ws->removing(ws->ctx, id);
    r->ws = ws;
    r->path = x_printf("%s/%s", ws->dir, id);
    work_submit(ws->work, remove_it, removed, r);
}

void workspace_remove(struct workspaces *ws, const char *session_id)
{
    AUTO(free_charp) char *path = x_printf("%s/%s", ws->dir, session_id);
    struct stat st;
    if (!ws->stopping && lstat(path, &st) == 0)
        take_away(ws, session_id);
}

/* --- the sweep --------------------------------------------------------------------------- */

static bool is_uuid(const char *name)
{
    size_t n = 0;
    for (; name[n]; n++) {
        bool dash = n == 8 || n == 13 || n == 18 || n == 23;
        if (dash ? name[n] != '-' : !isxdigit((unsigned char)name[n]))
            return false;
    }
    return n == ID_UUID_SIZE - 1;
}

static void list_ids(struct workspaces *ws)
{
    size_t cap = 0;
    DIR *d = opendir(ws->dir); /* NULL: there was never one */
    for (struct dirent *e; d && ws->count < SWEEP_MAX && (e = readdir(d));) {
        if (!is_uuid(e->d_name))
            continue;
        if (ws->count == cap) {
            cap = cap ? cap * 2 : 64;
            ws->ids = x_realloc(ws->ids, cap * sizeof(*ws->ids));
        }
        snprintf(ws->ids[ws->count++], ID_UUID_SIZE, "%s", e->d_name);
    }
    if (d)
        closedir(d);
}

static void end_sweep(struct workspaces *ws)
{
    free(TAKE_PTR(ws->ids));
    ws->count = ws->next = 0;
    ws->sweeping = false;
}

static void on_counted(void *ctx, int64_t count, const struct err *err);

static void ask_next(struct workspaces *ws)
{
    if (ws->stopping || ws->next == ws->count)
        end_sweep(ws);
    else
        session_count(ws->db, ws->ids[ws->next++], on_counted, ws);
}

static void on_counted(void *ctx, int64_t count, const struct err *err)
{
    struct workspaces *ws = OBJ(ctx, struct workspaces, WORKSPACES_TAG);
    const char *id = ws->ids[ws->next - 1];
    if (err) { /* it is not known: the next sweep asks again */
        end_sweep(ws);
        return;
    }
    if (count == 0 && !ws->stopping && !sessions_has(ws->sessions, id))
        take_away(ws, id);
    ask_next(ws);
}

static void on_sessions_swept(void *ctx)
{
    struct workspaces *ws = OBJ(ctx, struct workspaces, WORKSPACES_TAG);
    if (ws->sweeping || ws->stopping || work_pending(ws->work))
        return;
    ws->sweeping = true;
    list_ids(ws);
    ask_next(ws);
}

/* --- life -------------------------------------------------------------------------------- */

struct workspaces *workspaces_new(struct loop *loop, struct db *db, struct sessions *sessions,
                                  const char *dir, void (*removing)(void *ctx, const char *id),
                                  void *ctx)
{
    struct workspaces *ws = x_calloc(1, sizeof(*ws));
    ws->tag = WORKSPACES_TAG;
    ws->db = db;
    ws->sessions = sessions;
    ws->dir = x_strdup(dir);
    ws->removing = removing;
    ws->ctx = ctx;
    ws->work = work_new(loop, "workspaces", 1);
    sessions_on_sweep(sessions, on_sessions_swept, ws);
    return ws;
}

void workspaces_stop(struct workspaces *ws)
{
    if (ws)
        ws->stopping = true;
}

void workspaces_free(struct workspaces *ws)
{
    if (!ws)
        return;
    sessions_on_sweep(ws->sessions, NULL, NULL);
    work_free(ws->work);
    free(ws->ids);
    free(ws->dir);
    ws->tag = 0;
    free(ws);
}
