/* redis_scripts.h - private to shared/: the texts of the Lua scripts, see the .lua files. */
#ifndef CG_SHARED_REDIS_SCRIPTS_H
#define CG_SHARED_REDIS_SCRIPTS_H

extern const char script_take[], script_adjust[], script_renew[], script_seed[], script_lease[],
    script_beat[];

#endif
