/* news.c - what the servers of a fleet tell each other about sessions, over Redis.
 *
 * "<server> moved <id>": a turn has begun there, with the conversation from the database; what
 * another server still has of it in memory is of no use. "<server> gone <id>": it was ended. Both
 * only free memory early: what nobody has heard is noticed by the row's version. */
#include "session/internal.h"

#define CHANNEL "sessions"

static void part_with(struct sessions *ss, const char *id, bool gone)
{
    struct session_private *p, *next;
    HASH_ITER(hh, ss->by_id, p, next)
    {
        if (strcmp(p->key.id, id) != 0)
            continue;
        if (p->session->busy) /* its version will tell */
            return;
        if (!p->unsaved || gone)
            session_free(p->session);
    }
    sessions_part(ss, id, gone);
}

static void on_news(void *ctx, struct str text, bool missed)
{
    struct sessions *ss = OBJ(ctx, struct sessions, SESSIONS_TAG);
    char id[ID_UUID_SIZE];
    struct str who = str_split(&text, ' '), what = str_split(&text, ' ');
    bool gone = str_eq_c(what, "gone");
    if (missed || str_eq_c(who, ss->me) || text.len != ID_UUID_SIZE - 1)
        return;
    snprintf(id, sizeof(id), "%.*s", (int)text.len, text.p);
    if (gone || str_eq_c(what, "moved"))
        part_with(ss, id, gone);
}

void sessions_tell(struct sessions *ss, const char *id, bool gone)
{
    if (!ss->news)
        return;
    AUTO(free_charp) char *text = x_printf("%s %s %s", ss->me, gone ? "gone" : "moved", id);
    shared_publish(ss->opts.shared, CHANNEL, str_c(text), NULL, NULL);
}

void sessions_listen(struct sessions *ss)
{
    if (ss->opts.shared && shared_is_remote(ss->opts.shared))
        ss->news = shared_subscribe(ss->opts.shared, CHANNEL, on_news, ss);
}

void sessions_unlisten(struct sessions *ss)
{
    if (ss->news)
        shared_unsubscribe(ss->opts.shared, TAKE_PTR(ss->news));
}
