/* banned.h - functions that are unsafe or depend on hidden state, turned into compile errors. */
#ifndef CG_CORE_BANNED_H
#define CG_CORE_BANNED_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#pragma GCC poison strcpy strcat strncpy strncat sprintf vsprintf strtok sscanf atoi atol atoll
#pragma GCC poison gmtime localtime ctime asctime gets

#endif
