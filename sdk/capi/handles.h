/* Handles given to the host: numbers that say their kind, their place in a table and which use of
 * that place they are, so that a wrong one is found out without touching memory it points to. */
#ifndef PGRT_HANDLES_H
#define PGRT_HANDLES_H

#include <stdbool.h>
#include <stdint.h>

typedef enum { KIND_NONE, KIND_PREDICTOR, KIND_SCAN, KIND_REPORT } handle_kind;

/* A new handle with one holder; 0 if there is no memory or no place left. */
uint64_t handle_new(handle_kind kind, uint64_t parent);

/* What the handle stands for beside its Python object; set before the host has the handle. */
void handle_set_data(uint64_t handle, const void *data);

/* Hold an open handle of this kind, so that it is not disposed of meanwhile; false if it is not. */
bool handle_hold(uint64_t handle, handle_kind kind, const void **data);

/* Close a handle that the caller holds: nobody can hold it any more. False if it was closed. */
bool handle_close(uint64_t handle);

/* Let go. True for the last holder of a closed handle: it must dispose of the object, and then call
 * handle_retire. */
bool handle_release(uint64_t handle);

/* The place may be used again; returns the parent that handle_new was given. */
uint64_t handle_retire(uint64_t handle);

#endif
