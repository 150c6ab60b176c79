/* session_events.c - what else ends with a session: what its worker remembers, and its workspace.
 */
#include "gateway/gateway.h"

static void on_part(void *ctx, const char *id, bool gone)
{
    struct gateway *g = OBJ(ctx, struct gateway, GATEWAY_TAG);
    if (g->pool)
        pool_forget(g->pool, id);
    if (gone && g->workspaces)
        workspace_remove(g->workspaces, id);
}

void gateway_watch_sessions(struct gateway *g)
{
    sessions_on_part(g->sessions, on_part, g);
}
