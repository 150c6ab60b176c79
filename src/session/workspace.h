/* workspace.h - directories that agent turns work in: one per session, below one directory.
 *
 * A workspace is made by the first turn that needs it and removed when its session is gone: after
 * each sweep of the sessions every workspace without a session, in memory or in the database, is
 * taken away, whatever the reason - expired, never finished a turn, left by a killed server. */
#ifndef CG_SESSION_WORKSPACE_H
#define CG_SESSION_WORKSPACE_H

#include "session/session.h"

struct workspaces;
/* dir: absolute; made when it is needed. removing: this one is about to be removed; nothing may
 * work in it any more. */
struct workspaces *workspaces_new(struct loop *loop, struct db *db, struct sessions *sessions,
                                  const char *dir, void (*removing)(void *ctx, const char *id),
                                  void *ctx);
void workspaces_stop(struct workspaces *ws); /* before db_close(): nothing is begun any more */
void workspaces_free(struct workspaces *ws); /* after db_close(), before sessions_free() */

/* Its session has ended: takes it away, if there is one, without waiting for the next sweep. */
void workspace_remove(struct workspaces *ws, const char *session_id);
/* Makes it unless it is there. *ret_path is the caller's to free. */
MUST_USE int workspace_make(struct workspaces *ws, const char *session_id, char **ret_path,
                            struct err *err);

#endif
