/* The one Python interpreter of the process. */
#ifndef PGRT_PYTHON_START_H
#define PGRT_PYTHON_START_H

#include "calls.h"

/* Start or join Python and connect calls.py, once; NULL: the environment variable PGRT_HOME. */
pgrt_status python_start(const char *home, call_error *error);

#endif
