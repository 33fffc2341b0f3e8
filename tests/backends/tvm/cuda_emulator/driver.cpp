// A CUDA driver and runtime without a device: memory is the host's, kernels are those of emulated_cuda.h.
// Built twice, as libcudart.so.13 (-DRUNTIME) and as libcuda.so.1, with what TVM's CUDA runtime calls of each.
#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

extern "C" {
#ifdef RUNTIME
int cudaGetDeviceCount(int* n) { *n = 1; return 0; }
int cudaGetDevice(int* n) { *n = 0; return 0; }
int cudaSetDevice(int) { return 0; }
int cudaDeviceGetAttribute(int* value, int attribute, int) {
  // Threads of a block, shared memory of a block, warp size, capability 8.0; anything else is large enough.
  *value = attribute == 1 ? 1024 : attribute == 8 ? 49152 : attribute == 10 ? 32 : attribute == 75 ? 8 : attribute == 76 ? 0 : 65536;
  return 0;
}
int cudaGetDeviceProperties(void*, int) { return 801; }
// Not a number wherever nothing was stored.
int cudaMalloc(void** at, std::size_t n) { *at = std::aligned_alloc(256, (n + 511) / 256 * 256); std::memset(*at, 0xff, n); return 0; }
int cudaMallocHost(void** at, std::size_t n) { *at = std::malloc(n); return 0; }
int cudaFree(void* at) { std::free(at); return 0; }
int cudaFreeHost(void* at) { std::free(at); return 0; }
int cudaMemGetInfo(std::size_t* rest, std::size_t* all) { *rest = *all = std::size_t(8) << 30; return 0; }
int cudaMemcpyAsync(void* to, const void* from, std::size_t n, int, void*) { std::memmove(to, from, n); return 0; }
int cudaMemcpyPeerAsync(void* to, int, const void* from, int, std::size_t n, void*) { std::memmove(to, from, n); return 0; }
const char* cudaGetErrorName(int) { return "emulated"; }
const char* cudaGetErrorString(int) { return "emulated"; }
int cudaGetLastError() { return 0; }
int cudaPeekAtLastError() { return 0; }
#define NOTHING(name) int name() { return 0; }
NOTHING(cudaEventCreate) NOTHING(cudaEventDestroy) NOTHING(cudaEventElapsedTime) NOTHING(cudaEventRecord)
NOTHING(cudaEventSynchronize) NOTHING(cudaGraphDestroy) NOTHING(cudaGraphExecDestroy) NOTHING(cudaGraphInstantiate)
NOTHING(cudaGraphLaunch) NOTHING(cudaStreamBeginCapture) NOTHING(cudaStreamCreate) NOTHING(cudaStreamCreateWithFlags)
NOTHING(cudaStreamDestroy) NOTHING(cudaStreamEndCapture) NOTHING(cudaStreamSynchronize) NOTHING(cudaStreamWaitEvent)
#else
struct Config { unsigned grid[3], block[3], shared; void* stream; void* attributes; unsigned count; };
struct Kernel { void* library; void* kernel; };

// A "cubin" is the word EMULATED, a length and a shared library.
int cuModuleLoadData(void** module, const void* image) {
  const char* bytes = static_cast<const char*>(image);
  if (std::memcmp(bytes, "EMULATED", 8) != 0) return 200;
  std::uint64_t size;
  std::memcpy(&size, bytes + 8, 8);
  int file = memfd_create("kernels", 0);
  if (write(file, bytes + 16, size) != static_cast<ssize_t>(size)) return 200;
  std::string path = "/proc/self/fd/" + std::to_string(file);
  *module = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (*module == nullptr) std::fprintf(stderr, "%s\n", dlerror());
  return *module == nullptr ? 200 : 0;
}
int cuModuleGetFunction(void** function, void* module, const char* name) {
  auto find = reinterpret_cast<void* (*)(const char*)>(dlsym(module, "emulated_find"));
  void* kernel = find(name);
  *function = new Kernel{dlsym(module, "emulated_launch"), kernel};
  return kernel == nullptr ? 500 : 0;
}
int cuModuleUnload(void*) { return 0; }
int cuFuncSetAttribute(void*, int, int) { return 0; }
int cuLaunchKernelEx(const Config* config, void* function, void** given, void**) {
  auto* kernel = static_cast<Kernel*>(function);
  auto launch = reinterpret_cast<void (*)(void*, const unsigned*, const unsigned*, void**)>(kernel->library);
  launch(kernel->kernel, config->grid, config->block, given);
  return 0;
}
int cuDeviceGetName(char* name, int n, int) { std::snprintf(name, n, "emulated"); return 0; }
int cuGetErrorName(int, const char** name) { *name = "emulated"; return 0; }
int cuGetErrorString(int, const char** name) { *name = "emulated"; return 0; }
int cuTensorMapEncodeTiled() { return 801; }
#endif
}
