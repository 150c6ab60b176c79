/* tree.h - removes a directory that somebody else has filled. */
#ifndef CG_CORE_TREE_H
#define CG_CORE_TREE_H

#include "core/err.h"

#include <stdatomic.h>

/* Blocking, on any thread. Follows no links. Given up when *stop becomes true. */
MUST_USE int tree_remove(const char *path, const atomic_bool *stop, struct err *err);

#endif
