/* A host that loads the library privately at run time, as .NET does. private_load LIBRARY HOME
 * BUNDLE */
#include "pathgene_rt.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#define LOAD(name) \
    __typeof__(&name) name##_loaded = NULL; \
    *(void **)&name##_loaded = dlsym(library, #name)

int main(int count, char **arguments) {
    pgrt_predictor *predictor = NULL;
    if (count != 4) {
        return 2;
    }
    void *library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    LOAD(pgrt_init);
    LOAD(pgrt_open);
    LOAD(pgrt_last_error);
    LOAD(pgrt_predictor_free);
    if (pgrt_init_loaded(arguments[2]) != PGRT_OK ||
        pgrt_open_loaded(arguments[3], NULL, &predictor) != PGRT_OK) {
        fprintf(stderr, "%s\n", pgrt_last_error_loaded());
        return 1;
    }
    pgrt_predictor_free_loaded(predictor);
    return 0;
}
