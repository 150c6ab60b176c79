/* banned.h - functions that are unsafe or depend on hidden state, turned into compile errors. */
#ifndef CG_CORE_BANNED_H
#define CG_CORE_BANNED_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* With _FORTIFY_SOURCE some of these are macros, and a macro cannot be poisoned quietly. */
#undef sprintf
#undef vsprintf
#undef strcpy
#undef strcat
#undef strncpy
#undef strncat

#pragma GCC poison strcpy strcat strncpy strncat sprintf vsprintf strtok sscanf atoi atol atoll
#pragma GCC poison gmtime localtime ctime asctime gets

#endif
