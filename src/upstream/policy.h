/* policy.h - what passes through the relay, and which failures are worth another try. */
#ifndef CG_UPSTREAM_POLICY_H
#define CG_UPSTREAM_POLICY_H

#include "core/str.h"

/* May the same request succeed a moment later? 504 is not among them: the model may have worked
 * for minutes, and would again. */
bool policy_may_pass(int status);
/* May it succeed at once with another credential? What passes, and what concerns the credential. */
bool policy_may_differ(int status);
/* Seconds of a retry-after header, given in seconds or as a date; 0..86400. */
int policy_retry_after(const char *value);
/* Of an x-should-retry header: 1 yes, -1 no, 0 neither. */
int policy_should_retry(struct str value);
/* The HTTP status the API uses for an error type, for errors told inside a stream. */
int policy_status_of(const char *error_type);
/* Response headers the CLI gets to see. */
bool policy_for_cli(struct str name);
/* Request headers of the CLI that go upstream: never its dummy credential, cookies, or what
 * belongs to the connection. */
bool policy_for_upstream(struct str name, struct str value);

/* The betas of the client behind those of the CLI, each once; the value of a header. The caller's.
 */
char *policy_join_betas(struct str own, struct str more);

#endif
