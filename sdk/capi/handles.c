#include "handles.h"

#include <pthread.h>
#include <stdlib.h>

#define TAG UINT64_C(0x9E70) /* no address of any platform begins like this */
#define INDEX_BITS 20
#define USE_BITS 26
#define CAPACITY (1u << INDEX_BITS)

typedef struct {
    handle_kind kind; /* KIND_NONE: free */
    bool closed;
    uint32_t use;
    uint32_t holders;
    uint32_t next_free;
    uint64_t parent;
    const void *data;
} place;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static place *places;
static uint32_t count, allocated, first_free = CAPACITY;

static uint64_t number(uint32_t index) {
    const place *at = &places[index];
    return TAG << 48 | (uint64_t)at->kind << (INDEX_BITS + USE_BITS) |
           (uint64_t)at->use << INDEX_BITS | index;
}

/* The place of a handle in use, else NULL; the lock is held. */
static place *find(uint64_t handle) {
    uint32_t index = (uint32_t)(handle & (CAPACITY - 1));
    if (index >= count || places[index].kind == KIND_NONE || number(index) != handle) {
        return NULL;
    }
    return &places[index];
}

static bool grow(void) {
    if (count == CAPACITY) {
        return false;
    }
    if (count == allocated) {
        uint32_t wanted = allocated ? 2 * allocated : 64;
        place *larger = realloc(places, wanted * sizeof *larger);
        if (larger == NULL) {
            return false;
        }
        places = larger;
        allocated = wanted;
    }
    places[count] = (place){.next_free = first_free};
    first_free = count++;
    return true;
}

uint64_t handle_new(handle_kind kind, uint64_t parent) {
    uint64_t handle = 0;
    pthread_mutex_lock(&lock);
    if (first_free < CAPACITY || grow()) {
        uint32_t index = first_free;
        place *at = &places[index];
        first_free = at->next_free;
        at->kind = kind;
        at->closed = false;
        at->use = (at->use + 1) & ((1u << USE_BITS) - 1);
        at->holders = 1;
        at->parent = parent;
        at->data = NULL;
        handle = number(index);
    }
    pthread_mutex_unlock(&lock);
    return handle;
}

void handle_set_data(uint64_t handle, const void *data) {
    pthread_mutex_lock(&lock);
    find(handle)->data = data;
    pthread_mutex_unlock(&lock);
}

bool handle_hold(uint64_t handle, handle_kind kind, const void **data) {
    pthread_mutex_lock(&lock);
    place *at = find(handle);
    bool open = at != NULL && at->kind == kind && !at->closed;
    if (open) {
        at->holders++;
        if (data != NULL) {
            *data = at->data;
        }
    }
    pthread_mutex_unlock(&lock);
    return open;
}

bool handle_close(uint64_t handle) {
    pthread_mutex_lock(&lock);
    place *at = find(handle);
    bool first = !at->closed;
    at->closed = true;
    pthread_mutex_unlock(&lock);
    return first;
}

bool handle_release(uint64_t handle) {
    pthread_mutex_lock(&lock);
    place *at = find(handle);
    bool last = --at->holders == 0 && at->closed;
    pthread_mutex_unlock(&lock);
    return last;
}

uint64_t handle_retire(uint64_t handle) {
    pthread_mutex_lock(&lock);
    place *at = find(handle);
    uint64_t parent = at->parent;
    at->kind = KIND_NONE;
    at->next_free = first_free;
    first_free = (uint32_t)(at - places);
    pthread_mutex_unlock(&lock);
    return parent;
}
