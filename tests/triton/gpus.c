/* A stand-in for the part of CUDA's runtime that tritonserver and its workers call: STAND_IN_GPUS devices that have
   memory, which is the host's, and compute nothing. It is put before the real one by LD_PRELOAD. */
#include <stdlib.h>
#include <string.h>

#define SUCCESS 0
#define NOT_SUPPORTED 801

static __thread int current = 0;

int cudaGetDeviceCount(int *count) { *count = atoi(getenv("STAND_IN_GPUS")); return SUCCESS; }
int cudaGetDevice(int *device) { *device = current; return SUCCESS; }
int cudaSetDevice(int device) { current = device; return SUCCESS; }
/* cudaDeviceProp of CUDA 12: bytes of memory at 288, major and minor compute capability at 360 and 364. */
int cudaGetDeviceProperties_v2(char *found, int device) {
  memset(found, 0, 1032);
  *(size_t *)(found + 288) = (size_t)8 << 30;
  *(int *)(found + 360) = 9;
  return SUCCESS;
}
int cudaDeviceGetPCIBusId(char *id, int size, int device) { strncpy(id, "0000:00:00.0", size); return SUCCESS; }
int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { *least = 0; *greatest = -1; return SUCCESS; }
int cudaDeviceCanAccessPeer(int *can, int device, int peer) { *can = 0; return SUCCESS; }
int cudaDeviceEnablePeerAccess(int peer, unsigned flags) { return SUCCESS; }
int cudaGetDriverEntryPoint(const char *name, void **found, unsigned long long flags, int *result) {
  return NOT_SUPPORTED;
}

int cudaMalloc(void **memory, size_t size) { *memory = malloc(size); return SUCCESS; }
int cudaMallocManaged(void **memory, size_t size, unsigned flags) { return cudaMalloc(memory, size); }
int cudaHostAlloc(void **memory, size_t size, unsigned flags) { return cudaMalloc(memory, size); }
int cudaFree(void *memory) { free(memory); return SUCCESS; }
int cudaFreeHost(void *memory) { return cudaFree(memory); }
int cudaMemGetInfo(size_t *unused, size_t *total) {
  *unused = *total = (size_t)8 << 30;
  return SUCCESS;
}
int cudaMemset(void *memory, int value, size_t size) { memset(memory, value, size); return SUCCESS; }
int cudaMemcpy(void *to, const void *from, size_t size, int kind) { memcpy(to, from, size); return SUCCESS; }
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) {
  return cudaMemcpy(to, from, size, kind);
}
int cudaMemcpyPeer(void *to, int device, const void *from, int other, size_t size) {
  return cudaMemcpy(to, from, size, 0);
}
int cudaMemcpyPeerAsync(void *to, int device, const void *from, int other, size_t size, void *stream) {
  return cudaMemcpy(to, from, size, 0);
}
int cudaMemPrefetchAsync(const void *memory, size_t size, int device, void *stream) { return SUCCESS; }
int cudaIpcGetMemHandle(void *handle, void *memory) { return NOT_SUPPORTED; }
int cudaIpcOpenMemHandle(void **memory, void *handle, unsigned flags) { return NOT_SUPPORTED; }
int cudaIpcCloseMemHandle(void *memory) { return NOT_SUPPORTED; }

int cudaStreamCreate(void **stream) { return cudaMalloc(stream, 1); }
int cudaStreamCreateWithPriority(void **stream, unsigned flags, int priority) { return cudaMalloc(stream, 1); }
int cudaStreamDestroy(void *stream) { return cudaFree(stream); }
int cudaStreamSynchronize(void *stream) { return SUCCESS; }
int cudaStreamGetFlags(void *stream, unsigned *flags) { *flags = 0; return SUCCESS; }
int cudaEventRecord(void *event, void *stream) { return SUCCESS; }
int cudaEventSynchronize(void *event) { return SUCCESS; }
int cudaLaunchHostFunc(void *stream, void (*function)(void *), void *data) { function(data); return SUCCESS; }
int cudaLaunchKernel(const void *function) { return NOT_SUPPORTED; }
int cudaGetLastError(void) { return SUCCESS; }
const char *cudaGetErrorString(int error) { return error ? "not supported by the stand-in" : "no error"; }
