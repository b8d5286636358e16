/* A CUDA driver library of ordinary memory, to check how ours is called: types, widths, pointers.
 * FAKE_CUDA_INIT and FAKE_CUDA_COUNT in the environment are cuInit's answer and the number of GPUs. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define CUDA_SUCCESS 0
#define CUDA_ERROR_INVALID_VALUE 1
#define CUDA_ERROR_OUT_OF_MEMORY 2
#define CUDA_ERROR_ILLEGAL_ADDRESS 700

typedef uint64_t CUdeviceptr;
static const size_t TOTAL = (size_t)6 << 30; /* more than 32 bits hold */
static size_t used;
static int failure, registered;

static int from_environment(const char *name, int otherwise) {
  const char *value = getenv(name);
  return value ? atoi(value) : otherwise;
}

int cuInit(unsigned flags) { return flags ? CUDA_ERROR_INVALID_VALUE : from_environment("FAKE_CUDA_INIT", 0); }
int cuDriverGetVersion(int *version) { *version = 12040; return 0; }
int cuDeviceGetCount(int *count) { *count = from_environment("FAKE_CUDA_COUNT", 2); return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = 40 + ordinal; return 0; }
int cuDeviceGetName(char *name, int length, int device) {
  strncpy(name, device == 40 ? "Fake RTX 6GB" : "Fake T4", length);
  return 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = TOTAL; return device < 40; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  *value = attribute == 75 ? 8 : attribute == 76 ? 6 : attribute == 16 ? 26 : -1;
  return device < 40;
}
int cuGetErrorName(int code, const char **name) {
  *name = code == CUDA_ERROR_OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY"
        : code == CUDA_ERROR_ILLEGAL_ADDRESS ? "CUDA_ERROR_ILLEGAL_ADDRESS"
        : code == 803 ? "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH" : NULL;
  return *name ? 0 : CUDA_ERROR_INVALID_VALUE;
}
int cuCtxSynchronize(void) { return failure; }
int cuMemGetInfo_v2(size_t *free, size_t *total) { *free = TOTAL - used; *total = TOTAL; return 0; }

/* Blocks carry their size before them. */
int cuMemAlloc_v2(CUdeviceptr *address, size_t size) {
  size_t *block;
  if (size == 0) return CUDA_ERROR_INVALID_VALUE;
  if (size > TOTAL - used) return CUDA_ERROR_OUT_OF_MEMORY;
  block = malloc(size + 256);
  *block = size;
  used += size;
  *address = (CUdeviceptr)((char *)block + 256);
  return 0;
}
int cuMemFree_v2(CUdeviceptr address) {
  size_t *block = (size_t *)((char *)address - 256);
  used -= *block;
  free(block);
  return 0;
}
int cuMemHostRegister_v2(void *memory, size_t size, unsigned flags) {
  if ((uintptr_t)memory % 4096 || size % 4096 || flags != 2) return CUDA_ERROR_INVALID_VALUE;
  registered++;
  return 0;
}
int cuMemHostUnregister(void *memory) { registered -= memory != NULL; return 0; }
int cuMemHostGetDevicePointer_v2(CUdeviceptr *address, void *memory, unsigned flags) {
  *address = (CUdeviceptr)memory;
  return flags;
}
int cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t size, void *stream) {
  memcpy((void *)to, from, size);
  return stream == NULL;
}
int cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t size, void *stream) {
  memcpy(to, (const void *)from, size);
  return stream == NULL;
}

/* For the test, not of CUDA. */
void fake_fail(int code) { failure = code; }
int fake_registered(void) { return registered; }

/* NVML, of which only the driver's release is asked. */
static int nvml_open;
int nvmlInit_v2(void) { nvml_open++; return from_environment("FAKE_NVML_INIT", 0); }
int nvmlShutdown(void) { return --nvml_open; }
int nvmlSystemGetDriverVersion(char *version, unsigned length) {
  if (!nvml_open || length < 10) return 7;
  strcpy(version, "580.65.06");
  return 0;
}
