/* The one Python interpreter of the process. */
#ifndef PGRT_PYTHON_START_H
#define PGRT_PYTHON_START_H

#include <stdbool.h>

#include "calls.h"

/* Start or join Python and connect calls.py, once; NULL: the environment variable PGRT_HOME. */
pgrt_status python_start(const char *home, call_error *error);

/* Whether this process was forked from the one that Python runs in: its threads and locks, and those
 * of the engines, are not to be used here. */
bool python_is_elsewhere(call_error *error);

#endif
