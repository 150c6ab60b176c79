/* list.h - intrusive doubly linked list with a head that counts. A node not on a list has
 * next == NULL, so list_remove() is safe to call twice. */
#ifndef CG_CORE_LIST_H
#define CG_CORE_LIST_H

#include "core/util.h"

#include <stdbool.h>

struct node {
    struct node *next, *prev;
};

struct list {
    struct node head;
    size_t len;
};

static inline void list_init(struct list *l)
{
    l->head.next = l->head.prev = &l->head;
    l->len = 0;
}
static inline bool node_linked(const struct node *n)
{
    return n->next != NULL;
}
static inline void list_insert_(struct list *l, struct node *at, struct node *n)
{
    BUG_ON(node_linked(n));
    n->prev = at->prev;
    n->next = at;
    at->prev->next = n;
    at->prev = n;
    l->len++;
}
static inline void list_push_back(struct list *l, struct node *n)
{
    list_insert_(l, &l->head, n);
}
static inline void list_push_front(struct list *l, struct node *n)
{
    list_insert_(l, l->head.next, n);
}
static inline void list_remove(struct list *l, struct node *n)
{
    if (!node_linked(n))
        return;
    n->prev->next = n->next;
    n->next->prev = n->prev;
    n->next = n->prev = NULL;
    l->len--;
}
static inline struct node *list_first(const struct list *l)
{
    return l->len ? l->head.next : NULL;
}
static inline struct node *list_pop_front(struct list *l)
{
    struct node *n = list_first(l);
    if (n)
        list_remove(l, n);
    return n;
}

/* for (each) { ... }: the current node may be removed in the body. */
#define LIST_EACH(l, n)                                                         \
    for (struct node *n = (l)->head.next, *n##_next = n->next; n != &(l)->head; \
         n = n##_next, n##_next = n->next)

#endif
