/* The header alone, as C and as C++. */
#include "pathgene_rt.h"

int main(void) { return PGRT_OK; }
