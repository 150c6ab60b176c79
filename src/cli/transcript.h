/* transcript.h - a conversation written as the file that `claude --resume=<id>` reads.
 *
 * The other way to give a process its history, for a version of the program that does not take it
 * over stdin any more. Format: what version 2.1.197 writes itself, learned from its files. */
#ifndef CG_CLI_TRANSCRIPT_H
#define CG_CLI_TRANSCRIPT_H

#include "core/err.h"

#include <jansson.h>

/* Writes <home>/.claude/projects/<slug of cwd>/<session_id>.jsonl, making the directories (0700).
 * cwd is the directory as the process will see it, without symbolic links. session_id is a UUID.
 * history: array of {"role","content":[blocks]}, not empty.
 *
 * next: the content of the question that will follow, or NULL. The program drops tool calls at the
 * end of a transcript that have no results; so their results, which are in the question, have to
 * be in the transcript too. The question is then written to the process as ever: what it holds
 * twice goes upstream once. */
MUST_USE int cli_write_transcript(const char *home, const char *cwd, const char *session_id,
                                  const char *model, const json_t *history, const json_t *next,
                                  struct err *err);

#endif
